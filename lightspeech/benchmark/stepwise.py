"""Reading along with a mel the plain way: the whole decoder, one frame after the other.

What `tacotron2.decoder.Decoder.read_along` is measured against, and tested against: it follows the
equations (Shen et al. 2018; Chorowski et al. 2015) step by step and leaves the gradient to PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tacotron2.attention_frames import Lead
from tacotron2.decoder import Attention, Decoder
from tacotron2.layers import within


@dataclass(frozen=True)
class Kept:
    """Factors of drop-out on the outputs of the two LSTMs, 0 where dropped."""

    attention: Tensor
    """(T, B, H) of the attention's"""
    decoder: Tensor
    """(T, B, H') of the decoder's"""


@dataclass
class State:
    """What the decoder carries from one frame to the next, for B utterances of N tokens."""

    memory: Tensor  # (B, N, E)
    keys: Tensor  # (B, N, A) the memory as the attention compares it
    padded_tokens: Tensor  # (B, N) True beyond an utterance's tokens
    attention: Tensor  # (B, N) where it looked in the previous frame
    attention_sum: Tensor  # (B, N) over all frames so far
    context: Tensor  # (B, E)
    query: tuple[Tensor, Tensor]  # hidden and cell state of the attention LSTM
    hidden: tuple[Tensor, Tensor]  # hidden and cell state of the decoder LSTM


def read_along_stepwise(
    decoder: Decoder,
    prenet_output: Tensor,
    memory: Tensor,
    token_lengths: Tensor,
    lead: Lead | None = None,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor]:
    """What `Decoder.read_along` computes.

    Args:
        prenet_output: (B, T, P) pre-net outputs of the frames before.
        memory: (B, N, E)
        token_lengths: (B,)
        lead: where the attention is led; None lets it look where it will.
        kept: drop-out's factors; None drops nothing in evaluation mode, and draws in training.

    Returns:
        features (B, T, H' + E), and attention (B, T, N).
    """
    state = _start(decoder, memory, token_lengths)
    features, attention = [], []
    for t in range(prenet_output.shape[1]):
        factors = None if kept is None else (kept.attention[t], kept.decoder[t])
        led = None if lead is None else (lead.path[:, t], lead.share)
        spoken, wish = _step(decoder, prenet_output[:, t], state, factors, led)
        features.append(spoken)
        attention.append(wish)
    return torch.stack(features, 1), torch.stack(attention, 1)


def _start(decoder: Decoder, memory: Tensor, token_lengths: Tensor) -> State:
    B, N, E = memory.shape
    query = memory.new_zeros(B, decoder.attention_rnn.hidden_size)
    hidden = memory.new_zeros(B, decoder.decoder_rnn.hidden_size)
    nowhere = memory.new_zeros(B, N)
    return State(
        memory=memory,
        keys=decoder.attention_layer.memory_layer(memory),
        padded_tokens=~within(token_lengths, N),
        attention=nowhere,
        attention_sum=nowhere,
        context=memory.new_zeros(B, E),
        query=(query, query),
        hidden=(hidden, hidden),
    )


def _step(
    decoder: Decoder,
    prenet_output: Tensor,
    state: State,
    factors: tuple[Tensor, Tensor] | None,
    led: tuple[Tensor, float] | None,
) -> tuple[Tensor, Tensor]:
    """One frame: pre-net output (B, P) of the frame before -> features (B, H' + E), and where the
    attention would look (B, N)."""
    inputs = torch.cat((prenet_output, state.context), 1)
    query, cell = decoder.attention_rnn(inputs, state.query)
    query = _dropped(decoder, query, decoder.p_attention_dropout, factors and factors[0])
    state.query = (query, cell)
    wish = state.attention = _attend(decoder.attention_layer, query, state)
    if led is not None:
        symbols, share = led
        there = F.one_hot(symbols.clamp(min=0), wish.shape[1]).to(wish) * (symbols >= 0)[:, None]
        state.attention = (1 - share) * wish + share * there
    state.context = torch.bmm(state.attention[:, None], state.memory)[:, 0]
    state.attention_sum = state.attention_sum + state.attention
    hidden, cell = decoder.decoder_rnn(torch.cat((query, state.context), 1), state.hidden)
    hidden = _dropped(decoder, hidden, decoder.p_decoder_dropout, factors and factors[1])
    state.hidden = (hidden, cell)
    return torch.cat((hidden, state.context), 1), wish


def _dropped(decoder: Decoder, x: Tensor, probability: float, factors: Tensor | None) -> Tensor:
    return F.dropout(x, probability, decoder.training) if factors is None else x * factors


def _attend(layer: Attention, query: Tensor, state: State) -> Tensor:
    """query (B, H) -> attention (B, N), zero at padded tokens, else summing to 1."""
    history = torch.stack((state.attention, state.attention_sum), 1)  # (B, 2, N)
    located = layer.location_layer.location_conv(history).transpose(1, 2)  # (B, N, filters)
    compared = layer.query_layer(query)[:, None] + state.keys
    compared = compared + layer.location_layer.location_dense(located)
    energies = layer.v(torch.tanh(compared))[:, :, 0]  # (B, N)
    return torch.softmax(energies.masked_fill(state.padded_tokens, -torch.inf), 1)
