"""The loop of a teacher's training: it learns, stops anywhere, and keeps the best teacher."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightspeech.alignment import score_alignment
from lightspeech.dataset.features import Features
from lightspeech.errors import InputError
from lightspeech.progress import TrainingProgress
from lightspeech.ranks import Ranks
from lightspeech.run_folder import read_history
from lightspeech.sealed import Sealed
from lightspeech.teacher import curves, objective, validation
from lightspeech.teacher.batches import validation_batches
from lightspeech.teacher.config import TeacherConfig
from lightspeech.teacher.curves import TeacherCurves, draw_curves
from lightspeech.teacher.parts import PARTS
from lightspeech.teacher.run import open_teacher_run
from lightspeech.teacher.state import load_teacher_state, save_teacher
from lightspeech.teacher.training import TeacherResult, TeacherTraining
from lightspeech.teacher.validation import FreeRun, read_along, speak_freely, summarize
from lightspeech.training_loop import MOST_SKIPPED, PRECISIONS
from lightspeech.weight_average import WeightAverage
from tacotron2 import Tacotron2, TeacherOutput, layers, load_tacotron2
from tacotron2.load import default_checkpoint
from tests.tacotron2_recipe import draw_tacotron2
from tests.tiny_dataset import MODEL, make_features, tiny_config
from tests.tiny_teacher import tiny_teacher

CONFIG = tiny_config(steps=12, validate_every=4, spoken=1)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return make_features(tmp_path_factory.mktemp("training") / "dataset")


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here: only the test of it does it."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr(curves, "draw_curves", lambda history: None)
        monkeypatch.setattr(curves, "draw_attention", lambda runs, title: None)
        monkeypatch.setattr(curves, "save_figure", lambda figure, path: None)


def begin(
    features: Features,
    folder: Path,
    config: TeacherConfig,
    place: Any,
    model: Tacotron2 | None = None,
    **options: Any,
) -> TeacherTraining:
    """As the command does it."""
    if place.state:
        options["origin"] = place.state.origin
    if model is None:
        torch.manual_seed(config.training.seed)
        model = Tacotron2(config.model)
    return TeacherTraining(features, folder, config, model, state=place.state, **options)


def train(
    features: Features, folder: Path, config: TeacherConfig, resume: bool = False, **options: Any
) -> TeacherResult:
    with open_teacher_run(folder, resume, Ranks()) as place:
        return begin(features, folder, config, place, **options).run()


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_teacher_state(folder)[0].tensors


def assert_same(folder: Path, expected: Path) -> None:
    """The same history, state and teacher, to the last bit."""
    assert read_history(folder) == read_history(expected)
    ours, theirs = load_teacher_state(folder)[0], load_teacher_state(expected)[0]
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert {name.split("/")[0] for name in ours.tensors} == {
        "module", "optimizer", "random", "average",
    }  # fmt: skip
    for name, value in ours.tensors.items():
        assert torch.equal(value, theirs.tensors[name]), name
    apart = {"tensors": None, "seconds": 0.0}
    assert replace(ours, **apart) == replace(theirs, **apart)  # type: ignore[arg-type]
    for name in ("teacher.safetensors", "teacher.json", "config.json"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of CONFIG that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_attention", "save_figure"):
            patch.setattr(curves, name, lambda *_: None)
        train(features, folder, CONFIG)
    return folder


# It learns


def test_it_learns(features: Features, tmp_path: Path) -> None:
    config = tiny_config(steps=60, learning_rate=0.03, validate_every=30, spoken=1)
    result = train(features, tmp_path / "run", config)
    history = read_history(tmp_path / "run")
    assert [line["step"] for line in history] == list(range(1, 61))
    for name, share in {"loss": 0.7, "mel": 0.7, "mel_before_postnet": 0.7, "gate": 0.8}.items():
        first, last = (
            np.mean([line[name] for line in part]) for part in (history[:3], history[-3:])
        )
        assert last < share * first, name
    validations = {line["step"]: line["validation"] for line in history if "validation" in line}
    assert list(validations) == [30, 60]
    assert validations[60]["mel"] < validations[30]["mel"]
    assert validations[60]["mel"] < 0.9 * history[0]["mel"]
    assert set(validations[60]) >= {
        "loss", "mel", "mel_absolute", "gate", "guide", "order", "stopped", "usable",
    }  # fmt: skip
    assert (result.step, result.stopped_by, result.skipped) == (60, None, 0)
    assert result.teacher == tmp_path / "run" / "teacher.safetensors"


def test_a_line_of_the_history_is_what_was_minimised(whole: Path) -> None:
    settings = CONFIG.training
    for step, line in enumerate(read_history(whole)):
        guide = 2.0 * 0.5 ** (max(step - 4, 0) / 4)
        assert line["guide_weight"] == pytest.approx(guide)
        assert line["learning_rate"] == settings.learning_rate_at(step)
        assert line["led"] == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, *[0] * 6][step])
        expected = (
            line["mel"] + line["mel_before_postnet"] + line["mel_absolute"] + line["gate"]
            + guide * line["guide"] + 0.2 * line["order"]
        )  # fmt: skip
        assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_every_weight_of_a_loss_counts(features: Features, tmp_path: Path) -> None:
    names = {
        "mel_weight": "mel", "mel_before_postnet_weight": "mel_before_postnet",
        "mel_absolute_weight": "mel_absolute", "gate_weight": "gate", "guide_weight": "guide",
        "order_weight": "order",
    }  # fmt: skip
    nothing = dict.fromkeys(names, 0.0)
    for i, (weight, term) in enumerate(names.items()):
        config = tiny_config(**{**nothing, weight: 3.0, "steps": 1, "spoken": 0})
        train(features, tmp_path / str(i), config)
        (line,) = read_history(tmp_path / str(i))
        assert line["loss"] == pytest.approx(3 * line[term], rel=1e-5), weight
        assert line["gradient_norm"] > 0


def test_the_guide_is_the_path_or_the_diagonal(features: Features, tmp_path: Path) -> None:
    guides = []
    for guide in ("path", "diagonal"):
        train(features, tmp_path / guide, tiny_config(steps=1, guide=guide, spoken=0))
        (line,) = read_history(tmp_path / guide)
        guides.append((line["guide"], line["validation"]["guide"]))
    # at first the attention is flat: -log(1/N) on a path of N = 5 to 16, a share beside a diagonal
    assert all(1.5 < value < 3.0 for value in guides[0])
    assert all(0.2 < value < 0.7 for value in guides[1])


def test_the_lead_is_in_training_alone(features: Features, tmp_path: Path) -> None:
    """What a step minimises depends on it, and what validation measures does not."""
    lines = []
    for lead_end in (0, 9):
        config = tiny_config(steps=1, lead_hold=lead_end, lead_end=lead_end, learning_rate=1e-9)
        train(features, tmp_path / str(lead_end), config.override(final_learning_rate=1e-9))
        lines += read_history(tmp_path / str(lead_end))
    assert abs(lines[0]["mel"] - lines[1]["mel"]) > 1e-4
    ours, theirs = (line["validation"] for line in lines)
    for name in ("guide", "order", "gate", "mel_before_postnet"):  # batch norm is not in these
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_a_new_model_begins_with_the_mean_spectrum(features: Features, tmp_path: Path) -> None:
    with open_teacher_run(tmp_path / "run", False, Ranks()) as place:
        loop = begin(features, tmp_path / "run", CONFIG, place)
    mels = torch.cat([features[i].mel for i in loop.members]).double()
    bias = loop.model.decoder.linear_projection.linear_layer.bias
    torch.testing.assert_close(bias.double(), mels.mean(0), atol=1e-4, rtol=1e-4)
    model = draw_tacotron2(MODEL)
    before = model.decoder.linear_projection.linear_layer.bias.clone()
    with open_teacher_run(tmp_path / "other", False, Ranks()) as place:
        begin(features, tmp_path / "other", CONFIG, place, model, origin={"name": "x"})
    assert torch.equal(model.decoder.linear_projection.linear_layer.bias, before)


def test_each_step_is_taken_at_its_own_rate_and_clipped(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, norms, settings = [], [], set()
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        (group,) = self.param_groups
        rates.append(group["lr"])
        settings.add((group["weight_decay"], group["eps"]))
        norms.append(torch.stack([p.grad.norm() for p in group["params"]]).norm().item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    config = tiny_config(steps=6, clip_norm=0.01, weight_decay=0.125, spoken=0)
    train(features, tmp_path / "run", config)
    assert rates == [config.training.learning_rate_at(number) for number in range(6)]
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    assert settings == {(0.125, 1e-6)}
    assert all(line["gradient_norm"] > 0.01 for line in read_history(tmp_path / "run"))


# It can be stopped anywhere


def stop_in_step(patch: pytest.MonkeyPatch, step: int, kind: int = signal.SIGINT) -> None:
    take = TeacherTraining._take_step

    def take_and_stop(self: TeacherTraining, batch: Any) -> dict[str, Any]:
        if self.step + 1 == step:
            os.kill(os.getpid(), kind)
        return take(self, batch)

    patch.setattr(TeacherTraining, "_take_step", take_and_stop)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 11])
def test_resuming_changes_nothing(
    features: Features, whole: Path, tmp_path: Path, stop_after: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # stopped by Ctrl-C in the middle of a step: the step is finished and saved
        stop_in_step(patch, stop_after)
        result = train(features, tmp_path / "run", CONFIG)
    assert (result.step, result.stopped_by) == (stop_after, signal.SIGINT)
    assert load_teacher_state(tmp_path / "run")[0].step == stop_after
    torch.manual_seed(99)  # what a new process begins with
    assert train(features, tmp_path / "run", CONFIG, resume=True).stopped_by is None
    assert_same(tmp_path / "run", whole)


def test_a_longer_run_can_be_stopped_too(features: Features, tmp_path: Path) -> None:
    longer = CONFIG.override(steps=10)
    short = CONFIG.override(steps=5)
    for name in ("one", "two"):
        train(features, tmp_path / name, short)
    train(features, tmp_path / "one", longer, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 7, signal.SIGTERM)
        result = train(features, tmp_path / "two", longer, resume=True)
    assert (result.step, result.stopped_by) == (7, signal.SIGTERM)
    train(features, tmp_path / "two", longer, resume=True)
    assert_same(tmp_path / "two", tmp_path / "one")
    history = read_history(tmp_path / "one")
    assert [line["step"] for line in history] == list(range(1, 11))
    rates = [longer.training.learning_rate_at(step) for step in range(5, 10)]
    assert [line["learning_rate"] for line in history[5:]] == rates
    config = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))
    assert config["training"]["steps"] == 10


def test_what_an_exception_leaves(
    features: Features, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = TeacherTraining._take_step

    def fail(self: TeacherTraining, batch: Any) -> dict[str, Any]:
        if self.step == 11:
            raise OSError("the power has gone")
        return take(self, batch)

    monkeypatch.setattr(TeacherTraining, "_take_step", fail)
    with pytest.raises(OSError, match="the power has gone"):
        train(features, tmp_path / "run", CONFIG)
    monkeypatch.setattr(TeacherTraining, "_take_step", take)
    assert load_teacher_state(tmp_path / "run")[0].step == 9  # save_every is 3
    train(features, tmp_path / "run", CONFIG, resume=True)
    assert_same(tmp_path / "run", whole)


def test_a_damaged_last_state_costs_only_the_steps_since_the_one_before(
    features: Features, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    last = folder / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    with open_teacher_run(folder, True, Ranks()) as place:
        assert place.note is not None
        assert "going on from" in place.note
        loop = begin(features, folder, CONFIG, place)
        assert loop.step == 9
        loop.run()
    assert_same(folder, whole)


def test_a_signal_between_two_steps_saves_too(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = TrainingProgress.show

    def show_and_stop(self: TrainingProgress, line: dict[str, Any], *rest: Any) -> None:
        show(self, line, *rest)
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "show", show_and_stop)
    result = train(features, tmp_path / "run", CONFIG)
    assert (result.step, result.stopped_by, result.teacher) == (2, signal.SIGTERM, None)
    assert load_teacher_state(tmp_path / "run")[0].step == 2


def test_signals_are_given_back(features: Features, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(features, tmp_path / "run", CONFIG.override(steps=1, spoken=0))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_resuming_elsewhere(features: Features, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    other = make_features(tmp_path / "other", 9)
    with (
        open_teacher_run(folder, True, Ranks()) as place,
        pytest.raises(
            InputError,
            match=rf"started on another dataset \(digest {features.digest[:12]}, 24 utterances\) "
            rf"than this one \({other.digest[:12]}, 9\): give that one, or start another run",
        ),
    ):
        begin(other, folder, CONFIG, place)
    with open_teacher_run(folder, True, Ranks()) as place:
        state = replace(place.state, threads=7)  # type: ignore[type-var]
        loop = begin(features, folder, CONFIG, replace(place, state=state))
        here = "1 x 1 processes and threads in 32-true"
        before = "1 x 7 processes and threads in 32-true"
        assert f"{here} where the run had {before}: it goes on" in loop.plan()
        state = replace(place.state, precision="bf16-mixed")  # type: ignore[type-var]
        loop = begin(features, folder, CONFIG, replace(place, state=state))
        before = "1 x 1 processes and threads in bf16-mixed"
        assert f"{here} where the run had {before}: it goes on" in loop.plan()
        assert "going on after step 12" in loop.plan()


def test_the_plan(features: Features, tmp_path: Path) -> None:
    with open_teacher_run(tmp_path / "run", False, Ranks()) as place:
        config = tiny_config(longest_frames=80)
        frozen = {"name": "theirs", "frozen": ["encoder"]}
        plan = begin(features, tmp_path / "run", config, place, origin=frozen).plan()
    for part in (
        "24 utterances: ", " held out, 1 too long or too short", "from      theirs", "'tiny', ",
        "parameters, ", "of them learn", "cpu, 1 process of 1 thread", "20 of 400 frames",
    ):  # fmt: skip
        assert part in plan


def test_too_few_utterances(features: Features, tmp_path: Path) -> None:
    with (
        open_teacher_run(tmp_path / "run", False, Ranks()) as place,
        pytest.raises(
            InputError, match=r"1 of 24 utterances have at most 26 frames.* expected at least 2"
        ),
    ):
        begin(features, tmp_path / "run", tiny_config(longest_frames=26), place)
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_time_of_all_sittings_counts(features: Features, tmp_path: Path) -> None:
    folder, config = tmp_path / "run", CONFIG.override(steps=1, spoken=0)
    train(features, folder, config)
    with open_teacher_run(folder, True, Ranks()) as place:
        place = replace(place, state=replace(place.state, seconds=1000.0))  # type: ignore[type-var]
        assert begin(features, folder, config.override(steps=2), place).run().seconds > 1000


# What is not finite


def spoil_losses(patch: pytest.MonkeyPatch, steps: set[int], in_gradient: bool) -> None:
    """Makes the loss (or only its gradient) of these steps not a number, from 1 on."""
    losses, count = objective.teacher_losses, 0

    def spoiled(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        nonlocal count
        terms = losses(*arguments, **options)
        if not torch.is_grad_enabled():  # validation
            return terms
        count += 1
        if count not in steps:
            return terms
        if in_gradient:
            terms["mel"].register_hook(lambda gradient: gradient * math.nan)
            return terms
        return {**terms, "mel": terms["mel"] * math.inf}

    patch.setattr(objective, "teacher_losses", spoiled)


@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_step_that_is_not_finite_is_left_out(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_gradient: bool
) -> None:
    spoil_losses(monkeypatch, {3, 5, 6}, in_gradient)
    before: list[dict[str, Tensor]] = []
    take = TeacherTraining._take_step

    def watched(self: TeacherTraining, batch: Any) -> dict[str, Any]:
        before.append({n: p.detach().clone() for n, p in self.model.named_parameters()})
        return take(self, batch)

    monkeypatch.setattr(TeacherTraining, "_take_step", watched)
    result = train(features, tmp_path / "run", CONFIG.override(steps=8))
    history = read_history(tmp_path / "run")
    assert [line["step"] for line in history if line["skipped"]] == [3, 5, 6]
    assert result.skipped == 3
    assert history[2]["gradient_norm"] is None
    assert (history[2]["loss"] is None) is not in_gradient
    for step in range(1, 8):
        same = all(torch.equal(before[step][n], before[step - 1][n]) for n in before[0])
        assert same is (step in {3, 5, 6})
    assert all(tensor.isfinite().all() for tensor in tensors_of(tmp_path / "run").values())
    assert load_teacher_state(tmp_path / "run")[0].average_steps == 5


@pytest.mark.parametrize("guide", ["path", "diagonal"])
def test_a_batch_that_is_not_finite_leaves_no_trace(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guide: str
) -> None:
    """Not in the weights, and not in what batch norm remembers of its inputs."""
    take = TeacherTraining._take_step

    def poisoned(self: TeacherTraining, batch: Any) -> dict[str, Any]:
        if self.step in (1, 3):
            batch.mel[0, 5:] = math.nan
        return take(self, batch)

    monkeypatch.setattr(TeacherTraining, "_take_step", poisoned)
    config = CONFIG.override(steps=5, guide=guide)
    result = train(features, tmp_path / "run", config)
    history = read_history(tmp_path / "run")
    assert [line["skipped"] for line in history] == [False, True, False, True, False]
    for name, tensor in tensors_of(tmp_path / "run").items():
        assert tensor.isfinite().all(), name
    assert history[-1]["validation"]["loss"] is not None
    assert result.teacher is not None


def test_many_steps_in_a_row_that_are_not_finite_end_it(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, set(range(5, 100)), in_gradient=False)
    folder = tmp_path / "run"
    with pytest.raises(
        InputError,
        match=rf"not finite in {MOST_SKIPPED} steps in a row \(up to step 14\), so training has "
        rf"stopped: start another run with a lower --learning-rate .*; {folder} keeps what",
    ):
        train(features, folder, CONFIG.override(steps=50, spoken=0))
    assert load_teacher_state(folder)[0].skipped_in_a_row < MOST_SKIPPED
    assert load_teacher_state(folder)[0].step == 12


# The average of the weights, and the best teacher


def test_the_average_equals_its_formula(features: Features, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    config = tiny_config(steps=7, ema_decay=0.4, spoken=0, validate_every=3)
    with (
        open_teacher_run(tmp_path / "run", False, Ranks()) as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        loop = begin(features, tmp_path / "run", config, place)
        take = TeacherTraining._take_step

        def state() -> dict[str, Tensor]:
            return {n: v.detach().clone() for n, v in loop.module.state_dict().items()}

        def watched(self: TeacherTraining, batch: Any) -> dict[str, Any]:
            line = take(self, batch)
            seen.append(state())
            return line

        seen.append(state())
        patch.setattr(TeacherTraining, "_take_step", watched)
        loop.run()
    saved = tensors_of(tmp_path / "run")
    assert any("running_mean" in name for name in loop.average.values)
    for name, value in loop.average.values.items():
        expected = seen[0][name].double()
        for step in range(1, 8):
            decay = min(0.4, (1 + step) / (10 + step))  # at first it follows more closely: 2 / 11
            expected = decay * expected + (1 - decay) * seen[step][name].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(saved[f"average/{name}"], value)


def test_the_average_is_lent_and_taken_back() -> None:
    model = draw_tacotron2(MODEL)
    average = WeightAverage(model, 0.5)
    own = {n: v.clone() for n, v in draw_tacotron2(MODEL, 7).state_dict().items()}
    model.load_state_dict(own)

    def fail() -> None:
        with average.applied(model):
            for name, value in average.values.items():
                assert torch.equal(model.state_dict()[name], value)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_validation_is_of_the_average_and_disturbs_nothing(
    features: Features, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[TeacherTraining] = []
    seen: list[int] = []
    validate, read = TeacherTraining._validate, validation.read_along

    def watched(self: TeacherTraining) -> dict[str, float | None]:
        loops[:] = [self]
        own = {n: v.clone() for n, v in self.module.state_dict().items()}
        result = validate(self)
        assert all(torch.equal(v, own[n]) for n, v in self.module.state_dict().items())
        assert self.module.training
        assert self.model.postnet.training
        return result

    def checked(model: Tacotron2, batches: Any, *rest: Any) -> dict[str, float]:
        assert not model.training
        average = loops[0].average.values
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(value, average[f"model.{name}"])
        batches = list(batches)
        frames = [t for batch in batches for t in batch.frames.tolist()]
        assert sorted(frames) == sorted(features.frames[i] for i in loops[0].held_out)
        seen.append(loops[0].step)
        return read(model, batches, *rest)

    monkeypatch.setattr(TeacherTraining, "_validate", watched)
    monkeypatch.setattr(validation, "read_along", checked)
    train(features, tmp_path / "run", CONFIG.override(validate_every=5))
    assert seen == [5, 10, 12]
    # The training is the same, whenever and however often it was validated.
    ours, theirs = tensors_of(tmp_path / "run"), tensors_of(whole)
    for name, value in ours.items():
        if not name.startswith("random/"):
            assert torch.equal(value, theirs[name]), name
    assert read_history(tmp_path / "run")[-1] == read_history(whole)[-1]


def plan_validations(
    patch: pytest.MonkeyPatch, results: list[tuple[float, float]]
) -> Callable[[], int]:
    """Makes the validations have these (shares of usable utterances, losses)."""
    planned = iter(results)
    now = [(0.0, 0.0)]

    def read(*_: Any) -> dict[str, float]:
        now[0] = next(planned)
        return {"mel": now[0][1] / 2, "mel_absolute": now[0][1] / 4, "gate": now[0][1] / 4}

    patch.setattr(validation, "read_along", read)
    patch.setattr(validation, "speak_freely", lambda *_: [])
    patch.setattr(
        validation, "summarize", lambda runs, asked: {"stopped": 1.0, "usable": now[0][0]}
    )
    return lambda: len(list(planned))


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([(0.5, 3.0), (0.5, 2.0), (0.5, 2.5)], 2),  # what reads best
        ([(0.5, 3.0), (0.8, 9.0), (0.75, 1.0)], 2),  # but what speaks best comes first
        ([(0.52, 3.0), (0.50, 2.0), (0.54, 4.0)], 2),  # shares within 5% are alike
        ([(0.0, 3.0), (0.0, math.nan), (1.0, math.inf)], 1),  # never what is not finite
        ([(0.0, 2.0), (0.0, 2.0), (0.0, 2.0)], 1),  # the first of equals
    ],
)
def test_the_best_teacher_is_kept(
    features: Features,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: list[tuple[float, float]],
    best: int,
) -> None:
    rest = plan_validations(monkeypatch, results)
    folder, config = tmp_path / "run", CONFIG.override(steps=3, validate_every=1)
    train(features, folder, CONFIG.override(steps=2, validate_every=1))
    result = train(features, folder, config, resume=True)  # the best is remembered
    assert rest() == 0
    usable, loss = results[best - 1]
    assert result.best_step == best
    assert result.best_score == pytest.approx([math.floor(usable * 20) / 20, -loss])
    facts = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
    assert facts["training"]["step"] == best
    assert facts["training"]["validation"]["usable"] == usable
    assert facts["training"]["validation"]["loss"] == pytest.approx(loss)


def test_without_a_finite_validation_there_is_no_teacher(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_validations(monkeypatch, [(0.5, math.nan)])
    result = train(features, tmp_path / "run", CONFIG.override(steps=1))
    assert (result.best_step, result.best_score, result.teacher) == (None, None, None)
    assert not (tmp_path / "run" / "teacher.safetensors").exists()
    assert read_history(tmp_path / "run")[-1]["validation"]["loss"] is None


def test_the_teacher_is_loaded_like_any_other(
    features: Features, whole: Path, tmp_path: Path
) -> None:
    best = load_teacher_state(whole)[0].best_step
    assert best is not None
    # the average at the best step, from a run that ends there
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, best)
        train(features, tmp_path / "run", CONFIG)
    average = tensors_of(tmp_path / "run")
    teacher = load_tacotron2(whole / "teacher.safetensors")
    assert teacher.config == MODEL
    assert not teacher.training
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, average[f"average/model.{name}"].half().float()), name
    facts = json.loads((whole / "teacher.json").read_text(encoding="utf-8"))
    assert facts["format"] == "tacotron2"
    assert facts["parameters"] == sum(p.numel() for p in teacher.parameters())
    assert facts["config"] == MODEL.as_dict()
    assert facts["audio"] == teacher.audio_facts
    history = {line["step"]: line for line in read_history(whole)}
    assert facts["training"]["validation"] == history[best]["validation"]
    assert facts["training"]["utterances"] == 19
    # where preprocess.py looks when it is given no --teacher
    (tmp_path / "pretrained").mkdir()
    for name in ("teacher.safetensors", "teacher.json"):
        shutil.copy(whole / name, tmp_path / "pretrained" / name)
    found = default_checkpoint(tmp_path / "pretrained")
    assert load_tacotron2(found).source["sha256"] == teacher.source["sha256"]


def test_a_damaged_teacher_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in ("teacher.safetensors", "teacher.json"):
        shutil.copy(whole / name, tmp_path / name)
    path = tmp_path / "teacher.safetensors"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"checksum|sha256|damaged"):
        load_tacotron2(path)


# Fine-tuning


@pytest.mark.parametrize(
    "frozen", [["embedding", "encoder"], ["attention", "decoder"], ["postnet", "embedding"]]
)
def test_what_is_frozen_stays_as_it_is(
    features: Features, tmp_path: Path, frozen: list[str]
) -> None:
    model, folder = draw_tacotron2(MODEL), tmp_path / "run"
    before = {n: v.clone() for n, v in model.state_dict().items()}
    origin = {"name": "recipe", "sha256": "0", "frozen": frozen}
    config = CONFIG.override(steps=6)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 3)
        train(features, folder, config, model=model, origin=origin)
    train(features, folder, config, resume=True)  # also after resuming
    prefixes = tuple(prefix for part in frozen for prefix in PARTS[part])
    state, teacher = tensors_of(folder), load_tacotron2(folder / "teacher.safetensors")
    kept = set()
    for name, value in before.items():
        if name.startswith(prefixes):
            kept.add(name)
            assert torch.equal(state[f"module/model.{name}"], value), name
            if value.is_floating_point():
                assert torch.equal(state[f"average/model.{name}"], value), name
                assert torch.equal(teacher.state_dict()[name], value.half().float()), name
            assert f"optimizer/exp_avg/model.{name}" not in state
        elif value.is_floating_point():
            assert not torch.equal(state[f"module/model.{name}"], value), name
    if {"encoder", "postnet"} & set(frozen):
        assert any("running_var" in name for name in kept)
    facts = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
    assert facts["training"]["from"] == origin


def test_resuming_with_frozen_parts_changes_nothing(features: Features, tmp_path: Path) -> None:
    origin = {"name": "recipe", "sha256": "0", "frozen": ["embedding", "encoder"]}
    config = CONFIG.override(steps=8)
    train(features, tmp_path / "one", config, model=draw_tacotron2(MODEL), origin=origin)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 5)
        train(features, tmp_path / "two", config, model=draw_tacotron2(MODEL), origin=origin)
    train(features, tmp_path / "two", config, resume=True)
    assert_same(tmp_path / "two", tmp_path / "one")


def test_the_parts_are_the_whole_model() -> None:
    prefixes = [prefix for part in PARTS.values() for prefix in part]
    for name, _ in draw_tacotron2(MODEL).named_parameters():
        assert sum(name.startswith(prefix) for prefix in prefixes) == 1, name


# Validation


def test_the_configuration_says_what_the_convolutions_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = draw_tacotron2(MODEL)
    assert model.encoder.dropout == model.postnet.dropout == 0.5  # as published
    config = replace(CONFIG.training, encoder_dropout=0.25, postnet_dropout=0.0)
    objective.Objective(model, config)
    model.train()
    asked: list[float] = []
    keep = layers.keep_factors
    monkeypatch.setattr(
        layers,
        "keep_factors",
        lambda shape, share, like: (asked.append(share), keep(shape, share, like))[1],
    )
    symbols, mel, frames = torch.randn(2, 9, 16), torch.randn(2, 30, 80), torch.tensor([30, 30])
    model.encoder.convolve(symbols)
    assert asked == [0.25] * MODEL.encoder_n_convolutions
    assert torch.equal(model.postnet(mel, frames), model.postnet(mel, frames))
    assert len(asked) == MODEL.encoder_n_convolutions  # nothing more
    model.postnet.dropout = 0.5
    assert not torch.equal(model.postnet(mel, frames), model.postnet(mel, frames))


def test_frames_go_unheard_while_the_attention_is_led(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = draw_tacotron2(MODEL).train(), []
    forward = model.forward

    def noting(*arguments: Any, **options: Any) -> TeacherOutput:
        asked.append((options["lead"], options["frame_dropout"]))
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", noting)
    config = replace(CONFIG.training, led_frame_dropout=0.5, frame_dropout=0.125)
    module = objective.Objective(model, config)
    batch = Sealed(next(iter(validation_batches(features, range(4), 9999))))
    for led in (1.0, 0.5, 0.0):
        assert all(term.isfinite() for term in module(batch, led).values())
    assert [share for _, share in asked] == [0.5, 0.3125, 0.125]
    assert [lead.share if lead else 0.0 for lead, _ in asked] == [1.0, 0.5, 0.0]


def test_reading_along_does_not_depend_on_the_batches(features: Features) -> None:
    model = draw_tacotron2(MODEL)
    config = replace(CONFIG.training, prenet_dropout=0.0)
    state = torch.get_rng_state()
    results = [
        read_along(model, validation_batches(features, range(24), frames), config, 5)
        for frames in (1, 300, 9999)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)
    # by hand, one utterance after the other
    squares = frames = 0.0
    for i in range(24):
        example = features[i]
        with torch.no_grad():
            output = model(
                example.tokens[None], torch.tensor([len(example.tokens)]), example.mel[None],
                torch.tensor([len(example.mel)]), prenet_dropout=0.0,
            )  # fmt: skip
        squares += float((output.mel[0] - example.mel).double().square().sum()) / 80
        frames += len(example.mel)
    assert results[0]["mel"] == pytest.approx(squares / frames, rel=1e-4)
    with_dropout = [
        read_along(model, validation_batches(features, range(9), 300), CONFIG.training, seed)
        for seed in (1, 1, 2)
    ]
    assert with_dropout[0] == with_dropout[1] != with_dropout[2]


def test_speaking_freely(features: Features) -> None:
    runs = speak_freely(tiny_teacher(12), features, [3, 1, 2], seed=0)
    assert [run.id for run in runs] == ["u03", "u01", "u02"]
    assert [run.spoken.frames for run in runs] == [12, 12, 12]
    assert all(run.spoken.stopped for run in runs)
    for run, i in zip(runs, (3, 1, 2), strict=True):
        assert run.spoken.request.tokens.tolist() == features[i].tokens.tolist()
        assert run.scores == score_alignment(run.spoken.attention)
    again = speak_freely(tiny_teacher(12), features, [1], seed=0)[0]
    assert torch.equal(again.spoken.mel, runs[1].spoken.mel)
    # one that never stops is cut off: a second, and 20 frames a symbol
    (run,) = speak_freely(tiny_teacher(100_000), features, [6], seed=0)
    assert (run.spoken.stopped, run.spoken.frames) == (False, 86 + 20 * features.token_counts[6])
    assert speak_freely(tiny_teacher(12), features, [], seed=0) == []


def test_what_cannot_be_scored_is_not_usable(features: Features) -> None:
    broken = tiny_teacher(12)
    with torch.no_grad():
        broken.decoder.attention_layer.v.linear_layer.weight.fill_(math.nan)
    assert speak_freely(broken, features, [1, 2], seed=0) == []
    assert summarize([], 2) == {"stopped": 0.0, "usable": 0.0}


def free_run(attention: list[int], stopped: bool = True, tokens: int = 4) -> FreeRun:
    """An utterance whose attention is on these tokens."""
    weights = torch.eye(tokens)[attention]

    class Stub:
        pass

    spoken = Stub()
    spoken.stopped, spoken.attention = stopped, weights  # type: ignore[attr-defined]
    return FreeRun("x", spoken, score_alignment(weights))  # type: ignore[arg-type]


def test_what_is_usable() -> None:
    good = free_run([0, 0, 1, 2, 2, 3])
    endless = free_run([0, 1, 2, 3], stopped=False)
    incomplete = free_run([0, 1, 1, 2, 2])
    jumping = free_run([0, 1, 2, 3, 0, 1, 2, 3])
    runs = [good, endless, incomplete, jumping]
    assert [run.usable for run in runs] == [True, False, False, False]
    figures = summarize(runs, 5)  # of a fifth, no score could be had
    assert figures["stopped"] == pytest.approx(3 / 5)
    assert figures["usable"] == pytest.approx(1 / 5)
    assert figures["coverage"] == pytest.approx((1 + 1 + 0.75 + 1) / 4)
    assert figures["focus"] == pytest.approx(1.0)


# Pictures


def test_pictures_of_the_training(features: Features, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(features, folder, CONFIG.override(steps=2, spoken=2, validate_every=1))
    for name, shape in (("curves.png", (1080, 324)), ("attention.png", (576, 540))):
        with Image.open(folder / name) as file:
            assert file.format == "PNG"
            picture = np.asarray(file.convert("L"))
        assert picture.shape[::-1] == shape
        assert picture.std() > 5
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_pictures_of_nothing(tmp_path: Path) -> None:
    figure = draw_curves([{"step": 1, "validation": {"mel": None}}, {"step": 2}])
    assert [len(line.get_xdata()) for ax in figure.axes for line in ax.lines] == [0] * 9
    TeacherCurves(tmp_path, 0, tensorboard=False).show(1, [])
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_curves_and_pictures(features: Features, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    train(features, tmp_path / "run", CONFIG.override(steps=2), tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in events.Scalars("validation/usable")] == [2]
    assert [event.step for event in events.Images("validation/attention")] == [2]


# Other precision and devices


def test_bfloat16(features: Features, tmp_path: Path) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("needs a PyTorch whose CPU code has bfloat16")
    result = train(features, tmp_path / "run", CONFIG, precision="bf16-mixed")
    exact = train(features, tmp_path / "exact", CONFIG)
    assert result.skipped == exact.skipped == 0
    ours, theirs = read_history(tmp_path / "run"), read_history(tmp_path / "exact")
    assert ours != theirs
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.03)
    for name, value in tensors_of(tmp_path / "run").items():
        if value.is_floating_point():
            assert value.dtype == torch.float32, name


@pytest.mark.requires_cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu(features: Features, tmp_path: Path, precision: str) -> None:
    config = CONFIG.override(steps=30, learning_rate=0.02)
    result = train(features, tmp_path / "run", config, device="cuda", precision=precision)
    history = read_history(tmp_path / "run")
    assert result.skipped == 0
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def test_saving_a_teacher_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    for seed in (1, 2):
        save_teacher(path, draw_tacotron2(MODEL, seed), {"note": seed})
        assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["note"] == seed
        expected = draw_tacotron2(MODEL, seed).embedding.weight.half().float()
        assert torch.equal(load_tacotron2(path).embedding.weight, expected)
