"""The attention over all frames of a batch, with its LSTM: the one truly sequential part.

Under teacher forcing all that a frame has to wait for is where the attention of the frame before
looked: the attention's LSTM reads that context, and the attention itself its location. Pre-net,
keys and location filters are computed beforehand; the decoder's LSTM, projections and post-net come
after, for all frames at once. In the notation of `decoder.Attention`, with x = 2 (W q + V m + U f):

    energies  e = sum of 2 v * sigmoid(x)           which is v . tanh(x / 2) up to a constant
    attention a = softmax(e)

The backward pass is written out. It recomputes sigmoid(x), the largest tensor, for a few frames at
a time; gradients of all the weights are gathered over these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tacotron2.lstm_frames import (
    GateGradients,
    chunks_backwards,
    doubled_candidate,
    gates_to_state,
    product_type,
)
from tacotron2.packed import PackedLinear

CHUNK = 8
"""Frames whose sigmoid(x) is recomputed together."""


@dataclass(frozen=True)
class Looked:
    """What came of T frames of B utterances of N tokens."""

    queries: Tensor
    """(T, B, H) output of the attention's LSTM"""
    contexts: Tensor
    """(T, B, E) memory, averaged by the attention"""
    attention: Tensor
    """(T, B, N)"""


@dataclass(frozen=True)
class Lead:
    """Where an attention that still learns is led: it looks there in part, or altogether.

    Led altogether, the decoder hears of the right symbol from the first step on, and the attention
    learns where to look next from where it should be, not from where it has gone astray.
    """

    path: Tensor
    """(B, T) int64, the symbol that each frame reads; -1 where none is known, and it looks less"""
    share: float
    """0 to 1, how much of its look is led"""

    def weights(self, T: int, N: int, kind: torch.dtype) -> Tensor:
        """(T, B, N), 1 at the symbol of each frame."""
        weights = torch.zeros(len(self.path), T, N, dtype=kind, device=self.path.device)
        weights.scatter_(
            2, self.path.clamp(min=0)[:, :, None], (self.path >= 0)[:, :, None].to(kind)
        )
        return weights.transpose(0, 1).contiguous()


def look_over_frames(
    projected: Tensor,
    memory: Tensor,
    keys: Tensor,
    padded_tokens: Tensor,
    recurrent: Tensor,
    query: Tensor,
    filters: Tensor,
    v: Tensor,
    kept: Tensor | None,
    lead: Lead | None = None,
) -> Looked:
    """Runs the attention and its LSTM over all frames.

    Args:
        projected: (T, B, 4 H) what pre-net and biases give the LSTM's gates, in PyTorch's order.
        memory: (B, N, E)
        keys: (B, N, A), V m
        padded_tokens: (B, N), True where no attention may go.
        recurrent: (4 H, E + H), the gates' weights for the context before and the output before.
        query: (A, H), W
        filters: (A, 2, K), U, over the attention before and the sum of all so far.
        v: (A,)
        kept: (T, B, H) factors of drop-out on the LSTM's output; None drops nothing.
        lead: where to look in part, whatever the attention says; None nowhere.

    Returns:
        all frames' results. They can be differentiated once. Under autocast the products of the
        LSTM are taken in its type, everything else in that of the weights.
    """
    low = product_type(projected)
    kind = recurrent.dtype
    with torch.autocast(projected.device.type, enabled=False):
        return Looked(
            *_Look.apply(
                projected.to(kind).contiguous(),
                memory.to(kind),
                keys.to(kind).contiguous(),
                recurrent,
                query,
                filters.to(kind),
                v,
                padded_tokens,
                kept,
                lead,
                low,
            )
        )


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        memory: Tensor,
        keys: Tensor,
        recurrent: Tensor,
        query: Tensor,
        filters: Tensor,
        v: Tensor,
        padded_tokens: Tensor,
        kept: Tensor | None,
        lead: Lead | None,
        low: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        T, B, _ = projected.shape
        N, E = memory.shape[1:]
        A, _, K = filters.shape
        H = query.shape[1]
        doubled = doubled_candidate(H, recurrent)
        gates = projected * doubled
        forwards = PackedLinear((recurrent * doubled[:, None]).to(low))
        to_query, location = query.T * 2, filters.flatten(1).T * 2  # (H, A), (2 K, A)
        flat_keys, doubled_v = (keys * 2).view(B * N, A), v * 2
        outside = torch.zeros_like(memory[:, :, 0]).masked_fill_(padded_tokens, -torch.inf)

        states = memory.new_zeros(T + 1, B, E + H)  # context and query before each frame
        cells = memory.new_zeros(T + 1, B, H)
        attention = memory.new_empty(T, B, N)
        # Where it looks: the attention's own wish, and in part where it is led.
        looks = attention if lead is None else memory.new_empty(T, B, N)
        led = None if lead is None else lead.weights(T, N, memory.dtype)
        history = memory.new_zeros(B, 2, N + K - 1)  # with half a kernel of zeros at either end
        seen = history[:, :, K // 2 : K // 2 + N]
        for t in range(T):
            z = gates[t].add_(forwards(states[t].to(low)))
            state = gates_to_state(z, cells[t], None if kept is None else kept[t], cells[t + 1])
            compared = torch.addmm(flat_keys, _surroundings(history, K), location).view(B, N, A)
            energies = compared.add_((state @ to_query)[:, None]).sigmoid_() @ doubled_v
            torch.softmax(energies.add_(outside), 1, out=attention[t])
            if lead is not None and led is not None:
                torch.lerp(attention[t], led[t], lead.share, out=looks[t])
            seen[:, 0] = looks[t]
            seen[:, 1] += looks[t]
            states[t + 1, :, :E] = torch.bmm(looks[t][:, None], memory)[:, 0]
            states[t + 1, :, E:] = state
        ctx.save_for_backward(
            memory, keys, recurrent, query, filters, v, kept, gates, states, cells, attention,
            None if lead is None else looks,
        )  # fmt: skip
        ctx.low, ctx.own_share = low, 1.0 if lead is None else 1 - lead.share
        return states[1:, :, E:], states[1:, :, :E], attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        memory, keys, recurrent, query, filters, v, kept, gates, states, cells, attention, looks = (
            ctx.saved_tensors
        )
        looks = attention if looks is None else looks
        grad_queries, grad_contexts, grad_attention = grads
        low: torch.dtype = ctx.low
        T, B, N = attention.shape
        E = memory.shape[2]
        elementwise = GateGradients(gates, cells, kept)
        comparison = _Comparison(keys, query, filters, v)
        backwards = PackedLinear(recurrent.T.to(low))
        sums = looks.cumsum(0)
        nowhere = torch.zeros_like(attention[:1])

        grad_projected = torch.empty_like(gates)
        grad_context_all = torch.empty_like(grad_contexts)
        # Gradients that a frame hands to the one before it.
        carried = torch.zeros_like(states[0])  # of context and query
        grad_history = memory.new_zeros(B, 2, N)  # of the attention before, and of the sum
        for start, stop in chunks_backwards(T, CHUNK):
            elementwise.open_chunk(start, stop)
            before = looks[start - 1 : stop - 1] if start else looks[: stop - 1]
            summed = sums[start - 1 : stop - 1] if start else sums[: stop - 1]
            if not start:
                before, summed = torch.cat((nowhere, before)), torch.cat((nowhere, summed))
            comparison.open_chunk(
                torch.stack((before, summed), 2), states[start + 1 : stop + 1, :, E:]
            )
            for t in range(stop - 1, start - 1, -1):
                grad_context = torch.add(carried[:, :E], grad_contexts[t], out=grad_context_all[t])
                grad_look = torch.bmm(memory, grad_context[:, :, None])[:, :, 0]
                grad_look.add_(grad_history.sum(1)).mul_(ctx.own_share).add_(grad_attention[t])
                a = attention[t]
                weighted = a * grad_look
                grad_energies = weighted.addcmul_(a, weighted.sum(1, keepdim=True), value=-1)
                grad_query, grad_location = comparison.step(t - start, grad_energies)
                grad_history[:, 0] = grad_location[:, 0]
                grad_history[:, 1] += grad_location[:, 1]
                grad_state = grad_query.add_(carried[:, E:]).add_(grad_queries[t])
                grad = elementwise.step(t, grad_state)
                carried = backwards(grad.to(low)).to(grad.dtype)
            comparison.close_chunk()
            grad_projected[start:stop] = elementwise.chunk
        flat = grad_projected.view(T * B, -1).to(low)
        grad_recurrent = flat.T @ states[:-1].reshape(T * B, -1).to(low)
        grad_memory = torch.bmm(looks.permute(1, 2, 0), grad_context_all.transpose(0, 1))
        return (
            grad_projected,
            grad_memory,
            comparison.grad_keys,
            grad_recurrent.to(recurrent.dtype),
            comparison.grad_query,
            comparison.grad_filters,
            comparison.grad_v,
            None,
            None,
            None,
            None,
        )


def _surroundings(history: Tensor, kernel_size: int) -> Tensor:
    """(..., 2, N + K - 1) -> (... * N, 2 K): what the location filters see at each token."""
    around = history.unfold(-1, kernel_size, 1)  # (..., 2, N, K)
    return around.transpose(-3, -2).reshape(-1, 2 * kernel_size)


class _Comparison:
    """Backward through the energies, a chunk of frames at a time, the last chunk first."""

    def __init__(self, keys: Tensor, query: Tensor, filters: Tensor, v: Tensor) -> None:
        B, N, _ = keys.shape
        self._query, self._filters, self._v = query, filters, v
        self._doubled_keys = keys * 2
        self._to_query, self._location = query.T * 2, filters.flatten(1).T * 2
        # The derivative of e by W q + V m + U f is 4 v * sigmoid(x) * (1 - sigmoid(x)).
        self._from_query = query * (4 * v)[:, None]  # (A, H)
        self._from_location = (filters.flatten(1) * (4 * v)[:, None]).T.contiguous()  # (2 K, A)
        K = filters.shape[2]
        # Rows of a kernel's products, with room to shift each against the next; see _fold.
        self._shifting = keys.new_zeros(B, 2, K, N + K)
        self._sum_keys = torch.zeros_like(keys)
        self._sum_query, self._sum_filters = torch.zeros_like(query), torch.zeros_like(filters)
        self._sum_v = torch.zeros_like(v)

    def open_chunk(self, history: Tensor, queries: Tensor) -> None:
        """history (C, B, 2, N), the attention before and the sum; queries (C, B, H)"""
        C, B, _, N = history.shape
        A, _, K = self._filters.shape
        padded = torch.nn.functional.pad(history, (K // 2, K // 2))
        self._around = _surroundings(padded, K)  # (C B N, 2 K)
        compared = (self._around @ self._location).view(C, B, N, A)
        compared.add_(self._doubled_keys).add_((queries @ self._to_query)[:, :, None])
        self._sigmoid = compared.sigmoid_()
        # sigmoid', which `step` multiplies with the gradients of the energies
        self._grad = torch.addcmul(self._sigmoid, self._sigmoid, self._sigmoid, value=-1)
        self._grad_energies = history.new_empty(C, B, N)
        self._summed = history.new_empty(C, B, A)
        self._queries = queries

    def step(self, k: int, grad_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Frame k of the chunk: grad_energies (B, N) -> gradients of the query (B, H) and of the
        history (B, 2, N)."""
        self._grad_energies[k] = grad_energies
        grad = self._grad[k].mul_(grad_energies[:, :, None])  # (B, N, A)
        torch.sum(grad, 1, out=self._summed[k])
        return self._summed[k] @ self._from_query, self._fold(grad)

    def _fold(self, grad: Tensor) -> Tensor:
        """(B, N, A) -> (B, 2, N), through the location filters back to what they saw.

        Tap k at token n saw position n + k - K // 2: row k of the products moves on by k, and the
        rows are added up. A view whose rows are one shorter than the buffer's moves them so.
        """
        products = torch.matmul(self._from_location, grad.transpose(1, 2))  # (B, 2 K, N)
        B, _, N = products.shape
        K = self._filters.shape[2]
        self._shifting[..., :N] = products.view(B, 2, K, N)
        length = N + K
        shifted = self._shifting.as_strided(
            (B, 2, K, length - 1), (2 * K * length, K * length, length - 1, 1)
        )
        return shifted.sum(2)[:, :, K // 2 : K // 2 + N]

    def close_chunk(self) -> None:
        """Gathers what the chunk's frames give the weights."""
        A = len(self._v)
        flat = self._grad.view(-1, A)
        self._sum_keys += self._grad.sum(0)
        self._sum_filters += (flat.T @ self._around).view_as(self._sum_filters)
        self._sum_v += self._grad_energies.view(-1) @ self._sigmoid.view(-1, A)
        self._sum_query += self._summed.view(-1, A).T @ self._queries.flatten(0, 1)

    @property
    def grad_keys(self) -> Tensor:
        return self._sum_keys * (4 * self._v)

    @property
    def grad_query(self) -> Tensor:
        return self._sum_query * (4 * self._v)[:, None]

    @property
    def grad_filters(self) -> Tensor:
        return self._sum_filters * (4 * self._v)[:, None, None]

    @property
    def grad_v(self) -> Tensor:
        return self._sum_v * 2
