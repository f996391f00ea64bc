"""The encoder's LSTM in groups: PyTorch's own result, whoever else is in the group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tacotron2.exact_lstm import TOGETHER, ExactLSTM


@pytest.mark.parametrize(("E", "H"), [(32, 16), (512, 256)])
def test_utterances_of_a_group_are_what_each_is_alone(E: int, H: int) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(E, H, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.mul_(3)  # gates that open and close
    exact, oracle = ExactLSTM(lstm), copy.deepcopy(lstm).double()
    inputs = [torch.randn(length, E).double() for length in (9, 1, 14, 2, 30, 5, 9, 3)]
    assert len(inputs) == TOGETHER
    together = exact(inputs)
    shuffled = exact(inputs[::-1])[::-1]
    for x, group, other in zip(inputs, together, shuffled, strict=True):
        alone = exact([x])[0]
        assert torch.equal(group, alone)
        assert torch.equal(group, other)
        torch.testing.assert_close(alone, oracle(x[None])[0][0], rtol=0, atol=1e-13)
