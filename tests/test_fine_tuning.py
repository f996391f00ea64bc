"""train.py --from: a voice learns from another teacher, but for the parts that stay as they are."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train
from lightspeech.checkpoint import load_voice
from lightspeech.errors import InputError
from lightspeech.files import sha256, write_json
from lightspeech.model import LightSpeech
from lightspeech.parts import check_frozen, children_of, freeze
from lightspeech.run_folder import open_run, read_history
from lightspeech.store import LabelStore
from lightspeech.training import Training, begin_with, parts_of_the_student
from lightspeech.training_state import load_state
from tests.synthetic_store import MEMORY_SIZE, make_store, tiny_config

PARTS = ["embedding", "encoder", "projection", "duration_predictor", "decoder", "output"]
FEW = {"steps": 6, "validate_every": 3}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a voice, the labels of another teacher, and few.json for them."""
    monkeypatch.chdir(tmp_path)
    store = make_store(tmp_path / "old_store")
    with open_run(tmp_path / "voice", False, load_state) as place:
        Training(store, place, tiny_config(steps=5)).run()
    make_store(tmp_path / "store", utterances=9, teacher="b" * 64)
    write_json("few.json", {"name": "few", "training": vars(tiny_config(**FEW).training)})
    return tmp_path


@pytest.fixture
def call(run_in_process: Callable[..., tuple[int, str, str]]) -> Any:
    """Runs train.py in this process: (exit status, standard output, standard error)."""
    return partial(run_in_process, train.main, "train.py", "--device", "cpu")


def weights_of(voice: str) -> dict[str, torch.Tensor]:
    return load_voice(voice)[0].state_dict()


def assert_only_these_stayed(frozen: list[str], run: str = "run") -> None:
    before = weights_of("voice")
    state, after = load_state(Path(run))[0].tensors, weights_of(run)
    for name, value in before.items():
        kept = name.split(".")[0] in frozen
        assert torch.equal(after[name], value) is kept, name
        assert torch.equal(state[f"module/student.{name}"], value) is kept, name
        assert (f"optimizer/exp_avg/student.{name}" in state) is not kept, name


@pytest.mark.parametrize("frozen", [[], ["embedding", "encoder", "projection"], ["decoder"]])
def test_what_is_frozen_stays_and_the_rest_learns(here: Path, call: Any, frozen: list[str]) -> None:
    options = ["--freeze", *frozen] if frozen else []
    status, out, err = call("--from", "voice", "--config", "few.json", "--out", "run", *options)
    assert status == 0, err
    kept = f"; {', '.join(frozen)} stay as they are" if frozen else ""
    assert f"from      voice, and its layers{kept}\n" in out
    assert_only_these_stayed(frozen)
    assert load_voice("run")[0].config == tiny_config().model  # few.json says nothing of layers
    origin = {
        "name": "voice",
        "sha256": sha256("voice/best.safetensors"),
        "step": 5,
        "teacher": {"name": "synthetic", "sha256": "a" * 64},
        "frozen": frozen,
    }
    facts = json.loads(Path("run/voice.json").read_text(encoding="utf-8"))
    assert facts["from"] == load_state(Path("run"))[0].origin == origin
    assert facts["teacher"]["sha256"] == "b" * 64
    assert load_voice("voice")[1]["from"] == {}


def test_it_begins_where_the_voice_is(here: Path, call: Any) -> None:
    assert call("--from", "voice/best.safetensors", "--config", "few.json", "--out", "run")[0] == 0
    store = LabelStore.open("store")
    assert store.memory_size == MEMORY_SIZE != tiny_config().model.encoder_size
    with open_run(Path("other"), False, load_state) as place:
        config = replace(tiny_config(**FEW), name="few")
        fresh = Training(store, place, config, beginning=begin_with(Path("voice"), []))
    for name, value in weights_of("voice").items():
        assert torch.equal(fresh.student.state_dict()[name], value)
    losses = fresh._losses(next(fresh._batches()))
    assert losses["mel_squared"].item() == pytest.approx(
        read_history(Path("run"))[0]["mel_squared"]
    )


def test_resuming_goes_on_with_the_frozen_parts(here: Path, call: Any) -> None:
    options = ("--from", "voice", "--config", "few.json", "--freeze", "output", "encoder")
    assert call(*options, "--out", "whole")[0] == 0
    take = Training._take_step

    def take_and_stop(self: Training, batch: Any) -> dict[str, Any]:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_take_step", take_and_stop)
        status, out, _ = call(*options, "--out", "run")
    assert status == 128 + signal.SIGINT
    again = "--device cpu --config few.json --out run --resume"
    assert f"go on    python train.py {again}\n" in out
    status, out, err = call(*again.split()[2:])
    assert status == 0, err
    assert "from      voice, and its layers; encoder, output stay as they are" in out
    assert_only_these_stayed(["output", "encoder"])
    assert read_history(Path("run")) == read_history(Path("whole"))
    for name in ("best.safetensors", "config.json"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    ours, theirs = (load_state(Path(name))[0].tensors for name in ("run", "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_voice_of_other_layers_with_a_named_configuration(here: Path, call: Any) -> None:
    options = ("--steps", "2", "--batch-size", "3")
    assert call("--from", "voice", "--config", "quick", "--out", "run", *options)[0] == 0
    config = load_state(Path("run"))[0].config
    assert (config.name, config.model) == ("quick", tiny_config().model)
    assert config.training.mel_absolute_weight == 1.0  # quick's
    # the same words go on
    status, _, err = call("--config", "quick", "--out", "run", "--resume", "--steps", "3")
    assert status == 1  # the batch size is missing
    assert "for training.batch_size 16, not 3" in err
    options = ("--steps", "3", "--batch-size", "3")
    assert call("--config", "quick", "--out", "run", "--resume", *options)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--freeze", "encoder"], "--freeze keeps parts of a voice as they are: name it with"),
        (["--from", "nowhere"], "no voice at nowhere"),
        (["--from", "few.json"], "few.json is damaged, or no safetensors file"),
        (["--from", "voice/last.safetensors"], "is of the kind 'training', expected a LightSpeech"),
        (
            ["--from", "voice", "--freeze", "encodr", "decoder"],
            "--freeze encodr: no such part; expected embedding, encoder, projection, duration_",
        ),
        (["--from", "voice", "--freeze", *PARTS], "names every part, so that nothing would learn"),
        (
            ["--from", "voice", "--config", "wide.json"],
            "wide.json differs from what to begin with (model.decoder_size 64, not 8): take its "
            "model out, and that is kept",
        ),
        (["--out", "voice", "--resume", "--from", "voice"], "leave out --from, --freeze"),
        (["--out", "voice", "--resume", "--freeze", "encoder"], "leave out --from, --freeze"),
    ],
)
def test_bad_input_is_one_line(here: Path, call: Any, arguments: list[str], message: str) -> None:
    model = {**vars(tiny_config().model), "decoder_size": 64}
    write_json("wide.json", {"model": model})
    before = sorted(path for path in here.rglob("*") if path.is_file())
    status, out, err = call(*arguments)
    assert status == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(path for path in here.rglob("*") if path.is_file()) == before


def test_nothing_that_learns_has_a_part_in_the_loss(here: Path, call: Any) -> None:
    settings = {**vars(tiny_config(**FEW).training), "duration_weight": 0, "memory_weight": 0}
    write_json("mel.json", {"training": settings})
    frozen = [part for part in PARTS if part != "duration_predictor"]
    status, _, err = call("--from", "voice", "--config", "mel.json", "--freeze", *frozen)
    assert status == 1
    assert "error: nothing that learns has a part in the loss: freeze less, or give" in err


def test_help_names_the_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        train.main()
    shown = capsys.readouterr().out
    assert f"such as {', '.join(PARTS)}" in shown
    assert "torchrun" in shown


def test_the_parts_are_the_children_that_have_weights() -> None:
    assert parts_of_the_student() == PARTS

    class Longer(LightSpeech):
        def __init__(self) -> None:
            super().__init__(tiny_config().model)
            self.pitch = nn.Linear(2, 2)
            self.nonlinearity = nn.ReLU()

    model = Longer()
    assert list(children_of(model)) == [*PARTS, "pitch"]
    freeze(model, children_of(model), ["pitch", "output"])
    still = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert still == {"pitch", "output"}
    with pytest.raises(InputError, match="--freeze a b: no such part; expected embedding, "):
        check_frozen(["pitch", "b", "a"], children_of(model))
