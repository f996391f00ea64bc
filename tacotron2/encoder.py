"""The encoder: symbol ids -> memory (Shen et al. 2018, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tacotron2.config import Tacotron2Config
from tacotron2.layers import ConvolutionStack, within


class Encoder(ConvolutionStack):
    """Convolutions and a bidirectional LSTM over the embedded symbols."""

    def __init__(self, config: Tacotron2Config) -> None:
        size = config.encoder_embedding_dim
        super().__init__([size] * (config.encoder_n_convolutions + 1), config.encoder_kernel_size)
        self.lstm = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)

    def forward(
        self, embedded: Tensor, token_lengths: Tensor, padding_leaks: bool = False
    ) -> Tensor:
        """(B, N, E) embedded symbols, token_lengths (B,) -> memory (B, N, E).

        The memory is zero beyond each item's tokens, and what lies there has no influence on it
        unless `padding_leaks`.
        """
        n_tokens = embedded.shape[1]
        padded_tokens = None if padding_leaks else ~within(token_lengths, n_tokens)[:, None, :]
        packed = pack_padded_sequence(
            self.convolve(embedded, padded_tokens),
            token_lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        memory, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=n_tokens
        )
        return memory

    def convolve(self, embedded: Tensor, padded_tokens: Tensor | None = None) -> Tensor:
        """(B, N, E) -> (B, N, E), what the LSTM reads; `padded_tokens`: see ConvolutionStack."""
        activations = [torch.relu] * len(self.convolutions)
        return self.run(embedded.transpose(1, 2), activations, padded_tokens).transpose(1, 2)
