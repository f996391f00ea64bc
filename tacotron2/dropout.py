"""Drop-out: fast in training; at inference random numbers of the utterance, not of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32
"""Frames drawn at a time."""


def keep_factors(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """What training's drop-out multiplies with: 0, or 1 / (1 - probability), independently.

    From PyTorch's global generator. On the CPU every element takes 16 bits of it where F.dropout
    takes a draw, which is several times faster; `probability` is then rounded to a 65,536th.

    Args:
        like: of the type and on the device wanted.
    """
    if like.device.type != "cpu":
        return F.dropout(like.new_ones(shape), probability)
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(probability * 65536), 65535)
    kept = words.view(torch.int16)[:count] >= dropped - 32768
    return kept.view(shape).to(like.dtype).mul_(65536 / (65536 - dropped))


class PrenetDropout:
    """Draws what the pre-net's two layers drop, frame by frame, for utterances in slots.

    Each utterance has a Philox generator of its own, seeded with its integer and drawn on the CPU
    from its raw 64-bit stream, which NumPy keeps the same from release to release. What is dropped
    therefore depends on the seed and the frame alone: not on the slot, on when the utterance
    entered it, on the other utterances, the device or the version of PyTorch.
    """

    def __init__(self, slots: int, size: int, probability: float, device: torch.device) -> None:
        """`size`: width P of the pre-net."""
        self._streams: list[np.random.Philox | None] = [None] * slots
        self._size = size
        # A 16-bit number keeps its unit if it is at least this; 0.5 is exact.
        self._threshold = round(probability * 65536)
        self._scale = 1 / (1 - probability)
        # A ring: what is at a position counts when the ring has turned to it.
        self._ring = torch.zeros(BLOCK, 2, slots, size, device=device)
        self._position = 0
        # For each position the slots whose utterances entered there: they are drawn for when the
        # ring comes round.
        self._due: list[list[int]] = [[] for _ in range(BLOCK)]

    def enter(self, slot: int, seed: int) -> None:
        """A new utterance begins in this slot with the next frame."""
        self.leave(slot)
        self._streams[slot] = np.random.Philox(seed)
        self._due[self._position].append(slot)

    def leave(self, slot: int) -> None:
        """Nothing more is drawn for this slot."""
        self._streams[slot] = None
        for slots in self._due:
            if slot in slots:
                slots.remove(slot)

    def move(self, source: int, target: int) -> None:
        """The utterance in `source` goes on in `target`."""
        self.leave(target)
        self._ring[:, :, target] = self._ring[:, :, source]
        self._streams[target], self._streams[source] = self._streams[source], None
        for slots in self._due:
            slots[:] = [target if slot == source else slot for slot in slots]

    def next_frame(self, rows: int) -> Tensor:
        """What to multiply the outputs of either layer with: 0 or 1 / (1 - probability).

        Returns:
            (2, rows, P), of the first slots; without meaning where no utterance is.
        """
        for slot in self._due[self._position]:
            self._draw(slot)
        factors = self._ring[self._position, :, :rows]
        self._position = (self._position + 1) % BLOCK
        return factors

    def _draw(self, slot: int) -> None:
        """The factors of the next BLOCK frames of an utterance."""
        stream = self._streams[slot]
        assert stream is not None, "nobody is in this slot"
        words = np.asarray(stream.random_raw(BLOCK * 2 * self._size // 4))  # 16-bit numbers, by 4
        numbers = words.astype("<u8", copy=False).view("<u2")
        kept = torch.from_numpy(numbers >= self._threshold).view(BLOCK, 2, self._size)
        # The first of them belongs to the current position.
        kept = kept.roll(self._position, 0).to(self._ring.device, torch.float32)
        self._ring[:, :, slot] = kept.mul_(self._scale)
