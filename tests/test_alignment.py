"""Durations and scores from attention, against enumeration and planted answers."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lightspeech.alignment import (
    ALIGNMENTS,
    AlignmentScores,
    durations_from_attention,
    score_alignment,
)
from lightspeech.errors import InputError


def path_score(attention: np.ndarray, durations: np.ndarray) -> float:
    tokens = np.repeat(np.arange(len(durations)), durations)
    return float(np.log(np.maximum(attention[np.arange(len(tokens)), tokens], 1e-6)).sum())


def all_durations(T: int, N: int) -> list[tuple[int, ...]]:
    """Every way in which N tokens share T frames: all get one, or T of them do if T < N."""
    if T < N:
        chosen = itertools.combinations(range(N), T)
        return [tuple(int(n in tokens) for n in range(N)) for tokens in chosen]
    cuts = itertools.combinations(range(1, T), N - 1)
    return [tuple(np.diff([0, *cut, T])) for cut in cuts]


def planted(durations: np.ndarray, rng: np.random.Generator, noise: float = 0.3) -> np.ndarray:
    """Attention (T, N) that follows `durations`, over a noisy floor."""
    T, N = int(durations.sum()), len(durations)
    attention = noise * rng.random((T, N)) / N
    attention[np.arange(T), np.repeat(np.arange(N), durations)] += 1
    return attention / attention.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("T", range(1, 9))
@pytest.mark.parametrize("N", range(1, 6))
def test_monotonic_path_is_the_best_of_all(T: int, N: int) -> None:
    rng = np.random.default_rng(100 * T + N)
    for concentration in (0.05, 1.0):
        attention = rng.dirichlet(np.full(N, concentration), size=T)
        durations = durations_from_attention(attention)
        options = all_durations(T, N)
        assert tuple(durations) in options
        best = max(path_score(attention, np.array(option)) for option in options)
        assert path_score(attention, durations) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("method", ALIGNMENTS)
def test_recovers_planted_durations(method: str) -> None:
    rng = np.random.default_rng(3)
    for N in (1, 2, 17, 90):
        truth = rng.integers(1, 12, size=N)
        attention = planted(truth, rng)
        np.testing.assert_array_equal(durations_from_attention(attention, method), truth)


def test_one_odd_frame_does_not_shift_the_path() -> None:
    truth = np.array([4, 5, 3, 6])
    attention = planted(truth, np.random.default_rng(0))
    attention[6] = [0, 0, 0, 1]  # within token 1's frames
    np.testing.assert_array_equal(durations_from_attention(attention), truth)
    np.testing.assert_array_equal(durations_from_attention(attention, "count"), [4, 4, 3, 7])


def test_a_token_that_is_never_attended_still_gets_a_frame() -> None:
    attention = np.zeros((6, 3))
    attention[:3, 0] = attention[3:, 2] = 1
    assert sorted(durations_from_attention(attention)) == [1, 2, 3]
    np.testing.assert_array_equal(durations_from_attention(attention, "count"), [3, 0, 3])


def test_counts_as_a_loop_does() -> None:
    rng = np.random.default_rng(8)
    attention = rng.random((40, 7))
    attention[3] = attention[9] = 0.5  # ties: the first token's
    expected = [0] * 7
    for frame in attention.tolist():
        expected[frame.index(max(frame))] += 1
    assert durations_from_attention(attention, "count").tolist() == expected


@pytest.mark.parametrize("method", ALIGNMENTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 9), (9, 9), (10, 9), (300, 9), (50, 1)])
def test_sums_to_the_frames(method: str, shape: tuple[int, int]) -> None:
    T, N = shape
    rng = np.random.default_rng(T)
    for attention in (rng.random(shape), np.zeros(shape), np.full(shape, 1e-300), np.ones(shape)):
        durations = durations_from_attention(attention, method)
        assert durations.dtype == np.int64
        assert durations.shape == (N,)
        assert durations.sum() == T
        assert durations.min() >= (1 if method == "monotonic" and T >= N else 0)


def test_takes_tensors_of_any_float_type() -> None:
    truth = np.array([3, 1, 4, 1, 5])
    attention = torch.tensor(planted(truth, np.random.default_rng(1)), requires_grad=True)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        np.testing.assert_array_equal(durations_from_attention(attention.to(dtype)), truth)
    assert score_alignment(attention, torch.tensor(truth)).longest_stay == 5


def test_long_attention_keeps_its_precision() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(1, 60, size=200)
    attention = planted(truth, rng).astype(np.float32)
    attention[rng.random(len(attention)) < 0.1] = 0  # frames that say nothing
    durations = durations_from_attention(attention)
    assert durations.sum() == truth.sum()
    assert path_score(attention, durations) >= path_score(attention, truth) - 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.1])
@pytest.mark.parametrize("method", ALIGNMENTS)
def test_refuses_weights_that_are_none(bad: float, method: str) -> None:
    attention = np.full((5, 3), 1 / 3)
    attention[2, 1] = bad
    message = f"1 weights that are not finite .*, at frame 2 and token 1, is {bad}"
    with pytest.raises(InputError, match=message):
        durations_from_attention(attention, method)
    with pytest.raises(InputError, match=message):
        score_alignment(attention)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3), (3, 0)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"attention of shape \(.*\): expected \(T, N\)"):
        durations_from_attention(np.zeros(shape))


def test_refuses_an_unknown_method() -> None:
    with pytest.raises(InputError, match="alignment 'viterbi': expected one of monotonic, count"):
        durations_from_attention(np.ones((2, 2)), "viterbi")


def test_refuses_durations_of_another_attention() -> None:
    with pytest.raises(InputError, match=r"durations of shape \(2,\) with sum 4: expected \(3,\)"):
        score_alignment(np.ones((5, 3)), [2, 2])


def test_scores_of_a_perfect_alignment() -> None:
    scores = score_alignment(np.repeat(np.eye(6), [3, 1, 7, 2, 2, 1], axis=0))
    assert scores == AlignmentScores(
        focus_rate=1.0,
        coverage=1.0,
        monotonicity=1.0,
        backward_jumps=0,
        backward_distance=0,
        said_again=0,
        longest_stay=7,
        longest_skip=0,
        longest_blur=0,
        unread_tokens=0,
        frames_at_end=5,
    )
    found = scores.as_dict()
    assert found == vars(scores)
    shares = {name for name, value in found.items() if isinstance(value, float)}
    assert shares == {"focus_rate", "coverage", "monotonicity"}
    assert {type(found[name]) for name in found.keys() - shares} == {int}
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.coverage = 0.0  # type: ignore[misc]


def attending(tokens: list[int], N: int, weight: float = 0.8) -> np.ndarray:
    """Attention (T, N) that gives `weight` to one token a frame."""
    attention = np.full((len(tokens), N), (1 - weight) / (N - 1))
    attention[np.arange(len(tokens)), tokens] = weight
    return attention


def test_scores_count_skips_and_repeats() -> None:
    # 2 is skipped, 4 -> 1 jumps back by three, 4 -> 3 is one step back.
    scores = score_alignment(attending([0, 1, 3, 4, 1, 3, 4, 3, 4, 5], 6))
    assert scores.focus_rate == pytest.approx(0.8)
    assert scores.coverage == pytest.approx(5 / 6)
    assert scores.monotonicity == pytest.approx(7 / 9)
    assert (scores.backward_jumps, scores.backward_distance) == (1, 3)
    assert score_alignment(attending([0, 5], 6), [1, 1, 0, 0, 0, 0]).longest_stay == 1


def test_words_said_twice_are_further_back_than_a_glance() -> None:
    once = [n for n in range(10) for _ in range(4)]
    assert score_alignment(attending(once, 10)).said_again == 0
    twice = once[:28] + once[8:]  # tokens 2 to 6 again: behind by 4, 3, 2, 1 and 0, 4 frames each
    assert score_alignment(attending(twice, 10)).said_again == 4 * (4 + 3 + 2 + 1)
    glance = once.copy()
    glance[16:18] = [9, 9]  # two frames ahead, so that all that follows seems behind
    assert score_alignment(attending(glance, 10)).said_again == 0
    assert score_alignment(attending(glance, 10)).backward_distance == 5
    glance = [*once[:-2], 2, once[-1]]  # back, just before the end
    assert score_alignment(attending(glance, 10)).said_again == 0


def test_tokens_without_attention_are_a_skip_wherever_they_are() -> None:
    sparse = [n for n in range(12) if n not in (0, 1, 4, 5, 6, 11) for _ in range(5)]
    scores = score_alignment(attending(sparse, 12, weight=0.99))
    assert (scores.longest_skip, scores.unread_tokens) == (3, 1)
    early = score_alignment(attending(sparse[:10], 12, weight=0.99))
    assert (early.longest_skip, early.unread_tokens) == (8, 8)
    assert early.coverage == pytest.approx(2 / 12)
    shared = attending([n for n in range(6) for _ in range(3)], 6)
    shared[6:12] = [0, 0.2, 0.4, 0.4, 0, 0]  # tokens 2 and 3 have half of six frames each
    assert score_alignment(shared).longest_skip == 0


def test_time_after_the_end_is_counted_from_the_last_three_tokens() -> None:
    read = [n for n in range(8) for _ in range(3)]
    assert score_alignment(attending(read, 8)).frames_at_end == 9
    assert score_alignment(attending([*read, *[3, 7] * 10], 8)).frames_at_end == 29
    assert score_alignment(attending([*read[:12], *[2] * 6], 8)).frames_at_end == 9  # since 3


def test_a_blur_is_time_without_a_token_in_focus() -> None:
    attention = attending([n for n in range(8) for _ in range(3)], 8)
    attention[4:9] = attention[12] = 1 / 8
    attention[9:12] = 0.68 / 7
    attention[9:12, 3] = 0.32  # this is focus enough
    assert score_alignment(attention).longest_blur == 5


def test_scores_of_a_single_frame() -> None:
    scores = score_alignment([[0.25, 0.75]])
    assert (scores.coverage, scores.monotonicity, scores.longest_stay) == (0.5, 1.0, 1)
    assert (scores.unread_tokens, scores.frames_at_end, scores.said_again) == (0, 1, 0)
