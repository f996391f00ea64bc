"""Reading along, whose backward pass is written out, against the same model step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightspeech.benchmark.stepwise import Kept, read_along_stepwise
from tacotron2 import Tacotron2, Tacotron2Config, attention_frames, lstm_frames
from tacotron2.attention_frames import Lead, Looked, look_over_frames
from tacotron2.decoder import Decoder
from tacotron2.dropout import keep_factors
from tacotron2.lstm_frames import lstm_over_frames
from tests.tacotron2_recipe import MINI, draw_tacotron2

# All sizes differ, so that none can stand in for another.
SIZES = Tacotron2Config(
    symbols_embedding_dim=6,
    encoder_embedding_dim=6,
    attention_rnn_dim=5,
    attention_dim=4,
    attention_location_n_filters=3,
    attention_location_kernel_size=7,
    decoder_rnn_dim=8,
    prenet_dim=2,
    n_mel_channels=9,
    postnet_embedding_dim=4,
)
TOKENS = {1: [11], 2: [11, 3], 5: [4, 13, 1, 9, 13]}
"""utterances in a batch -> their tokens"""
PARTS = ("features", "attention", "mel", "gate")
"""what a loss may be made of"""

ReadAlong = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def decoder_of(
    kernel_size: int = 7, seed: int = 0, scale: float = 3.0, **changes: float
) -> Decoder:
    """A decoder in double precision, whose attention moves and whose gates open and close."""
    torch.manual_seed(seed)
    config = replace(SIZES, attention_location_kernel_size=kernel_size, **changes)
    decoder = Decoder(config).double()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(scale)
    return decoder


@dataclass
class Case:
    """A batch for a decoder, what it drops, and the weights of a loss."""

    prenet_output: Tensor
    memory: Tensor
    token_lengths: Tensor
    kept: Kept | None

    def to(self, kind: torch.dtype, device: str = "cpu") -> Case:
        move = partial(torch.Tensor.to, dtype=kind, device=device)
        kept = self.kept and Kept(move(self.kept.attention), move(self.kept.decoder))
        lengths = self.token_lengths.to(device)
        return Case(move(self.prenet_output), move(self.memory), lengths, kept)


def case_of(T: int, lengths: list[int], dropping: bool, seed: int = 1) -> Case:
    generator = torch.Generator().manual_seed(seed)
    B, N = len(lengths), max(lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def factors(size: int) -> Tensor:
        return (torch.rand(T, B, size, generator=generator) > 0.3).double() / 0.7

    memory = normal(B, N, SIZES.encoder_embedding_dim)
    for row, length in enumerate(lengths):
        memory[row, length:] = 0.0  # as the encoder leaves it
    kept = None
    if dropping:
        kept = Kept(factors(SIZES.attention_rnn_dim), factors(SIZES.decoder_rnn_dim))
    return Case(normal(B, T, SIZES.prenet_dim), memory, torch.tensor(lengths), kept)


def give_factors(decoder: Decoder, kept: Kept | None) -> None:
    """Lets `read_along` drop these, the attention's first."""
    factors = [] if kept is None else [kept.attention, kept.decoder]

    def planted(self: Decoder, cell: nn.LSTMCell, B: int, T: int, p: float) -> Tensor | None:
        if kept is None:
            return None
        chosen = factors[0 if p == decoder.p_attention_dropout else 1]
        assert chosen.shape == (T, B, cell.hidden_size)
        return chosen

    decoder._kept = MethodType(planted, decoder)  # type: ignore[method-assign]


def ours_and_stepwise(
    decoder: Decoder, case: Case, parts: Iterable[str] = PARTS, lead: Lead | None = None
) -> list[dict[str, Tensor]]:
    """Outputs, and gradients of a random loss over `parts`, of either way to read along."""
    decoder = copy.deepcopy(decoder)
    # Two rates, by which the factors are told apart.
    decoder.p_attention_dropout, decoder.p_decoder_dropout = 0.1, 0.2
    give_factors(decoder, case.kept)
    decoder.train(case.kept is not None)
    sides: list[ReadAlong] = [
        partial(decoder.read_along, lead=lead),
        partial(read_along_stepwise, decoder, lead=lead, kept=case.kept),
    ]
    return [run(decoder, side, case, parts) for side in sides]


def run(
    decoder: Decoder, read_along: ReadAlong, case: Case, parts: Iterable[str] = PARTS
) -> dict[str, Tensor]:
    """Outputs by name, and gradients by `d NAME` where there are any."""
    decoder.zero_grad()
    prenet_output = case.prenet_output.clone().requires_grad_()
    memory = case.memory.clone().requires_grad_()
    features, attention = read_along(prenet_output, memory, case.token_lengths)
    outputs = dict(zip(PARTS, (features, attention, *decoder.project(features)), strict=True))
    generator = torch.Generator().manual_seed(2)
    loss = prenet_output.new_zeros(())
    for name, output in outputs.items():
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        if name in parts:
            loss = loss + (output * weights.to(output)).sum()
    loss.backward()
    leaves = {**dict(decoder.named_parameters()), "prenet_output": prenet_output, "memory": memory}
    found = {name: output.detach() for name, output in outputs.items()}
    found |= {f"d {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: value.clone() for name, value in found.items()}


def relative(x: Tensor, reference: Tensor) -> float:
    """Largest error as a share of the largest number."""
    largest = float(reference.abs().max())
    error = float((x.to(reference) - reference).abs().max())
    return error if largest == 0 else error / largest


def assert_same(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor], most: float) -> None:
    assert set(ours) == set(expected)
    for name, value in expected.items():
        assert ours[name].shape == value.shape, name
        assert relative(ours[name], value) <= most, name


def with_gradient(found: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in found.items() if name.startswith("d ") and value.any()}


def not_prenet(decoder: Decoder) -> set[str]:
    names = {f"d {name}" for name, _ in decoder.named_parameters() if "prenet" not in name}
    return names | {"d prenet_output", "d memory"}


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("T", [1, 8, 17, 40])
def test_outputs_and_gradients_where_the_attention_is_led(T: int, share: float) -> None:
    decoder, case = decoder_of(), case_of(T, [12, 5, 9], dropping=True)
    path = (torch.arange(T) * torch.tensor([[12], [5], [9]])) // T
    path[1, T // 2 :] = -1  # unknown from there on
    ours, expected = ours_and_stepwise(decoder, case, lead=Lead(path, share))
    assert_same(ours, expected, 1e-10)
    own, _ = ours_and_stepwise(decoder, case)
    if T > 1:
        assert relative(ours["attention"], own["attention"]) > 1e-3
    assert relative(ours["features"], own["features"]) > 1e-3


@pytest.mark.parametrize("B", [1, 5])
@pytest.mark.parametrize("T", [1, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("dropping", [False, True])
def test_outputs_and_gradients_of_any_length(T: int, B: int, dropping: bool) -> None:
    # Beyond one chunk of either module, and beyond the seam of both.
    assert (attention_frames.CHUNK, lstm_frames.CHUNK) == (8, 16)
    decoder = decoder_of()
    ours, expected = ours_and_stepwise(decoder, case_of(T, TOKENS[B], dropping))
    assert_same(ours, expected, 1e-10)
    # In the first frame there is no history, no context and no output before.
    assert T == 1 or with_gradient(expected) == not_prenet(decoder)


@pytest.mark.parametrize("kernel_size", [1, 3, 31])
@pytest.mark.parametrize("lengths", [[1], [2, 1], [33, 30, 31], [9, 4]])
def test_outputs_and_gradients_of_any_kernel_and_text(kernel_size: int, lengths: list[int]) -> None:
    decoder = decoder_of(kernel_size)
    ours, expected = ours_and_stepwise(decoder, case_of(10, lengths, True))
    assert_same(ours, expected, 1e-10)
    for row, length in enumerate(lengths):
        assert not ours["attention"][row, :, length:].any()
        assert not ours["d memory"][row, length:].any()


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("T", [9, 40])
def test_single_precision(T: int, dropping: bool) -> None:
    # Weights as training starts from them: larger ones would amplify rounding from frame to frame.
    decoder, case = decoder_of(scale=1.0).float(), case_of(T, TOKENS[5], dropping)
    ours, single = ours_and_stepwise(decoder, case.to(torch.float32))
    _, double = ours_and_stepwise(decoder_of(scale=1.0), case)
    assert {value.dtype for value in ours.values()} == {torch.float32}
    assert_same(ours, single, 1e-4)
    assert_same(ours, double, 1e-4)


@pytest.mark.requires_cuda
def test_on_a_gpu() -> None:
    case = case_of(17, TOKENS[5], True).to(torch.float64, "cuda")
    ours, expected = ours_and_stepwise(decoder_of().cuda(), case)
    assert_same(ours, expected, 1e-10)


def test_the_comparison_sees_what_is_dropped() -> None:
    decoder, case = decoder_of(), case_of(9, TOKENS[5], True)
    assert case.kept is not None
    ours, _ = ours_and_stepwise(decoder, case)
    for swapped in (
        Kept(case.kept.attention.flip(0), case.kept.decoder),
        Kept(case.kept.attention, case.kept.decoder.flip(0)),
    ):
        _, other = ours_and_stepwise(decoder, replace(case, kept=swapped))
        assert relative(ours["features"], other["features"]) > 0.01
        assert relative(ours["d memory"], other["d memory"]) > 0.01


@pytest.mark.parametrize("parts", [["attention"], ["features"], ["gate"], ["mel", "attention"]])
def test_gradients_of_a_loss_that_uses_some_outputs(parts: list[str]) -> None:
    decoder = decoder_of()
    ours, expected = ours_and_stepwise(decoder, case_of(11, TOKENS[5], True), parts)
    # Step by step, layers that the loss does not reach have no gradient; here it may be zeros.
    assert with_gradient(ours) == with_gradient(expected)
    assert_same({name: ours[name] for name in expected}, expected, 1e-10)
    if parts == ["attention"]:
        assert not any("decoder_rnn" in name for name in with_gradient(ours))


@pytest.mark.parametrize(
    "frozen",
    [
        ("attention_layer.",),
        ("attention_layer.", "attention_rnn."),
        ("attention_rnn.weight_hh",),
        ("attention_rnn.weight_ih", "attention_rnn.bias_hh"),
        ("attention_layer.v", "attention_layer.query_layer"),
        ("attention_layer.location_layer.location_conv", "attention_layer.memory_layer"),
        ("decoder_rnn.",),
        ("decoder_rnn.weight_hh",),
        ("linear_projection", "gate_layer", "decoder_rnn.bias_ih"),
        ("",),
    ],
)
def test_the_rest_learns_where_parts_are_frozen(frozen: tuple[str, ...]) -> None:
    decoder = decoder_of()
    case = case_of(9, TOKENS[5], True)
    _, all_of_it = ours_and_stepwise(decoder, case)
    for name, weight in decoder.named_parameters():
        weight.requires_grad_(not name.startswith(frozen))
    ours, expected = ours_and_stepwise(decoder, case)
    assert_same(ours, expected, 1e-10)
    assert {name for name in all_of_it if name not in ours} == {
        name for name in all_of_it if name.startswith("d ") and name[2:].startswith(frozen)
    } - {"d prenet_output", "d memory"}
    assert_same(ours, {name: all_of_it[name] for name in ours}, 1e-10)


def test_without_gradients() -> None:
    decoder, case = decoder_of().eval(), case_of(9, TOKENS[5], False)
    given = (case.prenet_output, case.memory, case.token_lengths)
    with torch.no_grad():
        features, attention = decoder.read_along(*given)
    assert not features.requires_grad
    ours, _ = ours_and_stepwise(decoder, case)
    assert torch.equal(features, ours["features"])
    assert torch.equal(attention, ours["attention"])


def test_weights_learn_where_what_is_read_is_fixed() -> None:
    decoder, case = decoder_of().eval(), case_of(9, TOKENS[5], False)
    given = (case.prenet_output, case.memory, case.token_lengths)
    sides: list[ReadAlong] = [decoder.read_along, partial(read_along_stepwise, decoder)]
    found = []
    for side in sides:
        decoder.zero_grad()
        features, attention = side(*given)
        (features.square().sum() + attention.square().sum()).backward()
        grads = {f"d {name}": p.grad for name, p in decoder.named_parameters()}
        found.append({name: grad.clone() for name, grad in grads.items() if grad is not None})
    assert found[1]
    assert_same(*found, 1e-10)


def test_layouts_do_not_matter_to_the_decoder() -> None:
    decoder, case = decoder_of(), case_of(9, TOKENS[5], True)
    ours, _ = ours_and_stepwise(decoder, case)
    turned = replace(
        case,
        prenet_output=case.prenet_output.transpose(0, 1).contiguous().transpose(0, 1),
        memory=case.memory.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    )
    assert not turned.memory.is_contiguous()
    again, _ = ours_and_stepwise(decoder, turned)
    assert_same(again, ours, 1e-12)


def test_an_utterance_is_what_it_is_alone() -> None:
    decoder, lengths, frames = decoder_of(), TOKENS[5], [9, 17, 3, 8, 1]
    case = case_of(17, lengths, True)
    assert case.kept is not None
    together, _ = ours_and_stepwise(decoder, case)
    for i, (N, T) in enumerate(zip(lengths, frames, strict=True)):
        alone = Case(
            case.prenet_output[i : i + 1, :T],
            case.memory[i : i + 1, :N],
            case.token_lengths[i : i + 1],
            Kept(case.kept.attention[:T, i : i + 1], case.kept.decoder[:T, i : i + 1]),
        )
        ours, _ = ours_and_stepwise(decoder, alone)
        assert relative(together["features"][i, :T], ours["features"][0]) <= 1e-12
        assert relative(together["attention"][i, :T, :N], ours["attention"][0]) <= 1e-12


# The two modules themselves


def look_arguments(T: int, lengths: list[int], K: int, seed: int = 3) -> dict[str, Tensor]:
    """Small numbers of all sizes for `look_over_frames`; True in `padded_tokens` as it must be."""
    generator = torch.Generator().manual_seed(seed)
    B, N, E, H, A = len(lengths), max(lengths), 3, 2, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "projected": normal(T, B, 4 * H),
        "memory": normal(B, N, E),
        "keys": normal(B, N, A),
        "padded_tokens": torch.arange(N) >= torch.tensor(lengths)[:, None],
        "recurrent": normal(4 * H, E + H),
        "query": normal(A, H),
        "filters": normal(A, 2, K),
        "v": normal(A),
        "kept": (torch.rand(T, B, H, generator=generator) > 0.2).double() / 0.8,
    }


def parts_of(looked: Looked) -> tuple[Tensor, Tensor, Tensor]:
    return looked.queries, looked.contexts, looked.attention


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("T", "fast"), [(1, False), (3, False), (18, True), (33, True)])
def test_numeric_derivatives_of_the_lstm(T: int, fast: bool, kept: bool) -> None:
    torch.manual_seed(0)
    projected = torch.randn(T, 2, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    factors = (torch.rand(T, 2, 3) > 0.3).double() / 0.7 if kept else None
    assert torch.autograd.gradcheck(
        lambda p, w: lstm_over_frames(p, w, factors), (projected, weight), fast_mode=fast
    )


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("T", "K", "fast"), [(1, 3, False), (3, 3, False), (17, 5, True)])
def test_numeric_derivatives_of_the_attention(T: int, K: int, fast: bool, kept: bool) -> None:
    arguments = look_arguments(T, [3, 2], K)
    names = [name for name, value in arguments.items() if value.requires_grad]
    fixed = {"padded_tokens": arguments["padded_tokens"], "kept": arguments["kept"]}

    def looked(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, values, strict=True))
        factors = fixed["kept"] if kept else None
        return parts_of(look_over_frames(**given, **{**fixed, "kept": factors}))

    inputs = tuple(arguments[name] for name in names)
    assert torch.autograd.gradcheck(looked, inputs, fast_mode=fast)


def test_the_lstm_is_pytorchs() -> None:
    torch.manual_seed(0)
    T, B, size_in, H = 19, 3, 4, 5
    cell = nn.LSTM(size_in, H).double()
    x = torch.randn(T, B, size_in, dtype=torch.float64)
    expected, _ = cell(x)
    bias = cell.bias_ih_l0 + cell.bias_hh_l0
    found = lstm_over_frames(x @ cell.weight_ih_l0.T + bias, cell.weight_hh_l0, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    grads = [
        torch.autograd.grad(outputs.square().sum(), tuple(cell.parameters()))
        for outputs in (found, expected)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_result_has_its_own_gradient(part: int) -> None:
    """Against the decoder's own arithmetic, written out with nothing shared or doubled."""
    arguments = look_arguments(10, [6, 4], 5)
    generator = torch.Generator().manual_seed(0)
    ours, expected = parts_of(look_over_frames(**arguments)), look_plainly(**arguments)
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    weights = torch.randn(ours[part].shape, generator=generator, dtype=torch.float64)
    leaves = {name: value for name, value in arguments.items() if value.requires_grad}
    found = [
        torch.autograd.grad((side[part] * weights).sum(), tuple(leaves.values()))
        for side in (ours, expected)
    ]
    for name, x, y in zip(leaves, *found, strict=True):
        assert y.any(), name
        assert relative(x, y) <= 1e-10, name


def look_plainly(
    projected: Tensor,
    memory: Tensor,
    keys: Tensor,
    padded_tokens: Tensor,
    recurrent: Tensor,
    query: Tensor,
    filters: Tensor,
    v: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    T, B, _ = projected.shape
    H, K = query.shape[1], filters.shape[2]
    N, E = memory.shape[1:]
    h = c = projected.new_zeros(B, H)
    context, attention, total = memory.new_zeros(B, E), memory.new_zeros(B, N), 0
    found = []
    for t in range(T):
        z = projected[t] + torch.cat((context, h), 1) @ recurrent.T
        i, f, g, o = z.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh() * kept[t]
        total = total + attention
        location = torch.zeros_like(keys)
        for channel, seen in enumerate((attention, total)):
            for n in range(N):
                for k in range(K):
                    position = n + k - K // 2
                    if 0 <= position < N:
                        one = torch.zeros(N, 1, dtype=seen.dtype)
                        one[n] = 1.0
                        tap = seen[:, position, None, None] * filters[:, channel, k]
                        location = location + one * tap
        energies = torch.tanh(keys + (h @ query.T)[:, None] + location) @ v
        attention = energies.masked_fill(padded_tokens, -torch.inf).softmax(1)
        context = torch.einsum("bn,bne->be", attention, memory)
        found.append((h, context, attention))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def test_inputs_stay_as_they_are_and_a_second_pass_back_gives_the_same() -> None:
    arguments = look_arguments(10, [6, 4], 3)
    before = {name: value.detach().clone() for name, value in arguments.items()}
    looked = look_over_frames(**arguments)
    outputs = lstm_over_frames(
        torch.cat(
            (looked.queries, looked.contexts[:, :, :2], looked.contexts, looked.queries[:, :, :1]),
            2,
        ),
        arguments["recurrent"][:, :2],
        arguments["kept"],
    )
    loss = outputs.square().sum() + looked.attention.square().sum()
    leaves = tuple(value for value in arguments.values() if value.requires_grad)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    for name, value in arguments.items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("part", [0, 1, 2])
def test_results_that_were_changed_are_not_differentiated_wrongly(part: int) -> None:
    """The backward pass needs them; PyTorch says so instead of giving another gradient."""
    looked = look_over_frames(**look_arguments(3, [4], 3))
    loss = looked.contexts.sum() + looked.attention.square().sum()

    def change_and_go_back() -> None:
        parts_of(looked)[part].mul_(2)
        loss.backward()

    with pytest.raises(RuntimeError, match="inplace"):
        change_and_go_back()


@pytest.mark.parametrize("module", ["lstm", "attention"])
def test_second_derivatives_are_refused(module: str) -> None:
    arguments = look_arguments(3, [4], 3)
    leaf = arguments["projected"]
    if module == "lstm":
        outputs = lstm_over_frames(leaf, arguments["recurrent"][:, :2], None)
    else:
        outputs = look_over_frames(**arguments).contexts

    def twice() -> None:
        (first,) = torch.autograd.grad(outputs.square().sum(), leaf, create_graph=True)
        torch.autograd.grad(first.square().sum(), leaf)

    with pytest.raises(RuntimeError, match="differentia"):
        twice()


# Mixed precision


@pytest.mark.parametrize("dropping", [False, True])
def test_autocast_is_near(dropping: bool) -> None:
    decoder, case = decoder_of(scale=1.0).float(), case_of(20, TOKENS[5], dropping)
    exact, _ = ours_and_stepwise(decoder, case.to(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = ours_and_stepwise(decoder, case.to(torch.float32))
    assert set(mixed) == set(exact)
    assert mixed["features"].dtype == mixed["attention"].dtype == torch.float32
    assert not torch.equal(mixed["attention"], exact["attention"])  # its products are bfloat16's
    torch.testing.assert_close(mixed["attention"].sum(2), torch.ones(5, 20))
    for name, value in exact.items():
        assert mixed[name].isfinite().all(), name
        if name.startswith("d "):
            error = (mixed[name] - value).norm() / value.norm()
            assert error < 0.03, f"{name}: {error:.3f}"
        else:
            assert relative(mixed[name], value) < 0.02, name


def test_cells_are_not_rounded_under_autocast() -> None:
    """A sum of small numbers would stand still in bfloat16."""
    T, step = 400, 2.0**-8
    gates = torch.zeros(T, 1, 4, dtype=torch.bfloat16)
    gates[:, :, :2], gates[:, :, 2], gates[:, :, 3] = 20.0, step, 20.0
    with torch.autocast("cpu", torch.bfloat16):
        outputs = lstm_over_frames(gates, torch.zeros(4, 1), None)
    expected = torch.tanh(step * torch.arange(1, T + 1))
    torch.testing.assert_close(outputs[:, 0, 0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("module", ["lstm", "attention"])
def test_what_is_rounded_under_autocast(module: str) -> None:
    """The products with what was before, whatever type they are added to; nothing else."""
    arguments = {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in look_arguments(9, [5, 4], 3).items()
    }
    arguments["projected"] = arguments["projected"].bfloat16().float()

    def outputs(kind: torch.dtype, autocast: bool) -> tuple[Tensor, ...]:
        projected = arguments["projected"].to(kind)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if module == "lstm":
                return (lstm_over_frames(projected, arguments["recurrent"][:, :2], None),)
            return parts_of(look_over_frames(**{**arguments, "projected": projected}))

    exact = outputs(torch.float32, False)
    mixed = outputs(torch.float32, True)
    of_rounded = outputs(torch.bfloat16, True)
    for x, y, z in zip(exact, mixed, of_rounded, strict=True):
        assert x.dtype == y.dtype == z.dtype == torch.float32
        assert torch.equal(y, z)
        assert 1e-5 < relative(y, x) < 0.05


# The whole model


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "tacotron2.npz") as arrays:
        return {name: array for name, array in arrays.items() if name.startswith("forced/")}


def step_by_step(model: Tacotron2) -> Tacotron2:
    plain = copy.deepcopy(model)
    plain.decoder.read_along = MethodType(read_along_stepwise, plain.decoder)  # type: ignore[method-assign]
    return plain


@pytest.mark.parametrize("way", ["ours", "step by step"])
@pytest.mark.parametrize("order", [[0, 1], [1, 0, 0, 1, 1]])
def test_either_way_gives_the_golden_arrays(
    golden: dict[str, np.ndarray], way: str, order: list[int]
) -> None:
    model = draw_tacotron2() if way == "ours" else step_by_step(draw_tacotron2())
    arrays = {name: torch.from_numpy(array)[order] for name, array in golden.items()}
    frames = arrays["forced/mel_lengths"]
    with torch.no_grad():
        output = model(
            arrays["forced/ids"],
            arrays["forced/lengths"],
            arrays["forced/mel_target"].transpose(1, 2),
            frames,
            prenet_dropout=0,
        )
    found = {
        "mel": output.mel_before_postnet.transpose(1, 2),
        "mel_postnet": output.mel.transpose(1, 2),
        "alignments": output.attention,
    }
    for name, ours in found.items():
        assert relative(ours, arrays[f"forced/{name}"]) <= 1e-4, name
    for i, T in enumerate(frames):  # beyond the end stands 1000, which would hide errors
        assert relative(output.gate_logits[i, :T], arrays["forced/gate"][i, :T]) <= 1e-4


@pytest.mark.parametrize("padding_leaks", [False, True])
def test_the_whole_model_equals_itself_step_by_step(padding_leaks: bool) -> None:
    config = replace(MINI, p_attention_dropout=0.0, p_decoder_dropout=0.0)
    model = draw_tacotron2(config).double().train()
    with torch.no_grad():  # at full strength single frames decide about thousands of others
        for weight in model.decoder.parameters():
            weight.mul_(0.5)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(148, (4, 30), generator=generator)
    mel = torch.randn(4, 35, 80, generator=generator, dtype=torch.float64)
    lengths, frames = torch.tensor([30, 7, 21, 1]), torch.tensor([20, 35, 8, 3])
    found = []
    for side in (model, step_by_step(model)):
        torch.manual_seed(0)  # of the drop-out of pre-net and convolutions
        output = side(tokens, lengths, mel, frames, padding_leaks=padding_leaks)
        names = ("mel", "mel_before_postnet", "gate_logits", "attention", "memory")
        values = {name: getattr(output, name) for name in names}
        sum(value.square().mean() for value in values.values()).backward()  # type: ignore[union-attr]
        grads = {f"d {name}": p.grad for name, p in side.named_parameters()}
        found.append({name: x.detach() for name, x in {**values, **grads}.items()})  # type: ignore[union-attr]
    # Batch norm takes the mean away: the gradient of a bias before it is nothing but rounding.
    biases = {name for name in found[0] if name.endswith("conv.bias")}
    ours, expected = ({n: x for n, x in side.items() if n not in biases} for side in found)
    assert_same(ours, expected, 1e-8)


def test_training_drops_at_the_rates_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = decoder_of(p_attention_dropout=0.25, p_decoder_dropout=0.5)
    case = case_of(12, TOKENS[2], False)
    calls: list[tuple[tuple[int, ...], float]] = []

    def spy(shape: tuple[int, ...], probability: float, like: Tensor) -> Tensor:
        calls.append((tuple(shape), probability))
        return keep_factors(shape, probability, like)

    monkeypatch.setattr("tacotron2.decoder.keep_factors", spy)
    torch.manual_seed(5)
    features, _ = decoder.train().read_along(case.prenet_output, case.memory, case.token_lengths)
    sizes = SIZES.attention_rnn_dim, SIZES.decoder_rnn_dim
    assert calls == [((12, 2, sizes[0]), 0.25), ((12, 2, sizes[1]), 0.5)]
    torch.manual_seed(5)
    kept = Kept(*(keep_factors(*call, case.memory) for call in calls))
    expected, _ = read_along_stepwise(
        decoder, case.prenet_output, case.memory, case.token_lengths, kept=kept
    )
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    calls.clear()
    decoder.eval().read_along(case.prenet_output, case.memory, case.token_lengths)
    decoder.train().p_attention_dropout = decoder.p_decoder_dropout = 0.0
    decoder.read_along(case.prenet_output, case.memory, case.token_lengths)
    assert not calls


# Factors of drop-out


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(401, 7, 37), (100_001,), (200, 500)])
def test_factors_drop_the_share_they_are_told(
    shape: tuple[int, ...], probability: float, kind: torch.dtype
) -> None:
    torch.manual_seed(1)
    factors = keep_factors(shape, probability, torch.empty(3, dtype=kind))
    assert factors.shape == shape
    assert factors.dtype == kind
    values = factors.unique().tolist()
    assert len(values) == 2
    assert values[0] == 0.0
    assert values[1] == pytest.approx(1 / (1 - probability), rel=2e-4)
    # Five standard deviations of that many throws.
    count = factors.numel()
    deviation = (probability * (1 - probability) / count) ** 0.5
    dropped = (factors == 0).double().mean().item()
    assert dropped == pytest.approx(probability, abs=5 * deviation)
    mean = factors.double().mean().item()
    assert mean == pytest.approx(1.0, abs=5 * deviation / (1 - probability))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 9])
def test_factors_of_few(count: int) -> None:
    torch.manual_seed(0)
    draws = torch.stack([keep_factors((count,), 0.5, torch.zeros(1)) for _ in range(300)])
    assert draws.shape == (300, count)
    assert set(draws.flatten().tolist()) <= {0.0, 2.0}
    if count:  # every position is drawn for, by itself
        means = draws.mean(0)
        assert ((means > 0.7) & (means < 1.3)).all()
    for i in range(count):
        for j in range(i):
            assert abs(float((draws[:, i] == draws[:, j]).float().mean()) - 0.5) < 0.15


def test_factors_follow_the_global_seed() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return keep_factors((33, 5), 0.5, torch.zeros(1))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    torch.manual_seed(1)
    first, second = (keep_factors((33, 5), 0.5, torch.zeros(1)) for _ in range(2))
    assert torch.equal(first, drawn(1))
    assert not torch.equal(first, second)


def test_neighbouring_factors_are_independent() -> None:
    torch.manual_seed(0)
    kept = keep_factors((100_000,), 0.5, torch.zeros(1)) > 0
    for distance in range(1, 9):  # four of them share a draw
        same = (kept[distance:] == kept[:-distance]).double().mean().item()
        assert same == pytest.approx(0.5, abs=0.01), distance
