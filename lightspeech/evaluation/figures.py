"""Figures about spoken texts: how fast each stage was, how a student's timing differs."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lightspeech.speech import Speech

STAGES = {
    "mel": "text to mel",
    "vocoder": "mel to sound (vocoder)",
    "all": "text to sound, everything",
}
"""The keys of `times_real_time` and what they stand for, in words."""

WARM_UP = "This is test number 1."
"""spoken before anything is timed: it pays for caches and thread pools"""


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection in the block: a full one takes 0.2 s, ten times what a mel takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class Work:
    """What remains of a Speech when only its speed matters."""

    duration: float
    """seconds of sound"""
    seconds: dict[str, float]
    """seconds spent on each stage, as in `Speech.seconds`"""


def times_real_time(speeches: Iterable[Speech | Work]) -> dict[str, float]:
    """Seconds of sound per second of work, for each of STAGES, over all the speeches together.

    Reading the text counts with the mel: a voice cannot do without it.
    """
    speeches = list(speeches)
    sound = sum(speech.duration for speech in speeches)
    mel = sum(speech.seconds["text"] + speech.seconds["mel"] for speech in speeches)
    vocoder = sum(speech.seconds["vocoder"] for speech in speeches)
    work = {"mel": mel, "vocoder": vocoder, "all": mel + vocoder}
    return {stage: sound / max(seconds, 1e-9) for stage, seconds in work.items()}


@dataclass(frozen=True)
class TimingDifference:
    """How a student's timing of a text differs from its teacher's."""

    error_frames: float
    """mean absolute difference of a symbol's duration, in frames of 11.6 ms"""
    length_ratio: float
    """the student's spoken frames over the teacher's; above 1: the student is slower"""


def timing_difference(student: Speech, teacher: Speech) -> TimingDifference:
    """Compares the durations of two speeches of the same text, pauses left out."""
    ours, theirs = student.durations, teacher.durations
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return TimingDifference(
        error_frames=float((ours - theirs).abs().double().mean()),
        length_ratio=float(ours.sum()) / max(float(theirs.sum()), 1.0),
    )
