"""The compiled steps against nn.GRU and against the steps in PyTorch, and where they can not be."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightspeech import gru, recurrence
from lightspeech.benchmark.floors import speaking_multiply_adds
from lightspeech.benchmark.student import two_students
from lightspeech.config import CONFIGS
from lightspeech.gru import BidirectionalGRU

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    gru._compiled_steps.cache_clear()


@pytest.fixture
def only_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps in PyTorch are out of reach."""
    assert gru._compiled_steps() is not None
    monkeypatch.setattr(gru, "_run", None)


def layer(input_size: int, hidden_size: int) -> BidirectionalGRU:
    torch.manual_seed(0)
    return BidirectionalGRU(input_size, hidden_size).requires_grad_(False)


def example(lengths: list[int], repeated: bool, input_size: int) -> tuple[Tensor, ...]:
    """Inputs (B, N, input_size), lengths and the rows to read (B, T); T is one more than needed."""
    torch.manual_seed(1)
    batch_size, width = len(lengths), max(lengths) + 1
    n_rows = (width + 4) // 5 if repeated else width
    source = torch.arange(width).expand(batch_size, -1)
    if repeated:
        source = torch.randint(n_rows, (batch_size, width)).sort(1).values
    return torch.randn(batch_size, n_rows, input_size), torch.tensor(lengths), source


def expected(layer: BidirectionalGRU, inputs: Tensor, lengths: Tensor, source: Tensor) -> Tensor:
    """By nn.GRU."""
    oracle = nn.GRU(layer.input_size, layer.hidden_size, batch_first=True, bidirectional=True)
    oracle.load_state_dict(layer.state_dict())
    rows = torch.stack([row[index] for row, index in zip(inputs, source, strict=True)])
    packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        outputs, _ = oracle(packed)
    return pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])[0]


@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("lengths", [[1], [200], [3, 9, 1, 9, 6], list(range(16, 0, -1))])
@pytest.mark.parametrize("sizes", [(3, 1), (12, 7), (256, 192), (512, 128)])
def test_equals_nn_gru(sizes: tuple[int, int], lengths: list[int], repeated: bool) -> None:
    ours = layer(*sizes)
    inputs, sizes_, source = example(lengths, repeated, sizes[0])
    outputs = ours(inputs, sizes_, source if repeated else None)
    wanted = expected(ours, inputs, sizes_, source)
    torch.testing.assert_close(outputs, wanted, rtol=0, atol=2e-6)
    padded = torch.arange(outputs.shape[1]) >= sizes_.unsqueeze(1)
    assert not outputs[padded].any()


@pytest.mark.usefixtures("only_compiled")
def test_large_gates_saturate_as_those_of_nn_gru() -> None:
    ours = layer(12, 8)
    inputs, lengths, source = example([30], False, 12)
    inputs = inputs * 1000
    wanted = expected(ours, inputs, lengths, source)
    assert float(wanted.abs().max()) > 0.999
    torch.testing.assert_close(ours(inputs, lengths), wanted, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("only_compiled")
def test_an_item_is_the_same_alone_and_in_a_batch() -> None:
    ours = layer(40, 24)
    inputs, lengths, source = example([70, 3, 41, 70], True, 40)
    batch = ours(inputs, lengths, source)
    for i, length in enumerate(lengths.tolist()):
        alone = ours(inputs[i : i + 1], lengths[i : i + 1], source[i : i + 1, :length])
        torch.testing.assert_close(batch[i, :length], alone[0], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("only_compiled")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = layer(40, 24)
    example_ = example([70, 3, 41, 70], True, 40)
    results = []
    for threads in (1, 2, 5, 100):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(ours(*example_))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.usefixtures("only_compiled")
def test_one_layer_serves_many_threads_at_a_time() -> None:
    ours = layer(40, 24)
    examples = [example([70 + i], True, 40) for i in range(8)]
    wanted = [ours(*example_) for example_ in examples]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: ours(*examples[i % 8]), range(64)))
    assert all(torch.equal(result, wanted[i % 8]) for i, result in enumerate(found))


def test_an_error_on_another_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OverflowError("planted")

    monkeypatch.setattr(gru, "_compiled_steps", lambda: fail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(OverflowError, match="planted"):
        layer(12, 8)(*example([5], False, 12))


@pytest.mark.usefixtures("only_compiled")
def test_any_layout_will_do() -> None:
    ours = layer(12, 8)
    inputs, lengths, source = example([9, 4], True, 12)
    wanted = ours(inputs, lengths, source)
    turned = inputs.transpose(0, 2).contiguous().transpose(0, 2)
    outputs = ours(turned, lengths, source.t().contiguous().t())
    torch.testing.assert_close(outputs, wanted, rtol=0, atol=1e-6)
    for name, parameter in ours.named_parameters():
        if parameter.dim() == 2:
            setattr(ours, name, nn.Parameter(parameter.t().contiguous().t(), requires_grad=False))
    torch.testing.assert_close(ours(inputs, lengths, source), wanted, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("only_compiled")
def test_what_is_no_number_stays_none() -> None:
    inputs, lengths, _ = example([9], False, 12)
    inputs[0, 4, 0] = float("nan")
    outputs = layer(12, 8)(inputs, lengths)[0]
    assert outputs[4:9, :8].isnan().all()
    assert outputs[:5, 8:].isnan().all()
    assert outputs[:4, :8].isfinite().all()
    assert outputs[5:, 8:].isfinite().all()


@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize("row", [-1, 2])
def test_rows_that_are_not_there_are_caught(row: int) -> None:
    inputs, lengths, source = example([9], True, 12)
    assert inputs.shape[1] == 2
    source[0, 3] = row
    with pytest.raises(AssertionError, match=r"rows -?\d to \d of 2"):
        layer(12, 8)(inputs, lengths, source)


@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize("length", [0, 11])
def test_impossible_lengths_are_caught(length: int) -> None:
    inputs, _, _ = example([9], False, 12)
    with pytest.raises(AssertionError, match=rf"lengths {length} to {length} of 10"):
        layer(12, 8)(inputs, torch.tensor([length]))


def test_only_single_precision_without_gradients_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def steps(*arguments: Any) -> None:
        calls.append(arguments)

    monkeypatch.setattr(gru, "_compiled_steps", lambda: steps)
    ours = layer(12, 8)
    inputs, lengths, _ = example([9], False, 12)
    assert ours(inputs.clone().requires_grad_(), lengths).requires_grad
    ours.double()(inputs.double(), lengths)
    ours.float().requires_grad_(True)
    assert ours(inputs, lengths).requires_grad
    assert not calls
    with torch.no_grad():
        ours(inputs, lengths)
    with torch.inference_mode():
        ours(inputs, lengths)
    assert len(calls) == 4  # two directions each


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lightspeech.recurrence")
    monkeypatch.setitem(sys.modules, "numba", None)


def told_not_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence.config, "DISABLE_JIT", True)


@pytest.mark.parametrize("prevent", [without_numba, told_not_to_compile])
def test_pytorch_takes_the_steps_where_nothing_compiles(
    prevent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = layer(12, 8)
    inputs, lengths, source = example([9, 4], True, 12)
    wanted = ours(inputs, lengths, source)
    prevent(monkeypatch)
    gru._compiled_steps.cache_clear()
    assert gru._compiled_steps() is None
    torch.testing.assert_close(ours(inputs, lengths, source), wanted, rtol=0, atol=1e-6)
    gru._compiled_steps.cache_clear()


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("no locator available")])
def test_it_compiles_where_nothing_can_be_kept(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def njit(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise error
        return numba.njit(*arguments, **options)

    monkeypatch.setattr(recurrence, "njit", njit)
    inputs, lengths, source = example([9], True, 12)
    ours = layer(12, 8)
    wanted = expected(ours, inputs, lengths, source)
    torch.testing.assert_close(ours(inputs, lengths, source), wanted, rtol=0, atol=2e-6)


def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    program = (
        "from lightspeech.recurrence import compile_steps; stats = compile_steps().stats; "
        "print(len(stats.cache_misses), len(stats.cache_hits))"
    )
    for misses_and_hits in ("1 0", "0 1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == misses_and_hits
    assert list(tmp_path.rglob("*.nbi"))


def test_training_does_not_wait_for_numba() -> None:
    program = (
        "import sys, torch, lightspeech.gru as g; "
        "g.BidirectionalGRU(2, 2)(torch.ones(1, 3, 2), torch.tensor([3])).sum().backward(); "
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_tanh_and_sigmoid() -> None:
    x = np.concatenate([np.linspace(-12, 12, 4801), [-1e30, -np.inf, 1e30, np.inf]])
    for function, exact in (
        (recurrence.tanh, np.tanh),
        (recurrence.sigmoid, lambda x: (1 + np.tanh(x / 2)) / 2),
    ):
        found = np.array([function(np.float32(value)) for value in x])
        assert np.abs(found - exact(x.astype(np.float32).astype(np.float64))).max() < 5e-7
        assert found.max() <= 1
        assert found.min() >= -1
        assert (np.diff(found[:4801]) > -5e-7).all()
    assert np.isnan(recurrence.tanh(np.float32(np.nan)))


@pytest.mark.parametrize("name", ["lightspeech", "lightspeech-hq"])
def test_the_student_says_what_it_says_with_nn_gru_and_in_training(name: str) -> None:
    """Alone and in a batch, with symbols that occur again and ids of no meaning after the end."""
    ours, plain = two_students(CONFIGS[name].model)
    tokens = torch.tensor([[5, 9, 5, 5, 77, 9, 20], [9, 9, 5, 148, 3, 3, 3], [1, 2, 3, 4, 5, 6, 7]])
    lengths = torch.tensor([7, 3, 1])
    batch = ours.infer(tokens, lengths)
    reference = plain.infer(tokens, lengths)
    assert torch.equal(batch.durations, reference.durations)
    torch.testing.assert_close(batch.mel, reference.mel, rtol=0, atol=1e-5)
    trained = ours(tokens, lengths, batch.durations)
    assert trained.mel.requires_grad
    torch.testing.assert_close(batch.mel, trained.mel.detach(), rtol=0, atol=1e-5)
    for i, (length, frames) in enumerate(zip(lengths, batch.frames, strict=True)):
        for width in (int(length), 7):
            alone = ours.infer(tokens[i : i + 1, :width], lengths[i : i + 1])
            assert alone.durations[0].tolist() == batch.durations[i, :width].tolist()
            assert alone.mel.shape[1] == int(frames)
            torch.testing.assert_close(alone.mel[0], batch.mel[i, :frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lightspeech", "lightspeech-hq"])
def test_multiply_adds_of_speaking(name: str) -> None:
    """Of one symbol, token and frame each: once every weight of a product."""
    model = CONFIGS[name].model
    student, _ = two_students(model)
    weights = {name: p.numel() for name, p in student.named_parameters() if p.dim() > 1}
    of_embedding = weights.pop("embedding.weight")
    assert of_embedding == model.n_symbols * model.embedding_size
    assert speaking_multiply_adds(model, 1, 1, 1) == sum(weights.values())
    of_a_frame = sum(
        count
        for name, count in weights.items()
        if name.startswith(("decoder.weight_hh", "refiner", "output")) and "of_token" not in name
    )
    of_a_symbol = sum(n for name, n in weights.items() if name.startswith("encoder.weight_ih"))
    assert speaking_multiply_adds(model, 0, 0, 10) == 10 * of_a_frame
    assert speaking_multiply_adds(model, 10, 0, 0) == 10 * of_a_symbol
