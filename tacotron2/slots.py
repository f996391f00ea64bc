"""The free-running decoder: one step for all utterances that are being spoken, each in its slot.

It computes what `Decoder.step` does (see there for the sources), from weights that are rearranged
once. A slot's vectors stand side by side in one row,

    pre-net | query | context | hidden

so that the input of every product is a stretch of it: the attention LSTM reads the first three, the
decoder's LSTM the last three, the projection the last two. Nothing is put together or taken apart
between the products.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tacotron2.config import Tacotron2Config
from tacotron2.decoder import Decoder
from tacotron2.dropout import PrenetDropout
from tacotron2.packed import ROWS, TOKENS, PackedLinear, falling_sigmoid_, round_up

LOOKING = 8
"""Utterances whose attention is computed together; what lies in between then fits a core's cache.
"""


class PackedCell:
    """An LSTM cell on one stretch of the rows, input and hidden state together.

    Its weights are scaled so that all four gates are falling sigmoids: input, forget and output
    gate as they are, the candidate g through tanh(g) = 2 sigmoid(2 g) - 1.
    """

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        """weight (4 H, K) and bias (4 H,) in PyTorch's order: input, forget, candidate, output."""
        self.size = len(bias) // 4
        scales = weight.new_tensor([-1.0, -1.0, -2.0, -1.0])
        scales = scales[:, None].expand(4, self.size).reshape(-1)
        self._gates = PackedLinear(weight * scales[:, None], bias * scales)
        self.cell = weight.new_zeros(rows, self.size)

    def step(self, x: Tensor, hidden: Tensor) -> None:
        """x (R, K); the new hidden state is written to `hidden` (R, H), which may be part of x."""
        opened, kept, candidate, shown = falling_sigmoid_(self._gates(x)).split(self.size, 1)
        cell = self.cell[: len(x)]
        cell.mul_(kept).add_(candidate.mul_(2).sub_(1).mul_(opened))
        torch.mul(falling_sigmoid_(cell * -2).mul_(2).sub_(1), shown, out=hidden)


class Slots:
    """State and weights of up to `count` utterances; those being spoken are in slots 0, 1, ..."""

    def __init__(
        self, decoder: Decoder, config: Tacotron2Config, count: int, prenet_dropout: float
    ) -> None:
        attention, weight = decoder.attention_layer, decoder.attention_layer.query_layer.weight
        self._n_mels = config.n_mel_channels
        rows = round_up(count, ROWS)
        sizes = [
            config.prenet_dim,
            config.attention_rnn_dim,
            config.encoder_embedding_dim,
            config.decoder_rnn_dim,
        ]
        self._state = weight.new_zeros(rows, sum(sizes))
        ends = itertools.accumulate(sizes, initial=0)
        self._part = [slice(start, end) for start, end in itertools.pairwise(ends)]
        self._frame = weight.new_zeros(rows, self._n_mels)
        self._dropout = None
        if prenet_dropout > 0:
            self._dropout = PrenetDropout(rows, sizes[0], prenet_dropout, weight.device)

        self._prenet = [PackedLinear(matrix) for matrix in decoder.prenet.parameters()]
        cell = decoder.attention_rnn
        before, after = cell.weight_ih[:, : sizes[0]], cell.weight_ih[:, sizes[0] :]
        self._attention_rnn = PackedCell(
            torch.cat((before, cell.weight_hh, after), 1), cell.bias_ih + cell.bias_hh, rows
        )
        cell = decoder.decoder_rnn
        self._decoder_rnn = PackedCell(
            torch.cat((cell.weight_ih, cell.weight_hh), 1), cell.bias_ih + cell.bias_hh, rows
        )
        mel, gate = decoder.linear_projection.linear_layer, decoder.gate_layer.linear_layer
        projection = torch.cat((mel.weight, gate.weight))  # (M + 1, hidden | context)
        hidden, context = projection[:, : sizes[3]], projection[:, sizes[3] :]
        self._projection = PackedLinear(
            torch.cat((context, hidden), 1), torch.cat((mel.bias, gate.bias))
        )

        # e = v . tanh(x) = sum of v - 2 v . falling_sigmoid(2 x), and softmax ignores the sum.
        filters = attention.location_layer.filters() * 2  # (A, 2, K)
        self._kernel_size = filters.shape[2]
        self._location = PackedLinear(filters.transpose(1, 2).flatten(1))
        self._to_query = PackedLinear(attention.query_layer.weight * 2)
        self._to_keys = attention.memory_layer.weight.double() * 2
        self._v = attention.v.weight[0].double() * -2

        E, A = sizes[2], len(self._v)
        self._memory = weight.new_zeros(rows, 0, E)
        self._keys = self._v.new_zeros(rows, 0, A)
        self._outside = weight.new_zeros(rows, 0)  # (B, N) -inf beyond an utterance's tokens, or 0
        # (B, N + K - 1, 2) of each token the attention of the frame before and the sum of all so
        # far, between zeros of half a kernel.
        self._history = weight.new_zeros(rows, 0, 2)
        self._make_room(TOKENS)

    def _make_room(self, tokens: int) -> None:
        """Room for utterances of so many tokens (N); what is there is kept."""
        self._memory = _lengthened(self._memory, tokens)
        self._keys = _lengthened(self._keys, tokens)
        self._outside = _lengthened(self._outside, tokens, -torch.inf)
        self._history = _lengthened(self._history, tokens + self._kernel_size - 1)

    def enter(self, slot: int, memory: Tensor, seed: int) -> None:
        """A new utterance of memory (N, E), in double precision, begins in this slot."""
        N = len(memory)
        if self._memory.shape[1] < N:
            self._make_room(round_up(N, TOKENS))
        for buffer in (self._state, self._frame, self._attention_rnn.cell, self._decoder_rnn.cell):
            buffer[slot] = 0
        self._memory[slot, :N], self._memory[slot, N:] = memory, 0
        self._keys[slot, :N] = F.linear(memory, self._to_keys)
        self._outside[slot, :N], self._outside[slot, N:] = 0, -torch.inf
        self._history[slot] = 0
        if self._dropout is not None:
            self._dropout.enter(slot, seed)

    def leave(self, slot: int) -> None:
        """Nobody is in this slot any more."""
        if self._dropout is not None:
            self._dropout.leave(slot)

    def move(self, source: int, target: int) -> None:
        """The utterance in `source` goes on in `target`."""
        for buffer in (
            self._state,
            self._frame,
            self._attention_rnn.cell,
            self._decoder_rnn.cell,
            self._memory,
            self._keys,
            self._outside,
            self._history,
        ):
            buffer[target] = buffer[source]
        if self._dropout is not None:
            self._dropout.move(source, target)

    def step(self, busy: int, longest: int) -> tuple[Tensor, Tensor]:
        """The next frame of the utterances in slots 0 to busy - 1, none longer than `longest`.

        Returns:
            mel and gate logit (B, M + 1), attention (B, N), with N from `longest` rounded up.
        """
        rows, N = round_up(busy, ROWS), round_up(longest, TOKENS)
        state = self._state[:rows]
        prenet, query, context, hidden = (state[:, part] for part in self._part)
        x = self._frame[:rows]
        factors = None if self._dropout is None else self._dropout.next_frame(rows)
        for i, layer in enumerate(self._prenet):
            x = layer(x).relu_()
            if factors is not None:
                x.mul_(factors[i])
        prenet.copy_(x)
        self._attention_rnn.step(state[:, : self._part[2].stop], query)
        compared = self._to_query(query)[:busy].double()
        looks = []
        for first in range(0, busy, LOOKING):
            together = slice(first, min(first + LOOKING, busy))
            looks.append(self._look(compared[together], together, N))
        attention = torch.cat(looks)  # (B, N)
        context[:busy] = torch.bmm(attention[:, None], self._memory[:busy, :N])[:, 0]
        self._decoder_rnn.step(state[:, self._part[1].start :], hidden)
        spoken = self._projection(state[:, self._part[2].start :])  # (R, M + 1)
        self._frame[:rows] = spoken[:, : self._n_mels]
        return spoken[:busy], attention

    def _look(self, query: Tensor, slots: slice, N: int) -> Tensor:
        """Compared query (B, A) -> attention (B, N), which joins the history of these slots.

        The energies are summed in double precision: they go through an exponential, and their
        rounding acts on where the attention looks in all frames that follow.
        """
        K, history = self._kernel_size, self._history[slots]  # (B, N + K - 1, 2)
        B = len(history)
        # Each token's surroundings are one stretch of its utterance's history.
        around = history.unfold(1, K, 1)[:, :N].transpose(2, 3).reshape(B * N, K * 2)
        compared = self._location(around).view(B, N, -1).double()
        compared.add_(self._keys[slots, :N]).add_(query[:, None])
        energies = falling_sigmoid_(compared).mul_(self._v).sum(2)  # (B, N)
        energies = energies.to(history.dtype).add_(self._outside[slots, :N])
        attention = torch.softmax(energies, 1)
        seen = history[:, K // 2 : K // 2 + N]  # (B, N, 2)
        seen[..., 0] = attention
        seen[..., 1] += attention
        return attention


def _lengthened(held: Tensor, length: int, fill: float = 0.0) -> Tensor:
    """(B, N, ...) -> (B, length, ...)"""
    new = held.new_full((len(held), length, *held.shape[2:]), fill)
    new[:, : held.shape[1]] = held
    return new
