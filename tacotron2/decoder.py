"""The decoder: memory -> mel frames, each from the one before (Shen et al. 2018, section 2.2).

The attention compares the query with the memory and with where it has been so far (Chorowski et
al. 2015, arXiv:1506.07503): e = v . tanh(W query + V memory + U f), where f are convolutions of the
attention of the previous frame and of the sum of all attention so far.

Here are the layers, and how they read along with a given mel. How they speak is in `slots`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacotron2.attention_frames import Lead, look_over_frames
from tacotron2.config import Tacotron2Config
from tacotron2.dropout import keep_factors
from tacotron2.layers import NamedConvolution, NamedLinear, within
from tacotron2.lstm_frames import lstm_over_frames


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

    def read_along(
        self,
        prenet_output: Tensor,
        memory: Tensor,
        token_lengths: Tensor,
        lead: Lead | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All frames of a teacher-forced batch.

        Only the attention and its LSTM go from frame to frame; everything else takes all at once.

        Args:
            prenet_output: (B, T, P) pre-net outputs of the frames before.
            memory: (B, N, E)
            token_lengths: (B,)
            lead: where the attention is led while it learns.

        Returns:
            features (B, T, H + E) for `project`, and attention (B, T, N).
        """
        layer, cell = self.attention_layer, self.attention_rnn
        T, P = prenet_output.shape[1:]
        from_prenet, from_context = cell.weight_ih.split([P, memory.shape[2]], 1)
        looked = look_over_frames(
            F.linear(prenet_output.transpose(0, 1), from_prenet, cell.bias_ih + cell.bias_hh),
            memory,
            layer.memory_layer(memory),
            ~within(token_lengths, memory.shape[1]),
            torch.cat((from_context, cell.weight_hh), 1),
            layer.query_layer.weight,
            layer.location_layer.filters(),
            layer.v.weight[0],
            self._kept(cell, len(memory), T, self.p_attention_dropout),
            lead,
        )
        cell = self.decoder_rnn
        inputs = torch.cat((looked.queries, looked.contexts), 2)  # (T, B, H + E)
        hidden = lstm_over_frames(
            F.linear(inputs, cell.weight_ih, cell.bias_ih + cell.bias_hh),
            cell.weight_hh,
            self._kept(cell, len(memory), T, self.p_decoder_dropout),
        )
        features = torch.cat((hidden, looked.contexts), 2)
        return features.transpose(0, 1), looked.attention.transpose(0, 1)

    def _kept(self, cell: nn.LSTMCell, B: int, T: int, probability: float) -> Tensor | None:
        """Factors (T, B, H) of drop-out on the cell's output, or None where nothing is dropped."""
        if not self.training or probability == 0:
            return None
        return keep_factors((T, B, cell.hidden_size), probability, like=cell.weight_hh)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (..., H + E) -> mel (..., M) and gate logits (...)."""
        return self.linear_projection(features), self.gate_layer(features)[..., 0]
