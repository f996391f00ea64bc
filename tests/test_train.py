"""train.py as a user meets it: what it prints, what it refuses, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from lightspeech.checkpoint import load_voice
from lightspeech.config import Config
from lightspeech.files import write_json
from lightspeech.run_folder import open_run, read_history
from lightspeech.store import LabelStore
from lightspeech.training import Training
from lightspeech.training_state import load_state
from tests.conftest import ROOT
from tests.synthetic_store import make_store, tiny_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a label store where train.py looks for it, and tiny.json."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "store")
    write_json(tmp_path / "tiny.json", tiny_config().as_dict())
    return tmp_path


@pytest.fixture
def call(run_in_process: Callable[..., tuple[int, str, str]]) -> Any:
    """Runs train.py in this process: (exit status, standard output, standard error)."""

    return partial(run_in_process, train.main, "train.py", "--device", "cpu")


def test_from_start_to_finish(here: Path, call: Any) -> None:
    status, out, err = call("--config", "tiny.json")
    assert status == 0
    for part in (
        "12 utterances",
        "'tiny'",
        "finished after step 20",
        "best validation loss",
        "voice    runs/lightspeech/best.safetensors",
        "python synthesize.py --voice runs/lightspeech",
    ):
        assert part in out
    assert "step 20: validation loss" in err
    assert "step/s" in err
    folder = here / "runs" / "lightspeech"
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "config.json",
        "history.jsonl",
        "last.safetensors",
        "previous.safetensors",
        "best.safetensors",
        "voice.json",
    }
    assert call("--config", "runs/lightspeech/config.json", "--out", "again")[0] == 0
    assert read_history(here / "again") == read_history(folder)
    load_voice()

    status, out, _ = call("--resume")
    assert status == 0
    assert "has taken its 20 steps already; to train further: --resume --steps 40" in out
    before = (folder / "config.json").read_bytes()
    status, out, _ = call("--resume", "--steps", "10")
    assert status == 0
    assert "has taken its 20 steps already" in out
    assert (folder / "config.json").read_bytes() == before  # nothing was done, so nothing changed
    status, out, _ = call("--resume", "--steps", "24")
    assert status == 0
    assert "going on after step 20" in out
    assert len(read_history(folder)) == 24


def test_a_corrupt_label_is_not_learned_from(here: Path, call: Any) -> None:
    (shard, *_) = sorted((here / "store" / "shards").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # the size stays, so only the checksum tells
    shard.write_bytes(bytes(content))
    status, _, err = call("--config", "tiny.json")
    assert status == 1
    assert f"{shard.name} is damaged: its checksum differs" in err
    assert "run preprocess.py again" in err
    assert not (here / "runs").exists()


def test_more_threads_than_the_machine_can_run_are_refused(here: Path, call: Any) -> None:
    status, _, err = call("--config", "tiny.json", "--threads", "99999")
    assert status == 1
    assert "--threads 99999: expected at most" in err


def test_options_change_the_configuration(here: Path, call: Any) -> None:
    options = ("--steps", "3", "--batch-size", "5", "--learning-rate", "0.02", "--seed", "8")
    assert call("--config", "tiny.json", *options)[0] == 0
    config = Config.from_dict(
        json.loads(Path("runs/lightspeech/config.json").read_text(encoding="utf-8")), "config"
    )
    expected = tiny_config(steps=3, batch_size=5, learning_rate=0.02, seed=8).training
    assert config.training.final_learning_rate == pytest.approx(0.002)
    assert config.override().training == type(expected)(
        **{**vars(expected), "final_learning_rate": config.training.final_learning_rate}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "nowhere"], "error: no label store at nowhere"),
        (["--config", "quik"], "no configuration 'quik': expected one of lightspeech-hq, lightsp"),
        (["--config", "wrong.json"], "unknown settings: training.batchsize"),
        (["--config", "broken.json"], "broken.json is not a readable configuration"),
        (["--resume"], "nothing to resume in runs/lightspeech: leave out --resume to start"),
        (["--out", "file"], "file is a file, expected a folder"),
        (["--out", "file/run"], "cannot write into the folder file/run"),
        (["--out", "store"], "store is not empty, and no run: give another folder with --out"),
        (
            ["--out", "old"],
            "there is a run in old already: add --resume to go on with it, or",
        ),
        (
            ["--out", "old", "--resume", "--batch-size", "9"],
            "for training.batch_size 9, not 4",
        ),
        (["--out", "old", "--resume", "--config", "quick"], "of which only --steps may change"),
        (["--out", "old", "--resume", "--store", "other"], "was started on another label store"),
        (["--store", "small"], "holds 1 utterance, expected at least 2"),
        (["--seed", "-1"], "seed must be a whole number of at least 0, not -1"),
        (["--device", "cuda"], "sees no CUDA device here; use --device cpu"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    here: Path, call: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("file").touch()
    Path("wrong.json").write_text('{"training": {"batchsize": 3}}', encoding="utf-8")
    Path("broken.json").write_text('{"training": ', encoding="utf-8")
    make_store(here / "other", utterances=5)
    make_store(here / "small", utterances=1)
    with open_run(Path("old"), resume=False, load=load_state) as place:
        Training(LabelStore.open("store"), place, tiny_config(steps=2)).run()
    before = sorted(path for path in here.rglob("*") if path.is_file())
    given = (
        arguments
        if "--config" in arguments or "--resume" in arguments
        else ["--config", "tiny.json", *arguments]
    )
    status, out, err = call(*given)
    assert status == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(path for path in here.rglob("*") if path.is_file()) == before


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    """train.py in a process of its own, with one thread."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--device", "cpu", "--threads", "1", *arguments],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_in(history: Path) -> int:
    return history.read_bytes().count(b"\n") if history.exists() else 0


def wait_for_line(process: subprocess.Popen[str], history: Path, count: int) -> None:
    """Returns when the history has `count` lines, or the process has ended."""
    while process.poll() is None and lines_in(history) < count:
        time.sleep(0.002)


@pytest.mark.slow
def test_sigkill_at_five_random_moments_changes_nothing(here: Path) -> None:
    steps, random_moment = 300, random.Random(20)
    config = tiny_config(steps=steps, save_every=7, validate_every=20)
    write_json(here / "tiny.json", config.as_dict())
    with open_run(Path("whole"), resume=False, load=load_state) as place:
        Training(LabelStore.open("store"), place, config).run()

    folder, history = here / "killed", here / "killed" / "history.jsonl"
    arguments = ["--config", "tiny.json", "--out", "killed"]
    steps_at_kill = []
    for step in sorted(random_moment.sample(range(1, steps - 20), 5)):
        process = start(here, *arguments)
        wait_for_line(process, history, step)
        time.sleep(random_moment.uniform(0.0, 0.02))  # anywhere in a step or a save
        process.kill()
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        steps_at_kill.append(lines_in(history))
        arguments = ["--out", "killed", "--resume"]
    assert steps_at_kill[0] < steps
    process = start(here, *arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "going on after step" in output

    assert read_history(folder) == read_history(here / "whole")
    assert [line["step"] for line in read_history(folder)] == list(range(1, steps + 1))
    ours, theirs = load_state(folder)[0], load_state(here / "whole")[0]
    assert ours.step == theirs.step == steps
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    (voice, facts), (other, other_facts) = load_voice(folder), load_voice(here / "whole")
    assert facts == other_facts
    for name, weight in voice.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(here: Path, kind: signal.Signals) -> None:
    write_json(here / "tiny.json", tiny_config(steps=5000, save_every=5000).as_dict())
    process = start(here, "--config", "tiny.json")
    history = here / "runs" / "lightspeech" / "history.jsonl"
    wait_for_line(process, history, 3)
    process.send_signal(kind)
    output = process.communicate()[0]
    assert process.returncode == 128 + kind, output
    assert "stopping after this step" in output
    again = "python train.py --device cpu --threads 1 --config tiny.json --resume"
    assert f"go on    {again}\n" in output
    assert "Traceback" not in output
    step = load_state(here / "runs" / "lightspeech")[0].step
    assert 3 <= step == lines_in(history) < 5000
