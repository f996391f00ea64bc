"""Who is judged: a student, other students beside it, and their teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightspeech.checkpoint import VOICE_FILE, find_voice
from lightspeech.errors import InputError
from lightspeech.files import sha256
from lightspeech.speech import Speech
from lightspeech.synthesis import (
    Synthesizer,
    TeacherSynthesizer,
    default_voice,
)
from lightspeech.vocoders import Vocoder

STUDENT, TEACHER = "student", "teacher"
TEACHER_SEED = 0
"""of the pre-net's drop-out in every sentence: the teacher says the same in every run"""


def voice_record(synthesizer: Synthesizer) -> dict[str, Any]:
    """What every record says of a voice."""
    voice = synthesizer.voice
    return {
        "name": voice.get("name"),
        "parameters": synthesizer.parameters,
        "configuration": voice.get("config", {}).get("name"),
        "step": voice.get("step"),
    }


@dataclass(frozen=True)
class Student:
    """A student that is judged, or one beside it."""

    who: str
    """name of its column: `student`, or of one beside it what tells it apart"""
    file: Path
    """its weights"""
    sha256: str
    """of that file"""
    synthesizer: Synthesizer

    @property
    def identity(self) -> list[Any]:
        """On what depends what it says, but for the code: for keys of judgements."""
        return ["student", self.sha256]

    def speak(self, text: str) -> Speech:
        """Speaks a text, sentence by sentence, through the synthesizer's vocoder."""
        return self.synthesizer(text)

    def record(self) -> dict[str, Any]:
        """What evaluation.json says of it."""
        known = self.synthesizer.voice
        return {
            **voice_record(self.synthesizer),
            "sha256": self.sha256,
            "store": known.get("store"),
            "teacher": known.get("teacher"),
        }


@dataclass(frozen=True)
class Teacher:
    """The teacher that students are compared with."""

    synthesizer: TeacherSynthesizer
    who: str = TEACHER
    """name of its column"""

    @property
    def sha256(self) -> str:
        """Of its checkpoint."""
        return self.synthesizer.identity["sha256"]

    @property
    def identity(self) -> list[Any]:
        """On what depends what it says, but for the code: for keys of judgements."""
        return ["teacher", self.sha256, TEACHER_SEED, self.synthesizer.prenet_dropout]

    def speak(self, text: str) -> Speech:
        """Speaks a text, sentence by sentence, through the synthesizer's vocoder."""
        return self.synthesizer(text, seed=TEACHER_SEED)

    def record(self) -> dict[str, Any]:
        """What evaluation.json says of it."""
        known: dict[str, Any] = {**self.synthesizer.identity}
        return {
            **known,
            "parameters": self.synthesizer.parameters,
            "seed": TEACHER_SEED,
            "prenet_dropout": self.synthesizer.prenet_dropout,
        }


Voice = Student | Teacher


def load_students(
    path: str | Path | None,
    beside: Sequence[str | Path],
    vocoder: Vocoder,
    device: torch.device | str,
) -> list[Student]:
    """The student, and those beside it under names that tell them apart.

    Args:
        path: the student's, as for `Synthesizer.load`.
        beside: the others'.

    Raises:
        InputError: as `Synthesizer.load`; a voice that is named twice.
    """
    path = default_voice() if path is None else Path(path)
    files = [find_voice(each) for each in (path, *beside)]
    for i, file in enumerate(files):
        if any(file.samefile(earlier) for earlier in files[:i]):
            raise InputError(f"the voice {file} is named twice; leave it out of --beside")
    names = [STUDENT, *_names(files[1:])]
    return [
        Student(who, file, sha256(file), Synthesizer.load(each, vocoder, device))
        for who, file, each in zip(names, files, (path, *beside), strict=True)
    ]


def _names(files: Sequence[Path]) -> list[str]:
    """A column's name for each voice: its folder's, or its file's; the path where that is taken."""
    short = [file.parent.name if file.name == VOICE_FILE else file.stem for file in files]
    taken = [STUDENT, TEACHER, "", *short]
    return [
        str(file) if taken.count(name) > 1 else name
        for name, file in zip(short, files, strict=True)
    ]
