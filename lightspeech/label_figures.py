"""Figures about the labels of a store, for its report: how many, how good, which are the worst.

They come from the shards' small columns alone, shard by shard: no mel is read, and an utterance
costs a few numbers of memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightspeech.evaluation.histograms import histogram, plain
from lightspeech.labelling_progress import LabellingSummary
from lightspeech.rejects import Reject
from lightspeech.scoring import Score

Values = npt.NDArray[np.floating]

MOST_WORST = 20
"""labels in the list of the worst"""

_MOST_CAUSES = 3  # sentences about why a label is among the worst
_WORTH_A_CAUSE = 0.25  # of the way from the typical value to a limit


@dataclass(frozen=True)
class Worst:
    """A label that is close to a limit."""

    index: int
    """in the store"""
    nearness: float
    """of its worst score: 0 is typical, 1 is on the limit"""
    score: str | None
    """the name of that score; None where no score is worse than typical"""
    causes: tuple[str, ...]
    """sentences, the worst score's first"""


def score_figures(
    name: str, values: Values, rejected: Values, definition: Score | None
) -> dict[str, Any]:
    """Title, thresholds, extremes and histogram of one score, as report.json has them.

    Args:
        name: of the score.
        values: (L,) of the labels; those that are not finite are left out.
        rejected: of the rejects.
        definition: None for a score that this version does not know.
    """
    known = definition or Score(name.replace("_", " "), "", "middle")
    return {
        "title": known.title,
        "unit": known.unit,
        "meaning": known.meaning,
        "better": known.better,
        "low": known.low,
        "high": known.high,
        **distribution(values, rejected, known),
    }


def distribution(values: Values, rejected: Values, definition: Score) -> dict[str, Any]:
    """Count, least, median, mean, most and histogram of the values that are finite."""
    values, rejected = values[np.isfinite(values)], rejected[np.isfinite(rejected)]
    if not len(values):
        empty = dict.fromkeys(("min", "median", "mean", "max", "histogram"))
        return {"count": 0, **empty}
    limits = [limit for limit in (definition.low, definition.high) if limit is not None]
    shape = histogram(
        values,
        rejected,
        limits,
        whole=_is_whole(values, definition),
        better=definition.better,
    )
    return {
        "count": len(values),
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "max": float(values.max()),
        "histogram": vars(shape),
    }


def nearness(values: Values, definition: Score | None) -> Values:
    """How near each value (L,) is to a limit: 0 where it is typical or better, 1 on the limit.

    It is the share of the way from the median to the limit, so that scores of different units and
    spreads compare, and so that limits which no label comes near rank nothing. Beyond the limit
    (labels that were kept under laxer ones) it is above 1. Where the median itself is at the limit
    or beyond it, a value beyond counts as 1 and any other as 0.
    """
    near = np.zeros(len(values))
    finite = np.isfinite(values)
    if definition is None or not finite.any():
        return near
    median = float(np.median(values[finite]))
    for limit, sign in ((definition.low, -1.0), (definition.high, 1.0)):
        if limit is None:
            continue
        room = sign * (limit - median)
        if room > 0:
            way = sign * (values - median) / room
        else:
            way = (sign * (values - limit) > 0).astype(np.float64)
        near = np.where(finite, np.maximum(near, way), near)
    return near


def worst_labels(
    scores: Mapping[str, Values], definitions: Mapping[str, Score], most: int = MOST_WORST
) -> list[Worst]:
    """The labels that are nearest to a limit, the nearest first.

    A label ranks by the score in which it is nearest (see `nearness`), among equals by the sum over
    all its scores, and then by its place in the store.

    Args:
        scores: (L,) each.
        definitions: the scores that have limits.
    """
    if not scores:
        return []
    names = sorted(scores)
    near = np.stack([nearness(scores[name], definitions.get(name)) for name in names])  # (names, L)
    order = np.lexsort((np.arange(near.shape[1]), -near.sum(0), -near.max(0)))[:most]
    medians = {
        name: float(np.median(finite))
        for name in names
        if len(finite := scores[name][np.isfinite(scores[name])])
    }
    found = []
    for index in order.tolist():
        ways = sorted(
            ((float(way), name) for way, name in zip(near[:, index], names, strict=True)),
            key=lambda pair: (-pair[0], pair[1]),
        )
        most_near, score = ways[0]
        causes = [
            _cause(definitions[name], float(scores[name][index]), medians[name], way)
            for place, (way, name) in enumerate(ways[:_MOST_CAUSES])
            if way >= _WORTH_A_CAUSE or (place == 0 and way > 0)
        ]
        found.append(
            Worst(
                index,
                most_near,
                score if most_near > 0 else None,
                tuple(causes) or ("None of its scores is worse than the typical one.",),
            )
        )
    return found


def reject_scores(rejects: Sequence[Reject]) -> dict[str, Values]:
    """name -> the rejects' scores of that name."""
    found: dict[str, list[float]] = {}
    for reject in rejects:
        for name, value in numbers(reject.scores).items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among scores: JSON knows no others, and rejects.json is from outside."""
    return {
        name: float(value)
        for name, value in scores.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def run_figures(summary: LabellingSummary | None, device: str | None) -> dict[str, Any] | None:
    """What the run that wrote the report did, and how fast it was."""
    if summary is None:
        return None
    return {
        "texts": summary.texts,
        "already_there": summary.already_there,
        "rejected_before": summary.rejected_before,
        "kept": summary.kept,
        "kept_after_retry": summary.kept_after_retry,
        "retried": summary.retried,
        "failures": dict(Counter(summary.failures).most_common()),
        "rejected": dict(summary.rejected),
        "hours": summary.speech_seconds / 3600,
        "frames_spoken": summary.frames_spoken,
        "seconds": summary.seconds,
        "times_real_time": summary.times_real_time,
        "utterances_per_second": summary.kept / summary.seconds if summary.seconds else 0.0,
        "device": device,
    }


def reason_counts(rejects: Sequence[Reject]) -> dict[str, int]:
    """reason -> rejects, the most frequent first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())


def _cause(definition: Score, value: float, typical: float, way: float) -> str:
    sides = [limit for limit in (definition.low, definition.high) if limit is not None]
    beyond = [
        limit
        for limit, sign in ((definition.low, -1), (definition.high, 1))
        if limit is not None and sign * (value - limit) > 0
    ]
    limit = beyond[0] if beyond else sides[0] if value < typical else sides[-1]
    unit = f" {definition.unit}" if definition.unit else ""
    start = f"{definition.title}: {plain(value)}{unit}"
    if way > 1 or (value - limit) * (typical - limit) <= 0:
        where = "on" if value == limit else "beyond"
        return f"{start}, {where} the limit of {plain(limit)} (typical: {plain(typical)})"
    return (
        f"{start}, {100 * way:.0f}% of the way from the typical {plain(typical)} "
        f"to the limit of {plain(limit)}"
    )


def _is_whole(values: Values, definition: Score) -> bool:
    """Whether a score counts something: shares may all be 1 and are still no counts."""
    limits = [limit for limit in (definition.low, definition.high) if limit is not None]
    counts = bool(definition.unit) or bool(limits) or float(values.max()) > 1
    return counts and all(
        bool((np.asarray(group) == np.round(group)).all()) for group in (values, limits)
    )
