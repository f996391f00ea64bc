"""Students and their teacher speak held-out text and are judged, each text by everyone.

What was judged is kept in a journal as it comes. The mels of a text are made once and go through
every vocoder; a text that was judged before is spoken again only as far as something is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import lightspeech
from lightspeech.checkpoint import code_version
from lightspeech.errors import InputError
from lightspeech.evaluation.figures import WARM_UP, undisturbed
from lightspeech.evaluation.journal import Journal, journal_key, package_versions
from lightspeech.evaluation.listening import Listening
from lightspeech.evaluation.quality import plain_words
from lightspeech.evaluation.results import describe_device, vocoder_record
from lightspeech.evaluation.sound_judging import Judges
from lightspeech.evaluation.speech_comparison import compare
from lightspeech.evaluation.voice_figures import figures
from lightspeech.evaluation.voices import Student, Teacher, Voice
from lightspeech.joins import SENTENCE_SILENCE
from lightspeech.speech import Reading, Speech, join_readings
from lightspeech.text import Line
from lightspeech.vocoders import Vocoder, check_sound

RECORD_VERSION = 2
JOURNAL = "judged.jsonl"


@dataclass(frozen=True)
class Panel:
    """Who is judged, and through what: the same for every text."""

    students: Sequence[Student]
    """at least one; the first is the one that all this is about"""
    teacher: Teacher | None
    """None: nobody to compare with"""
    vocoders: Mapping[str, Vocoder]
    """by the names of their columns; the first one is the voices' own"""
    judges: Judges | None
    """None leaves out how it sounds and what is heard"""
    vocoder_settings: Mapping[str, Any]
    """what the vocoders were told"""

    @property
    def voices(self) -> list[Voice]:
        """Everybody, the teacher first."""
        return [*([self.teacher] if self.teacher else []), *self.students]

    @property
    def device(self) -> torch.device:
        """On which the voices run."""
        return self.students[0].synthesizer.device


def vocoder_names(vocoders: Sequence[Vocoder]) -> dict[str, Vocoder]:
    """A name for each, fit for a folder: `griffin-lim`, `hifigan-generator_v2`; each vocoder once.

    Two checkpoints that go by one name are told apart by the beginnings of their SHA-256.
    """
    once: dict[tuple[str, str | None], Vocoder] = {}
    for vocoder in vocoders:
        once.setdefault((vocoder.name, vocoder.source.get("sha256")), vocoder)
    found: dict[str, Vocoder] = {}
    for vocoder in once.values():
        parts = [vocoder.name, vocoder.source.get("name", "")]
        name = "-".join("".join(c if c.isalnum() or c in "._-" else "-" for c in part)
                        for part in parts if part)  # fmt: skip
        found[f"{name}-{vocoder.source['sha256'][:8]}" if name in found else name] = vocoder
    return found


def through(vocoder: Vocoder, speech: Speech) -> Speech:
    """The same speech through another vocoder, joined as before; `seconds` says what that took.

    Raises:
        InputError: broken samples, or silence.
    """
    readings = [
        Reading(
            text=piece.text,
            symbols=piece.symbols,
            mel=speech.mel[piece.mel_rows],
            durations=piece.durations,
            attention=piece.attention,
            stopped=piece.stopped,
        )
        for piece in speech.pieces
    ]
    between = [
        later.start - (earlier.start + earlier.frames)
        for earlier, later in zip(speech.pieces, speech.pieces[1:], strict=False)
    ]
    started = time.perf_counter()
    wavs = [vocoder(reading.mel).float().cpu() for reading in readings]
    seconds = {**speech.seconds, "vocoder": time.perf_counter() - started}
    check_sound(vocoder, [reading.mel for reading in readings], wavs)
    return join_readings(readings, wavs, between[0] if between else 0, seconds)


def evaluate(
    lines: Sequence[Line], panel: Panel, folder: Path, known: Mapping[str, Any], jobs: int = 1
) -> dict[str, Any]:
    """Has everybody speak each line, and judges and compares what they say.

    Args:
        lines: the texts, at least one, each read sentence by sentence.
        panel: who, through what, judged by whom.
        folder: one that is there; what was judged before is taken from its journal.
        known: goes into the record.
        jobs: processes that listen, besides this one, which speaks; 1: this one does all of it.

    Returns:
        what evaluation.json holds.

    Raises:
        InputError: a voice that cannot speak one of the texts, or a vocoder that makes nothing of
            it.
    """
    with Journal(folder / JOURNAL) as journal:
        texts = _Run(panel, journal, jobs).judge_all(lines)
    return {
        "version": RECORD_VERSION,
        "lightspeech": lightspeech.__version__,
        "code_version": code_version(),
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "device": describe_device(panel.device),
        **known,
        "vocoder_settings": dict(panel.vocoder_settings),
        "versions": package_versions(),
        "voices": {voice.who: voice.record() for voice in panel.voices},
        "vocoders": {name: vocoder_record(vocoder) for name, vocoder in panel.vocoders.items()},
        **figures(texts, [voice.who for voice in panel.students], list(panel.vocoders)),
        "texts": texts,
    }


class _Run:
    """The state of one `evaluate`."""

    def __init__(self, panel: Panel, journal: Journal, jobs: int) -> None:
        self._panel, self._journal = panel, journal
        self._listening = None if panel.judges is None else Listening(panel.judges, jobs)
        self._warm: set[str] = set()
        # What every judgement depends on, but for text and voices: speeds are judged too.
        self._common = [
            RECORD_VERSION, code_version(), describe_device(panel.device), SENTENCE_SILENCE,
        ]  # fmt: skip
        self._judging = None if panel.judges is None else package_versions()

    def judge_all(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """What evaluation.json says of each line, in their order."""
        missing = sum(bool(self._missing(line)) for line in lines)
        if missing < len(lines):
            print(
                f"{len(lines) - missing:,} of {len(lines):,} texts were judged before", flush=True
            )
        pause = 0.5 if sys.stderr.isatty() else 15.0  # a log file needs a line now and then
        with (
            self._listening or nullcontext(),
            tqdm(total=missing, desc="judging", unit=" texts", mininterval=pause) as bar,
        ):
            for line in lines:
                wanted = self._missing(line)
                if wanted:
                    self._judge(line, wanted)
                    bar.update()
        return [self._text(line) for line in lines]

    def _missing(self, line: Line) -> set[str]:
        """Which voices have to speak a line, because something about them was not judged yet."""
        panel = self._panel
        wanted = {
            voice.who
            for voice in panel.voices
            if any(self._journal.get(self._sound_key(line, voice, v)) is None
                   for v in panel.vocoders)
        }  # fmt: skip
        for student in panel.students:
            if panel.teacher and self._journal.get(self._comparison_key(line, student)) is None:
                wanted |= {student.who, panel.teacher.who}
        return wanted

    def _judge(self, line: Line, wanted: set[str]) -> None:
        """Has the voices `wanted` speak a line, and puts into the journal what it lacks."""
        panel, spoken = self._panel, {}
        for voice in panel.voices:
            if voice.who in wanted:
                spoken[voice.who] = self._hear(line, voice)
        if panel.teacher is None:
            return
        for student in panel.students:
            key = self._comparison_key(line, student)
            if self._journal.get(key) is None:
                ours, theirs = spoken[student.who], spoken[panel.teacher.who]
                self._journal.add(key, compare(ours, theirs, student.synthesizer.student))

    def _hear(self, line: Line, voice: Voice) -> Speech:
        """Has a voice speak a line, and judges it through every vocoder that it lacks."""
        first, *others = self._panel.vocoders
        try:
            self._warm_up(voice)
            with undisturbed():
                speech = voice.speak(line.text)
            self._judge_sound(line, voice, first, speech)
            for name in others:
                if self._journal.get(self._sound_key(line, voice, name)) is None:
                    with undisturbed():
                        heard = through(self._panel.vocoders[name], speech)
                    self._judge_sound(line, voice, name, heard)
        except InputError as e:
            raise InputError(f"{line.where}: {voice.who}, on {line.text[:60]!r}: {e}") from e
        return speech

    def _judge_sound(self, line: Line, voice: Voice, vocoder: str, speech: Speech) -> None:
        key = self._sound_key(line, voice, vocoder)
        if self._journal.get(key) is not None:
            return
        entry: dict[str, Any] = {
            "seconds": speech.duration,
            "seconds_spent": speech.seconds,
            "cut_off": sum(not piece.stopped for piece in speech.pieces),
        }
        if self._listening is None:
            self._journal.add(key, entry)
            return
        said = plain_words(speech.spoken)
        self._listening.judge(
            speech.wav, said, lambda found: self._journal.add(key, {**entry, **found})
        )

    def _warm_up(self, voice: Voice) -> None:
        """The first sentence of a process takes longer: it is spoken before anything is timed."""
        if voice.who in self._warm:
            return
        self._warm.add(voice.who)
        speech = voice.speak(WARM_UP)
        for vocoder in list(self._panel.vocoders.values())[1:]:
            through(vocoder, speech)

    def _text(self, line: Line) -> dict[str, Any]:
        """What the journal holds of a line."""
        panel = self._panel
        heard = {
            name: {
                voice.who: self._journal.get(self._sound_key(line, voice, name))
                for voice in panel.voices
            }
            for name in panel.vocoders
        }
        compared = {
            student.who: self._journal.get(self._comparison_key(line, student))
            for student in panel.students
            if panel.teacher
        }
        return {"id": line.id, "text": line.text, "heard": heard, "compared": compared}

    # Keys

    def _sound_key(self, line: Line, voice: Voice, vocoder: str) -> str:
        record = vocoder_record(self._panel.vocoders[vocoder]) | {"vocoder_reason": None}
        settings = dict(self._panel.vocoder_settings)
        return journal_key(
            "sound", self._common, voice.identity, line.text, record, settings, self._judging
        )

    def _comparison_key(self, line: Line, student: Student) -> str:
        teacher = self._panel.teacher
        assert teacher is not None
        return journal_key(
            "comparison", self._common, student.identity, teacher.identity, line.text
        )
