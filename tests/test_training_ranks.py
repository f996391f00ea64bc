"""Several processes train one student: what one alone would, and nobody waits for the dead."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from lightspeech import process_group
from lightspeech.checkpoint import load_voice
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.process_group import add_up, device_of, highest, joined, take_from_first
from lightspeech.ranks import Ranks
from lightspeech.run_folder import open_run, read_history
from lightspeech.store import LabelStore
from lightspeech.training import Training
from lightspeech.training_command import command_to_resume
from lightspeech.training_state import load_state
from tests.conftest import ROOT
from tests.synthetic_store import make_store, tiny_config

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMAND = [str(ROOT / "train.py"), "--device", "cpu", "--threads", "1"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a label store."""
    make_store(tmp_path / "store")
    return tmp_path


def started(here: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A process of one thread, or torchrun's; its output in one stream."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int | None = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert status is None or process.returncode == status, output
    return output


def train_alone(here: Path, config: Config, name: str = "one") -> Path:
    with open_run(here / name, False, load_state) as place:
        Training(LabelStore.open(here / "store"), place, config).run()
    return here / name


@pytest.mark.slow
def test_two_processes_train_as_one_does(here: Path) -> None:
    """Batches of seven utterances, and of one, with which a process goes along for nothing.

    With the average of the weights, so that it is compared too. The rate is low because Adam makes
    much of gradients that are nearly nothing.
    """
    config = tiny_config(
        steps=9, batch_size=7, validate_every=4, ema_decay=0.9, learning_rate=1e-3,
        final_learning_rate=1e-4,
    )  # fmt: skip
    write_json(here / "tiny.json", config.as_dict())
    one = train_alone(here, config)
    with open_run(here / "plan", False, load_state) as place:
        members = Training(LabelStore.open(here / "store"), place, config).members
    assert len(members) == 8  # seven, and one in the last batch of each epoch
    output = finish(started(here, *TORCHRUN, *COMMAND, "--config", "tiny.json", "--out", "two"))
    assert "device    cpu, 2 processes of 1 thread" in output
    assert output.count("finished after step 9") == 1  # one of them speaks
    assert output.count("step 9: validation loss") == 1
    two = here / "two"
    ours, theirs = read_history(two), read_history(one)
    assert len(ours) == len(theirs) == 9
    for line, expected in zip(ours, theirs, strict=True):
        validation, other = line.pop("validation", {}), expected.pop("validation", {})
        assert line == pytest.approx(expected, rel=1e-5)
        assert validation == pytest.approx(other, rel=1e-5)
    states = [load_state(folder)[0] for folder in (two, one)]
    assert [state.ranks for state in states] == [2, 1]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    parts = set()
    for name, value in states[0].tensors.items():
        if not name.startswith(("random/", "optimizer/")):
            torch.testing.assert_close(value, states[1].tensors[name], rtol=1e-5, atol=1e-5)
            parts.add(name.partition("/")[0])
    assert parts == {"module", "average"}
    voices = [load_voice(folder)[0].state_dict() for folder in (two, one)]
    for name, value in voices[0].items():
        torch.testing.assert_close(value, voices[1][name], rtol=1e-5, atol=1e-5)
    visible = [{p.name for p in folder.iterdir() if p.name[0] != "."} for folder in (two, one)]
    assert visible[0] == visible[1]


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(here: Path) -> None:
    """From the state before the last one, as if killed just before the last was written."""
    config = tiny_config(steps=10, batch_size=3, save_every=4, validate_every=3, ema_decay=0.9)
    write_json(here / "tiny.json", config.as_dict())
    finish(started(here, *TORCHRUN, *COMMAND, "--config", "tiny.json", "--out", "whole"))
    shutil.copytree(here / "whole", here / "parts")
    os.replace(here / "parts" / "previous.safetensors", here / "parts" / "last.safetensors")
    assert load_state(here / "parts")[0].step == 8
    output = finish(started(here, *TORCHRUN, *COMMAND, "--out", "parts", "--resume"))
    assert "going on after step 8" in output
    assert "note:" not in output
    assert read_history(here / "parts") == read_history(here / "whole")
    ours, theirs = (load_state(here / name)[0] for name in ("parts", "whole"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, value in ours.tensors.items():
        assert torch.equal(value, theirs.tensors[name]), name
    contents = [(here / name / "best.safetensors").read_bytes() for name in ("parts", "whole")]
    assert contents[0] == contents[1]


TROUBLE = """
# The second process has a loss that is not a number in its third step, and is asked to stop in its
# sixth.
import os, signal, train
from lightspeech.cli import run
from lightspeech.training import Training

losses = Training._losses

def troubled(self, batch):
    found = losses(self, batch)
    if self.ranks.rank == 1 and self.step == 2:
        found["loss"] = found["loss"] * float("nan")
    if self.ranks.rank == 1 and self.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return found

Training._losses = troubled
run(train.main)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_what_happens_to_one_happens_to_all(here: Path) -> None:
    write_json(here / "tiny.json", tiny_config(steps=5000, save_every=5000).as_dict())
    (here / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    words = ["trouble.py", *COMMAND[1:], "--config", "tiny.json", "--out", "run"]
    output = finish(started(here, *TORCHRUN, *words), status=None)
    assert output.count("stopped after step 6") == 1, output
    again = "torchrun --nproc-per-node 2 train.py --device cpu --threads 1 --config tiny.json"
    assert f"go on    {again} --out run --resume\n" in output
    history = read_history(here / "run")
    assert [line["step"] for line in history if line["skipped"]] == [3]
    assert history[2]["loss"] is None
    assert len(history) == 6
    state = load_state(here / "run")[0]
    assert (state.step, state.skipped) == (6, 1)
    assert all(value.isfinite().all() for value in state.tensors.values())


CONSTANT = """
# No validation is better than the first, in the process that validates.
import train, lightspeech.training
from lightspeech.cli import run

lightspeech.training.validate = lambda module, batches, device: {"loss": 1.0}
run(train.main)
"""


@pytest.mark.slow
def test_all_processes_lose_patience_together(here: Path) -> None:
    write_json(here / "tiny.json", tiny_config(steps=5000, patience=2).as_dict())
    (here / "constant.py").write_text(CONSTANT, encoding="utf-8")
    words = ["constant.py", *COMMAND[1:], "--out", "run"]
    output = finish(started(here, *TORCHRUN, *words, "--config", "tiny.json"))
    assert "finished after step 15" in output
    assert "2 validations in a row had brought nothing better (patience)" in output
    output = finish(started(here, *TORCHRUN, *words, "--resume"))
    assert output.count("the run in run has stopped after step 15, because 2 validations") == 1
    assert "to train further: --resume --steps 10000" in output
    assert len(read_history(here / "run")) == 15


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_one_that_is_left_alone_says_so(here: Path) -> None:
    write_json(here / "tiny.json", tiny_config(steps=100_000, save_every=1).as_dict())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    words = [*COMMAND, "--config", "tiny.json", "--out", "run"]
    first, second = (started(here, *words, RANK=str(rank), **both) for rank in range(2))
    history = here / "run" / "history.jsonl"
    while first.poll() is None and not (history.exists() and history.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    second.kill()
    second.communicate()
    output = finish(first, status=1)
    assert "error: another of the processes has ended, and this one cannot go on alone" in output
    assert "Traceback" not in output
    saved = load_state(here / "run")[0].step
    assert 2 <= saved <= len(read_history(here / "run")) <= saved + 1


# The group of processes


def test_one_process_needs_no_group() -> None:
    alone, value, module = Ranks(), torch.tensor([1.5, 2.5]), nn.Linear(2, 1)
    with joined(alone, torch.device("cpu")):
        assert not distributed.is_initialized()
        assert highest(alone, 7) == 7
        add_up(alone, [value])
        take_from_first(alone, module)
    assert value.tolist() == [1.5, 2.5]


def test_processes_that_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(InputError, match=r"WORLD_SIZE is 2 .* no MASTER_ADDR .* with torchrun"),
        joined(Ranks(0, 2), torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "cpu:gloo,cuda:nccl")])
def test_where_it_computes_decides_how_they_talk(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str
) -> None:
    """Not whether there is a GPU: with --device cpu there may be one that is not to be used."""
    asked: list[Any] = []
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        process_group.distributed, "init_process_group", lambda *a, **o: asked.append((a, o))
    )
    monkeypatch.setattr(process_group.distributed, "destroy_process_group", lambda: None)
    with joined(Ranks(1, 2), torch.device(device)):
        ((arguments, options),) = asked
    assert arguments == (backend,)
    assert (options["rank"], options["world_size"]) == (1, 2)


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second, third = Ranks(1, 2, 1, 2), Ranks(2, 3, 2, 3)
    assert device_of(second, "auto") == device_of(second, "cuda") == torch.device("cuda", 1)
    assert device_of(second, "cpu") == torch.device("cpu")
    assert device_of(Ranks(), "cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="--device cuda:1 names one GPU for 2 processes: give"):
        device_of(second, "cuda:1")
    with pytest.raises(InputError, match="--device cuda:2: there are 2 CUDA devices"):
        device_of(third, "auto")


@pytest.mark.parametrize(
    ("arguments", "ranks", "expected"),
    [
        ("--steps 4 --resume", Ranks(), "python train.py --steps 4 --resume"),
        ("data --from a.pt --freeze x y --steps 4", Ranks(), "python train.py data --steps 4 --re"),
        ("--from a data --freeze=x --out b", Ranks(), "python train.py data --out b --resume"),
        ("--from=a data", Ranks(1, 4, 1, 2), "torchrun --nproc-per-node 2 train.py data --resume"),
    ],
)
def test_the_command_that_goes_on(arguments: str, ranks: Ranks, expected: str) -> None:
    words = command_to_resume(["train.py"], arguments.split(), ranks)
    assert " ".join(words).startswith(expected)
    assert words.count("--resume") == 1
