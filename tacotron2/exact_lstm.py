"""The encoder's LSTM in double precision, a few utterances at a time.

Each step multiplies by all the recurrent weights, and reading them takes most of its time: for
eight utterances not twice that for one. The utterances of a group, and both directions, go side by
side; all begin at once, the backward direction at each one's own end, so that nobody waits for
padding. Products are always over as many rows, and what is beyond an utterance's end is not used,
so that an utterance becomes the same whatever group it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacotron2.packed import falling_sigmoid_

TOGETHER = 8
"""Utterances in a group, and rows of its products."""


class ExactLSTM:
    """What a bidirectional nn.LSTM of one layer computes, from its weights in double precision."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self._size = lstm.hidden_size
        # As in slots.PackedCell: all four gates become falling sigmoids.
        scale = torch.tensor([-1.0, -1.0, -2.0, -1.0], dtype=torch.double)
        scale = scale[:, None].expand(4, self._size).reshape(-1, 1)
        scale = scale.to(next(lstm.parameters()).device)
        self._inputs, self._biases, recurrent = [], [], []
        for end in ("", "_reverse"):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                getattr(lstm, f"{name}_l0{end}").detach().double()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            self._inputs.append(weight_ih * scale)
            self._biases.append((bias_ih + bias_hh) * scale[:, 0])
            recurrent.append((weight_hh * scale).T)
        self._recurrent = torch.stack(recurrent)  # (2, H, 4 H)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """At most TOGETHER utterances (N, E) -> their memories (N, 2 H), in double precision."""
        assert 0 < len(inputs) <= TOGETHER, len(inputs)
        longest, H = max(map(len, inputs)), self._size
        gates = inputs[0].new_zeros(longest, 2, TOGETHER, 4 * H)
        for row, x in enumerate(inputs):
            for direction, ordered in enumerate((x, x.flip(0))):
                weight, bias = self._inputs[direction], self._biases[direction]
                gates[: len(x), direction, row] = F.linear(ordered, weight, bias)
        outputs = gates.new_empty(longest, 2, TOGETHER, H)
        hidden, cell = gates.new_zeros(2, TOGETHER, H), gates.new_zeros(2, TOGETHER, H)
        for step, fresh in zip(outputs, gates, strict=True):
            opened, kept, candidate, shown = falling_sigmoid_(
                torch.baddbmm(fresh, hidden, self._recurrent)
            ).split(H, 2)
            cell.mul_(kept).add_(candidate.mul_(2).sub_(1).mul_(opened))
            hidden = torch.mul(falling_sigmoid_(cell * -2).mul_(2).sub_(1), shown, out=step)
        return [
            torch.cat((outputs[: len(x), 0, row], outputs[: len(x), 1, row].flip(0)), 1)
            for row, x in enumerate(inputs)
        ]
