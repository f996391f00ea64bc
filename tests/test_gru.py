"""The GRU against nn.GRU on packed sequences: outputs, every gradient, padding, edge cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lightspeech.gru
from lightspeech.gru import BidirectionalGRU

LENGTHS = torch.tensor([3, 9, 1, 9, 6])
INPUT_SIZE, HIDDEN_SIZE, WIDTH = 12, 8, 11


def pair(dtype: torch.dtype = torch.float64) -> tuple[BidirectionalGRU, nn.GRU]:
    """Ours and nn.GRU with the same random parameters."""
    torch.manual_seed(0)
    oracle = nn.GRU(INPUT_SIZE, HIDDEN_SIZE, batch_first=True, bidirectional=True).to(dtype)
    ours = BidirectionalGRU(INPUT_SIZE, HIDDEN_SIZE).to(dtype)
    ours.load_state_dict(oracle.state_dict())
    return ours, oracle


def packed_oracle(gru: nn.GRU, inputs: Tensor, lengths: Tensor, source: Tensor | None) -> Tensor:
    if source is not None:
        inputs = torch.stack([row[index] for row, index in zip(inputs, source, strict=True)])
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = gru(packed)
    return pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])[0]


def example(repeated: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor | None]:
    """Random inputs, and with `repeated` the rows of 4 inputs that each of WIDTH steps reads."""
    torch.manual_seed(1)
    batch_size = len(LENGTHS)
    if not repeated:
        return torch.randn(batch_size, WIDTH, INPUT_SIZE, dtype=dtype), None
    source = torch.randint(4, (batch_size, WIDTH)).sort(dim=1).values
    return torch.randn(batch_size, 4, INPUT_SIZE, dtype=dtype), source


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("rows_per_chunk", [1, 7, 512])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
def test_equals_nn_gru(
    repeated: bool,
    rows_per_chunk: int,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lightspeech.gru, "ROWS_PER_CHUNK", rows_per_chunk)
    ours, oracle = pair(dtype)
    inputs, source = example(repeated, dtype)
    mine, theirs = (inputs.clone().requires_grad_() for _ in range(2))
    outputs = ours(mine, LENGTHS, source)
    expected = packed_oracle(oracle, theirs, LENGTHS, source)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=tolerance)

    weights = torch.randn_like(expected) / len(LENGTHS)
    outputs.backward(weights)
    expected.backward(weights)
    gradients = {"inputs": (mine.grad, theirs.grad)} | {
        name: (ours.get_parameter(name).grad, parameter.grad)
        for name, parameter in oracle.named_parameters()
    }
    assert len(gradients) == 9
    for name, (found, wanted) in gradients.items():
        assert found is not None
        assert wanted is not None
        limit = tolerance * max(1.0, float(wanted.abs().max()))
        assert float((found - wanted).abs().max()) < limit, name


def test_equals_nn_gru_at_full_size() -> None:
    torch.manual_seed(2)
    oracle = nn.GRU(512, 128, batch_first=True, bidirectional=True)
    ours = BidirectionalGRU(512, 128)
    ours.load_state_dict(oracle.state_dict())
    lengths = torch.tensor([60, 200, 117])
    source = (torch.arange(200) // 6).expand(3, -1)
    inputs = torch.randn(3, 34, 512)
    mine, theirs = (inputs.clone().requires_grad_() for _ in range(2))
    outputs = ours(mine, lengths, source)
    expected = packed_oracle(oracle, theirs, lengths, source)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)
    (outputs.square().sum() / lengths.sum()).backward()
    (expected.square().sum() / lengths.sum()).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-6)
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("repeated", [False, True])
def test_gradcheck(repeated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightspeech.gru, "ROWS_PER_CHUNK", 4)
    torch.manual_seed(3)
    gru = BidirectionalGRU(3, 2).double()
    lengths = torch.tensor([4, 2])
    source = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]) if repeated else None
    inputs = torch.randn(2, 2 if repeated else 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in gru.named_parameters()]

    def outputs(inputs: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        result: Tensor = torch.func.functional_call(gru, values, (inputs, lengths, source))
        return result

    assert torch.autograd.gradcheck(outputs, (inputs, *gru.parameters()))


def test_parameters_are_those_of_nn_gru() -> None:
    ours, oracle = pair()
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in oracle.named_parameters()
    ]
    oracle.load_state_dict(ours.state_dict())


def test_padding_never_matters() -> None:
    gru, _ = pair()
    inputs, _ = example(repeated=False)
    padded = torch.arange(WIDTH) >= LENGTHS.unsqueeze(1)
    results = []
    for filling in (0.0, 1e9):
        gru.zero_grad()
        filled = inputs.masked_fill(padded.unsqueeze(2), filling).requires_grad_()
        outputs = gru(filled, LENGTHS)
        assert not outputs[padded].any()
        # What a loss makes of padded outputs must not come back either.
        gradient = torch.ones_like(outputs).masked_fill(padded.unsqueeze(2), float("nan"))
        outputs.backward(gradient)
        assert filled.grad is not None
        assert not filled.grad[padded].any()
        results.append([outputs.detach(), filled.grad, *(p.grad for p in gru.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_an_item_is_the_same_alone_and_in_a_batch() -> None:
    gru, _ = pair()
    inputs, source = example(repeated=True)
    assert source is not None
    batch = gru(inputs, LENGTHS, source)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = gru(inputs[i : i + 1], LENGTHS[i : i + 1], source[i : i + 1, :length])
        assert alone.shape == (1, length, 2 * HIDDEN_SIZE)
        torch.testing.assert_close(batch[i, :length], alone[0], rtol=0, atol=1e-14)


def test_repeated_inputs_are_projected_once_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    projected = []
    linear = F.linear

    def watch(inputs: Tensor, *arguments: Tensor) -> Tensor:
        projected.append(inputs.shape[:2])
        return linear(inputs, *arguments)

    monkeypatch.setattr(F, "linear", watch)
    gru, _ = pair()
    inputs, source = example(repeated=True)
    gru(inputs, LENGTHS, source)
    assert projected == [(len(LENGTHS), 4)]
    projected.clear()
    with torch.inference_mode():
        gru.float()(inputs.float(), LENGTHS, source)
    assert projected == [(len(LENGTHS), 4)] * 2  # a direction each


def test_inference_and_mixed_precision_change_nothing() -> None:
    gru, _ = pair(torch.float32)
    inputs, source = example(repeated=True, dtype=torch.float32)
    expected = gru(inputs, LENGTHS, source)
    assert expected.requires_grad
    with torch.inference_mode():  # by the compiled steps, so that sums are in another order
        torch.testing.assert_close(gru(inputs, LENGTHS, source), expected, rtol=0, atol=1e-6)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gru(inputs, LENGTHS, source), expected, rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = gru(inputs, LENGTHS, source)
        outputs.sum().backward()
    assert torch.equal(outputs, expected)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in gru.parameters())


def test_frozen_parameters_still_pass_the_gradient_on() -> None:
    gru, oracle = pair()
    gru.requires_grad_(False)
    inputs, _ = example(repeated=False)
    mine, theirs = (inputs.clone().requires_grad_() for _ in range(2))
    gru(mine, LENGTHS).sum().backward()
    packed_oracle(oracle, theirs, LENGTHS, None).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_same_graph_gives_the_same_gradient_twice_but_no_second_derivative() -> None:
    gru, _ = pair()
    inputs, source = example(repeated=True)
    outputs = gru(inputs.requires_grad_(), LENGTHS, source).sum()
    first, second = (torch.autograd.grad(outputs, inputs, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match=r"no second derivatives on a CPU; use nn\.GRU"):
        torch.autograd.grad(outputs, inputs, create_graph=True)


@pytest.mark.parametrize("lengths", [[3, 12, 1, 9, 6], [3, 9, 0, 9, 6]])
def test_impossible_lengths_are_caught(lengths: list[int]) -> None:
    gru, _ = pair()
    inputs, _ = example(repeated=False)
    with pytest.raises(AssertionError, match=rf"lengths {min(lengths)} to {max(lengths)} of 11"):
        gru(inputs, torch.tensor(lengths))


@pytest.mark.requires_cuda
@pytest.mark.parametrize("repeated", [False, True])
def test_cuda_equals_cpu(repeated: bool) -> None:
    gru, _ = pair(torch.float32)
    inputs, source = example(repeated, torch.float32)
    expected = gru(inputs, LENGTHS, source)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in gru.named_parameters() if p.grad is not None}
    gru.zero_grad()
    gru.cuda()
    outputs = gru(inputs.cuda(), LENGTHS.cuda(), None if source is None else source.cuda())
    outputs.square().sum().backward()
    torch.testing.assert_close(outputs.cpu(), expected, rtol=1e-4, atol=1e-5)
    for name, parameter in gru.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), gradients[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("repeated", [False, True])
def test_the_path_for_cuda_equals_the_one_for_cpus(repeated: bool) -> None:
    gru, _ = pair()
    inputs, source = example(repeated)
    torch.testing.assert_close(
        gru._forward_packed(inputs, LENGTHS, source), gru(inputs, LENGTHS, source)
    )
