"""The pre-net's drop-out at inference: random numbers of the utterance, not of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 32
"""Frames drawn at a time."""


class PrenetDropout:
    """Draws what the pre-net's two layers drop, frame by frame.

    Each utterance has a Philox generator of its own, seeded with its integer and drawn on the CPU
    from its raw 64-bit stream, which NumPy keeps the same from release to release. What is dropped
    therefore depends on the seed and the frame alone: not on the batch, the position in it, the
    device or the version of PyTorch.
    """

    def __init__(
        self, seeds: Sequence[int], size: int, probability: float, device: torch.device
    ) -> None:
        """`seeds`: one integer >= 0 an utterance; `size`: width P of the pre-net."""
        self._streams = [np.random.Philox(seed) for seed in seeds]
        self._size = size
        # A 16-bit number keeps its unit if it is at least this; 0.5 is exact.
        self._threshold = round(probability * 65536)
        self._scale = 1 / (1 - probability)
        self._device = device
        self._block = torch.empty(0)
        self._position = BLOCK

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows of the batch only."""
        self._streams = [self._streams[i] for i in rows.tolist()]
        self._block = self._block[:, :, rows.to(self._block.device)]

    def next_frame(self) -> tuple[Tensor, Tensor]:
        """What to multiply the outputs (B, P) of either layer with: 0 or 1 / (1 - probability)."""
        if self._position == BLOCK:
            self._block = self._draw()
            self._position = 0
        first, second = self._block[self._position]
        self._position += 1
        return first, second

    def _draw(self) -> Tensor:
        """The factors of the next BLOCK frames, (BLOCK, 2, B, P)."""
        n_words = BLOCK * 2 * self._size // 4  # four 16-bit numbers in each
        words = np.stack([stream.random_raw(n_words) for stream in self._streams])
        numbers = words.astype("<u8", copy=False).view("<u2")
        kept = torch.from_numpy(numbers >= self._threshold).to(self._device)
        kept = kept.view(len(self._streams), BLOCK, 2, self._size)
        return kept.permute(1, 2, 0, 3).to(torch.float32).mul_(self._scale)
