"""Configurations: wrong ones are refused with all that is wrong, and no setting is idle."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lightspeech.config import CONFIGS, Config, ModelConfig, TrainingConfig
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.settings import load_configuration
from tests.conftest import ROOT


def test_the_published_recipe() -> None:
    config = load_configuration("lightspeech", CONFIGS)
    assert config == Config()
    training = config.training
    assert (training.learning_rate, training.weight_decay, training.clip_norm) == (1e-3, 1e-6, 1.0)
    assert training.batch_size == 64
    assert training.mel_squared_weight == training.duration_weight == training.memory_weight == 1.0
    assert training.mel_absolute_weight == 0.0
    assert training.final_learning_rate == training.learning_rate  # no decay
    assert (training.ema_decay, training.patience) == (0.0, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_survive_a_file(tmp_path: Path, name: str) -> None:
    config = load_configuration(name, CONFIGS)
    assert config.name == name
    write_json(tmp_path / "config.json", config.as_dict())
    assert load_configuration(tmp_path / "config.json", CONFIGS) == config


def test_a_file_need_not_say_everything(tmp_path: Path) -> None:
    write_json(tmp_path / "mine.json", {"training": {"steps": 5}})
    config = load_configuration(tmp_path / "mine.json", CONFIGS)
    assert config == replace(Config(name="mine"), training=TrainingConfig(steps=5))


def test_layers_that_are_given(tmp_path: Path) -> None:
    layers = ModelConfig(decoder_size=64)
    quick = load_configuration("quick", CONFIGS, model=layers)
    assert quick == replace(CONFIGS["quick"], model=layers)
    path = tmp_path / "mine.json"
    for model in ({}, {"model": {"decoder_size": 64}}):
        write_json(path, {"training": {"steps": 5}, **model})
        config = load_configuration(path, CONFIGS, model=layers)
        assert (config.model, config.training) == (layers, TrainingConfig(steps=5))
    write_json(path, {"model": {"decoder_size": 32}})
    with pytest.raises(
        InputError,
        match=r"mine\.json differs from .* \(model\.decoder_size 32, not 64\): take its model out",
    ):
        load_configuration(path, CONFIGS, model=layers)
    write_json(path, [])
    with pytest.raises(InputError, match="expected a JSON object"):
        load_configuration(path, CONFIGS, model=layers)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "mine holds no configuration: expected a JSON object with name, model and training"),
        ({"modell": {}}, "mine has unknown settings: modell"),
        ({"model": [1]}, "mine: model must be an object"),
        ({"training": {"step": 3}}, r"mine has unknown settings: training\.step"),
        ({"training": {"steps": 0}}, "steps must be a whole number of at least 1, not 0"),
        ({"training": {"steps": True}}, "steps must be a whole number of at least 1, not True"),
        ({"training": {"steps": 2.5}}, r"steps must be a whole number of at least 1, not 2\.5"),
        ({"training": {"warmup_steps": -1}}, "warmup_steps must be a whole number of at least 0"),
        (
            {"training": {"learning_rate": 0}},
            "learning_rate must be a number above 0, and",
        ),
        (
            {"training": {"clip_norm": float("inf")}},
            "clip_norm must be .* above 0, and finite, not inf",
        ),
        (
            {"training": {"weight_decay": float("nan")}},
            "weight_decay must be .* 0, and finite, not nan",
        ),
        ({"training": {"memory_weight": "1"}}, "memory_weight must be a number .*, not '1'"),
        (
            {"training": {"validation_share": 1}},
            "validation_share must be .* above 0 and below 1, not 1",
        ),
        (
            {"training": {"ema_decay": 1}},
            "ema_decay must be .* at least 0 and below 1, not 1",
        ),
        ({"training": {"ema_decay": -0.1}}, "ema_decay must be a number of at least 0 and below 1"),
        ({"training": {"patience": 1.5}}, "patience must be a whole number of at least 0"),
        ({"training": {"mel_squared_weight": 0}}, "one of mel_squared_weight and mel_absolute_"),
        ({"model": {"n_mels": 0}}, "n_mels must be a whole number, 1 to 16384, not 0"),
        ({"model": {"encoder_size": 5}}, r"encoder_size must be even \(two directions\), not 5"),
    ],
)
def test_wrong_values_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict(values, "mine")


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"steps must be .*; batch_size must be .*; seed must be"):
        TrainingConfig(steps=0, batch_size=0, seed=-1)


@pytest.mark.parametrize("part", [ModelConfig, TrainingConfig])
def test_every_setting_is_read_somewhere(part: type) -> None:
    sources = [path for path in (ROOT / "lightspeech").rglob("*.py") if path.name != "config.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    unread = [f.name for f in fields(part) if not re.search(rf"\.{f.name}\b", code)]
    assert not unread
