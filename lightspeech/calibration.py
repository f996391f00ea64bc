"""How long this teacher's utterances are: measured once for each store, on texts chosen by hash.

The length of an utterance of N tokens is taken to be T = a + b N frames, times a factor whose
logarithm spreads by s sqrt(1 + 40 / N): short texts vary more (the first bundled teacher's by 0.12
at 14 tokens, 0.08 at 50, 0.07 at 150). The fit is robust: the median of all slopes between two
texts (Theil and Sen), and medians for the rest, so that a third of the texts may be anything.

Which texts are measured depends on their ids alone, not on the order in which they come, and their
renditions are those which they would be labelled with. What was found is kept in the store; every
later run judges by the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightspeech.errors import InputError
from lightspeech.text import Line

MOST_TEXTS = 64
"""texts that are measured"""
FEWEST_TEXTS = 16
"""sound renditions without which nothing is measured"""

_SHORT = 40  # tokens of a text whose spread is 1.4 times that of a long one
_LEAST_SPREAD = 0.05  # 64 texts may seem more regular than the speaker is


@dataclass(frozen=True)
class UsualLength:
    """How many frames an utterance of so many tokens usually has."""

    intercept: float
    """a, frames that every utterance has, for its end"""
    frames_per_token: float
    """b"""
    spread: float
    """s, standard deviation of the logarithm of a long utterance's length"""
    texts: int
    """texts measured; 0: nothing was measured, and the limits are wide"""

    def deviation(self, frames: int, tokens: int) -> float:
        """How far a length is from the usual one, in spreads; above 0 is longer."""
        usual = self.intercept + self.frames_per_token * tokens
        return math.log(frames / usual) / (self.spread * math.sqrt(1 + _SHORT / tokens))

    def as_dict(self) -> dict[str, Any]:
        """For the store's manifest: figures by name."""
        return {"length": dict(vars(self))}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> UsualLength:
        """What `as_dict` gave.

        Raises:
            InputError: it is something else.
        """
        found = figures.get("length")
        if (
            not isinstance(found, dict)
            or found.keys() != cls.__annotations__.keys()
            or not all(isinstance(value, int | float) for value in found.values())
            or not (found["intercept"] >= 0 and found["frames_per_token"] >= 0)
            or not (found["intercept"] + found["frames_per_token"] > 0 and found["spread"] > 0)
        ):
            raise InputError(
                f"the store's calibration is not one of lengths: {str(figures)[:120]}; "
                "label into another folder (--out)"
            )
        return cls(**found)


WIDE = UsualLength(intercept=10.0, frames_per_token=5.0, spread=0.2, texts=0)
"""Where too few texts are given to measure: with the usual limit of 5 spreads, within a factor of
2.7 of an English voice for long texts, and of 5 for 30 tokens."""


def calibration_lines(lines: Sequence[Line], seed: int) -> list[Line]:
    """The lines to measure: those with the smallest hash of seed and id; none of fewer than
    FEWEST_TEXTS."""

    def place(line: Line) -> bytes:
        return hashlib.sha256(f"calibration/{seed}/{line.id}".encode()).digest()

    return sorted(lines, key=place)[:MOST_TEXTS] if len(lines) >= FEWEST_TEXTS else []


def fit_length(lengths: Sequence[tuple[int, int]]) -> UsualLength | None:
    """The usual length, of (frames, tokens) of sound renditions; None of fewer than FEWEST_TEXTS.

    The order of the lengths does not matter.
    """
    if len(lengths) < FEWEST_TEXTS:
        return None
    frames, tokens = np.array(sorted(lengths), np.float64).T  # (L,), (L,)
    first, second = np.triu_indices(len(lengths), 1)
    apart = tokens[first] != tokens[second]
    first, second = first[apart], second[apart]
    slopes = (frames[second] - frames[first]) / (tokens[second] - tokens[first])
    slope = max(0.0, float(np.median(slopes))) if len(slopes) else 0.0
    intercept = float(np.median(frames - slope * tokens))
    if intercept < 0 or not len(slopes):  # nothing to tell both apart by: in proportion, then
        slope, intercept = float(np.median(frames / tokens)), 0.0
    logs = np.log(frames / (intercept + slope * tokens)) / np.sqrt(1 + _SHORT / tokens)
    # 1.4826: the standard deviation of a normal distribution whose median deviation is 1
    spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs))))
    return UsualLength(intercept, slope, spread, len(lengths))
