"""The normal numbers that inference starts from: given, or drawn by position.

Drawing by position is what makes a long utterance's noise available piece by piece: what is drawn
at a position does not depend on the pieces in which it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
"""Positions drawn at a time."""


class Noise(Protocol):
    """The standard-normal tensors of one call of inference."""

    def columns(self, draw: int, first: int, last: int) -> Tensor:
        """Positions `first` to `last` of tensor number `draw`, (B, C, last - first)."""
        ...


class GivenNoise:
    """Noise that exists: tensors (B, C, L), one a draw."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors

    def columns(self, draw: int, first: int, last: int) -> Tensor:
        return self._tensors[draw][:, :, first:last]


class SeededNoise:
    """Noise drawn on the CPU from counters, so that every device and every order gives the same.

    The generator is Philox (Salmon et al. 2011), whose stream for a key and a counter NumPy keeps
    the same from release to release. The key is the seed; the counter is made of the item, the draw
    and the block of positions. The normal numbers follow by Box and Muller's formula.
    """

    def __init__(
        self,
        seeds: Sequence[tuple[int, int]],
        channels: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`seeds`: for each item of the batch a seed, 0 to 2^128 - 1, and a number that tells apart
        items with the same seed; `channels`: C of each draw."""
        self._seeds = seeds
        self._channels = channels
        self._device = device
        self._dtype = dtype

    def columns(self, draw: int, first: int, last: int) -> Tensor:
        n_channels = self._channels[draw]
        blocks = range(first // BLOCK, -(-last // BLOCK))
        if not blocks:
            shape = (len(self._seeds), n_channels, 0)
            return torch.empty(shape, device=self._device, dtype=self._dtype)
        drawn = np.stack(
            [
                np.concatenate([_normal(seed, item, draw, b, n_channels) for b in blocks])
                for seed, item in self._seeds
            ]
        )  # (B, positions, C)
        wanted = drawn[:, first - blocks[0] * BLOCK : last - blocks[0] * BLOCK]
        return torch.from_numpy(wanted).to(self._device, self._dtype).transpose(1, 2)


def _normal(seed: int, item: int, draw: int, block: int, n_channels: int) -> np.ndarray:
    """(BLOCK, n_channels) float32 standard-normal numbers."""
    generator = np.random.Philox(key=seed, counter=[0, block, draw, item])
    n_pairs = BLOCK * n_channels // 2  # a pair of normal numbers from each 64-bit word
    words = generator.random_raw(n_pairs).astype("<u8", copy=False).view("<u4")
    # The middle of one of 2^32 equal steps, so that the logarithm exists.
    uniform = (words.reshape(n_pairs, 2) + 0.5) / 2**32
    radius = np.sqrt(-2 * np.log(uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)
    return pairs.astype(np.float32).reshape(BLOCK, n_channels)
