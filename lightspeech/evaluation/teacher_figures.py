"""Figures over many judged utterances of a teacher: shares, means, and how sure they are.

An utterance is what `judge_attention` gives, with `teacher` and, where there is one, `recording`
(what `judge_sound` gives), `mel_cepstral_distortion` and `length_ratio`. Figures with intervals are
those of `lightspeech.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightspeech.evaluation.bootstrap import Ratio, with_interval
from lightspeech.evaluation.sound_figures import quality_difference, quality_figures

GROUP_ENDS = (20, 60, 120, 200)
"""the most characters of a text in each group; what is longer is a group too"""
VERDICTS = {
    "stopped": "stopped by themselves",
    "covered": "coverage 1.0",
    "no_jump": "no backward jump beyond one token",
    "sound": "all three",
}
"""the keys of shares, and what they stand for, in words"""


def group_name(characters: int) -> str:
    """`up to 20`, `21-60`, ..., `over 200`: the group of a text of so many characters."""
    first = 0
    for end in GROUP_ENDS:
        if characters <= end:
            return f"{first}-{end}" if first else f"up to {end}"
        first = end + 1
    return f"over {GROUP_ENDS[-1]}"


def grouped_figures(utterances: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`figures` of each group of lengths that holds any, the shortest texts first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for utterance in sorted(utterances, key=lambda utterance: int(utterance["characters"])):
        groups.setdefault(group_name(utterance["characters"]), []).append(utterance)
    return {name: figures(members) for name, members in groups.items()}


def figures(utterances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures over at least one utterance, for evaluation.json.

    Returns:
        `utterances`; `counts` and `shares` of each of VERDICTS, and of `labelling`: those that
        preprocess.py would keep at the first draw; `means` of the scores, over those that have
        them; `seconds_per_character` of sound; `times_real_time` of `teacher` and `vocoder`;
        `quality` of `teacher` and `recording` with their `difference` (those that both have, where
        anybody was recorded); `mel_cepstral_distortion` in dB and `length_ratio`, or None.
    """
    count = len(utterances)
    counts = {name: sum(bool(u[name]) for u in utterances) for name in VERDICTS}
    counts["labelling"] = sum(u["labelling"] is None for u in utterances)
    scored = [u["scores"] for u in utterances if u["scores"]]
    names = list(scored[0]) if scored else []
    sound = sum(u["seconds"] for u in utterances)
    paired = [u for u in utterances if u.get("recording")]
    compared = [u for u in paired if u["mel_cepstral_distortion"] is not None]
    return {
        "utterances": count,
        "characters": sum(u["characters"] for u in utterances),
        "counts": counts,
        "shares": {name: number / count for name, number in counts.items()},
        "means": {name: sum(scores[name] for scores in scored) / len(scored) for name in names},
        "seconds_per_character": _seconds_per_character(utterances, paired),
        "times_real_time": {
            "teacher": sound / max(sum(u["speaking_seconds"] for u in utterances), 1e-9),
            "vocoder": sound / max(sum(u["teacher"]["vocoder_seconds"] for u in utterances), 1e-9),
        },
        "quality": _quality(paired, ("teacher", "recording"))
        if paired
        else _quality(utterances, ("teacher",)),
        "mel_cepstral_distortion": with_interval(
            Ratio(_column(compared, "mel_cepstral_distortion"), np.ones(len(compared)))
        )
        if compared
        else None,
        "length_ratio": with_interval(
            Ratio(
                np.array([u["teacher"]["seconds"] for u in paired]),
                np.array([u["recording"]["seconds"] for u in paired]),
            )
        )
        if paired
        else None,
    }


def _seconds_per_character(
    utterances: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    def rate(members: Sequence[Mapping[str, Any]], who: str) -> float | None:
        characters = sum(u["characters"] for u in members)
        return sum(u[who]["seconds"] for u in members) / characters if characters else None

    return {"teacher": rate(utterances, "teacher"), "recording": rate(paired, "recording")}


def _quality(utterances: Sequence[Mapping[str, Any]], sides: Sequence[str]) -> dict[str, Any]:
    """The figures of each side, and of two the first's less the second's as `difference`."""
    found = quality_figures(utterances, sides)
    if len(sides) == 2:
        found["difference"] = quality_difference(utterances, sides, *sides)
    return found


def _column(utterances: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([u[name] for u in utterances], float)
