"""A teacher's configuration: every field checked, stored as JSON, and its schedules."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.settings import load_configuration
from lightspeech.teacher.config import (
    CONFIGS,
    SMALL,
    TeacherConfig,
    TeacherTrainingConfig,
)
from tacotron2 import Tacotron2, Tacotron2Config
from tests.tiny_dataset import MODEL, tiny_config

FIELDS = {f.name: f.type for f in fields(TeacherTrainingConfig)}
ZERO_IS_FINE = {
    "short_steps", "warmup_steps", "decay_start", "guide_hold", "lead_hold", "lead_end", "seed",
    "spoken", "weight_decay", "ema_decay", "encoder_dropout", "postnet_dropout", "prenet_dropout",
    "frame_dropout", "led_frame_dropout", "mel_weight", "mel_before_postnet_weight",
    "mel_absolute_weight", "gate_weight", "gate_end_weight", "guide_weight", "guide_floor",
    "order_weight", "validation_share",
}  # fmt: skip
BELOW_ONE = {
    "ema_decay", "encoder_dropout", "postnet_dropout", "prenet_dropout", "frame_dropout",
    "led_frame_dropout", "validation_share",
}  # fmt: skip


def wrong_values(name: str) -> list[Any]:
    """What must be refused of a field."""
    if name in ("decay", "guide"):
        return ["linear", "", None, 1, ["cosine"], ["path"]]
    wrong: list[Any] = [-1, True, False, "1", None, [1]]
    if FIELDS[name] == "int":
        wrong += [1.5, 2.0, math.nan]
    else:
        wrong += [-1e-9, math.nan, math.inf, -math.inf]
    wrong += [1, 1.0, 7] if name in BELOW_ONE else []
    return wrong + ([] if name in ZERO_IS_FINE else [0])


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_checked(name: str) -> None:
    for value in wrong_values(name):
        with pytest.raises(InputError, match=rf"^teacher training configuration: {name} must be"):
            TeacherTrainingConfig(**{name: value})
    if name in ZERO_IS_FINE:
        values: dict[str, Any] = {name: 0}
        TeacherTrainingConfig(**values)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        TeacherTrainingConfig(steps=0, decay="linear", clip_norm=0, ema_decay=1.0, seed=-3)
    assert str(caught.value) == (
        "teacher training configuration: steps must be a whole number of at least 1, not 0; "
        "decay must be one of cosine, exponential, not 'linear'; clip_norm must be a number "
        "above 0, and finite, not 0; ema_decay must be a number of at least 0 and below 1, not "
        "1.0; seed must be a whole number of at least 0, not -3"
    )


def test_a_batch_has_room_for_the_longest_utterance() -> None:
    TeacherTrainingConfig(longest_frames=500, frames_per_step=500)
    with pytest.raises(InputError, match=r"longest_frames \(501\) must not exceed .* \(500\)"):
        TeacherTrainingConfig(longest_frames=501, frames_per_step=500)


@pytest.mark.parametrize("config", [*CONFIGS.values(), tiny_config(decay="exponential", seed=9)])
def test_json_and_back(config: TeacherConfig, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", config.as_dict())
    assert load_configuration(tmp_path / "config.json", CONFIGS) == config
    again = TeacherConfig.from_dict(json.loads(json.dumps(config.as_dict())), "here")
    assert again == config
    assert again.differences(config) == []


def test_what_a_file_leaves_out_is_the_published_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"training": {"steps": 7}, "model": {"prenet_dim": 8}}', encoding="utf-8")
    assert load_configuration(path, CONFIGS) == TeacherConfig(
        "mine", Tacotron2Config(prenet_dim=8), TeacherTrainingConfig(steps=7)
    )
    assert load_configuration("published", CONFIGS) == TeacherConfig()
    assert load_configuration("published", CONFIGS).model == Tacotron2Config()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no configuration: expected a JSON object with name, model and training"),
        (None, "holds no configuration"),
        ({"model": 3}, "model must be an object, not 3"),
        ({"training": []}, r"training must be an object, not \[\]"),
        (
            {"modle": {}, "model": {"width": 3}, "training": {"batch_size": 2, "batches": 1}},
            "unknown settings: model.width, modle, training.batch_size, training.batches$",
        ),
        ({"training": {"steps": "many"}}, "steps must be a whole number of at least 1, not 'many'"),
        ({"model": {"prenet_dim": 0}}, "prenet_dim must be a whole number of at least 1, not 0"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "mine.json"
    write_json(path, content)
    with pytest.raises(InputError, match=message) as caught:
        load_configuration(path, CONFIGS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["learning_rate", "clip_norm", "guide_width"])
def test_a_number_without_measure_is_refused_like_any_other(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(f'{{"training": {{"{field}": 1{"0" * 400}}}}}', encoding="utf-8")
    with pytest.raises(InputError, match=f"{field} must be a number above 0, and finite"):
        load_configuration(path, CONFIGS)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration 'smal': expected one of published, s"):
        load_configuration("smal", CONFIGS)
    with pytest.raises(InputError, match=r"no configuration .*none\.json"):
        load_configuration(tmp_path / "none.json", CONFIGS)


def test_overriding_leaves_the_rest() -> None:
    config = tiny_config()
    changed = config.override(steps=5, seed=None, final_learning_rate=0.25)
    assert changed.training == replace(config.training, steps=5, final_learning_rate=0.25)
    assert (changed.name, changed.model) == (config.name, config.model)
    assert changed.differences(config) == [
        "training.steps 5, not 20",
        "training.final_learning_rate 0.25, not 0.001",
    ]
    other = replace(config, model=replace(MODEL, prenet_dim=4))
    assert other.differences(config) == ["model.prenet_dim 4, not 16"]
    with pytest.raises(InputError, match="steps must be"):
        config.override(steps=0)


def test_the_small_one_has_4_9_million_parameters_and_the_published_28() -> None:
    import torch

    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in Tacotron2(model).parameters())
            for model in (SMALL, CONFIGS["published"].model)
        ]
    assert round(counts[0] / 1e6, 1) == 4.9
    assert round(counts[1] / 1e6, 1) == 28.2
    assert CONFIGS["small"].model == SMALL


# The schedules, by formulas written once more


def by_hand(
    step: int, *, warmup: int, start: int, last: int, high: float, low: float, decay: str
) -> float:
    """A rise to `high` in `warmup` steps, a plateau, and a fall to `low` at step `last`."""
    if step < warmup:
        return high / warmup * (step + 1)
    begin = max(warmup, start)
    if step <= begin:
        return high
    part = (step - begin) / (last - begin)
    if decay == "cosine":
        return low + (high - low) * 0.5 * (1 + math.cos(part * math.pi))
    return math.exp((1 - part) * math.log(high) + part * math.log(low))


@pytest.mark.parametrize("decay", ["cosine", "exponential"])
@pytest.mark.parametrize(("warmup", "start"), [(0, 0), (10, 0), (10, 40), (40, 10)])
def test_the_learning_rate(decay: str, warmup: int, start: int) -> None:
    config = TeacherTrainingConfig(
        steps=101, learning_rate=0.5, final_learning_rate=0.002, decay=decay, warmup_steps=warmup,
        decay_start=start,
    )  # fmt: skip
    for step in range(101):
        assert config.learning_rate_at(step) == pytest.approx(
            by_hand(step, warmup=warmup, start=start, last=100, high=0.5, low=0.002, decay=decay)
        ), step
    assert config.learning_rate_at(100) == pytest.approx(0.002)
    assert config.learning_rate_at(5000) == pytest.approx(0.002)  # it stays


@pytest.mark.parametrize("decay", ["cosine", "exponential"])
def test_a_learning_rate_whose_run_is_shorter_than_its_rise(decay: str) -> None:
    config = TeacherTrainingConfig(steps=5, warmup_steps=10, learning_rate=1.0, decay=decay)
    assert [config.learning_rate_at(step) for step in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    one = TeacherTrainingConfig(steps=1, warmup_steps=0, learning_rate=1.0, decay=decay)
    assert one.learning_rate_at(0) == 1.0


def test_the_guide_holds_then_halves_down_to_its_floor() -> None:
    config = TeacherTrainingConfig(
        guide_weight=8.0, guide_hold=10, guide_half_life=5, guide_floor=0.3
    )
    found = [config.guide_at(step) for step in (0, 9, 10, 15, 20, 25, 30, 33, 34, 10_000)]
    halves = [8.0, 8.0, 8.0, 4.0, 2.0, 1.0, 0.5, 8 * 2 ** (-23 / 5), 0.3, 0.3]
    assert found == pytest.approx(halves)
    endless = TeacherTrainingConfig(guide_floor=0.0)
    assert 0 <= endless.guide_at(10**6) < 1e-9
    assert endless.guide_at(10**7) >= 0  # no overflow


def test_the_attention_is_led_and_then_let_go() -> None:
    config = TeacherTrainingConfig(lead_hold=10, lead_end=30)
    found = [config.lead_at(step) for step in (0, 9, 10, 15, 20, 29, 30, 31, 9999)]
    assert found == pytest.approx([1, 1, 1, 0.75, 0.5, 0.05, 0, 0, 0])
    at_once = TeacherTrainingConfig(lead_hold=10, lead_end=10)
    assert [at_once.lead_at(step) for step in (0, 9, 10)] == [1, 1, 0]
    assert TeacherTrainingConfig(lead_hold=0, lead_end=0).lead_at(0) == 0
    diagonal = TeacherTrainingConfig(guide="diagonal", lead_hold=10, lead_end=30)
    assert diagonal.lead_at(0) == 0  # there is no path to lead it along


def test_fewer_frames_go_unheard_once_the_attention_is_let_go() -> None:
    config = TeacherTrainingConfig(led_frame_dropout=0.5, frame_dropout=0.1)
    assert [config.frame_dropout_at(led) for led in (1, 0.5, 0)] == pytest.approx([0.5, 0.3, 0.1])


def test_long_utterances_come_in_one_after_the_other() -> None:
    config = TeacherTrainingConfig(short_steps=100, short_frames=200, longest_frames=1000)
    assert [config.longest_at(step) for step in (0, 25, 50, 99)] == pytest.approx(
        [200, 400, 600, 992]
    )
    assert config.longest_at(100) == math.inf
    assert TeacherTrainingConfig(short_steps=0).longest_at(0) == math.inf
