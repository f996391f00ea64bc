"""A ConvNeXt block in one dimension: along time a channel at a time, then across channels.

ConvNeXt is Liu et al. 2022, arXiv:2201.03545; in one dimension, for speech, Vocos (Siuzdak 2023,
arXiv:2306.00814) has it. The student's refiner and the light vocoder are made of these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_SIZE = 7
"""frames that a block looks at, 3 before and 3 after"""
FIRST_SCALE = 0.1
"""what a block's output is multiplied with in the beginning; it learns its own scale"""


class Block(nn.Module):
    """One ConvNeXt block: along time a channel at a time, then across channels a frame at a time.

    Args:
        size: C, channels of what goes in and comes out.
        hidden_size: channels between its two linear layers.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        # In two dimensions, of which one is 1: then it takes channels that lie side by side in
        # memory, as those of a frame do, and is twice as fast on a CPU as nn.Conv1d.
        self.along_time = nn.Conv2d(
            size, size, (1, KERNEL_SIZE), padding=(0, KERNEL_SIZE // 2), groups=size
        )
        self.norm = nn.LayerNorm(size)
        self.expand = nn.Linear(size, hidden_size)
        self.contract = nn.Linear(hidden_size, size)
        self.scale = nn.Parameter(torch.full((size,), FIRST_SCALE))

    def forward(self, x: Tensor, padded_frames: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). padded_frames (B, T, 1), True beyond an item's frames: they
        are heard as zeros, as what lies before the first frame and after the last."""
        # In mixed precision only the two products gain anything on a CPU.
        with torch.autocast("cpu", enabled=False):
            real = x if padded_frames is None else x.masked_fill(padded_frames, 0.0)
            heard = real.transpose(1, 2).unsqueeze(2)  # (B, C, 1, T)
            near = self.norm(self.along_time(heard).squeeze(2).transpose(1, 2))  # (B, T, C)
        hidden = self.expand(near).to(x.dtype)
        # Where no gradient needs it, in place: new memory takes longer than the function.
        hidden = F.gelu(hidden) if torch.is_grad_enabled() else torch.ops.aten.gelu_(hidden)
        return torch.addcmul(x, self.scale, self.contract(hidden).to(x.dtype))
