"""The length regulator against a loop over tokens."""

from __future__ import annotations

import pytest
import torch

from lightspeech.length_regulator import token_of_frame, valid_positions


def naive(durations: list[int]) -> list[int]:
    return [token for token, frames in enumerate(durations) for _ in range(frames)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_size", [1, 16])
def test_equals_a_loop(seed: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    durations = torch.randint(0, 4, (batch_size, 9), generator=generator)
    durations[:, 4] += 1  # nobody without a frame
    source, frames = token_of_frame(durations)
    expected = [naive(row) for row in durations.tolist()]
    assert frames.tolist() == [len(row) for row in expected]
    assert source.shape == (batch_size, int(frames.max()))
    for row, wanted in zip(source.tolist(), expected, strict=True):
        assert row[: len(wanted)] == wanted
        assert all(0 <= token < 9 for token in row)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([1], [0]),
        ([3], [0, 0, 0]),
        ([0, 0, 2, 0], [2, 2]),
        ([2, 0, 1], [0, 0, 2]),
    ],
)
def test_tokens_without_frames_are_skipped(durations: list[int], expected: list[int]) -> None:
    source, frames = token_of_frame(torch.tensor([durations]))
    assert source.tolist() == [expected]
    assert frames.tolist() == [len(expected)]


def test_valid_positions() -> None:
    assert valid_positions(torch.tensor([2, 0, 3]), 3).int().tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [1, 1, 1],
    ]
