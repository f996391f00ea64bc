"""Scores of a rendition: what each measures, which values are sound, and what is wrong otherwise.

A teacher that reads aloud fails in known ways: it skips words, says them again, gets stuck, goes on
after the end, stops too early, falls silent or blows up. Each way leaves its mark in the attention
(T, N), the length or the mel (T, M), and each mark is a number here with a limit.

The default limits were set with the first bundled teacher on 300 lines of the bundled corpus and
200 of LJSpeech's transcripts: the quantiles of those renditions, the worst of them looked at,
against planted faults (tests/planted_faults.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from lightspeech.alignment import longest_run
from lightspeech.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LOUDEST_SOUND = 2.62
"""No mel of a signal in [-1, 1] has a larger value: by Cauchy and Schwarz, a mel filter gives at
most its norm times that of the spectrum, which Parseval's theorem bounds. (A full-scale square wave
comes to 2.5, the first bundled teacher to 1.9.)"""
SILENT = 6.0
"""a frame this far below the loudest (52 dB) is silent"""


@dataclass(frozen=True)
class Limits:
    """Which values of the scores are sound; None sets no limit.

    `min_NAME` and `max_NAME` are limits of the score NAME, and a value on the limit is sound. The
    defaults are for what the teacher speaks freely; `forced_limits` has those for recordings.
    """

    min_focus_rate: float | None = 0.4
    """share; renditions of the first bundled teacher have 0.57 or more"""
    min_coverage: float | None = 0.85
    """share of the tokens; sound ones have 0.90 or more"""
    max_backward_jumps: float | None = 6
    """steps; sound ones have 5 or fewer"""
    max_backward_distance: float | None = 24
    """tokens; sound ones go back by 19 or less, all jumps together"""
    max_said_again: float | None = 40
    """tokens x frames; 99.5 % of sound ones have 38 or less, and 97 % of those that say a word of
    5 letters or more twice have 40 or more"""
    max_longest_stay: float | None = 60
    """frames (0.7 s); sound ones stay for 45 or less"""
    max_longest_skip: float | None = 2
    """tokens; 99.5 % of sound ones have 2 or less, words of 4 letters that are skipped 3 or more"""
    max_longest_blur: float | None = 25
    """frames; sound ones have 12 or less"""
    max_unread_tokens: float | None = 2
    """tokens; sound ones leave at most one, a last word of 3 letters leaves 3"""
    max_frames_at_end: float | None = 65
    """frames (0.75 s); sound ones have 52 or less"""
    min_frames_per_token: float | None = 2.0
    """frames; the fastest plausible speech, 43 tokens a second"""
    max_length_deviation: float | None = 5
    """spreads, to either side: a factor of 1.5 for 100 tokens. The spread is measured on 64 texts
    and may be a quarter too small; then this is 3.75, and one sound rendition in 5,000 is lost"""
    min_peak: float | None = -4.0
    """natural log of magnitude; sound ones reach 0.5, and -4 is 39 dB less"""
    max_peak: float | None = LOUDEST_SOUND
    """natural log of magnitude; no sound is louder"""
    max_longest_pause: float | None = 80
    """frames (0.9 s); sound ones have 29 or less"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a finite number, or none for no limit, not {value!r}"
            for name, value in vars(self).items()
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value))
        ]
        problems += [
            f"{name} must be from 0 to 1, not {getattr(self, name)!r}"
            for name in ("min_focus_rate", "min_coverage")
            if not problems and getattr(self, name) is not None
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{field.name} must be at least 0, not {getattr(self, field.name)!r}"
            for field in fields(self)
            if not problems and field.name.startswith("max_") and field.name != "max_peak"
            if getattr(self, field.name) is not None and getattr(self, field.name) < 0
        ]
        low, high = self.min_peak, self.max_peak
        if not problems and low is not None and high is not None and low > high:
            problems.append(f"min_peak must not be above max_peak, not {low:g} and {high:g}")
        if problems:
            raise InputError("limits of the scores: " + "; ".join(problems))


def forced_limits() -> Limits:
    """The limits for recordings: their readers pause longer, and a teacher that is led along a
    voice that is not its own looks about more.

    Measured with the first bundled teacher on 23 LJSpeech recordings, another voice than its own,
    against another aligner's word starts: within these limits are 14, whose words are placed to
    within 0.1 s in the median; of the other nine, to within 0.15 to 0.8 s.
    """
    return Limits(
        max_backward_jumps=8,
        max_backward_distance=100,
        max_said_again=120,
        max_longest_stay=70,
        max_frames_at_end=75,
        max_longest_pause=170,
        max_length_deviation=6,
    )


def changed_limits(limits: Limits, changes: Sequence[str]) -> Limits:
    """Limits with other values for those that are named.

    Args:
        changes: words like `max_longest_skip=4`; `none` sets no limit, `all=none` none at all.

    Raises:
        InputError: not such words.
    """
    for change in changes:
        name, _, text = change.partition("=")
        if change == "all=none":
            limits = Limits(**dict.fromkeys(vars(limits)))
            continue
        if name not in vars(limits):
            raise InputError(
                f"--threshold {change}: expected NAME=VALUE with one of the names all, "
                f"{', '.join(vars(limits))}"
            )
        try:
            value = None if text == "none" else float(text)
        except ValueError as e:
            raise InputError(f"--threshold {change}: expected {name}=NUMBER or {name}=none") from e
        limits = replace(limits, **{name: value})
    return limits


@dataclass(frozen=True)
class Score:
    """One number about a rendition, and between which limits it is sound."""

    title: str
    """for people, as the head of a histogram"""
    unit: str
    """of the number; empty for a share"""
    better: Literal["high", "low", "middle"]
    """where good renditions lie"""
    meaning: str = ""
    """a sentence for people: what is measured, and what a bad value tells"""
    too_low: str = ""
    """what is wrong below `low`; {} stands for the limit"""
    too_high: str = ""
    """what is wrong above `high`; {} stands for the limit"""
    low: float | None = None
    """a rendition below this is no label; None: no such limit"""
    high: float | None = None
    """a rendition above this is no label; None: no such limit"""


_WITHOUT_LIMITS = {
    "peak": Score(
        "largest mel value", "ln magnitude", "middle",
        "The loudest moment in the loudest mel bin. A voice that stays far below is silent; one "
        "that is louder than any sound can be has blown up.",
        too_low="silent (no mel value above {})",
        too_high="louder than any sound can be (a mel value above {})",
    ),
    "unread_tokens": Score(
        "tokens left at the end", "tokens", "low",
        "How many tokens stand behind the furthest that the attention has come to. A voice that "
        "stops too early leaves words.",
        too_high="stopped more than {} tokens before the end of the text",
    ),
    "longest_skip": Score(
        "longest run of tokens passed over", "tokens", "low",
        "The most tokens in a row that got less than half a frame of attention each: a word that "
        "was skipped.",
        too_high="passed over more than {} tokens in a row",
    ),
    "said_again": Score(
        "largest excursion back", "tokens x frames", "low",
        "How far behind the furthest token so far the attention fell, summed over the frames until "
        "it was there again: words that were said twice.",
        too_high="went back in the text by more than {} tokens x frames",
    ),
    "backward_jumps": Score(
        "jumps back", "", "low",
        "How often the most attended token goes back by more than one.",
        too_high="more than {} backward jumps",
    ),
    "backward_distance": Score(
        "distance jumped back", "tokens", "low",
        "How far all jumps back went, together.",
        too_high="jumped back over more than {} tokens",
    ),
    "longest_stay": Score(
        "longest stay on a token", "frames", "low",
        "A voice that got stuck stays on one token; so does a pause at a comma, for less long.",
        too_high="stayed on one token for more than {} frames",
    ),
    "frames_at_end": Score(
        "time on the last tokens", "frames", "low",
        "Frames since the attention came to the last three tokens: a voice that missed its end "
        "goes on with silence or with babble.",
        too_high="went on for more than {} frames after the end of the text",
    ),
    "longest_blur": Score(
        "longest time without focus", "frames", "low",
        "The most frames in a row in which no token has 30 % of the attention: babble.",
        too_high="attended to nothing in particular for more than {} frames",
    ),
    "longest_pause": Score(
        "longest silence", "frames", "low",
        "The most frames in a row that are 52 dB or more below the loudest.",
        too_high="silent for more than {} frames",
    ),
    "frames_per_token": Score(
        "frames a token", "frames", "middle",
        "The length over the number of tokens: a low value is hurried or cut short, a high one "
        "drags or goes on after the end.",
        too_low="fewer than {} frames a token",
        too_high="more than {} frames a token",
    ),
    "length_deviation": Score(
        "length against the corpus", "spreads", "middle",
        "How unusual the length is among this teacher's utterances of so many tokens; 0 is "
        "typical.",
        too_low="much shorter than the corpus has such texts ({} spreads or more)",
        too_high="much longer than the corpus has such texts ({} spreads or more)",
    ),
    "coverage": Score(
        "share of the tokens attended to", "", "high",
        "The share of the tokens that some frame attends to most. Below 1, some were passed over, "
        "as short or silent ones may be; far below, words are missing.",
        too_low="coverage below {}",
    ),
    "focus_rate": Score(
        "focus of the attention", "", "high",
        "A frame's largest attention weight, on average. 1 looks at one token at a time.",
        too_low="focus of the attention below {}",
    ),
    "draw": Score(
        "which rendition was kept", "", "low",
        "1 is the first that was drawn. Later ones are kept where earlier ones failed, or were "
        "less typical (--pick).",
    ),
    "monotonicity": Score(
        "share of steps that do not go back", "", "high",
        "The share of the steps from frame to frame in which the most attended token does not go "
        "back.",
    ),
}  # fmt: skip


def scores_under(limits: Limits) -> dict[str, Score]:
    """Every score of a label by name, with these limits, in the order in which they are checked."""
    listed = {}
    for name, score in _WITHOUT_LIMITS.items():
        low: float | None = getattr(limits, f"min_{name}", None)
        high: float | None = getattr(limits, f"max_{name}", None)
        if name == "length_deviation" and high is not None:
            low = -high  # the limit is for either side
        listed[name] = replace(score, low=low, high=high)
    return listed


SCORES: dict[str, Score] = scores_under(Limits())
"""Every score of a label by name, with the default limits."""


def fault(scores: Mapping[str, float], limits: Limits) -> str | None:
    """What is wrong with a rendition of these scores, or None. The first of several counts."""
    for name, score in scores_under(limits).items():
        value = scores[name]
        if score.low is not None and value < score.low:
            return score.too_low.format(f"{score.low:g}")
        if score.high is not None and value > score.high:
            return score.too_high.format(f"{score.high:g}")
    return None


def score_mel(mel: Tensor) -> dict[str, float]:
    """`peak` and `longest_pause` of a mel (T, M), natural log of magnitudes, T >= 1."""
    levels = mel.amax(1).numpy()  # (T,)
    peak = levels.max()
    return {"peak": float(peak), "longest_pause": float(longest_run(levels < peak - SILENT))}
