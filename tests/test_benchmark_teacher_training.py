"""The part teacher-training of the benchmark: both sides do the same, and its work is counted."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightspeech import cli
from lightspeech.benchmark import __main__ as command
from lightspeech.benchmark import teacher_training
from lightspeech.benchmark.floors import teacher_training_multiply_adds
from lightspeech.benchmark.rows import Findings
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.stepwise import read_along_stepwise
from lightspeech.benchmark.teacher_training import bench_teacher_training, teacher_batch
from lightspeech.teacher.config import CONFIGS
from tacotron2 import Tacotron2, Tacotron2Config

# All sizes differ, so that none can stand in for another.
TINY = Tacotron2Config(
    symbols_embedding_dim=12,
    encoder_embedding_dim=12,
    encoder_n_convolutions=2,
    encoder_kernel_size=3,
    attention_rnn_dim=10,
    attention_dim=14,
    attention_location_n_filters=5,
    attention_location_kernel_size=9,
    decoder_rnn_dim=18,
    prenet_dim=6,
    postnet_embedding_dim=16,
    postnet_kernel_size=7,
    postnet_n_convolutions=4,
)


@dataclass
class Measured:
    """What the part made, at a tiny size, in the order of its sides."""

    findings: Findings
    models: list[Tacotron2] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    autocast: list[bool] = field(default_factory=list)
    batches: list[tuple[int, int, int]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)


def measure(monkeypatch: pytest.MonkeyPatch, config: Tacotron2Config, repeats: int = 9) -> Measured:
    """Runs the part on a tiny batch; every side is called once, after the same seed, and is said
    to take 2, 6 and 1 s, at a million multiply-adds a second."""
    found = Measured(Findings([]))
    step_of, losses_of = teacher_training.step_of, teacher_training.teacher_losses
    forward = Tacotron2.forward

    def spied_forward(model: Tacotron2, *arguments: Any, **options: Any) -> Any:
        found.autocast.append(torch.is_autocast_enabled("cpu"))
        return forward(model, *arguments, **options)

    def small_batch(*sizes: int) -> Any:
        found.batches.append(sizes)  # type: ignore[arg-type]
        return teacher_batch(2, 7, 19)

    def spied_step(model: Tacotron2, batch: Any, training: Any, precision: str) -> Any:
        assert training is CONFIGS["small"].training
        found.models.append(model)
        found.precisions.append(precision)
        return step_of(model, batch, training, precision)

    def spied_losses(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        assert torch.equal(options["path"], teacher_batch(2, 7, 19).path)
        terms = losses_of(*arguments, **options)
        found.losses.append({name: float(term.detach()) for name, term in terms.items()})
        return terms

    def planted_times(sides: list[Callable[[], None]], turns: int) -> list[float]:
        found.turns.append(turns)
        for side in sides:
            torch.manual_seed(3)
            side()
        return [2.0, 6.0, 1.0]

    monkeypatch.setattr(Tacotron2, "forward", spied_forward)
    monkeypatch.setattr(teacher_training, "SMALL", config)
    monkeypatch.setattr(teacher_training, "teacher_batch", small_batch)
    monkeypatch.setattr(teacher_training, "step_of", spied_step)
    monkeypatch.setattr(teacher_training, "teacher_losses", spied_losses)
    monkeypatch.setattr(teacher_training, "best_times", planted_times)
    monkeypatch.setattr(teacher_training, "product_rate", lambda: 1e6)
    found.findings = bench_teacher_training(Settings(repeats=repeats))
    return found


def test_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, TINY)
    single, mixed = found.findings.rows
    assert found.batches == [(16, 60, 320)]
    assert single.part == mixed.part == "teacher-training"
    assert single.what == "teacher training step, 16 utterances of 320 frames"
    assert mixed.what == f"{single.what}, bf16"
    assert (single.seconds, single.ratio) == (2.0, 3.0)
    assert (mixed.seconds, mixed.ratio) == (1.0, 6.0)
    assert single.beside == "frame after frame"
    assert mixed.beside == "frame after frame, in single precision"
    multiply_adds = teacher_training_multiply_adds(TINY, teacher_batch(2, 7, 19))
    assert single.multiply_adds == multiply_adds
    assert single.floor_seconds == pytest.approx(multiply_adds / 1e6)
    assert mixed.multiply_adds is None


@pytest.mark.parametrize(("repeats", "turns"), [(9, 3), (2, 1), (1, 1)])
def test_it_takes_a_third_of_the_turns(
    monkeypatch: pytest.MonkeyPatch, repeats: int, turns: int
) -> None:
    assert measure(monkeypatch, TINY, repeats).turns == [turns]


def test_the_sides_are_ours_step_by_step_and_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, TINY)
    assert found.precisions == ["32-true", "32-true", "bf16-mixed"]
    assert found.autocast == [False, False, True]
    stepwise = [
        getattr(model.decoder.read_along, "__func__", None) is read_along_stepwise
        for model in found.models
    ]
    assert stepwise == [False, True, False]
    assert found.models[1].decoder.read_along.__self__ is found.models[1].decoder  # type: ignore[attr-defined]
    weights = [{id(p) for p in model.parameters()} for model in found.models]
    assert not weights[0] & weights[1]
    assert not weights[0] & weights[2]
    assert all(model.training for model in found.models)


def test_the_sides_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradients and the step taken, where the two draw the same numbers for drop-out."""
    config = replace(TINY, p_attention_dropout=0.0, p_decoder_dropout=0.0)
    found = measure(monkeypatch, config)
    ours, plain, mixed = found.losses
    assert all(math.isfinite(term) for term in ours.values())
    for name, term in ours.items():
        assert term == pytest.approx(plain[name], rel=1e-5), name
        assert term == pytest.approx(mixed[name], rel=0.05), name
    clip = CONFIGS["small"].training.clip_norm
    gradients = []
    for model in found.models[:2]:
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert len(named) == len(list(model.parameters()))
        norm = torch.stack([grad.norm() for grad in named.values()]).norm()
        assert float(norm) <= clip * 1.001
        gradients.append(named)
    for name, grad in gradients[1].items():
        # Batch norm takes the mean away: the gradient of a bias before it is nothing but rounding.
        if not name.endswith("conv.bias"):
            largest = float(grad.abs().max())
            assert largest > 0, name
            assert float((gradients[0][name] - grad).abs().max()) <= 1e-3 * largest, name
    torch.manual_seed(0)
    untouched = dict(Tacotron2(config).named_parameters())
    for model in found.models:
        assert all(not torch.equal(p, untouched[name]) for name, p in model.named_parameters())


def test_a_step_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    terms: list[float] = []
    losses_of = teacher_training.teacher_losses

    def spied(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        found = losses_of(*arguments, **options)
        terms.append(float(torch.stack(list(found.values())).detach().sum()))
        return found

    monkeypatch.setattr(teacher_training, "teacher_losses", spied)
    torch.manual_seed(0)
    model = Tacotron2(TINY).train()
    training = replace(CONFIGS["small"].training, learning_rate=1e-2)
    step = teacher_training.step_of(model, teacher_batch(2, 7, 12), training, "32-true")
    for _ in range(40):
        step()
    assert sum(terms[-5:]) < 0.9 * sum(terms[:5])


def test_the_batch_is_full_and_always_the_same() -> None:
    batch, again = teacher_batch(3, 7, 20), teacher_batch(3, 7, 20)
    assert batch.tokens.shape == (3, 7)
    assert batch.mel.shape == (3, 20, 80)
    assert batch.token_lengths.tolist() == [7, 7, 7]
    assert batch.frames.tolist() == [20, 20, 20]
    assert batch.all_frames == 60
    assert batch.path.tolist() == [[t * 7 // 20 for t in range(20)]] * 3  # all tokens, in order
    assert torch.equal(batch.tokens, again.tokens)
    assert torch.equal(batch.mel, again.mel)


# The work


def counted(config: Tacotron2Config, sizes: tuple[int, int, int]) -> float:
    """Multiply-adds of the forward pass, as PyTorch counts what is really computed."""

    def vector_product(matrix: Any, *_: Any, **__: Any) -> int:
        rows, columns = matrix
        return 2 * rows * columns  # the counter leaves these out

    batch = teacher_batch(*sizes)
    # In double precision no LSTM is one opaque call.
    model = Tacotron2(config).double()
    with (
        torch.no_grad(),
        FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.mv: vector_product}
        ) as counter,
    ):
        model(
            batch.tokens,
            batch.token_lengths,
            batch.mel.double(),
            batch.frames,
            padding_leaks=False,
        )
    # Both location layers become one convolution, once a batch.
    filters = (
        2
        * config.attention_location_kernel_size
        * config.attention_location_n_filters
        * config.attention_dim
    )
    return counter.get_total_flops() / 2 - filters


@pytest.mark.parametrize("sizes", [(3, 8, 11), (1, 5, 2), (2, 3, 17)])
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, encoder_n_convolutions=1, postnet_n_convolutions=2, postnet_kernel_size=3),
        replace(TINY, attention_location_kernel_size=1, encoder_kernel_size=5, n_symbols=200),
    ],
)
def test_the_work_is_what_pytorch_counts(
    config: Tacotron2Config, sizes: tuple[int, int, int]
) -> None:
    assert teacher_training_multiply_adds(config, teacher_batch(*sizes)) == 3 * counted(
        config, sizes
    )


def test_the_work_of_a_single_frame_by_hand() -> None:
    """One token, one frame, and every width 2 (80 for the mel): all layers can be written down."""
    config = Tacotron2Config(
        symbols_embedding_dim=2,
        encoder_embedding_dim=2,
        encoder_n_convolutions=1,
        encoder_kernel_size=1,
        attention_rnn_dim=2,
        attention_dim=2,
        attention_location_n_filters=1,
        attention_location_kernel_size=1,
        decoder_rnn_dim=2,
        prenet_dim=2,
        postnet_embedding_dim=2,
        postnet_kernel_size=1,
        postnet_n_convolutions=2,
    )
    encoder = 2 * 2 + 2 * (4 * 1 * (2 + 1))  # convolution, LSTM of 1 unit in either direction
    prenet = 80 * 2 + 2 * 2
    attention_rnn = 4 * 2 * (2 + 2 + 2)
    attention = 2 * 2 + 2 * 2 + 2 * 2 + 2 + 2  # query, keys, both histories, v, context
    decoder_rnn = 4 * 2 * (2 + 2 + 2)
    projections = (80 + 1) * (2 + 2)
    postnet = 80 * 2 + 2 * 80
    forward = encoder + prenet + attention_rnn + attention + decoder_rnn + projections + postnet
    assert teacher_training_multiply_adds(config, teacher_batch(1, 1, 1)) == 3 * forward


# The command


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    cli.run(command.main)


def test_the_command_knows_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command.PARTS["teacher-training"] is bench_teacher_training
    monkeypatch.setattr(teacher_training, "SMALL", TINY)
    monkeypatch.setattr(teacher_training, "teacher_batch", lambda *_: teacher_batch(2, 5, 9))
    monkeypatch.setattr(teacher_training, "product_rate", lambda: 1e9)
    file = tmp_path / "speed.json"
    run(monkeypatch, "teacher-training", "--repeats", "1", "--json", str(file))
    shown = capsys.readouterr().out
    assert "teacher training step, 16 utterances of 320 frames" in shown
    assert "frame after frame" in shown
    first, second = (SimpleNamespace(**row) for row in json.loads(file.read_text())["rows"])
    assert first.part == second.part == "teacher-training"
    assert first.seconds > 0
    assert first.ratio > 0
    assert second.ratio > 0


def test_the_help_names_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--help")
    assert stop.value.code == 0
    described, _, options = capsys.readouterr().out.partition("positional arguments")
    assert "teacher-training" in described
    assert "teacher-training" in options
