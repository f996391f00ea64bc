"""Histograms of scores: bins that people can read, and a drawing of them as SVG.

A drawing has what was kept above its base line and what was rejected below it, each to its own
scale, with the limits in between. It takes its colours from the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]

MOST_BINS = 40

_REACH = 2.0  # how far beyond the kept values, in their range, a limit or reject is still shown
_FLAT = 0.1  # the range, relative to the value, that is shown where all values are equal
_WIDTH, _LEFT, _RIGHT = 320.0, 6.0, 314.0
_TOP, _BASE = 26.0, 96.0  # of the tallest kept bar, and of the line
_DEEPEST = 28.0  # of the tallest bar of rejects below the line
_MARK = 9.0  # of the median's mark below the line
_LEAST_BAR = 2.0  # a single utterance among thousands is still seen


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins; bin i holds edges[i] <= value < edges[i + 1], the last both."""

    edges: tuple[float, ...]
    """ascending, one more than bins"""
    counts: tuple[int, ...]
    """kept values in each bin; all of them are in one"""
    rejected: tuple[int, ...]
    """rejected values in each bin"""
    rejected_below: int
    """rejected values below the first edge"""
    rejected_above: int
    """rejected values above the last edge"""
    whole: bool = False
    """the values are whole numbers and the bins are centred on these"""


def histogram(
    values: Values,
    rejected: Values,
    limits: Sequence[float] = (),
    *,
    whole: bool = False,
    better: str = "middle",
) -> Histogram:
    """Counts finite values in at most MOST_BINS bins with round edges.

    Args:
        values: (L,) of what was kept, L >= 1; every one falls into a bin.
        rejected: of what was not. The bins reach out to these, and to `limits`, as far as that does
            not squeeze the kept ones into a corner.
        limits: thresholds.
        whole: the values are whole numbers, so bins are centred on these.
        better: `high`, `low` or `middle`; where all values are equal, the bins show the other side.
    """
    edges = _edges(values, rejected, limits, whole, better)
    return Histogram(
        edges=tuple(edges.tolist()),
        counts=tuple(np.histogram(values, edges)[0].tolist()),
        rejected=tuple(np.histogram(rejected, edges)[0].tolist()),
        rejected_below=int((rejected < edges[0]).sum()),
        rejected_above=int((rejected > edges[-1]).sum()),
        whole=whole,
    )


def draw_histogram(
    shape: Histogram,
    *,
    title: str,
    description: str,
    low: float | None = None,
    high: float | None = None,
    median: float | None = None,
    anchor: str,
) -> str:
    """An SVG of the page's width, with a title and a description for those who cannot see it.

    Args:
        title, description: plain text.
        low, high: limits; what lies beyond is shaded.
        median: marked on the base line.
        anchor: an id for this drawing that the page has only once.
    """
    frame = _Frame(shape)
    # A value on the limit is sound: of whole numbers, the limit's own bin lies within.
    inside = 0.5 if shape.whole else 0.0
    parts = []
    if low is not None:
        parts.append(frame.shade(None, low - inside))
    if high is not None:
        parts.append(frame.shade(high + inside, None))
    parts += frame.bars()
    parts.append(f'<path class="base" d="M{_LEFT:g} {_BASE:g}H{_RIGHT:g}"/>')
    if median is not None:
        parts.append(f'<path class="median" d="M{frame.x(median):.1f} {_BASE:g}l-4 6h8z"/>')
    parts += frame.ticks()
    if low is not None:
        parts.append(frame.limit(low, low - inside))
    if high is not None:
        parts.append(frame.limit(high, high + inside))
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {frame.bottom + 16:g}" role="img" '
        f'aria-labelledby="{anchor}-title {anchor}-desc"><title id="{anchor}-title">'
        f'{escape(title)}</title><desc id="{anchor}-desc">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def plain(value: float) -> str:
    """A number for people: 3 digits, small ones to thousandths, thousands in full."""
    shown = f"{value:,.0f}" if abs(value) >= 999.5 else f"{round(value, 3) + 0.0:.3g}"
    return shown.replace("-", "\u2212")


def _edges(
    values: Values, rejected: Values, limits: Sequence[float], whole: bool, better: str
) -> Values:
    least, most = float(values.min()), float(values.max())
    reach = most - least
    if whole:
        reach = max(reach, 1.0)
    elif not reach > 1e-9 * max(abs(least), abs(most)):  # equal, but for rounding
        reach = _FLAT * (max(abs(least), abs(most)) or 1.0)
    start, end = least, most
    for other in [*limits, *rejected.tolist()]:
        if least - _REACH * reach <= other <= most + _REACH * reach:
            start, end = min(start, other), max(end, other)
    if end - start < reach:  # nothing else to show
        start -= 0.0 if better == "low" else reach
        end += 0.0 if better == "high" else reach
    if whole:
        step = max(1.0, float(math.ceil((end - start + 1) / MOST_BINS)))
        count = math.ceil((end - start + 1) / step)
        return math.floor(start) - 0.5 + step * np.arange(count + 1)
    step = _round_step((end - start) / (0.7 * MOST_BINS))
    first = math.floor(start / step)
    edges = step * np.arange(first, max(math.ceil(end / step), first + 1) + 1)
    # 3 * 0.1 is not 0.3: edges that look round must be, or values on them fall beside.
    edges = np.round(edges, 2 - math.floor(math.log10(step)))
    edges[0], edges[-1] = min(edges[0], least), max(edges[-1], most)
    return edges


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step for m in (1, 2, 5, 10, 20) if (step := m * power) >= least)


def _exact(value: float) -> str:
    """A round number, however small."""
    return plain(value) if abs(value) >= 1000 else f"{value:.6g}".replace("-", "\u2212")


class _Frame:
    """Where things are in a drawing."""

    def __init__(self, shape: Histogram) -> None:
        self.shape = shape
        self.first, self.last = shape.edges[0], shape.edges[-1]
        has_rejects = any(shape.rejected) or shape.rejected_below or shape.rejected_above
        self.bottom = _BASE + (_DEEPEST if has_rejects else _MARK)

    def x(self, value: float) -> float:
        """Of a value; of one outside, that of the border."""
        share = (value - self.first) / (self.last - self.first)
        return _LEFT + min(max(share, 0.0), 1.0) * (_RIGHT - _LEFT)

    def shade(self, start: float | None, end: float | None) -> str:
        """What lies beyond a limit, where any of it is shown."""
        left = self.x(self.first if start is None else start)
        right = self.x(self.last if end is None else end)
        if right - left < 0.1:
            return ""
        return _rectangle(left, _TOP, right - left, self.bottom - _TOP, "beyond")

    def bars(self) -> list[str]:
        """The kept upwards, the rejected downwards; each with its counts as a tooltip."""
        shape = self.shape
        most, most_rejected = max(shape.counts), max(shape.rejected)
        found = []
        for i, (kept, out) in enumerate(zip(shape.counts, shape.rejected, strict=True)):
            left, right = self.x(shape.edges[i]), self.x(shape.edges[i + 1])
            width = right - left - min(1.0, (right - left) / 4)
            bars = ""
            if kept:
                height = max(kept / most * (_BASE - _TOP), _LEAST_BAR)
                bars += _rectangle(left, _BASE - height, width, height, "kept")
            if out:
                height = max(out / most_rejected * (_DEEPEST - 1), _LEAST_BAR)
                bars += _rectangle(left, _BASE + 1, width, height, "rejected")
            if bars:
                words = f"{self._span(i)}: {kept:,} kept" + (f", {out:,} rejected" if out else "")
                found.append(f"<g><title>{escape(words)}</title>{bars}</g>")
        return found

    def ticks(self) -> list[str]:
        """Three to six round numbers below, and how many rejects lie further out."""
        step = max(_round_step((self.last - self.first) / 5), 1.0 if self.shape.whole else 0.0)
        row = self.bottom + 12
        below, above = self.shape.rejected_below, self.shape.rejected_above
        least, most = _LEFT + (34 if below else 4), _RIGHT - (34 if above else 4)
        found = []
        for k in range(math.ceil(self.first / step), math.floor(self.last / step) + 1):
            if least <= self.x(k * step) <= most:
                found.append(_text(self.x(k * step), row, _exact(k * step), "tick"))
        if below:
            found.append(_text(_LEFT, row, f"\u2190 {below:,}", "out", "start"))
        if above:
            found.append(_text(_RIGHT, row, f"{above:,} \u2192", "out", "end"))
        return found

    def limit(self, value: float, place: float) -> str:
        """A dashed line with its value; an arrow at the border where it is too far to be shown."""
        if place < self.first:
            return _text(_LEFT, 14, f"\u2190 limit {plain(value)}", "limit", "start")
        if place > self.last:
            return _text(_RIGHT, 14, f"limit {plain(value)} \u2192", "limit", "end")
        at = self.x(place)
        align = "start" if at < _LEFT + 40 else "end" if at > _RIGHT - 40 else "middle"
        line = f'<path class="limit" d="M{at:.1f} {_TOP - 6:g}V{self.bottom:g}"/>'
        return line + _text(at, 14, f"limit {plain(value)}", "limit", align)

    def _span(self, i: int) -> str:
        start, end = self.shape.edges[i], self.shape.edges[i + 1]
        if self.shape.whole:
            start, end = start + 0.5, end - 0.5
        return plain(start) if start == end else f"{plain(start)} to {plain(end)}"


def _rectangle(left: float, top: float, width: float, height: float, style: str) -> str:
    return (
        f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" '
        f'width="{max(width, 0.5):.1f}" height="{height:.1f}"/>'
    )


def _text(x: float, y: float, words: str, style: str, align: str = "middle") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:g}" text-anchor="{align}">{escape(words)}</text>'
    )
