"""What the benchmark compares is the same work; its table and its record say what was measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

import lightspeech
from lightspeech import cli
from lightspeech.benchmark import __main__ as command
from lightspeech.benchmark import timing
from lightspeech.benchmark.memory import Memory
from lightspeech.benchmark.rows import Findings, Row, processor_name, table
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.student import two_students
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.benchmark.training import (
    StepTimes,
    describe_steps,
    time_steps,
    training_batch,
)
from lightspeech.config import CONFIGS, DEFAULT_CONFIG
from lightspeech.evaluation.quality import Dnsmos
from lightspeech.run_folder import open_run
from lightspeech.training import Training
from lightspeech.training_state import load_state
from tests.synthetic_store import make_store, tiny_config


@pytest.mark.parametrize("name", ["lightspeech", DEFAULT_CONFIG])
def test_the_two_students_say_the_same(name: str) -> None:
    ours, plain = two_students(CONFIGS[name].model)
    assert type(plain.decoder) is not type(ours.decoder)
    batch = training_batch(2, 5, 23, 512)
    outputs = [
        student(batch.tokens, batch.token_lengths, batch.durations) for student in (ours, plain)
    ]
    torch.testing.assert_close(outputs[0].mel, outputs[1].mel, rtol=1e-5, atol=1e-6)


def test_the_batch_is_full() -> None:
    batch = training_batch(3, 7, 40, 16)
    assert batch.durations.sum(1).tolist() == batch.frames.tolist() == [40, 40, 40]
    assert batch.mel.shape == (3, 40, 80)


def test_what_a_step_spends_its_time_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a clock that only what is planted moves: 3 s the model, 2 s Adam, 1 s the history."""
    clock = [0.0]

    def takes(seconds: float, owner: object, name: str) -> None:
        function = getattr(owner, name)

        def slow(*arguments: object, **options: object) -> object:
            clock[0] += seconds
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, slow)

    store = make_store(tmp_path / "store")
    with open_run(tmp_path / "run", False, load_state) as run:
        training = Training(store, run, tiny_config(steps=6, validate_every=4, save_every=3))
        takes(1.0, training.module, "forward")
        takes(2.0, training.fabric, "backward")
        takes(2.0, training.adam, "step")
        takes(1.0, training, "_show")
        takes(100.0, training, "_judge")
        monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
        times = time_steps(training)
    assert times == [StepTimes(6.0, 3.0, 2.0)] * 3  # of 6, not the first, the fourth and the last
    assert describe_steps(times[0]) == (
        "training: 50.0% of a step of train.py is not the model: 33.3% clipping, Adam and checks, "
        "16.7% data, history and display"
    )


@pytest.mark.parametrize("with_warm_ups", [False, True])
def test_sides_take_turns_and_the_first_turn_does_not_count(
    monkeypatch: pytest.MonkeyPatch, with_warm_ups: bool
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    def side(name: str, durations: list[float]) -> None:
        calls.append(name)
        clock[0] += durations[calls.count(name) - 1]

    sides = [lambda: side("a", [1, 9, 7]), lambda: side("b", [9, 3, 5])]
    if with_warm_ups:
        warm_ups = [lambda: side("A", [1]), lambda: side("B", [1])]
        assert best_times(sides, 2, warm_ups) == [1, 3]
        assert calls == list("ABabab")
    else:
        assert best_times(sides, 2) == [7, 3]
        assert calls == list("ababab")


def test_no_turn_begins_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def side() -> None:
        clock[0] += 2

    assert best_times([side, side], 9, budget=7) == [2, 2]
    assert clock[0] == 2 * 2 + 2 * 2 * 2  # the call that does not count, then two turns
    assert best_times([side], 9, budget=0) == [2]


def test_the_rate_is_that_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "best_times", lambda sides, repeats: [2.0])
    assert product_rate() == 2**30 / 2


def test_the_table() -> None:
    rows = [
        Row("student", "a thing", 0.0123, "another", 2.5, speech_seconds=3.95),
        Row("student", "alone", 1.0, speech_seconds=0.1349),
    ]
    heading, first, second = table(rows).splitlines()
    assert heading.split() == ["times", "as", "fast", "as", "best", "x", "real", "time"]
    assert first.split() == ["a", "thing", "2.50", "another", "12.3", "ms", "321"]
    assert second.split() == ["alone", "1000.0", "ms", "0.13"]
    assert table([Row("student", "alone", 1.0)]).splitlines()[0].split() == ["best"]


def test_columns_are_under_their_headings_and_explained() -> None:
    full = Row(
        "vocoders",
        "full",
        1.0,
        speech_seconds=1.5,
        multiply_adds=3e9,
        floor_seconds=0.456,
        first_seconds=0.0216,
        model_bytes=12_940_000,
        memory=Memory(412_600_000, 83_200_000, 59.6),
        quality=Dnsmos(4.091, 3.335),
    )
    lines = table([Row("vocoders", "plain", 1.0, speech_seconds=5.04), full]).splitlines()
    assert lines[1].split() == ["plain", "1000.0", "ms", "5.0"]
    cells = {
        "x real time": "1.50",
        "work": "2.0 G",
        "floor": "46%",
        "first sound": "21.6 ms",
        "file": "12.9 MB",
        "peak memory": "413 MB",
        "vocoding": "83 MB",
        "of": "60 s",
        "DNSMOS": "4.09 / 3.33",
    }
    for heading, cell in cells.items():  # both end in the same place
        assert lines[2].index(cell) + len(cell) == lines[0].index(heading) + len(heading)
    legend = [line.split(":")[0] for line in lines[3:]]
    assert legend == ["work", "floor", "first sound", "peak memory", "vocoding", "DNSMOS"]


def test_the_processor_has_a_name() -> None:
    assert processor_name().strip()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    cli.run(command.main)


def plant_parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings]]:
    """Replaces what is measured; returns the calls that are made."""
    calls: list[tuple[str, Settings]] = []

    def plant(name: str) -> None:
        def part(settings: Settings) -> Findings:
            calls.append((name, settings))
            memory = Memory(5, 3, 60.0) if name == "vocoders" else None
            row = Row(name, f"a {name}", 0.5, speech_seconds=2.0, memory=memory)
            return Findings([row], (f"about {name}",))

        monkeypatch.setitem(command.PARTS, name, part)

    for name in list(command.PARTS):
        plant(name)
    return calls


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            [],
            [
                "voice",
                "training",
                "teacher-training",
                "student",
                "teacher",
                "labelling",
                "vocoders",
            ],
        ),
        (["vocoders"], ["vocoders"]),
        (["teacher", "student", "teacher"], ["teacher", "student"]),
    ],
)
def test_parts_that_are_asked_for_are_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    parts: list[str],
) -> None:
    calls = plant_parts(monkeypatch)
    run(monkeypatch, *words)
    assert [name for name, _ in calls] == parts
    shown = capsys.readouterr().out
    for name in parts:
        assert f"a {name} " in shown
        assert f"about {name}\n" in shown


def test_options_reach_the_parts_and_json_has_the_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = plant_parts(monkeypatch)
    file = tmp_path / "new" / "speed.json"
    run(
        monkeypatch, "vocoders", "student", "--json", str(file), "--repeats", "3", "--threads", "2",
        "--mel", "a.npy", "--vocoder", "hifigan:x", "--vocoder", "waveglow:y", "--quality",
    )  # fmt: skip
    assert calls[0][1] == Settings(3, 2, Path("a.npy"), ("hifigan:x", "waveglow:y"), True)
    record = json.loads(file.read_text(encoding="utf-8"))
    assert [row["what"] for row in record["rows"]] == ["a vocoders", "a student"]
    memory = {"peak_bytes": 5, "added_bytes": 3, "speech_seconds": 60.0}
    assert record["rows"][0]["memory"] == memory
    assert record["rows"][1]["memory"] is None
    derived = {"times_real_time", "multiply_adds_a_second", "floor_share"}
    assert set(record["rows"][0]) == set(Row.__dataclass_fields__) | derived
    assert record["rows"][0]["times_real_time"] == 4
    assert record["notes"] == ["about vocoders", "about student"]
    assert record["lightspeech"] == lightspeech.__version__
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert record["machine"]["processor"] == processor_name()
    assert record["date"][:2] == "20"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["vocoder"],
            "no part 'vocoder': expected voice, training, teacher-training, student, teacher, "
            "labelling, vocoders",
        ),
        (["student", "--quality"], "--quality belong to the part vocoders"),
        (["student", "--mel", "x"], "belong to the part vocoders"),
        (["--json", "."], "--json . is a folder; expected the name of a file"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    calls = plant_parts(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *words)
    assert stop.value.code != 0
    assert message in capsys.readouterr().err
    assert not calls
