"""A bidirectional GRU over padded batches that trains fast on a CPU, with nn.GRU's parameters.

The layer (Cho et al. 2014, arXiv:1406.1078, in the variant that cuDNN and nn.GRU compute), with x
the input, h the state before a step, * elementwise:

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        how much of the state the candidate sees
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        how much of the state is kept
    hn = W_hn h + b_hn
    n  = tanh(W_in x + b_in + r * hn)                  the candidate
    h' = (1 - z) * n + z * h

nn.GRU has no fused kernel on a CPU: autograd records some twenty small operations a step and
direction. Here both directions advance in one batched product a step, the reverse one over
sequences that are reversed within their lengths; utterances are sorted by length, so that finished
ones drop out; and the backward pass is written out by hand, so that all a step has to wait for is
one product and three elementwise operations. Where nothing is to be differentiated, the steps run
as compiled loops instead (recurrence.py). On CUDA cuDNN does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ROWS_PER_CHUNK = 512
"""Steps are worked through in chunks of about this many rows (steps x utterances): enough for one
efficient product, few enough to stay in a core's cache, and small allocations are recycled where
large ones go back to the operating system."""


class BidirectionalGRU(nn.GRU):
    """One bidirectional layer, batch first, over sequences of different lengths.

    The parameters are those of nn.GRU(input_size, hidden_size, bidirectional=True), by name, shape
    and order of the gates (r, z, n): state dicts go from one to the other.
    """

    # nn.GRU makes these: (3H, input_size), (3H, H), (3H,) and (3H,), and so in reverse.
    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter
    weight_ih_l0_reverse: nn.Parameter
    weight_hh_l0_reverse: nn.Parameter
    bias_ih_l0_reverse: nn.Parameter
    bias_hh_l0_reverse: nn.Parameter

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(  # type: ignore[override]  # lengths, not a packed sequence
        self, inputs: Tensor, lengths: Tensor, source: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, T, 2H), forward direction first, zero beyond each item's length.

        Args:
            inputs: (B, N, input_size), finite. Rows that no real step reads never matter.
            lengths: (B,) steps of each item, 1 to T.
            source: (B, T) the row of `inputs` (0 to N - 1) that each step reads; without it, step t
                reads row t and T = N. Where inputs repeat, as for the frames of a token, their
                share of the gates is computed once a row instead of once a step. Beyond an item's
                length it does not matter, but is a row all the same.

        On a CPU the result can be differentiated once: second derivatives raise a RuntimeError.
        """
        if inputs.device.type != "cpu":
            return self._forward_packed(inputs, lengths, source)
        # Mixed precision has no kernels that would gain anything here, and the sums over hundreds
        # of steps want all of float32.
        with torch.autocast("cpu", enabled=False):
            return self._forward_cpu(inputs.to(self.weight_ih_l0.dtype), lengths, source)

    def _forward_cpu(self, inputs: Tensor, lengths: Tensor, source: Tensor | None) -> Tensor:
        differentiable = torch.is_grad_enabled() and (
            inputs.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )
        if not differentiable and inputs.dtype == torch.float32:
            steps = _compiled_steps()
            if steps is not None:
                return self._forward_compiled(inputs, lengths, source, steps)
        weight_hidden = torch.stack([self.weight_hh_l0, self.weight_hh_l0_reverse])  # (2, 3H, H)
        bias_hidden = torch.stack([self.bias_hh_l0, self.bias_hh_l0_reverse])  # (2, 3H)
        bias_gates, bias_candidate = bias_hidden.split([2 * self.hidden_size, self.hidden_size], 1)
        # All that does not depend on the state: W_i x + b_i, and b_hr and b_hz with it.
        weight_input = torch.cat([self.weight_ih_l0, self.weight_ih_l0_reverse])
        bias_input = torch.stack([self.bias_ih_l0, self.bias_ih_l0_reverse])
        bias_input = bias_input + F.pad(bias_gates, (0, self.hidden_size))
        projected = F.linear(inputs, weight_input, bias_input.flatten())  # (B, N, 2 * 3H)
        plan = _plan(lengths, inputs.shape[1], source)
        operands = (projected, weight_hidden, bias_candidate)
        if differentiable:
            outputs: Tensor = _Recurrence.apply(*operands, plan)
            return outputs
        return _run(*operands, plan).outputs

    def _forward_compiled(
        self,
        inputs: Tensor,
        lengths: Tensor,
        source: Tensor | None,
        steps: Callable[..., None],
    ) -> Tensor:
        """The same without gradients: each utterance and direction by itself, on a free thread."""
        batch_size, n_rows, _ = inputs.shape
        if source is None:
            source = torch.arange(n_rows).expand(batch_size, -1)
        width = source.shape[1]
        sizes = lengths.tolist()
        # Compiled loops check no index.
        assert 1 <= min(sizes) <= max(sizes) <= width, (
            f"lengths {min(sizes)} to {max(sizes)} of {width}"
        )
        first_row, last_row = (int(row) for row in source.aminmax())
        assert 0 <= first_row <= last_row < n_rows, f"rows {first_row} to {last_row} of {n_rows}"
        rows = source.contiguous().numpy()
        outputs = inputs.new_empty(batch_size, width, 2 * self.hidden_size)
        jobs = []
        for backwards, parameters in zip((False, True), self.all_weights, strict=True):
            weight_input, weight_hidden, bias_input, bias_hidden = (p.detach() for p in parameters)
            projected = F.linear(inputs.detach(), weight_input, bias_input)  # (B, N, 3H)
            weight, bias = weight_hidden.contiguous().numpy(), bias_hidden.contiguous().numpy()
            jobs += [
                (projected[i].numpy(), rows[i], weight, bias, outputs[i].numpy(), size, backwards)
                for i, size in enumerate(sizes)
            ]
        workers = min(torch.get_num_threads(), len(jobs))
        if workers == 1:
            for job in jobs:
                steps(*job)
        else:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(lambda job: steps(*job), jobs):
                    pass
        return outputs

    def _forward_packed(self, inputs: Tensor, lengths: Tensor, source: Tensor | None) -> Tensor:
        """The same through nn.GRU itself, which on CUDA is cuDNN."""
        if source is not None:
            inputs = inputs.gather(1, source.unsqueeze(2).expand(-1, -1, inputs.shape[2]))
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, _ = super().forward(packed)
        return pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])[0]


@cache
def _compiled_steps() -> Callable[..., None] | None:
    """recurrence.gru_steps; None where numba is not there or is told to compile nothing."""
    try:
        from lightspeech.recurrence import compile_steps
    except ImportError:
        return None
    return compile_steps()


class _Plan(NamedTuple):
    """Which rows each step works on. Utterances (columns) stand in the order of falling length."""

    chunks: list[tuple[int, int, int]]
    """(first step, step after the last, utterances still going at the first)"""
    going: Tensor
    """(L, B) booleans, True where an utterance has a step; L is the longest length"""
    input_rows: Tensor
    """(L, 2, B) row of the projected inputs (B * N * 2, 3H) of a step, direction and utterance"""
    output_rows: Tensor
    """(L, 2, B) its row of the outputs (B * T * 2, H)"""
    state_rows: Tensor
    """(B, T, 2) row of the states (2 * (L + 1) * B, H) that is an output; 0, a zero, at padding"""


def _plan(lengths: Tensor, n_rows: int, source: Tensor | None) -> _Plan:
    batch_size = len(lengths)
    width = n_rows if source is None else source.shape[1]
    sorted_lengths, order = lengths.sort(descending=True, stable=True)
    sizes: list[int] = sorted_lengths.tolist()
    assert 1 <= sizes[-1] <= sizes[0] <= width, f"lengths {sizes[-1]} to {sizes[0]} of {width}"
    longest = sizes[0]

    steps = torch.arange(longest).unsqueeze(1)  # (L, 1)
    going = steps < sorted_lengths  # (L, B)
    # A finished utterance stays in its chunk to the end of it, on some row of its own; what comes
    # of it is dropped, and its gradients are zero.
    times = torch.stack([steps.expand(-1, batch_size), sorted_lengths - 1 - steps], 1)
    times = times.masked_fill(~going.unsqueeze(1), 0)  # (L, 2, B): the time that a step stands for
    direction = torch.arange(2).unsqueeze(1)  # (2, 1)
    output_rows = order * width + times
    input_rows = output_rows  # where width is n_rows
    if source is not None:
        input_rows = order * n_rows + source.flatten()[output_rows]

    rank = torch.empty_like(order)
    rank[order] = torch.arange(batch_size)
    times = torch.arange(width)  # (T,)
    valid_times = times < lengths.unsqueeze(1)  # (B, T)
    backward_steps = lengths.unsqueeze(1) - 1 - times
    steps = torch.stack([times.expand(batch_size, -1), backward_steps], 2)  # (B, T, 2)
    state_rows = (torch.arange(2) * (longest + 1) + steps + 1) * batch_size + rank.view(-1, 1, 1)
    state_rows = state_rows.masked_fill(~valid_times.unsqueeze(2), 0)

    chunks = []
    start = 0
    active = batch_size
    while start < longest:
        while sizes[active - 1] <= start:
            active -= 1
        stop = min(start + max(1, ROWS_PER_CHUNK // active), longest)
        chunks.append((start, stop, active))
        start = stop
    return _Plan(chunks, going, input_rows * 2 + direction, output_rows * 2 + direction, state_rows)


class _Result(NamedTuple):
    outputs: Tensor
    """(B, T, 2H)"""
    states: Tensor
    """(2, L + 1, B, H) before each step and after the last; utterances sorted by length"""
    gates: list[tuple[Tensor, Tensor]]
    """for each chunk of K steps and A utterances: (hn, r, z) (K, 2, A, 3H) and n (K, 2, A, H)"""


def _run(
    projected: Tensor,
    weight_hidden: Tensor,
    bias_candidate: Tensor,
    plan: _Plan,
    keep: bool = False,
) -> _Result:
    """The forward pass.

    Args:
        projected: (B, N, 2 * 3H) gates (r, z, n) before the state's share is added.
        weight_hidden: (2, 3H, H) of (r, z, n).
        bias_candidate: (2, H), b_hn.
        plan: who reads what when.
        keep: whether to return the gates, for the backward pass.
    """
    hidden_size = weight_hidden.shape[2]
    longest, batch_size = plan.going.shape
    table = projected.reshape(-1, 3 * hidden_size)  # (B * N * 2, 3H)
    weight = weight_hidden.roll(hidden_size, 1).transpose(1, 2).contiguous()  # (2, H, 3H): hn, r, z
    minus_one = projected.new_tensor(-1.0)
    states = projected.new_empty(2, longest + 1, batch_size, hidden_size)
    states[:, 0] = 0.0
    gates = []
    for start, stop, active in plan.chunks:
        rows = plan.input_rows[start:stop, :, :active]
        shared = table.index_select(0, rows.flatten()).view(*rows.shape, 3 * hidden_size)
        # A batched product is one call only where its result is contiguous, so hn, r and z have a
        # tensor of their own, and the input's share of n another.
        hidden = torch.empty_like(shared)  # (K, 2, A, 3H): becomes hn, r, z
        hidden[..., :hidden_size] = bias_candidate.unsqueeze(1)
        hidden[..., hidden_size:] = shared[..., : 2 * hidden_size]
        candidate = shared[..., 2 * hidden_size :].contiguous()  # (K, 2, A, H): becomes n
        hn, r, z = hidden.chunk(3, 3)
        before = states[:, start:stop, :active].unbind(1)
        after = states[:, start + 1 : stop + 1, :active].unbind(1)
        for h, h_after, gates_t, rz_t, hn_t, r_t, z_t, n_t in zip(
            before,
            after,
            hidden.unbind(),
            hidden[..., hidden_size:].unbind(),
            hn.unbind(),
            r.unbind(),
            z.unbind(),
            candidate.unbind(),
            strict=True,
        ):
            gates_t.baddbmm_(h, weight)
            rz_t.sigmoid_()
            n_t.addcmul_(r_t, hn_t)
            # tanh(a) = 2 sigmoid(2a) - 1, several times faster: PyTorch's sigmoid is vectorised.
            torch.add(n_t, n_t, out=n_t).sigmoid_()
            torch.add(minus_one, n_t, alpha=2, out=n_t)
            torch.lerp(n_t, h, z_t, out=h_after)
        if keep:
            gates.append((hidden, candidate))
    outputs = states.view(-1, hidden_size).index_select(0, plan.state_rows.flatten())
    return _Result(outputs.view(batch_size, -1, 2 * hidden_size), states, gates)


class _Recurrence(torch.autograd.Function):
    """`_run` with its gradient (derived from the equations at the top of this file)."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight_hidden: Tensor, bias_candidate: Tensor, plan: _Plan
    ) -> Tensor:
        result = _run(projected, weight_hidden, bias_candidate, plan, keep=True)
        ctx.plan, ctx.input_shape = plan, projected.shape
        gates = [tensor for pair in result.gates for tensor in pair]
        ctx.save_for_backward(weight_hidden, result.states, *gates)
        return result.outputs

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        if torch.is_grad_enabled():  # what create_graph=True means here
            raise RuntimeError("BidirectionalGRU has no second derivatives on a CPU; use nn.GRU")
        weight_hidden, states, *gates = ctx.saved_tensors
        plan: _Plan = ctx.plan
        hidden_size = weight_hidden.shape[2]
        weight = weight_hidden.roll(hidden_size, 1)  # (2, 3H, H): hn, r, z
        grad_outputs = grad_outputs.reshape(-1, hidden_size)  # (B * T * 2, H)
        grad_weight = torch.zeros_like(weight)
        grad_bias = weight.new_zeros(2, hidden_size)
        grad_table = weight.new_zeros(ctx.input_shape).view(-1, 3 * hidden_size)
        # The gradient of the state that a chunk leaves to the next, for those that go on in it.
        carried = weight.new_zeros(2, 0, hidden_size)
        for (start, stop, active), (hidden, n) in zip(
            reversed(plan.chunks),
            zip(reversed(gates[::2]), reversed(gates[1::2]), strict=True),
            strict=True,
        ):
            hn, r, z = hidden.chunk(3, 3)  # each (K, 2, A, H)
            h = states[:, start:stop, :active].transpose(0, 1)  # (K, 2, A, H), before each step
            # What a gradient of the state after a step is multiplied by to give that of (hn, r, z,
            # n) before their nonlinearities.
            grad = weight.new_empty(2, stop - start, active, 4, hidden_size)
            to_hn, to_r, to_z, to_n = grad.transpose(0, 1).unbind(3)
            new = 1 - z
            torch.addcmul(new, new, n * n, value=-1, out=to_n)  # (1 - z)(1 - n^2)
            torch.mul(to_n, r, out=to_hn)
            torch.mul(to_hn, torch.addcmul(hn, hn, r, value=-1), out=to_r)  # ... r(1 - r) hn
            torch.mul(torch.sub(h, n, out=to_z), new.mul_(z), out=to_z)  # (h - n) z(1 - z)

            rows = plan.output_rows[start:stop, :, :active]
            grad_state = grad_outputs.index_select(0, rows.flatten()).view(*rows.shape, -1)
            going = plan.going[start:stop, :active]
            if carried.shape[1] < active:  # somebody ends in this chunk
                grad_state.masked_fill_(~going[:, None, :, None], 0.0)
            grad_state[-1, :, : carried.shape[1]] += carried
            carried = weight.new_zeros(2, active, hidden_size)
            grad_states = [carried, *grad_state.unbind()]
            flat = grad.flatten(3)  # (2, K, A, 4H)
            hidden_t = flat[..., : 3 * hidden_size].unbind(1)
            for k in range(stop - start - 1, -1, -1):
                grad_after, grad_before = grad_states[k + 1], grad_states[k]
                grad[:, k].mul_(grad_after.unsqueeze(2))
                grad_before.addcmul_(grad_after, z[k]).baddbmm_(hidden_t[k], weight)

            flat = flat.flatten(1, 2)  # (2, K * A, 4H)
            grad_hidden = flat[..., : 3 * hidden_size]
            grad_weight.baddbmm_(
                grad_hidden.transpose(1, 2),
                states[:, start:stop, :active].reshape(2, -1, hidden_size),
            )
            grad_bias += grad_hidden[..., :hidden_size].sum(1)
            rows = plan.input_rows[start:stop, :, :active].transpose(0, 1)  # (2, K, A)
            # Contiguous, because index_add_ is ten times slower on anything else.
            grad_input = flat[..., hidden_size:].contiguous().view(-1, 3 * hidden_size)
            grad_table.index_add_(0, rows.flatten(), grad_input)
        return grad_table.view(ctx.input_shape), grad_weight.roll(-hidden_size, 1), grad_bias, None
