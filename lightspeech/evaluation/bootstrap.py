"""How sure a figure is that was taken over some utterances and is meant for all: the bootstrap.

A figure with an interval is a dict of `value`, `low` and `high`: the bootstrap's 95 % interval over
utterances (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13: percentiles
of 5,000 resamples, always the same ones). Of a difference the same utterances are drawn for both
sides, so that what makes an utterance hard for both does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 5000

_BLOCK = 1 << 20  # numbers drawn at a time


@dataclass(frozen=True, eq=False)
class Ratio:
    """A figure that is one sum over utterances divided by another."""

    above: np.ndarray
    """(n,) of each utterance"""
    below: np.ndarray
    """(n,) of each utterance, above 0"""

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.above.sum() / self.below.sum())

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """(R, n) numbers of utterances -> (R,) figures."""
        values: np.ndarray = self.above[drawn].sum(1) / self.below[drawn].sum(1)
        return values


class RootRatio(Ratio):
    """The square root of such a quotient: of sums of squares over counts, the root mean square."""

    @property
    def value(self) -> float:
        """The figure."""
        return float(np.sqrt(self.above.sum() / self.below.sum()))

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """(R, n) numbers of utterances -> (R,) figures."""
        values: np.ndarray = np.sqrt(self.above[drawn].sum(1) / self.below[drawn].sum(1))
        return values


def with_interval(one: Ratio, minus: Ratio | None = None) -> dict[str, float]:
    """A figure, or the difference of two over the same n >= 1 utterances, with its interval."""
    n = len(one.above)
    assert n, "at least one utterance"
    assert minus is None or len(minus.above) == n, "the same utterances"
    generator = np.random.default_rng(0)
    rows = max(1, _BLOCK // n)
    values = []
    for first in range(0, RESAMPLES, rows):
        drawn = generator.integers(n, size=(min(rows, RESAMPLES - first), n))
        figures = one.resampled(drawn)
        values.append(figures if minus is None else figures - minus.resampled(drawn))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    value = one.value - (0.0 if minus is None else minus.value)
    return {"value": value, "low": float(low), "high": float(high)}


def interval_text(figure: Mapping[str, float], shown: str, factor: float = 1) -> str:
    """`3.61 (3.55 to 3.68)`: a figure as people read it.

    Args:
        figure: what `with_interval` gives.
        shown: the form of a number, and after a space its unit: `{:+.1f} points`.
        factor: by which all three numbers are multiplied.
    """
    value = shown.format(factor * figure["value"])
    number = shown.split()[0]  # the unit need not be said three times
    low, high = (number.format(factor * figure[end]) for end in ("low", "high"))
    return f"{value} ({low} to {high})"
