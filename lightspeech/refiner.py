"""Refinement of the decoder's frames: convolutions that know where in its token a frame stands.

The published decoder is a GRU whose input is the same for every frame of a token. What follows here
adds, to each frame of its output, its token's vector and its position in the token, and lets each
frame look at its neighbours in ConvNeXt blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightspeech.convnext import Block

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
        padded_frames: Tensor | None,
    ) -> Tensor:
        """Refines the frames.

        Args:
            decoded: (B, T, decoder_size)
            memory: (B, N, memory_size)
            durations: (B, N) frames of each token, int64.
            source: (B, T) the token of each frame.
            padded_frames: (B, T, 1), True beyond an item's frames; None where there are none.

        Returns:
            (B, T, C); beyond an item's frames it means nothing.
        """
        # Once a token, and not once for each of its frames.
        full = self.norm.weight.dtype  # the sum of all that follows; of_... may be in bfloat16
        tokens = self.of_token(memory).to(full)  # (B, N, C)
        where = self.of_position(positions(durations, source).to(full)).to(full)
        x = self.of_decoder(decoded).to(full) + where
        first_rows = torch.arange(len(tokens), device=source.device).unsqueeze(1) * tokens.shape[1]
        rows = (source + first_rows).flatten()  # whole rows at a time, which gather does not take
        x = x + tokens.flatten(0, 1).index_select(0, rows).view(x.shape)  # (B, T, C)
        for block in self.blocks:
            x = block(x, padded_frames)
        refined: Tensor = self.norm(x)
        return refined
