"""Refinement of the decoder's frames: convolutions that know where in its token a frame stands.

The published decoder is a GRU whose input is the same for every frame of a token. What follows here
adds, to each frame of its output, its token's vector and its position in the token, and lets each
frame look at its neighbours: ConvNeXt blocks (Liu et al. 2022, arXiv:2201.03545) in one dimension,
as Vocos (Siuzdak 2023, arXiv:2306.00814) has them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_SIZE = 7
"""frames that a block looks at, 3 before and 3 after"""
FIRST_SCALE = 0.1
"""what a block's output is multiplied with in the beginning; it learns its own scale"""
POSITIONS = 4
"""numbers that `positions` gives"""


def positions(durations: Tensor, source: Tensor) -> Tensor:
    """Where in its token each frame stands.

    Args:
        durations: (B, N) frames of each token, int64.
        source: (B, T) the token of each frame.

    Returns:
        (B, T, POSITIONS): the share of the token that is over in the middle of the frame (0 to 1),
        and the logarithms of one more than the frames before it, than those after it, and of the
        token's frames. Beyond an item's frames they mean nothing, but are finite.
    """
    lengths = durations.gather(1, source)  # (B, T)
    starts = (durations.cumsum(1) - durations).gather(1, source)
    before = (torch.arange(source.shape[1], device=source.device) - starts).clamp(min=0)
    after = (lengths - 1 - before).clamp(min=0)
    share = (before + 0.5) / lengths.clamp(min=1)
    spans = torch.stack((before + 1, after + 1, lengths.clamp(min=1)), 2).float().log()
    return torch.cat((share.clamp(max=1.0).unsqueeze(2), spans), 2)


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

    def forward(self, x: Tensor, padded_frames: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C). padded_frames (B, T, 1), True beyond an item's frames: they
        are heard as zeros, as what lies before the first frame and after the last."""
        # In mixed precision only the two products gain anything on a CPU.
        with torch.autocast("cpu", enabled=False):
            heard = x.masked_fill(padded_frames, 0.0).transpose(1, 2).unsqueeze(2)  # (B, C, 1, T)
            near = self.norm(self.along_time(heard).squeeze(2).transpose(1, 2))  # (B, T, C)
        hidden = F.gelu(self.expand(near).to(x.dtype))
        return torch.addcmul(x, self.scale, self.contract(hidden).to(x.dtype))


class Refiner(nn.Module):
    """Frames of the decoder, with their tokens and positions -> frames for the output layer.

    Args:
        decoder_size: channels of the decoder's frames.
        memory_size: channels of a token's vector.
        size: C, channels of what comes out.
        hidden_size: as `Block` takes it.
        blocks: how many there are, at least 1.
    """

    def __init__(
        self, decoder_size: int, memory_size: int, size: int, hidden_size: int, blocks: int
    ) -> None:
        super().__init__()
        self.of_decoder = nn.Linear(decoder_size, size)
        self.of_token = nn.Linear(memory_size, size, bias=False)
        self.of_position = nn.Linear(POSITIONS, size, bias=False)
        self.blocks = nn.ModuleList(Block(size, hidden_size) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)

    def forward(
        self,
        decoded: Tensor,
        memory: Tensor,
        durations: Tensor,
        source: Tensor,
        padded_frames: Tensor,
    ) -> Tensor:
        """Refines the frames.

        Args:
            decoded: (B, T, decoder_size)
            memory: (B, N, memory_size)
            durations: (B, N) frames of each token, int64.
            source: (B, T) the token of each frame.
            padded_frames: (B, T, 1), True beyond an item's frames.

        Returns:
            (B, T, C); beyond an item's frames it means nothing.
        """
        # Once a token, and not once for each of its frames.
        full = self.norm.weight.dtype  # the sum of all that follows; of_... may be in bfloat16
        tokens = self.of_token(memory).to(full)  # (B, N, C)
        where = self.of_position(positions(durations, source).to(full)).to(full)
        x = self.of_decoder(decoded).to(full) + where
        x = x + tokens.gather(1, source.unsqueeze(2).expand(-1, -1, tokens.shape[2]))  # (B, T, C)
        for block in self.blocks:
            x = block(x, padded_frames)
        refined: Tensor = self.norm(x)
        return refined
