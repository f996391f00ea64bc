"""What makes a recording, or a recording beside its text, unfit to learn from.

`Limits` are the limits, `REASONS` the names of all that can be wrong and what to do about it. One
sound file by itself is judged in measuring.py; here each is judged by the whole dataset.

Pace is seconds a symbol, of what the text becomes when it is spoken ("12" is "twelve"). Its
logarithm is compared with the median over the dataset, in units of 1.4826 times the median absolute
deviation, which a share of wrong transcripts hardly moves.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

import numpy as np

from lightspeech.dataset.clean import SPEECH_DECIBELS
from lightspeech.errors import InputError

REASONS = {
    "bad_row": "a row of the table that cannot be read; write id|text or id|text|normalised text",
    "undecodable": "a row that is not UTF-8; save the table as UTF-8",
    "no_text": "an id without a text",
    "unspeakable": "a text without a letter or a number",
    "repeated_row": "the same id and text as an earlier row, which was taken",
    "id_conflict": "an id that already stands for another text, which was taken",
    "text_too_long": "a text of too many characters; split the recording at its sentences",
    "missing_sound": "a row without a sound file by its id",
    "orphan_sound": "a sound file without a row in the table",
    "unreadable": "a file that cannot be read as sound; export it again",
    "truncated": "a file that ends before it should; copy or download it again",
    "empty_sound": "a file without any samples",
    "not_finite": "samples that are no numbers (NaN or infinite)",
    "silent": "nothing to hear",
    "clipped": "recorded too loud: the tops of the wave are cut off",
    "offset": "a constant voltage in the signal; take it out with a high-pass filter",
    "noisy": "speech that hardly stands out of the noise",
    "too_short": "too short after the silence at its ends was cut",
    "too_long": "too long after the silence at its ends was cut; split it at its sentences",
    "long_pause": "a long pause inside, where something may be missing",
    "too_fast": "too little sound for its text: cut off, or the text is another's",
    "too_slow": "too much sound for its text: more is said, or the text is another's",
    "duplicate_sound": "the same samples as another utterance, which was taken",
}
"""Why something is left out: the name in reports, and what it means and asks for."""


def _limit(default: float | None, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """Between which an utterance is taken; None sets no limit.

    The help of `python -m lightspeech.dataset import` is made of these lines. LJSpeech lies well
    within all of them.
    """

    min_seconds: float | None = _limit(0.3, "s", "shortest sound, without silence at its ends")
    max_seconds: float | None = _limit(15.0, "s", "longest sound, without silence at its ends")
    min_peak: float | None = _limit(0.003, "of full scale", "what is never louder counts as silent")
    max_characters: float | None = _limit(350, "characters", "longest text")
    max_clipped: float | None = _limit(0.0005, "share of the samples", "most that may be clipped")
    max_offset: float | None = _limit(0.05, "of full scale", "largest mean of the samples")
    max_pause: float | None = _limit(
        2.0, "s", f"longest stretch inside that is {SPEECH_DECIBELS:g} dB below the loudest moment"
    )
    min_speech_to_noise: float | None = _limit(
        None, "dB", "least that speech is louder than the quietest twentieth of the sound"
    )
    min_pace: float | None = _limit(0.025, "s a symbol", "fastest reading that is believed")
    max_pace: float | None = _limit(0.3, "s a symbol", "slowest reading that is believed")
    max_pace_deviation: float | None = _limit(
        5.0, "robust standard deviations", "farthest that the pace may be from the dataset's median"
    )

    def __post_init__(self) -> None:
        problems = [
            f"{limit.name} must be a number from 0, or none, not {getattr(self, limit.name)!r}"
            for limit in fields(self)
            if not _is_limit(getattr(self, limit.name))
        ]
        if not problems:
            problems = [
                f"min_{name} ({low:g}) must be below max_{name} ({high:g})"
                for name in ("seconds", "pace")
                if (low := getattr(self, f"min_{name}")) is not None
                and (high := getattr(self, f"max_{name}")) is not None
                and low >= high
            ]
        if problems:
            raise InputError("limits: " + "; ".join(problems))


def limit_fields() -> tuple[Field[Any], ...]:
    """The limits as dataclass fields; `metadata` has their unit and meaning."""
    return fields(Limits)


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and value >= 0


SHORTEST_PACED = 15
"""symbols; the pace of shorter texts varies too much to be compared with the median"""
FEWEST_PACED = 8
"""utterances; the median of fewer says nothing"""
LEAST_SPREAD = 0.08
"""a smaller robust standard deviation of the pace's logarithm counts as this: one reader is even"""


def pace_faults(
    paces: Mapping[str, tuple[float, int]], limits: Limits
) -> tuple[dict[str, tuple[str, str]], tuple[float, float] | None]:
    """Utterances whose sound is too short or too long for their text.

    Args:
        paces: id -> seconds of its sound, and symbols of its text (at least 1).

    Returns:
        id -> reason and detail; and the median pace (s a symbol) with its robust standard deviation
        (of the logarithm), or None where there are too few utterances to tell.
    """
    logs = np.array([math.log(s / n) for s, n in paces.values() if n >= SHORTEST_PACED])
    middle = None
    if len(logs) >= FEWEST_PACED:
        median = float(np.median(logs))
        middle = median, max(1.4826 * float(np.median(np.abs(logs - median))), LEAST_SPREAD)
    faults = {}
    for id, (seconds, symbols) in paces.items():
        pace = seconds / symbols
        told = f"{seconds:.2f} s for {symbols} symbols, {1000 * pace:.0f} ms each"
        deviation = (math.log(pace) - middle[0]) / middle[1] if middle else 0.0
        if limits.min_pace is not None and pace < limits.min_pace:
            faults[id] = "too_fast", f"{told}; nobody reads in less than {1000 * limits.min_pace:g}"
        elif limits.max_pace is not None and pace > limits.max_pace:
            faults[id] = "too_slow", f"{told}; more than {1000 * limits.max_pace:g}"
        elif (
            middle and symbols >= SHORTEST_PACED
            and above(abs(deviation), limits.max_pace_deviation)
        ):  # fmt: skip
            usual = f"this dataset's median is {1000 * math.exp(middle[0]):.0f}"
            reason = "too_fast" if deviation < 0 else "too_slow"
            faults[id] = reason, f"{told}; {usual}, {abs(deviation):.1f} deviations away"
    return faults, (math.exp(middle[0]), middle[1]) if middle else None


def duplicates(digests: Sequence[tuple[str, str]]) -> list[list[str]]:
    """(id, digest of its sound) in order -> the ids of each sound that has several, in order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for id, digest in digests:
        groups[digest].append(id)
    return [ids for ids in groups.values() if len(ids) > 1]


def above(value: float, limit: float | None) -> bool:
    """Whether there is a limit, and the value is beyond it."""
    return limit is not None and value > limit
