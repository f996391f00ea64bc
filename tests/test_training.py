"""The loop: it learns, it can be stopped anywhere, it survives what is not finite."""

from __future__ import annotations

import itertools
import math
import os
import signal
import wave
from contextlib import ExitStack, closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightspeech import training as training_module
from lightspeech.checkpoint import encode_file, load_voice, read_file
from lightspeech.config import Config, TrainingConfig
from lightspeech.data import split, validation_batches
from lightspeech.distillation import validate
from lightspeech.errors import InputError
from lightspeech.interrupt import StopRequest
from lightspeech.losses import DistillationLoss, Losses
from lightspeech.progress import TrainingProgress, format_time
from lightspeech.run_folder import History, open_run, read_history
from lightspeech.schedule import learning_rate
from lightspeech.store import LabelStore
from lightspeech.training import Training, TrainingResult, check_trainable
from lightspeech.training_command import resumed_config
from lightspeech.training_loop import MOST_SKIPPED, PRECISIONS
from lightspeech.training_state import load_state
from tests.synthetic_store import make_store, tiny_config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return make_store(tmp_path_factory.mktemp("labels") / "store")


def train(
    store: LabelStore, folder: Path, config: Config, resume: bool = False, **options: Any
) -> TrainingResult:
    with open_run(folder, resume, load_state) as run:
        return Training(store, run, config, **options).run()


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_state(folder)[0].tensors


def assert_same(folder: Path, expected: Path) -> None:
    """The same history, state and voice, to the last bit."""
    assert read_history(folder) == read_history(expected)
    ours, theirs = tensors_of(folder), tensors_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (voice, facts), (other, other_facts) = load_voice(folder), load_voice(expected)
    assert facts["step"] == other_facts["step"]
    assert facts["validation"] == other_facts["validation"]
    for ours_, theirs_ in zip(voice.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours_, theirs_)


def test_it_learns_a_tiny_store(store: LabelStore, tmp_path: Path) -> None:
    config = tiny_config(steps=150, validate_every=50)
    result = train(store, tmp_path / "run", config)
    history = read_history(tmp_path / "run")
    assert [line["step"] for line in history] == list(range(1, 151))
    for name in ("loss", "mel_squared", "mel_absolute", "duration"):
        assert history[-1][name] < 0.25 * history[0][name], name
    assert [line["step"] for line in history if "validation" in line] == [50, 100, 150]
    validation = history[-1]["validation"]
    assert validation["loss"] < 0.25 * history[0]["loss"]
    assert validation["duration_error"] < 0.5
    assert 0.8 < validation["length_ratio"] < 1.2
    assert result.step == 150
    assert result.stopped_by is None
    assert result.skipped == 0
    assert result.best_loss == min(
        line["validation"]["loss"] for line in history if "validation" in line
    )


def test_the_voice_is_the_best_student(store: LabelStore, tmp_path: Path) -> None:
    result = train(store, tmp_path / "run", tiny_config(learning_rate=0.3, clip_norm=100.0))
    validations = {
        line["step"]: line["validation"]
        for line in read_history(tmp_path / "run")
        if "validation" in line
    }
    best = min(validations, key=lambda step: validations[step]["loss"])
    _, facts = load_voice(tmp_path / "run")
    assert facts["step"] == best == result.best_step
    assert facts["validation"] == validations[best]
    known = {"digest": store.digest, "utterances": len(store), "labelling": {"seed": 1}}
    assert facts["store"] == known
    assert facts["teacher"] == {"name": "synthetic", "sha256": "a" * 64}


@pytest.mark.parametrize("stop_after", [1, 4, 5, 13])
def test_resuming_changes_nothing(store: LabelStore, tmp_path: Path, stop_after: int) -> None:
    config = tiny_config()
    train(store, tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch:
        # stopped by Ctrl-C in the middle of a step: the step is finished and saved
        stop_in_step(patch, stop_after)
        result = train(store, tmp_path / "parts", config)
    assert (result.step, result.stopped_by) == (stop_after, signal.SIGINT)
    assert load_state(tmp_path / "parts")[0].step == stop_after
    assert train(store, tmp_path / "parts", config, resume=True).stopped_by is None
    assert_same(tmp_path / "parts", tmp_path / "whole")


def stop_in_step(patch: pytest.MonkeyPatch, step: int) -> None:
    take = Training._take_step

    def take_and_stop(self: Training, batch: Any) -> dict[str, Any]:
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, batch)

    patch.setattr(Training, "_take_step", take_and_stop)


def test_a_signal_between_two_steps_saves_too(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = TrainingProgress.show

    def show_and_stop(self: TrainingProgress, line: dict[str, Any], *rest: Any) -> None:
        show(self, line, *rest)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "show", show_and_stop)
    result = train(store, tmp_path / "run", tiny_config())
    assert (result.step, result.stopped_by) == (3, signal.SIGTERM)
    assert load_state(tmp_path / "run")[0].step == 3


def test_a_signal_after_the_last_step_is_too_late(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(monkeypatch, 6)
    assert train(store, tmp_path / "run", tiny_config(steps=6)).stopped_by is None


def test_a_second_signal_stops_at_once() -> None:
    with StopRequest().listening() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_given_back(store: LabelStore, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(store, tmp_path / "run", tiny_config(steps=2))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_exception_leaves_the_last_state(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, tmp_path / "whole", tiny_config())
    take = Training._take_step

    def fail(self: Training, batch: Any) -> dict[str, Any]:
        if self.step == 10:
            raise OSError("the power has gone")
        return take(self, batch)

    monkeypatch.setattr(Training, "_take_step", fail)
    with pytest.raises(OSError, match="the power has gone"):
        train(store, tmp_path / "run", tiny_config())
    monkeypatch.undo()
    assert len(read_history(tmp_path / "run")) == 10
    assert load_state(tmp_path / "run")[0].step == 8  # save_every is 4
    train(store, tmp_path / "run", tiny_config(), resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_damaged_last_state_costs_only_the_steps_since_the_one_before(
    store: LabelStore, tmp_path: Path
) -> None:
    train(store, tmp_path / "run", tiny_config())
    whole = read_history(tmp_path / "run")
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    with open_run(tmp_path / "run", resume=True, load=load_state) as run:
        training = Training(store, run, tiny_config())
        assert "going on from" in training.plan()
        assert training.step == 16
        training.run()
    assert read_history(tmp_path / "run") == whole


def test_a_history_that_was_cut_or_deleted(store: LabelStore, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(store, folder, tiny_config(steps=8))
    whole = (folder / "history.jsonl").read_text(encoding="utf-8")
    with closing(History(folder, 6)) as history:
        history.append({"step": 7, "loss": 0.5})
    assert [line["step"] for line in read_history(folder)] == [1, 2, 3, 4, 5, 6, 7]
    (folder / "history.jsonl").write_text(whole + '{"step": 9, "lo', encoding="utf-8")
    History(folder, 9).close()
    assert (folder / "history.jsonl").read_text(encoding="utf-8") == whole
    (folder / "history.jsonl").unlink()
    train(store, folder, tiny_config(steps=12), resume=True)
    assert [line["step"] for line in read_history(folder)] == [9, 10, 11, 12]


def test_a_longer_run(store: LabelStore, tmp_path: Path) -> None:
    config = tiny_config()
    train(store, tmp_path / "run", config)
    longer = resumed_config(config, config, 30)
    train(store, tmp_path / "run", longer, resume=True)
    history = read_history(tmp_path / "run")
    assert [line["step"] for line in history] == list(range(1, 31))
    rates = [learning_rate(longer.training, step) for step in range(20, 30)]
    assert [line["learning_rate"] for line in history[20:]] == rates


def test_resuming_with_other_settings_names_them(store: LabelStore, tmp_path: Path) -> None:
    own = tiny_config()
    with pytest.raises(
        InputError,
        match=r"only --steps may change, but this asks for training\.batch_size 5, not 4; "
        r"training\.seed 7, not 1234: leave that out, or start another run with --out",
    ):
        resumed_config(own, own.override(batch_size=5, seed=7), None)
    assert resumed_config(own, own.override(steps=99), None) == own
    assert resumed_config(own, own.override(learning_rate=0.01), None) == own


def test_resuming_on_another_store_is_refused(store: LabelStore, tmp_path: Path) -> None:
    train(store, tmp_path / "run", tiny_config(steps=2))
    other = make_store(tmp_path / "other", utterances=13)
    with (
        open_run(tmp_path / "run", resume=True, load=load_state) as run,
        pytest.raises(
            InputError,
            match=rf"started on another label store \(digest {store.digest[:12]}, 12 utterances\) "
            rf"than this one \({other.digest[:12]}, 13\): give that one with --store",
        ),
    ):
        Training(other, run, tiny_config(steps=2))


def spoil_losses(patch: pytest.MonkeyPatch, calls: set[int], in_gradient: bool) -> None:
    """Makes the n-th losses (or only their gradients) not a number, for n in `calls` from 1 on."""
    forward = DistillationLoss.forward
    count = 0

    def spoiled(self: DistillationLoss, output: Any, batch: Any) -> Losses:
        nonlocal count
        losses = forward(self, output, batch)
        if not torch.is_grad_enabled():  # validation
            return losses
        count += 1
        if count not in calls:
            return losses
        if in_gradient:
            losses.total.register_hook(lambda gradient: gradient * math.nan)
            return losses
        return Losses(losses.total * math.inf, losses.terms)

    patch.setattr(DistillationLoss, "forward", spoiled)


@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_step_that_is_not_finite_is_left_out(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_gradient: bool
) -> None:
    spoil_losses(monkeypatch, {3, 7, 8}, in_gradient)
    result = train(store, tmp_path / "run", tiny_config(steps=12))
    history = read_history(tmp_path / "run")
    assert [line["step"] for line in history if line["skipped"]] == [3, 7, 8]
    assert result.skipped == 3
    assert history[2]["gradient_norm"] is None
    assert (history[2]["loss"] is None) is not in_gradient
    assert all(tensor.isfinite().all() for tensor in tensors_of(tmp_path / "run").values())
    load_voice(tmp_path / "run")


def test_many_steps_in_a_row_that_are_not_finite_end_it(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, set(range(7, 100)), in_gradient=False)
    with pytest.raises(
        InputError,
        match=rf"not finite in {MOST_SKIPPED} steps in a row \(up to step 16\).*"
        "start another run with a lower --learning-rate",
    ):
        train(store, tmp_path / "run", tiny_config(steps=100))
    assert load_state(tmp_path / "run")[0].skipped_in_a_row < MOST_SKIPPED


def test_validation_does_not_depend_on_the_batches(store: LabelStore, tmp_path: Path) -> None:

    with open_run(tmp_path / "run", resume=False, load=load_state) as run:
        training = Training(store, run, tiny_config())
    results = [
        validate(
            training.module,
            validation_batches(store, range(len(store)), size),
            training.fabric.device,
        )
        for size in (1, 5, 12)
    ]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5)
    # by hand, one utterance after the other
    student, wrong, tokens = training.module.student, 0, 0
    for label in store:
        spoken = student.infer(label.tokens[None], torch.tensor([len(label.tokens)]))
        wrong += int((spoken.durations[0] - label.durations).abs().sum())
        tokens += len(label.tokens)
    assert results[0]["duration_error"] == pytest.approx(wrong / tokens)


def test_a_validation_that_is_not_finite_makes_no_voice(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DistillationLoss.forward

    def spoiled(self: DistillationLoss, output: Any, batch: Any) -> Losses:
        losses = forward(self, output, batch)
        if torch.is_grad_enabled():
            return losses
        return Losses(losses.total, {**losses.terms, "duration": torch.tensor(math.nan)})

    monkeypatch.setattr(DistillationLoss, "forward", spoiled)
    result = train(store, tmp_path / "run", tiny_config(steps=2))
    assert result.voice is None
    validation = read_history(tmp_path / "run")[-1]["validation"]
    assert validation["loss"] is None
    assert validation["mel_squared"] is not None
    with pytest.raises(InputError, match="has no voice yet"):
        load_voice(tmp_path / "run")


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=101, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=20)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[19] == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.55)  # half-way through the cosine
    assert rates[100] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(rates[:20]))
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    published = TrainingConfig()
    assert {learning_rate(published, step) for step in (0, 1, 9999, 19999)} == {1e-3}
    assert learning_rate(TrainingConfig(steps=1, final_learning_rate=0.0), 0) == 1e-3


def test_a_new_learning_rate_keeps_the_shape_of_the_schedule() -> None:
    config = tiny_config().override(learning_rate=0.1)
    assert config.training.learning_rate == 0.1
    assert config.training.final_learning_rate == pytest.approx(0.01)
    assert Config().override(learning_rate=0.5).training.final_learning_rate == 0.5


def test_a_store_with_one_utterance_is_refused(tmp_path: Path) -> None:
    small = make_store(tmp_path / "small", utterances=1)
    with pytest.raises(
        InputError, match=r"holds 1 utterance, expected at least 2 .*python preprocess\.py --text"
    ):
        check_trainable(small, tiny_config())


@pytest.mark.parametrize("change", [{"n_mels": 40}, {"n_symbols": 100}])
def test_a_student_of_another_shape_than_the_labels_is_refused(
    store: LabelStore, change: dict[str, int]
) -> None:
    config = replace(tiny_config(), model=replace(tiny_config().model, **change))
    with pytest.raises(InputError, match=r"expected 80 and at least 148: set model\.n_mels"):
        check_trainable(store, config)


def test_the_plan_says_what_will_be_done(store: LabelStore, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", resume=False, load=load_state) as run:
        plan = Training(store, run, tiny_config()).plan()
    for part in (
        "12 utterances",
        "held out",
        "'tiny'",
        "parameters",
        "device    cpu, 1 process of 1 thread",
    ):
        assert part in plan
    assert "20 of 4 utterances" in plan


def test_bfloat16_on_the_cpu_learns_as_well(store: LabelStore, tmp_path: Path) -> None:
    config = tiny_config(steps=60, validate_every=60)
    config = replace(config, model=replace(config.model, refiner_blocks=1))
    losses = {}
    for precision in PRECISIONS:
        train(store, tmp_path / precision, config, precision=precision)
        losses[precision] = read_history(tmp_path / precision)[-1]["validation"]["loss"]
    full, mixed = losses["32-true"], losses["bf16-mixed"]
    assert mixed != full  # products were rounded
    assert mixed == pytest.approx(full, rel=0.02)
    weights = load_voice(tmp_path / "bf16-mixed")[0].parameters()
    assert all(p.dtype == torch.float32 for p in weights)


@pytest.mark.requires_cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_on_a_gpu_has_its_targets_in_full_precision(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    forward = DistillationLoss.forward
    dtypes = set()

    def watch(self: DistillationLoss, output: Any, batch: Any) -> Losses:
        dtypes.update({batch.mel.dtype, batch.memory.dtype})
        return forward(self, output, batch)

    monkeypatch.setattr(DistillationLoss, "forward", watch)
    config = tiny_config(steps=100)
    result = train(store, tmp_path / "run", config, device="cuda", precision=precision)
    assert dtypes == {torch.float32}
    assert result.skipped == 0
    history = read_history(tmp_path / "run")
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in load_voice(tmp_path / "run")[0].parameters())


def test_tensorboard_gets_curves_a_picture_and_sound(store: LabelStore, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    train(store, tmp_path / "run", tiny_config(steps=4), tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/duration_error")] == [4]
    assert [event.step for event in events.Images("validation/utterance")] == [4]
    # the teacher's utterance, whose length is known, and the student's, whose length it chose
    (held_out, *_) = sorted(
        store.frames[i] for i in split(store.ids, 0.2, tiny_config().training.seed)[1][:1]
    )
    (teacher,) = events.Audio("validation/teacher")
    (student,) = events.Audio("validation/student")
    assert teacher.step == student.step == 4
    with wave.open(BytesIO(teacher.encoded_audio_string)) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (22050, 1)
        assert sound.getnframes() == 256 * held_out
        heard = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    assert heard.std() > 100
    with wave.open(BytesIO(student.encoded_audio_string)) as sound:
        assert sound.getnframes() % 256 == 0


def test_what_is_not_finite_makes_no_sound(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from lightspeech.dashboard import Dashboard

    dashboard = Dashboard(tmp_path, 0)
    dashboard._play("validation/student", torch.full((5, 80), math.nan), 1)
    dashboard._play("validation/student", torch.full((5, 80), 999.0), 2)  # no signal is so loud
    dashboard.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Audio("validation/student")] == [2]


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightspeech import dashboard

    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed: pip install tensorboard, or leave"):
        dashboard.check_installed()


def test_a_folder_has_one_training_at_a_time(store: LabelStore, tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = stack.enter_context(open_run(tmp_path / "run", resume=False, load=load_state))
        Training(store, run, tiny_config())
        with pytest.raises(InputError, match="another process is writing to"):
            stack.enter_context(open_run(tmp_path / "run", resume=True, load=load_state))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (272, "4 min 32 s"), (7199, "2 h 0 min")],
)
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_each_step_is_taken_at_its_own_rate_and_clipped(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, norms, decays = [], [], set()
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        (group,) = self.param_groups
        rates.append(group["lr"])
        decays.add(group["weight_decay"])
        norms.append(torch.stack([p.grad.norm() for p in group["params"]]).norm().item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    config = tiny_config(clip_norm=0.01, weight_decay=0.125)
    train(store, tmp_path / "run", config)
    assert rates == [learning_rate(config.training, number) for number in range(20)]
    assert norms == pytest.approx([0.01] * 20, rel=1e-3)
    assert decays == {0.125}
    assert all(line["gradient_norm"] > 0.01 for line in read_history(tmp_path / "run"))


def plan_validations(patch: pytest.MonkeyPatch, losses: dict[int, float]) -> list[list[str]]:
    """Makes the validation at each step have this loss; returns the ids that each was of."""
    from lightspeech import training

    seen: list[list[str]] = []

    def planned(module: Any, batches: Any, device: Any) -> dict[str, float]:
        seen.append([id for batch in batches for id in batch.ids])
        return {"loss": losses[next(steps)]}

    steps = iter(losses)
    patch.setattr(training, "validate", planned)
    return seen


def test_only_a_better_student_becomes_the_voice_also_after_resuming(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = plan_validations(monkeypatch, {5: 3.0, 10: 2.0, 15: 2.5, 20: 2.25})
    folder, config = tmp_path / "run", tiny_config()
    short = replace(config, training=replace(config.training, steps=10))
    train(store, folder, short)
    result = train(store, folder, config, resume=True)
    assert (result.best_step, result.best_loss) == (10, 2.0)
    assert load_voice(folder)[1]["step"] == 10
    assert result.seconds > load_state(folder)[0].seconds / 2 > 0
    with ExitStack() as stack:
        run = stack.enter_context(open_run(tmp_path / "other", resume=False, load=load_state))
        held_out = Training(store, run, config).held_out
    assert [sorted(ids) for ids in seen] == [sorted(store.ids[i] for i in held_out)] * 4


def test_the_time_of_all_sittings_counts(store: LabelStore, tmp_path: Path) -> None:
    train(store, tmp_path / "run", tiny_config(steps=4))
    with open_run(tmp_path / "run", resume=True, load=load_state) as run:
        assert run.state is not None
        run = replace(run, state=replace(run.state, seconds=1000.0))
        assert Training(store, run, tiny_config(steps=6)).run().seconds > 1000


def test_the_length_ratio_is_ours_over_theirs(store: LabelStore, tmp_path: Path) -> None:

    with open_run(tmp_path / "run", resume=False, load=load_state) as run:
        training = Training(store, run, tiny_config())
    last = training.module.student.duration_predictor[2]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 7.0)
    batches = validation_batches(store, range(len(store)), 5)
    found = validate(training.module, batches, training.fabric.device)
    tokens = sum(len(label.tokens) for label in store)
    assert found["length_ratio"] == pytest.approx(7 * tokens / sum(store.frames))


def test_the_adapter_of_the_memory_is_trained_too(store: LabelStore, tmp_path: Path) -> None:
    name = "module/loss.memory_adapter.weight"
    states = []
    for steps in (1, 3):
        train(store, tmp_path / str(steps), tiny_config(steps=steps))
        states.append(load_state(tmp_path / str(steps))[0].tensors[name])
    assert not torch.equal(*states)


# The average of the weights


def state_of(training: Training) -> dict[str, Tensor]:
    return {n: v.detach().clone() for n, v in training.module.state_dict().items()}


def test_the_average_equals_its_formula_and_is_what_is_judged(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(steps=7, ema_decay=0.4, validate_every=7)
    seen, judged = [], []
    take, validated = Training._take_step, training_module.validate

    def watched(self: Training, batch: Any) -> dict[str, Any]:
        if not seen:
            seen.append(state_of(self))
        line = take(self, batch)
        seen.append(state_of(self))
        return line

    def judge(module: Any, *rest: Any) -> dict[str, float | None]:
        assert not module.training
        judged.append({n: v.clone() for n, v in module.state_dict().items()})
        return validated(module, *rest)

    monkeypatch.setattr(Training, "_take_step", watched)
    monkeypatch.setattr(training_module, "validate", judge)
    train(store, tmp_path / "run", config)
    saved = tensors_of(tmp_path / "run")
    voice = load_voice(tmp_path / "run")[0].state_dict()
    for name, value in judged[0].items():
        expected = seen[0][name].double()
        for step in range(1, 8):
            decay = min(0.4, (1 + step) / (10 + step))  # at first it follows more closely: 2 / 11
            expected = decay * expected + (1 - decay) * seen[step][name].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(value, seen[-1][name])
        assert torch.equal(saved[f"average/{name}"], value)
        assert torch.equal(saved[f"module/{name}"], seen[-1][name])
        if name.startswith("student."):
            assert torch.equal(voice[name.removeprefix("student.")], value)
    assert load_state(tmp_path / "run")[0].average_steps == 7


def test_averaging_changes_nothing_but_what_is_judged(store: LabelStore, tmp_path: Path) -> None:
    for decay in (0.0, 0.9):
        train(store, tmp_path / str(decay), tiny_config(ema_decay=decay))
    plain, averaged = tensors_of(tmp_path / "0.0"), tensors_of(tmp_path / "0.9")
    assert not any(name.startswith("average/") for name in plain)
    assert all(torch.equal(value, averaged[name]) for name, value in plain.items())
    for line, other in zip(*(read_history(tmp_path / n) for n in ("0.0", "0.9")), strict=True):
        validation, judged = line.pop("validation", None), other.pop("validation", None)
        assert line == other
        assert (validation is None) or validation != judged


@pytest.mark.parametrize("stop_after", [4, 7])
def test_resuming_with_an_average_changes_nothing(
    store: LabelStore, tmp_path: Path, stop_after: int
) -> None:
    config = tiny_config(ema_decay=0.95)
    train(store, tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, stop_after)
        train(store, tmp_path / "parts", config)
    train(store, tmp_path / "parts", config, resume=True)
    assert_same(tmp_path / "parts", tmp_path / "whole")


# Patience


LOSSES = {5: 3.0, 10: 2.0, 15: 2.5, 20: 2.0, 25: 2.25, 30: 1.0}


def test_training_stops_when_nothing_gets_better(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_validations(monkeypatch, LOSSES)
    result = train(store, tmp_path / "run", tiny_config(steps=100, patience=3))
    assert (result.step, result.best_step, result.stopped_by) == (25, 10, None)
    assert result.waited == 3
    state = load_state(tmp_path / "run")[0]
    assert (state.step, state.waited, state.best_step) == (25, 3, 10)
    assert len(read_history(tmp_path / "run")) == 25


def test_without_patience_it_never_stops(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_validations(monkeypatch, {5 * i: 1.0 for i in range(1, 9)})
    result = train(store, tmp_path / "run", tiny_config(steps=40))
    assert (result.step, result.best_step, result.waited) == (40, 5, 0)


def test_a_validation_that_is_not_finite_tries_the_patience(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_validations(monkeypatch, {5: 1.0, 10: None, 15: None})  # type: ignore[dict-item]
    assert train(store, tmp_path / "run", tiny_config(steps=40, patience=2)).step == 15


@pytest.mark.parametrize("stop_after", [12, 20, 24])
def test_patience_goes_on_where_it_was(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    plan_validations(monkeypatch, LOSSES)
    config = tiny_config(steps=100, patience=3)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, stop_after)
        result = train(store, tmp_path / "run", config)
        assert (result.step, result.waited) == (stop_after, 0)
    assert train(store, tmp_path / "run", config, resume=True).step == 25


def test_who_asks_for_another_length_has_patience_again(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", tiny_config(steps=100, patience=2)
    plan_validations(monkeypatch, LOSSES)
    assert train(store, folder, config).step == 20
    again = train(store, folder, config, resume=True)  # as it was: there is nothing to do
    assert (again.step, again.waited) == (20, 2)
    longer = train(store, folder, resumed_config(config, config, 30), resume=True)
    assert (longer.step, longer.best_step, longer.waited) == (30, 30, 0)


# The optimiser


def test_the_fused_optimiser_is_as_exact_as_the_plain_one() -> None:
    """Beside the formulas of Kingma and Ba (2015) in double precision, with L2 weight decay."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5000, generator=generator)
    gradients = [torch.randn(5000, generator=generator) * 0.1 for _ in range(50)]
    exact, m, v = start.double(), torch.zeros(5000).double(), torch.zeros(5000).double()
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double() + 1e-2 * exact
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        exact = exact - 1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    errors = []
    for fused in (False, True):
        weight = nn.Parameter(start.clone())
        adam = torch.optim.Adam([weight], lr=1e-2, weight_decay=1e-2, fused=fused)
        for gradient in gradients:
            weight.grad = gradient.clone()
            adam.step()
        errors.append(float((weight.detach().double() - exact).abs().max()))
    assert errors[1] < 2 * errors[0] < 1e-5


def test_a_state_that_an_older_version_wrote(store: LabelStore, tmp_path: Path) -> None:
    """It knew nothing of processes, averages, beginnings and patience."""
    folder = tmp_path / "run"
    train(store, folder, tiny_config(steps=4))
    facts, tensors = read_file(folder / "last.safetensors", "training")
    for name in ("ranks", "average_steps", "origin", "waited"):
        del facts[name]
    for name in ("ema_decay", "patience"):
        del facts["config"]["training"][name]
    (folder / "last.safetensors").write_bytes(encode_file(facts, tensors))
    train(store, folder, tiny_config(steps=8), resume=True)
    train(store, tmp_path / "same", tiny_config(steps=4))
    train(store, tmp_path / "same", tiny_config(steps=8), resume=True)
    assert_same(folder, tmp_path / "same")
