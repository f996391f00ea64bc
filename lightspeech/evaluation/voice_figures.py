"""Figures over many texts that students and their teacher spoke: each voice's, and differences.

A text is what `voice_evaluation` records of it: `heard`, by vocoder and voice, and `compared`, what
`speech_comparison.compare` gives of each student. Figures with intervals are those of
`lightspeech.evaluation.bootstrap`; all students are judged over the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightspeech.evaluation.bootstrap import Ratio, RootRatio, with_interval
from lightspeech.evaluation.figures import Work, times_real_time
from lightspeech.evaluation.sound_figures import quality_difference, quality_figures
from lightspeech.evaluation.voices import TEACHER

Text = Mapping[str, Any]


@dataclass(frozen=True)
class MelFigure:
    """A figure about how a student's mels and durations differ from its teacher's."""

    above: str
    """what is summed over the texts"""
    below: str
    """over what: its sum is divided by this one's"""
    weighted: bool = False
    """`above` is a figure of each text and is multiplied with `below` before it is summed"""
    squared: bool = False
    """the figure is the square root of the quotient"""


MEL_FIGURES = {
    "mel_cepstral_distortion": MelFigure("distortion", "path_steps"),
    "pitch_error_cents": MelFigure("cents_squared", "voiced_steps", squared=True),
    "voicing_error": MelFigure("voicing_differences", "path_steps"),
    "mel_error": MelFigure("mel_error", "teacher_frames"),
    "duration_error_frames": MelFigure("duration_error", "tokens"),
    "length_ratio": MelFigure("student_frames", "teacher_frames"),
    "variance_ratio": MelFigure("variance_ratio", "speech_frames", weighted=True),
}
"""mel_cepstral_distortion: dB, mean over the warping path. pitch_error_cents: root mean square
difference of log F0 where both are voiced, in cents (100 are a semitone). voicing_error: share of
the path where one is voiced and the other is not. mel_error: mean absolute difference (natural log
of magnitude) at the teacher's durations. duration_error_frames: mean absolute difference of a
symbol's duration, frames of 11.6 ms. length_ratio: the student's frames over the teacher's, pauses
between sentences left out; above 1 the student is slower. variance_ratio: mean of the texts',
each weighted with its frames of speech."""


def figures(
    texts: Sequence[Text], students: Sequence[str], vocoders: Sequence[str]
) -> dict[str, Any]:
    """All figures over at least one text, for evaluation.json.

    Args:
        texts: as the module says, each with the same voices and vocoders.
        students: the names of the students; the teacher is there or not.
        vocoders: the names of the vocoders.

    Returns:
        `heard`: by vocoder what `heard_figures` gives; `compared`: by student the MEL_FIGURES, and
        `compared_difference`: those of the first student less those of each other one, both empty
        without a teacher; `cut_off`: sentences that the teacher did not end by itself.
    """
    compared = {who: _ratios(texts, who, students) for who in students if texts[0]["compared"]}
    first = students[0]
    return {
        "judged": len(texts),
        "heard": {vocoder: heard_figures(texts, students, vocoder) for vocoder in vocoders},
        "compared": {
            who: {name: _figure(ratio) for name, ratio in ratios.items()}
            for who, ratios in compared.items()
        },
        "compared_difference": {
            other: {name: _figure(compared[first][name], ratio) for name, ratio in ratios.items()}
            for other, ratios in compared.items()
            if other != first
        },
        "cut_off": sum(
            text["heard"][vocoders[0]].get(TEACHER, {}).get("cut_off", 0) for text in texts
        ),
    }


def heard_figures(texts: Sequence[Text], students: Sequence[str], vocoder: str) -> dict[str, Any]:
    """What was heard through one vocoder.

    Returns:
        by voice, with the teacher if there is one, `voices`: `quality_figures`, `seconds` of sound
        and `times_real_time` of each stage; `judged` and `short` of `quality_figures`;
        `difference`: of each student from the teacher; `difference_from_others`: of the first
        student from each other one. Empty figures where nobody judged.
    """
    utterances = [text["heard"][vocoder] for text in texts]
    voices = list(utterances[0])
    quality = quality_figures(utterances, voices)
    has_teacher = TEACHER in voices
    return {
        "voices": {
            who: {
                **quality[who],
                "seconds": sum(u[who]["seconds"] for u in utterances),
                "times_real_time": times_real_time(
                    Work(u[who]["seconds"], u[who]["seconds_spent"]) for u in utterances
                ),
            }
            for who in voices
        },
        "judged": quality["judged"],
        "short": quality["short"],
        "difference": {
            who: quality_difference(utterances, voices, who, TEACHER)
            for who in students
            if has_teacher
        },
        "difference_from_others": {
            who: quality_difference(utterances, voices, students[0], who) for who in students[1:]
        },
    }


def _ratios(texts: Sequence[Text], who: str, students: Sequence[str]) -> dict[str, Ratio | None]:
    """One student's MEL_FIGURES; None of one that no text has for every student."""
    found: dict[str, Ratio | None] = {}
    for name, figure in MEL_FIGURES.items():
        rows = [
            text["compared"][who]
            for text in texts
            if all(
                text["compared"][student][figure.above] is not None
                and text["compared"][student][figure.below] > 0
                for student in students
            )
        ]
        below = np.array([row[figure.below] for row in rows], float)
        above = np.array([row[figure.above] for row in rows], float)
        kind = RootRatio if figure.squared else Ratio
        found[name] = kind(above * below if figure.weighted else above, below) if rows else None
    return found


def _figure(one: Ratio | None, minus: Ratio | None = None) -> dict[str, float] | None:
    """With its interval; None where no text has it."""
    return None if one is None else with_interval(one, minus)
