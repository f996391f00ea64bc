"""Layers that exist for the sake of NVIDIA's parameter names, and the stack of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from tacotron2.dropout import keep_factors


class NamedLinear(nn.Module):
    """A linear layer whose weight is called `linear_layer.weight`."""

    def __init__(self, size_in: int, size_out: int, bias: bool) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(size_in, size_out, bias=bias)

    @property
    def weight(self) -> Tensor:
        return self.linear_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_layer(x)


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
        self.dropout = 0.5
        """share of each layer's outputs that is dropped while training, as published"""
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
            activations: one function, or None, for each convolution.
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
            if self.training and self.dropout > 0:
                x = x * keep_factors(x.shape, self.dropout, x)
            if padding is not None:
                x = x.masked_fill(padding, 0.0)
        return x


def within(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size), True at the first `length` positions of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
