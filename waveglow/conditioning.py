"""The mel, brought to the flow's positions: up-sampled to samples, then grouped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from waveglow.config import WaveGlowConfig


def upsample(mel: Tensor, layer: nn.ConvTranspose1d, config: WaveGlowConfig) -> Tensor:
    """mel (B, M, T) -> (B, M n_group, L), L = T groups_per_frame; channel m n_group + s is bin m at
    sample s of the group."""
    samples = F.conv_transpose1d(mel, layer.weight, layer.bias, layer.stride)
    samples = samples[:, :, : mel.shape[2] * config.upsample_stride]  # (B, M, S)
    return samples.unflatten(2, (-1, config.n_group)).transpose(2, 3).flatten(1, 2)


class FrameUpsampler:
    """The same for some frames of a mel at a time, by matrix products.

    A frame's samples depend on it and on the frames before it within the kernel's length.
    """

    def __init__(self, mel: Tensor, layer: nn.ConvTranspose1d, config: WaveGlowConfig) -> None:
        """mel (B, M, T), of any floating-point type: pieces of it are converted, never all."""
        self._config = config
        stride = config.upsample_stride
        self._n_back = (config.upsample_kernel - 1) // stride  # frames looked at before the own one
        self._mel = mel
        weight = F.pad(layer.weight, (0, (self._n_back + 1) * stride - config.upsample_kernel))
        # One matrix (M stride, M) for each frame looked at, the own one first.
        self._matrices = [
            part.permute(1, 2, 0).reshape(-1, weight.shape[0])[None]
            for part in weight.split(stride, 2)
        ]
        assert layer.bias is not None
        self._bias = layer.bias.repeat_interleave(stride)[:, None]

    def columns(self, first: int, last: int) -> Tensor:
        """Frames `first` to `last` -> (B, M n_group, (last - first) groups_per_frame)."""
        B = self._mel.shape[0]
        n_zeros = max(0, self._n_back - first)
        mel = self._mel[:, :, max(0, first - self._n_back) : last].to(self._bias.dtype)
        mel = F.pad(mel, (n_zeros, 0))
        samples = self._bias.expand(B, -1, last - first)  # (B, M stride, n)
        for back, matrix in enumerate(self._matrices):
            start = self._n_back - back
            seen = mel[:, :, start : start + last - first]
            samples = torch.baddbmm(samples, matrix.expand(B, -1, -1), seen)
        groups = samples.unflatten(
            1, (-1, self._config.groups_per_frame, self._config.n_group)
        )  # (B, M, groups, n_group, n)
        return groups.permute(0, 1, 3, 4, 2).flatten(3).flatten(1, 2)
