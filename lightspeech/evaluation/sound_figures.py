"""Figures about what was heard: each voice's, and how voices differ over the same utterances.

An utterance is a dict that holds, under the name of each voice, what `judge_sound` or `judge_wav`
gives, with `seconds` of sound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightspeech.evaluation.bootstrap import Ratio, with_interval

QUALITY = {
    "dnsmos_p808": ("dnsmos_p808", None),
    "dnsmos_overall": ("dnsmos_overall", None),
    "character_error": ("character_edits", "characters"),
    "word_error": ("word_edits", "words"),
}
"""figure -> what is summed, and over what; None: over utterances"""
SHORT_SECONDS = 1.0
"""sound shorter than this is counted apart: what DNSMOS says of it is of little worth"""

Utterance = Mapping[str, Any]


def quality_figures(utterances: Sequence[Utterance], voices: Sequence[str]) -> dict[str, Any]:
    """The figures of each voice, over the utterances in which every voice has the parts.

    Returns:
        under each voice's name the figures of QUALITY with their intervals, None where no utterance
        was judged so; `judged`: over how many utterances each figure is; `short`: how many of each
        voice are shorter than SHORT_SECONDS.
    """
    found: dict[str, Any] = {voice: {} for voice in voices}
    found["judged"] = {}
    found["short"] = {
        voice: sum(u[voice]["seconds"] < SHORT_SECONDS for u in utterances) for voice in voices
    }
    for name in QUALITY:
        ratios = _ratios(utterances, voices, name)
        found["judged"][name] = len(ratios[voices[0]].above)
        for voice, ratio in ratios.items():
            found[voice][name] = with_interval(ratio) if len(ratio.above) else None
    return found


def quality_difference(
    utterances: Sequence[Utterance], voices: Sequence[str], one: str, other: str
) -> dict[str, Any]:
    """The figures of `one` less those of `other`, paired, over the utterances of quality_figures.

    Args:
        utterances, voices: as for `quality_figures`; `one` and `other` are among the voices.

    Returns:
        the figures of QUALITY with their intervals, None where no utterance was judged so.
    """
    found: dict[str, Any] = {}
    for name in QUALITY:
        ratios = _ratios(utterances, voices, name)
        judged = len(ratios[one].above)
        found[name] = with_interval(ratios[one], ratios[other]) if judged else None
    return found


def _ratios(utterances: Sequence[Utterance], voices: Sequence[str], name: str) -> dict[str, Ratio]:
    """One figure of each voice, over the utterances that every voice can be judged by."""
    above, below = QUALITY[name]
    judged = [u for u in utterances if all(u[v].get(above) is not None for v in voices)]
    return {
        voice: Ratio(
            np.array([u[voice][above] for u in judged], float),
            np.array([u[voice][below] if below else 1.0 for u in judged], float),
        )
        for voice in voices
    }
