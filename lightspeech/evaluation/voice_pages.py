"""What one hears and sees of an evaluation: for each vocoder a listening page, with its wavs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightspeech.audio import write_wav
from lightspeech.evaluation.report import Entry, Facts, Page
from lightspeech.evaluation.results import PAGE, stem
from lightspeech.evaluation.sampling import spread
from lightspeech.evaluation.strips import Beside
from lightspeech.evaluation.teacher_plots import plot_mels
from lightspeech.evaluation.voice_evaluation import Panel, through
from lightspeech.evaluation.voice_table import tables
from lightspeech.evaluation.voices import STUDENT, TEACHER
from lightspeech.files import make_folder, remove_leftovers
from lightspeech.speech import Speech
from lightspeech.text import Line, describe_character, unknown_characters
from lightspeech.vocoders.pitch import track_pitch

MOST_HEARD = 10
"""texts on a page, from the shortest to the longest of those that were judged"""


def write_pages(
    lines: Sequence[Line], panel: Panel, record: Mapping[str, Any], folder: Path, note: str
) -> list[Path]:
    """Has everybody speak some of the texts again, as before, and writes what they say.

    FOLDER/VOCODER/index.html plays them side by side; beside it are the wavs, NAME.wav,
    NAME.teacher.wav and NAME.beside-1.wav and so on. FOLDER/NAME.png shows mels and pitch. Files of
    an earlier run stay unless one of the same name takes their place.

    Args:
        lines: the texts that were judged.
        record: what `evaluate` made of them.
        folder: one that is there.
        note: why this teacher, or why none.

    Returns:
        the pages, in the order of the vocoders.
    """
    keys = {voice.who: f"beside-{i}" for i, voice in enumerate(panel.students[1:], start=1)}
    keys |= {STUDENT: STUDENT, TEACHER: TEACHER}
    pages = {}
    for vocoder in panel.vocoders:
        remove_leftovers(make_folder(folder / vocoder))
        pages[vocoder] = Page(_facts(panel, record, vocoder, keys, note))
    numbers = {line.id: number for number, line in enumerate(lines, start=1)}
    for line in sorted(spread(lines, MOST_HEARD), key=lambda line: numbers[line.id]):
        name = stem(numbers[line.id], line.text)
        spoken = {voice.who: voice.speak(line.text) for voice in panel.voices}
        sides = [(who, speech.mel) for who, speech in spoken.items()]
        pitches = [track_pitch(mel) for _, mel in sides]
        plot_mels(folder / f"{name}.png", sides, line.text, pitches)
        for i, (vocoder, page) in enumerate(pages.items()):
            heard = {
                who: through(panel.vocoders[vocoder], speech) if i else speech
                for who, speech in spoken.items()
            }
            for who, speech in heard.items():
                suffix = "" if who == STUDENT else f".{keys[who]}"
                write_wav(folder / vocoder / f"{name}{suffix}.wav", speech.wav)
            page.add(_entry(name, line, heard, keys))
    written = []
    for vocoder, page in pages.items():
        speeds = {
            who: v["times_real_time"] for who, v in record["heard"][vocoder]["voices"].items()
        }
        written.append(folder / vocoder / PAGE)
        page.write(written[-1], {key: speeds[who] for who, key in _page_order(keys, speeds)})
    return written


def _page_order(keys: Mapping[str, str], voices: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and keys of the voices, student and teacher first."""
    order = [STUDENT, TEACHER, *(who for who in keys if who not in (STUDENT, TEACHER))]
    return [(who, keys[who]) for who in order if who in voices]


def _entry(name: str, line: Line, heard: Mapping[str, Speech], keys: Mapping[str, str]) -> Entry:
    return Entry(
        name,
        line.text,
        [describe_character(character) for character in unknown_characters(line.text)],
        heard[STUDENT],
        heard.get(TEACHER),
        tuple(
            Beside(keys[who], who, speech)
            for who, speech in heard.items()
            if who not in (STUDENT, TEACHER)
        ),
    )


def _facts(
    panel: Panel, record: Mapping[str, Any], vocoder: str, keys: Mapping[str, str], note: str
) -> Facts:
    voices = record["voices"]
    student, teacher = voices[STUDENT], voices.get(TEACHER)
    details = []
    if student["configuration"] and student["step"] is not None:
        details.append(f"configuration {student['configuration']}, step {student['step']:,}")
    return Facts(
        voice=str(student["name"] or "unnamed"),
        voice_details=details,
        student_parameters=student["parameters"],
        vocoder=panel.vocoders[vocoder].title,
        device=record["device"],
        pace=1.0,
        date=record["date"],
        teacher=None if teacher is None else str(teacher["name"]),
        teacher_parameters=0 if teacher is None else teacher["parameters"],
        teacher_note=note,
        beside=tuple(
            (keys[voice.who], voice.who, voice.synthesizer.parameters)
            for voice in panel.students[1:]
        ),
        tables=tuple(tables(record, vocoder)),
    )
