"""Attention of the teacher to frames per token, and scores that tell a good alignment from a bad.

Two ways to durations. `count`, the published one (FastSpeech, https://arxiv.org/abs/1905.09263,
and LightSpeech): a token gets the frames that attend to it most. `monotonic`, the default: the best
path on which every frame stays on the token of the frame before it or moves on to the next; it
cannot skip or reorder tokens, and one odd frame does not shift the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightspeech.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENTS = ("monotonic", "count")
"""The methods of `durations_from_attention`."""

_SMALLEST_WEIGHT = 1e-6
"""Smaller weights count as this, so that no single frame can outweigh the rest of a path."""


_HEARD = 0.5
"""Frames of attention, summed over all frames, below which a token was passed over."""
_FOCUSED = 0.3
"""Weight of the most attended token below which a frame looks at nothing in particular."""
_GLANCE = 5
"""Frames over which the most attended token's median is taken where glances do not count."""
_LAST_TOKENS = 3
"""Tokens that make the end of a text: a full stop and the end of a word, say."""


@dataclass(frozen=True)
class AlignmentScores:
    """How well an attention matrix (T, N) reads its text from start to end."""

    focus_rate: float
    """mean over frames of the largest weight: 1 looks at one token at a time"""
    coverage: float
    """share of tokens that at least one frame attends to most: below 1, some were passed over"""
    monotonicity: float
    """share of steps between frames in which the most attended token does not go back"""
    backward_jumps: int
    """steps in which the most attended token goes back by more than one: repeated words"""
    backward_distance: int
    """tokens gone back in all these jumps together"""
    said_again: int
    """the largest excursion behind the furthest token so far, glances of one or two frames left
    out, tokens x frames: words said twice"""
    longest_stay: int
    """the largest number of frames on one token, by the durations: a voice that got stuck"""
    longest_skip: int
    """the most tokens in a row with less than half a frame of attention each: a skipped word"""
    longest_blur: int
    """the most frames in a row in which no token has 30 % of the attention: babble"""
    unread_tokens: int
    """tokens behind the furthest that was attended most: a voice that was cut off"""
    frames_at_end: int
    """frames since one of the last three tokens was attended most, or the furthest one, where the
    attention did not come so far: babble after the end"""

    def as_dict(self) -> dict[str, float | int]:
        """The scores by name."""
        return asdict(self)


def durations_from_attention(
    attention: npt.ArrayLike | Tensor, method: str = "monotonic"
) -> npt.NDArray[np.int64]:
    """Frames per token.

    Args:
        attention: (T, N) weights, at least 0, of T >= 1 frames for N >= 1 tokens, without padding;
            a tensor may be on any device.
        method: `monotonic` or `count`.

    Returns:
        (N,) int64 whose sum is T. With `monotonic` and T >= N each is at least 1; where there are
        more tokens than frames, T of them get one frame each, in order. With `count` any may be 0,
        and of equal weights the first token's counts.

    Raises:
        InputError: weights that are NaN, infinite or negative, another shape, an unknown method.
    """
    weights = _checked(attention)
    T, N = weights.shape
    if method == "count":
        return np.bincount(weights.argmax(axis=1), minlength=N).astype(np.int64)
    if method != "monotonic":
        raise InputError(f"alignment {method!r}: expected one of {', '.join(ALIGNMENTS)}")
    scores = np.log(np.maximum(weights, _SMALLEST_WEIGHT))
    return _best_path(scores) if T >= N else _best_choice(scores)


def score_alignment(
    attention: npt.ArrayLike | Tensor, durations: npt.ArrayLike | Tensor | None = None
) -> AlignmentScores:
    """Scores an attention matrix (T, N).

    Args:
        attention: as for `durations_from_attention`.
        durations: (N,) frames per token, for `longest_stay`; by default the monotonic path's.
    """
    weights = _checked(attention)
    T, N = weights.shape
    stays = durations_from_attention(weights) if durations is None else _array(durations)
    if stays.shape != (N,) or stays.sum() != T:
        raise InputError(
            f"durations of shape {stays.shape} with sum {stays.sum()}: expected ({N},) "
            f"with sum {T}, for this attention"
        )
    attended = weights.argmax(axis=1)  # (T,)
    steps = np.diff(attended)  # (T - 1,)
    jumps = -steps[steps < -1]
    smooth = _running_median(attended)  # (T,)
    behind = np.maximum.accumulate(smooth) - smooth  # (T,)
    focus = weights.max(axis=1)  # (T,)
    furthest = int(attended.max())
    arrived = int((attended >= min(furthest, N - _LAST_TOKENS)).argmax())
    return AlignmentScores(
        focus_rate=float(focus.mean()),
        coverage=len(np.unique(attended)) / N,
        monotonicity=float((steps >= 0).mean()) if T > 1 else 1.0,
        backward_jumps=len(jumps),
        backward_distance=int(jumps.sum()),
        said_again=_largest_excursion(behind),
        longest_stay=int(stays.max()),
        longest_skip=longest_run(weights.sum(axis=0) < _HEARD),
        longest_blur=longest_run(focus < _FOCUSED),
        unread_tokens=N - 1 - furthest,
        frames_at_end=T - arrived,
    )


def longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """The most True values in a row."""
    return max((sum(1 for _ in run) for value, run in groupby(flags.tolist()) if value), default=0)


def _running_median(attended: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The median of every token (T,) and its neighbours in time; the ends go on as they are."""
    padded = np.pad(attended, _GLANCE // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _GLANCE)  # (T, _GLANCE)
    return np.median(windows, axis=1).astype(np.int64)  # of an odd number: a token


def _largest_excursion(behind: npt.NDArray[np.integer]) -> int:
    """The largest sum of a run of numbers (T,) above 0."""
    return max(
        (sum(run) for away, run in groupby(behind.tolist(), key=lambda b: b > 0) if away), default=0
    )


def _best_path(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Durations on the best monotonic path through scores (T, N), T >= N.

    The path starts on the first token in the first frame and ends on the last in the last. The
    dynamic program goes token by token, over all frames at once, rather than frame by frame: with
    running sums of a token's scores, the best time to enter it is a running maximum. That needs N
    steps of a few array operations and no compiler.
    """
    T, N = scores.shape
    # sums[n, t]: token n's scores in the frames before t
    sums = np.zeros((N, T + 1))
    np.cumsum(scores.T.copy(), axis=1, out=sums[:, 1:])
    # entry[n, t]: the score of the best path to token n-1 at frame t-1, for entering n at frame t,
    # less sums[n, t]; so adding sums[n, s + 1] gives the score of still being on n at frame s.
    entry = np.empty((N, T))
    # best[t]: the score of the best path that is on token n at frame t. Token n cannot be reached
    # before frame n, and only frames from there on are held.
    best = sums[0, 1:]
    for n in range(1, N):
        np.subtract(best[:-1], sums[n, n:T], out=entry[n, n:])
        best = np.maximum.accumulate(entry[n, n:]) + sums[n, n + 1 :]

    durations = np.empty(N, np.int64)
    end = T
    for n in range(N - 1, 0, -1):
        start = n + int(entry[n, n:end].argmax())
        durations[n] = end - start
        end = start
    durations[0] = end
    return durations


def _best_choice(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Durations where scores (T, N) have fewer frames than tokens: each frame takes a token of its
    own, in order, so that as many as possible are heard, and the best such choice wins."""
    T, N = scores.shape
    # best[t, n]: the best choice for the frames up to t in which frame t takes token n
    best = np.full((T, N), -np.inf)
    best[0] = scores[0]
    for t in range(1, T):
        best[t, 1:] = np.maximum.accumulate(best[t - 1])[:-1] + scores[t, 1:]

    durations = np.zeros(N, np.int64)
    end = N
    for t in range(T - 1, -1, -1):
        end = int(best[t, :end].argmax())
        durations[end] = 1
    return durations


def _array(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor; without importing PyTorch to ask
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _checked(attention: npt.ArrayLike | Tensor) -> npt.NDArray[np.floating]:
    weights = _array(attention)
    if weights.dtype != np.float32:
        weights = weights.astype(np.float64)
    if weights.ndim != 2 or 0 in weights.shape:
        raise InputError(
            f"attention of shape {weights.shape}: expected (T, N), "
            "at least one frame by at least one token"
        )
    if not (weights.min() >= 0 and weights.max() < np.inf):  # neither holds with a NaN
        bad = ~(np.isfinite(weights) & (weights >= 0))
        t, n = np.argwhere(bad)[0]
        raise InputError(
            f"attention holds {bad.sum():,} weights that are not finite numbers of at least 0; "
            f"the first, at frame {t} and token {n}, is {weights[t, n]}"
        )
    return weights
