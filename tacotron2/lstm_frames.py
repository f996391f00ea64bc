"""An LSTM cell over all frames of a batch, with drop-out on its output, forward and backward.

The cell (Hochreiter and Schmidhuber 1997, with a forget gate), z being the sum of what the input
and the output before it give its four gates:

    i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
    c' = f * c + i * g
    h' = d * o * tanh(c')              d: drop-out's factors, which act on the recurrence too

What the input gives is computed for all frames at once beforehand, so that a step is one product
with the output before it. The backward pass is written out: what does not depend on later frames
is computed for many frames at once, and the gradient of the weights is one product in the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tacotron2.packed import PackedLinear

CHUNK = 16
"""Frames whose factors are made together in the backward pass; few enough to stay in the cache."""


def product_type(x: Tensor) -> torch.dtype:
    """The type in which products with `x` are taken: autocast's, or x's own where that is off."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def gates_to_state(gates: Tensor, cell: Tensor, kept: Tensor | None, new_cell: Tensor) -> Tensor:
    """One step after its product, elementwise.

    Args:
        gates: (B, 4 H), z with z_g doubled; becomes i, f, g, o.
        cell: (B, H), c
        kept: (B, H), d; None drops nothing.
        new_cell: (B, H), where c' is written.

    Returns:
        (B, H), h'
    """
    size = cell.shape[1]
    gates.sigmoid_()
    i, f, g, o = gates.split(size, 1)
    g.mul_(2).sub_(1)  # tanh(a) = 2 sigmoid(2 a) - 1, several times faster than PyTorch's tanh
    torch.mul(f, cell, out=new_cell).addcmul_(i, g)
    state = tanh(new_cell).mul_(o)
    return state if kept is None else state.mul_(kept)


def tanh(x: Tensor) -> Tensor:
    """tanh(x) through PyTorch's sigmoid, which is vectorised."""
    return torch.mul(x, 2).sigmoid_().mul_(2).sub_(1)


def doubled_candidate(size: int, like: Tensor) -> Tensor:
    """(4 H,) factors that double z_g, and leave the other gates' z as they are."""
    return like.new_tensor([1.0, 1.0, 2.0, 1.0]).repeat_interleave(size)


class GateGradients:
    """The elementwise part of the backward pass, a chunk of frames at a time, from the last on."""

    def __init__(self, gates: Tensor, cells: Tensor, kept: Tensor | None) -> None:
        """gates (T, B, 4 H) as `gates_to_state` leaves them; cells (T + 1, B, H), c before each
        frame and after the last; kept (T, B, H) or None."""
        self._gates, self._cells, self._kept = gates, cells, kept
        self._carried = torch.zeros_like(cells[0])
        self.chunk = gates[:0]

    def open_chunk(self, start: int, stop: int) -> None:
        """Makes ready for frames `start` to `stop` - 1."""
        gates = self._gates[start:stop]
        before, after = self._cells[start:stop], tanh(self._cells[start + 1 : stop + 1])
        i, f, g, o = gates.chunk(4, 2)
        grad = torch.empty_like(gates)
        to_i, to_f, to_g, to_o = grad.chunk(4, 2)
        # What the gradients of c' and h' are multiplied with to become those of z.
        torch.mul(torch.addcmul(i, i, i, value=-1), g, out=to_i)
        torch.mul(torch.addcmul(f, f, f, value=-1), before, out=to_f)
        torch.mul(torch.addcmul(torch.ones_like(g), g, g, value=-1), i, out=to_g)
        torch.mul(torch.addcmul(o, o, o, value=-1), after, out=to_o)
        self._to_cell = torch.addcmul(torch.ones_like(after), after, after, value=-1).mul_(o)
        if self._kept is not None:
            to_o.mul_(self._kept[start:stop])
            self._to_cell.mul_(self._kept[start:stop])
        self._forget = f
        self._start, self._size = start, before.shape[2]
        self.chunk = grad
        """(frames, B, 4 H); the rows of frames that `step` has done are the gradient of z"""

    def step(self, frame: int, grad_state: Tensor) -> Tensor:
        """grad_state (B, H) of h' -> the gradient of z (B, 4 H), frame after frame backwards."""
        k, H = frame - self._start, self._size
        grad = self.chunk[k]
        grad_cell = torch.addcmul(self._carried, grad_state, self._to_cell[k])
        grad[:, 3 * H :].mul_(grad_state)
        grad.view(-1, 4, H)[:, :3].mul_(grad_cell[:, None])
        torch.mul(grad_cell, self._forget[k], out=self._carried)
        return grad


def chunks_backwards(count: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of range(count), the last one first."""
    return [(start, min(start + size, count)) for start in range(0, count, size)][::-1]


class _OverFrames(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight: Tensor, kept: Tensor | None, low: torch.dtype
    ) -> Tensor:
        T, B, size = projected.shape
        H = size // 4
        doubled = doubled_candidate(H, weight)
        gates = projected * doubled
        # Beneath, `low` is bfloat16 under autocast: states and sums stay in single precision.
        recurrent = PackedLinear((weight * doubled[:, None]).to(low))
        states, cells = projected.new_zeros(T + 1, B, H), projected.new_zeros(T + 1, B, H)
        for t in range(T):
            z = gates[t].add_(recurrent(states[t].to(low)))
            states[t + 1] = gates_to_state(
                z, cells[t], None if kept is None else kept[t], cells[t + 1]
            )
        ctx.save_for_backward(weight, kept, gates, states, cells)
        ctx.low = low
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, kept, gates, states, cells = ctx.saved_tensors
        (grad_states,) = grads
        T, B, size = gates.shape
        elementwise = GateGradients(gates, cells, kept)
        backwards = PackedLinear(weight.T.to(ctx.low))
        grad_projected = torch.empty_like(gates)
        carried = torch.zeros_like(states[0])
        for start, stop in chunks_backwards(T, CHUNK):
            elementwise.open_chunk(start, stop)
            for t in range(stop - 1, start - 1, -1):
                grad = elementwise.step(t, carried + grad_states[t])
                carried = backwards(grad.to(ctx.low)).to(grad.dtype)
            grad_projected[start:stop] = elementwise.chunk
        flat = grad_projected.view(-1, size).to(ctx.low)
        grad_weight = flat.T @ states[:-1].reshape(T * B, -1).to(ctx.low)
        return grad_projected, grad_weight.to(weight.dtype), None, None


def lstm_over_frames(projected: Tensor, weight: Tensor, kept: Tensor | None) -> Tensor:
    """Runs the cell over all frames.

    Args:
        projected: (T, B, 4 H) what the input and the biases give the gates, in PyTorch's order.
        weight: (4 H, H), weight_hh of an nn.LSTMCell.
        kept: (T, B, H) factors of drop-out on the output, 0 where dropped; None drops nothing.

    Returns:
        (T, B, H), the outputs. They can be differentiated once. Under autocast the products with
        the output before are taken in its type, everything else in that of `projected`.
    """
    low = product_type(projected)
    with torch.autocast(projected.device.type, enabled=False):
        outputs: Tensor = _OverFrames.apply(
            projected.to(weight.dtype).contiguous(), weight, kept, low
        )
    return outputs
