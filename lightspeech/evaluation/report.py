"""The listening page: one HTML file with everything in it, made for ears, eyes and `file://`.

Sound (FLAC) and pictures (PNG) are data URIs, style and script are inline, and a content security
policy in the page allows nothing else, so it never touches a network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lightspeech.audio import FRAME_SECONDS
from lightspeech.evaluation.figures import STAGES, times_real_time, timing_difference
from lightspeech.evaluation.strips import Beside, data_uri, render_strip
from lightspeech.evaluation.tables import Table
from lightspeech.files import write_text
from lightspeech.speech import Speech

MOST_ENTRIES = 100
"""texts on one page; a page with more would be slow to open (about 0.4 MB each)"""

_PIECES_SHOWN = 3  # sentences of a long text that are not folded away


@dataclass(frozen=True)
class Entry:
    """One text as it was spoken."""

    name: str
    """stem of its files: NAME.wav, NAME.png, NAME.teacher.wav"""
    text: str
    """as it was given"""
    dropped: list[str]
    """characters that could not be spoken, each described"""
    student: Speech
    teacher: Speech | None = None
    beside: tuple[Beside, ...] = ()
    """further voices, each with files of its own (`Beside.stem`); the same for all of a page"""


@dataclass(frozen=True)
class Facts:
    """What the header says."""

    voice: str
    """name of the voice"""
    voice_details: list[str]
    """lines about it: where it is from, how long it was trained"""
    student_parameters: int
    vocoder: str
    device: str
    """what it ran on, in words"""
    pace: float
    date: str
    teacher: str | None = None
    teacher_parameters: int = 0
    teacher_note: str = ""
    """why this teacher, or why none"""
    beside: tuple[tuple[str, str, int], ...] = ()
    """key, name and parameters of each further voice"""
    beside_details: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """lines about each of them, by its key, where there are any"""
    tables: tuple[Table, ...] = ()
    """figures about the voices"""


@dataclass
class Page:
    """Collects entries, each rendered as it comes so that a long run holds no sound in memory."""

    facts: Facts
    sections: list[str] = field(default_factory=list)
    left_out: int = 0

    def add(self, entry: Entry) -> None:
        """Puts a text on the page; beyond MOST_ENTRIES it is only counted."""
        if len(self.sections) == MOST_ENTRIES:
            self.left_out += 1
        else:
            self.sections.append(_article(len(self.sections) + 1, entry, self.facts))

    def write(self, path: str | Path, speeds: dict[str, dict[str, float]]) -> None:
        """Writes the page, whole or not at all.

        Args:
            path: the file.
            speeds: `times_real_time` of everything spoken, under `student`, maybe `teacher`, and
                the keys of the voices beside.
        """
        write_text(path, self.render(speeds))

    def render(self, speeds: dict[str, dict[str, float]]) -> str:
        """The page as HTML."""
        facts, count = self.facts, len(self.sections)
        here = files("lightspeech.evaluation")
        script = here.joinpath("page.js").read_text(encoding="utf-8").strip()
        digest = hashlib.sha256(f"\n{script}\n".encode()).digest()
        compared = facts.teacher is not None
        voices = "student and teacher" if compared and not facts.beside else "the voices"
        heading = f"{count + self.left_out} {'text' if count + self.left_out == 1 else 'texts'}"
        fill = {
            "title": escape(f"{facts.voice}: {heading}"),
            "heading": escape(f"{heading} in the voice {facts.voice}"),
            "lead": _lead(facts),
            "about": _about(facts, speeds),
            "entries": "\n".join(self.sections),
            "footer": _footer(facts, self.left_out),
            "switch_help": f"<span><kbd>s</kbd> switch between {voices}</span>"
            if compared or facts.beside
            else "",
            "script": script,
            "script_hash": "sha256-" + base64.b64encode(digest).decode(),
        }
        template = here.joinpath("page.html").read_text(encoding="utf-8")
        # One pass, so that a text which contains {{entries}} is only a text.
        return re.sub(r"\{\{(\w+)\}\}", lambda found: fill[found[1]], template)


def entry_record(entry: Entry, has_mels: bool = False) -> dict[str, Any]:
    """What results.json says of a text; `has_mels`: that the mels are beside the wavs."""
    voices: dict[str, Any] = {"student": _record(entry.student, entry.name, has_mels)}
    if entry.teacher is not None:
        difference = timing_difference(entry.student, entry.teacher)
        voices["teacher"] = _record(entry.teacher, f"{entry.name}.teacher", has_mels)
        voices["teacher"]["stopped"] = all(piece.stopped for piece in entry.teacher.pieces)
        voices["duration_error_frames"] = round(difference.error_frames, 4)
        voices["length_ratio"] = round(difference.length_ratio, 4)
    if entry.beside:
        voices["beside"] = {
            voice.name: _record(voice.speech, voice.stem(entry.name), has_mels)
            for voice in entry.beside
        }
    return {
        "text": entry.text,
        "spoken": entry.student.spoken,
        "dropped": entry.dropped,
        "plot": f"{entry.name}.png",
        **voices,
    }


def _record(speech: Speech, name: str, has_mel: bool) -> dict[str, Any]:
    return {
        "wav": f"{name}.wav",
        **({"mel": f"{name}.npy"} if has_mel else {}),
        "seconds": round(speech.duration, 4),
        "seconds_spent": {stage: round(spent, 5) for stage, spent in speech.seconds.items()},
        "timings": [
            [symbol, round(start, 4), round(end, 4)] for symbol, start, end in speech.timings
        ],
    }


def _lead(facts: Facts) -> str:
    """The sentence below the heading."""
    vocoder = escape(facts.vocoder)
    if facts.beside:
        count = 1 + (facts.teacher is not None) + len(facts.beside)
        return f"Each text by {count} voices, all through the same vocoder ({vocoder})."
    if facts.teacher is not None:
        return (
            "Each text twice: by the student, and by the Tacotron 2 teacher that it learned from, "
            f"both through the same vocoder ({vocoder})."
        )
    return f"Each text by the student, through the vocoder {vocoder}."


def _about(facts: Facts, speeds: dict[str, dict[str, float]]) -> str:
    """The cards of the header."""
    cards = [
        _card(
            "Student",
            "is-student",
            facts.voice,
            [f"{facts.student_parameters:,} parameters", *facts.voice_details],
        )
    ]
    if facts.teacher is not None:
        times = facts.teacher_parameters / max(facts.student_parameters, 1)
        size = f"{facts.teacher_parameters:,} parameters"
        if times > 1:
            size += f", {times:.1f} times the student's"
        cards.append(_card("Teacher", "is-teacher", facts.teacher, [size, facts.teacher_note]))
    else:
        cards.append(_card("Teacher", "is-teacher", "not heard here", [facts.teacher_note]))
    for key, name, parameters in facts.beside:
        lines = [f"{parameters:,} parameters", *facts.beside_details.get(key, [])]
        cards.append(_card("Beside", f"is-{key}", name, lines))
    cards.append(
        _card("Vocoder", "", facts.vocoder, [facts.device, f"pace {facts.pace:g}", facts.date])
    )
    names = {key: escape(name) for key, name, _ in facts.beside}
    head = "".join(f'<th scope="col" class="is-{who}">{names.get(who, who)}</th>' for who in speeds)
    rows = "".join(
        f'<tr><th scope="row">{escape(words)}</th>'
        + "".join(f"<td>{_times(speed[stage])}</td>" for speed in speeds.values())
        + "</tr>"
        for stage, words in STAGES.items()
    )
    cards.append(
        '<section class="speed"><h2>Speed: seconds of sound made in a second (\u00d7 real time)'
        f'</h2><table><thead><tr><th scope="col"></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )
    cards += [table.html() for table in facts.tables]
    return "\n".join(cards)


def _card(label: str, style: str, value: str, lines: Iterable[str]) -> str:
    details = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return (
        f'<section><h2>{escape(label)}</h2><div class="big {style}">{escape(value)}</div>'
        f"{details}</section>"
    )


def _footer(facts: Facts, left_out: int) -> str:
    lines = []
    if left_out:
        lines.append(
            f"{left_out} more texts were spoken; their files and figures are in "
            '<a href="results.json">results.json</a>.'
        )
    lines.append(
        "Spectrograms: time across, 80 mel bins upwards, one colour scale for all. Below each are "
        "the symbols that were spoken, each as wide as it is long."
    )
    if facts.teacher is not None:
        lines.append(
            "The lines in between join the two voices' boundaries: upright where they agree. In "
            "the teacher's attention the symbols go upwards, and the bright line is the monotonic "
            "path whose steps are the durations that a student learns from."
        )
    return " ".join(lines)


def _article(number: int, entry: Entry, facts: Facts) -> str:
    """One text: its words, its players, its sentences."""
    notes = []
    spoken = entry.student.spoken
    if spoken.lower() != " ".join(entry.text.lower().split()):
        notes.append(f'<p class="note long">Spoken as: {escape(spoken)}</p>')
    if entry.dropped:
        notes.append(
            f'<p class="note">Not spoken, because the voice has no symbol for it: '
            f"{escape(', '.join(entry.dropped))}</p>"
        )
    players = [_player("student", entry.student, f"{entry.name}.wav", entry.text, "")]
    if entry.teacher is not None:
        cut = sum(not piece.stopped for piece in entry.teacher.pieces)
        remark = " \u00b7 did not stop by itself and was cut off" if cut else ""
        players.append(
            _player("teacher", entry.teacher, f"{entry.name}.teacher.wav", entry.text, remark)
        )
        if facts.pace == 1:
            difference = timing_difference(entry.student, entry.teacher)
            notes.append(
                '<p class="note">Durations differ from the teacher\u2019s by '
                f"{difference.error_frames:.2f} frames a symbol on average "
                f"({1000 * difference.error_frames * FRAME_SECONDS:.0f} ms); "
                f"spoken length {100 * difference.length_ratio:.0f}% of the teacher\u2019s.</p>"
            )
    players += [
        _player(
            voice.key, voice.speech, f"{voice.stem(entry.name)}.wav", entry.text, "", voice.name
        )
        for voice in entry.beside
    ]
    pieces = [
        render_strip(entry.student, entry.teacher, i, entry.beside)
        for i in range(len(entry.student.pieces))
    ]
    shown, folded = pieces[:_PIECES_SHOWN], pieces[_PIECES_SHOWN:]
    if folded:
        label = "1 more sentence" if len(folded) == 1 else f"{len(folded)} more sentences"
        shown.append(f"<details><summary>{label}</summary>{''.join(folded)}</details>")
    anchor = f"text-{number}"
    return (
        f'<article id="{anchor}" tabindex="-1" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title" class="long"><a href="#{anchor}">{number}</a>'
        f"{escape(entry.text)}</h2>{''.join(notes)}"
        f'<div class="voices">{"".join(players)}</div>{"".join(shown)}</article>'
    )


def _player(who: str, speech: Speech, file: str, text: str, remark: str, name: str = "") -> str:
    speed = times_real_time([speech])
    said = text if len(text) <= 80 else f"{text[:79]}\u2026"
    label = escape(f"{name or who}: {said}")
    return (
        f'<div><h3><span class="is-{who}">{escape(name or who.capitalize())}</span>'
        f'<a href="{escape(file)}">{escape(file)}</a></h3>'
        f'<audio controls preload="metadata" data-who="{who}" aria-label="{label}" '
        f'src="{_flac(speech)}"></audio>'
        f"<p>{speech.duration:.2f} s \u00b7 {_times(speed['all'])} real time (mel "
        f"{_times(speed['mel'])}, vocoder {_times(speed['vocoder'])}){remark}</p></div>"
    )


def _flac(speech: Speech) -> str:
    """The sound, scaled down if it exceeds full scale, as a data URI. Half the size of a WAV."""
    samples = speech.wav.double().numpy()
    samples = samples / max(1.0, float(np.abs(samples).max()))
    stream = io.BytesIO()
    soundfile.write(stream, samples, speech.sample_rate, format="FLAC", subtype="PCM_16")
    return data_uri("audio/flac", stream.getvalue())


def _times(factor: float) -> str:
    """`214 \u00d7`, `6.3 \u00d7`, `0.13 \u00d7`"""
    return f"{factor:.0f} \u00d7" if factor >= 20 else f"{factor:.2g} \u00d7"
