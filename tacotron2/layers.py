"""Layers that exist for the sake of NVIDIA's parameter names, and the stack of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_ROWS = 8
"""Matrix products of fewer rows go through other routines, which round otherwise (measured: fewer
than 4); they are filled up with zeros, so that an utterance does not notice the others leave."""


def fill_up(x: Tensor) -> Tensor:
    """(B, C) -> (LEAST_ROWS or more, C), zeros below."""
    return F.pad(x, (0, 0, 0, max(0, LEAST_ROWS - len(x))))


class Cell(nn.LSTMCell):
    """An LSTM cell in which the result for an utterance does not depend on their number."""

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        hidden, cell = super().forward(fill_up(x), (fill_up(state[0]), fill_up(state[1])))
        return hidden[: len(x)], cell[: len(x)]


class NamedLinear(nn.Module):
    """A linear layer whose weight is called `linear_layer.weight`."""

    def __init__(self, size_in: int, size_out: int, bias: bool) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(size_in, size_out, bias=bias)

    @property
    def weight(self) -> Tensor:
        return self.linear_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_layer(fill_up(x))[: len(x)] if x.dim() == 2 else self.linear_layer(x)


class NamedConvolution(nn.Module):
    """A convolution that keeps the length, whose weight is called `conv.weight`."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            channels_in, channels_out, kernel_size, padding=kernel_size // 2, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ConvolutionStack(nn.Module):
    """Convolutions with batch norm, as in the encoder and in the post-net."""

    def __init__(self, channels: list[int], kernel_size: int) -> None:
        """`channels`: width before the first convolution and after each."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                NamedConvolution(before, after, kernel_size, bias=True), nn.BatchNorm1d(after)
            )
            for before, after in pairwise(channels)
        )

    def run(
        self,
        x: Tensor,
        activations: Iterable[Callable[[Tensor], Tensor] | None],
        padding: Tensor | None,
    ) -> Tensor:
        """(B, C, L) -> (B, C', L).

        Args:
            x: the input.
            activations: one function, or None, for each convolution. While training, half of each
                layer's outputs is dropped, as published.
            padding: (B, 1, L), True beyond each item. What lies there is set to zero before every
                convolution and in the result, so that each item sees the zeros that it would see
                alone, whatever batch it is in. None: the items run into their padding.
        """
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        for layer, activation in zip(self.convolutions, activations, strict=True):
            x = layer(x)
            if activation is not None:
                x = activation(x)
            x = F.dropout(x, 0.5, self.training)
            if padding is not None:
                x = x.masked_fill(padding, 0.0)
        return x


def within(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size), True at the first `length` positions of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
