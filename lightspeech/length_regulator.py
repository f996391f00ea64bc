"""From tokens to frames: which token each frame belongs to (FastSpeech, arXiv:1905.09263, 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_positions(lengths: Tensor, size: int) -> Tensor:
    """(B, size) booleans, True where a position lies within its item's length (B,)."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def token_of_frame(durations: Tensor) -> tuple[Tensor, Tensor]:
    """The token that each frame is spoken for.

    `durations` (B, N) are whole, non-negative numbers of frames. Returns the index (B, T) of each
    frame's token and the number of frames (B,) of each item; T is the largest of them. Beyond an
    item's frames the index is N - 1, so that it can always be gathered with.
    """
    ends = durations.cumsum(1)  # (B, N): the first frame after each token
    frames = ends[:, -1]  # (B,)
    times = torch.arange(int(frames.max()), device=durations.device).expand(len(durations), -1)
    # A frame belongs to the first token that ends after it: silent tokens (0 frames) are skipped.
    tokens = torch.searchsorted(ends, times.contiguous(), right=True)  # (B, T)
    return tokens.clamp_(max=durations.shape[1] - 1), frames
