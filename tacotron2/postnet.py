"""The post-net: a correction of the decoder's mel by convolutions over time (section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from tacotron2.config import Tacotron2Config
from tacotron2.layers import ConvolutionStack, within


class Postnet(ConvolutionStack):
    """Convolutions whose output is added to the mel."""

    def __init__(self, config: Tacotron2Config) -> None:
        inner = [config.postnet_embedding_dim] * (config.postnet_n_convolutions - 1)
        channels = [config.n_mel_channels, *inner, config.n_mel_channels]
        super().__init__(channels, config.postnet_kernel_size)

    def forward(self, mel: Tensor, frames: Tensor, padding_leaks: bool = False) -> Tensor:
        """mel (B, T, M) and its lengths (B,) -> corrected mel (B, T, M), zero beyond each length.

        What lies beyond a length has no influence on the result unless `padding_leaks`.
        """
        padded_frames = ~within(frames, mel.shape[1])[:, None, :]
        x = mel.transpose(1, 2)  # (B, M, T)
        activations = [*[torch.tanh] * (len(self.convolutions) - 1), None]
        x = x + self.run(x, activations, None if padding_leaks else padded_frames)
        return x.masked_fill(padded_frames, 0.0).transpose(1, 2)
