"""The decoder: memory -> mel frames, one at a time (Shen et al. 2018, section 2.2).

The attention compares the query with the memory and with where it has been so far (Chorowski et
al. 2015, arXiv:1506.07503): e = v . tanh(W query + V memory + U f), where f are convolutions of the
attention of the previous frame and of the sum of all attention so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacotron2.config import Tacotron2Config
from tacotron2.layers import NamedConvolution, NamedLinear, within


@dataclass
class DecoderState:
    """What the decoder carries from one frame to the next, for B utterances of N tokens."""

    memory: Tensor  # (B, N, E)
    keys: Tensor  # (B, A, N) the memory as the attention compares it
    padded_tokens: Tensor  # (B, N) True beyond an utterance's tokens
    location_filters: Tensor  # (A, 2, K) location convolution and its projection, multiplied out
    attention: Tensor  # (B, N) of the previous frame
    attention_sum: Tensor  # (B, N) over all frames so far
    context: Tensor  # (B, E)
    query: tuple[Tensor, Tensor]  # hidden and cell state of the attention LSTM
    hidden: tuple[Tensor, Tensor]  # hidden and cell state of the decoder LSTM


class Prenet(nn.Module):
    """Two layers without bias on the previous frame, each followed by drop-out."""

    def __init__(self, size_in: int, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [NamedLinear(size_in, size, bias=False), NamedLinear(size, size, bias=False)]
        )

    def forward(self, frame: Tensor, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        """frame (..., M) -> (..., P). `factors`: what each layer's outputs (..., P) are multiplied
        with, 0 where dropped; None drops nothing."""
        x = frame
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if factors is not None:
                x = x * factors[i]
        return x


class LocationLayer(nn.Module):
    """Features of where the attention has been."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        n_filters = config.attention_location_n_filters
        self.location_conv = NamedConvolution(
            2, n_filters, config.attention_location_kernel_size, bias=False
        )
        self.location_dense = NamedLinear(n_filters, config.attention_dim, bias=False)

    def filters(self) -> Tensor:
        """Both layers as one convolution (A, 2, K): nothing non-linear stands between them."""
        return torch.einsum(
            "af,fck->ack", self.location_dense.weight, self.location_conv.conv.weight
        )


class Attention(nn.Module):
    """Location-sensitive attention."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        size = config.attention_dim
        self.query_layer = NamedLinear(config.attention_rnn_dim, size, bias=False)
        self.memory_layer = NamedLinear(config.encoder_embedding_dim, size, bias=False)
        self.v = NamedLinear(size, 1, bias=False)
        self.location_layer = LocationLayer(config)

    def forward(self, query: Tensor, state: DecoderState) -> Tensor:
        """query (B, H) -> attention (B, N), zero at padded tokens, else summing to 1."""
        filters = state.location_filters
        history = torch.stack((state.attention, state.attention_sum), 1)  # (B, 2, N)
        compared = F.conv1d(history, filters, padding=filters.shape[2] // 2)  # (B, A, N)
        # In place: this is the largest tensor of a step, and autograd needs only the last of these.
        compared = compared.add_(state.keys).add_(self.query_layer(query)[:, :, None]).tanh_()
        energies = torch.bmm(self.v.weight.expand(len(query), 1, -1), compared)[:, 0]  # (B, N)
        return torch.softmax(energies.masked_fill(state.padded_tokens, -torch.inf), 1)


class Decoder(nn.Module):
    """Pre-net, attention, two LSTMs and the projections to mel frame and gate."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.p_attention_dropout = config.p_attention_dropout
        self.p_decoder_dropout = config.p_decoder_dropout
        self.prenet = Prenet(config.n_mel_channels, config.prenet_dim)
        self.attention_rnn = nn.LSTMCell(
            config.prenet_dim + config.encoder_embedding_dim, config.attention_rnn_dim
        )
        self.attention_layer = Attention(config)
        self.decoder_rnn = nn.LSTMCell(
            config.attention_rnn_dim + config.encoder_embedding_dim, config.decoder_rnn_dim
        )
        size = config.decoder_rnn_dim + config.encoder_embedding_dim
        self.linear_projection = NamedLinear(size, config.n_mel_channels, bias=True)
        self.gate_layer = NamedLinear(size, 1, bias=True)

    def start(self, memory: Tensor, token_lengths: Tensor) -> DecoderState:
        """The state before the first frame, for a memory (B, N, E)."""
        B, N, E = memory.shape
        query = memory.new_zeros(B, self.attention_rnn.hidden_size)
        hidden = memory.new_zeros(B, self.decoder_rnn.hidden_size)
        nowhere = memory.new_zeros(B, N)
        keys = self.attention_layer.memory_layer(memory)
        return DecoderState(
            memory=memory,
            keys=keys.transpose(1, 2).contiguous(),
            padded_tokens=~within(token_lengths, N),
            location_filters=self.attention_layer.location_layer.filters(),
            attention=nowhere,
            attention_sum=nowhere,
            context=memory.new_zeros(B, E),
            query=(query, query),
            hidden=(hidden, hidden),
        )

    def step(self, prenet_output: Tensor, state: DecoderState) -> Tensor:
        """One frame: pre-net output (B, P) of the frame before -> features (B, H + E).

        Moves `state` on; `project` turns the features of one or of many frames into mel and gate.
        """
        query, cell = self.attention_rnn(torch.cat((prenet_output, state.context), 1), state.query)
        query = F.dropout(query, self.p_attention_dropout, self.training)
        state.query = (query, cell)
        state.attention = self.attention_layer(query, state)
        state.context = torch.bmm(state.attention[:, None], state.memory)[:, 0]
        state.attention_sum = state.attention_sum + state.attention
        hidden, cell = self.decoder_rnn(torch.cat((query, state.context), 1), state.hidden)
        hidden = F.dropout(hidden, self.p_decoder_dropout, self.training)
        state.hidden = (hidden, cell)
        return torch.cat((hidden, state.context), 1)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (..., H + E) -> mel (..., M) and gate logits (...)."""
        return self.linear_projection(features), self.gate_layer(features)[..., 0]
