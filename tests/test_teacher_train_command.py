"""`python -m tacotron2.train` as a user meets it: what it prints, refuses and survives."""

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
import soundfile
import torch

from lightspeech.dataset.features import FOLDER, Features
from lightspeech.dataset.folder import write_card
from lightspeech.files import write_json
from lightspeech.ranks import Ranks
from lightspeech.run_folder import read_history
from lightspeech.settings import load_configuration
from lightspeech.teacher import aligning, curves
from lightspeech.teacher.config import CONFIGS
from lightspeech.teacher.run import open_teacher_run
from lightspeech.teacher.state import load_teacher_state
from lightspeech.teacher.training import TeacherTraining
from tacotron2 import Tacotron2, decoder, layers, load_tacotron2, model, train
from tests.conftest import ROOT
from tests.tacotron2_recipe import draw_tacotron2, draw_weights
from tests.tiny_dataset import MODEL, make_dataset, tiny_config

KILLS = int(os.environ.get("LIGHTSPEECH_KILLS", "2"))
"""how often a training is killed; each kill costs the start of a process"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose features and paths are prepared already."""
    folder = make_dataset(tmp_path_factory.mktemp("data") / "dataset")
    features = train.prepare(folder, 1, Ranks())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligning, "STEPS", 5)  # no good paths, but all the same ones
        train.find_paths(folder / FOLDER, features, 1, Ranks())
    return folder


@pytest.fixture
def here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the dataset `data` and tiny.json; nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    write_json("tiny.json", tiny_config(steps=4, validate_every=3, spoken=1).as_dict())
    for name in ("draw_curves", "draw_attention", "save_figure"):
        monkeypatch.setattr(curves, name, lambda *_: None)
    monkeypatch.setattr(aligning, "STEPS", 5)
    return tmp_path


@pytest.fixture
def call(run_in_process: Callable[..., tuple[int, str, str]]) -> Any:
    """Runs the command in this process: (exit status, standard output, standard error)."""

    return partial(run_in_process, train.main, "train.py", "--device", "cpu")


def files_in(folder: Path) -> dict[str, int]:
    """Every visible file, but for the prepared features."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and "features" not in path.parts
    }


# From start to finish


def test_from_start_to_finish(here: Path, call: Any) -> None:
    status, out, err = call("data", "--config", "tiny.json")
    assert status == 0, err
    for part in (
        "24 utterances",
        "'tiny'",
        "finished after step 4",
        "best at step",
        "teacher  runs/teacher/teacher.safetensors",
        "label    python preprocess.py --teacher runs/teacher/teacher.safetensors",
    ):
        assert part in out
    assert "step 4: validation loss" in err
    folder = here / "runs" / "teacher"
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "config.json",
        "latest.json",
        "latest.safetensors",
        "history.jsonl",
        "last.safetensors",
        "previous.safetensors",
        "teacher.safetensors",
        "teacher.json",
    }
    load_tacotron2(folder / "teacher.safetensors")
    assert call("data", "--config", "runs/teacher/config.json", "--out", "again")[0] == 0
    assert read_history(here / "again") == read_history(folder)

    before = files_in(folder)
    status, out, _ = call("data", "--resume")
    assert status == 0
    assert "has taken its 4 steps already; to train further: --resume --steps 8" in out
    content = (folder / "config.json").read_text(encoding="utf-8")
    assert call("data", "--resume", "--steps", "2")[0] == 0
    assert (folder / "config.json").read_text(encoding="utf-8") == content
    assert files_in(folder) == before  # nothing was done, so nothing changed
    status, out, _ = call("data", "--resume", "--steps", "6")
    assert status == 0
    assert "going on after step 4" in out
    assert len(read_history(folder)) == 6


def test_the_first_time_recordings_are_prepared(here: Path, call: Any) -> None:
    dataset = make_dataset(here / "new", 9)
    with (dataset / "metadata.csv").open("a", encoding="utf-8") as table:
        table.write("none|There is no such sound.\n")
    write_card(
        dataset,
        {"made_by": "speak", "utterances": 9, "hours": 0.1, "source": {"engine": "x"},
         "settings": {}},
    )  # fmt: skip
    status, _, err = call("new", "--config", "tiny.json", "--jobs", "1")
    assert status == 0
    assert f"left out: {Path('new') / 'metadata.csv'}:10: no sound file wavs/none.wav" in err
    assert len(Features.open(dataset / "features")) == 9
    facts = json.loads(Path("runs/teacher/teacher.json").read_text(encoding="utf-8"))
    assert facts["dataset"]["source"] == {"engine": "x"}
    assert facts["training"]["utterances"] + 1 <= 9
    assert facts["training"]["from"] == {}


def test_options_change_the_configuration(here: Path, call: Any) -> None:
    options = ("--steps", "2", "--frames-per-step", "150", "--learning-rate", "0.02", "--seed", "8")
    assert call("data", "--config", "tiny.json", *options, "--threads", "1")[0] == 0
    config = load_configuration("runs/teacher/config.json", CONFIGS)
    expected = {"steps": 2, "frames_per_step": 150, "learning_rate": 0.02, "seed": 8}
    assert {name: vars(config.training)[name] for name in expected} == expected
    assert read_history(Path("runs/teacher"))[1]["learning_rate"] == 0.02


@pytest.mark.parametrize("seed", [2**31, 1_789_000_000_000, 2**62])
def test_any_seed_will_do(here: Path, call: Any, seed: int) -> None:
    options = ("--config", "tiny.json", "--steps", "1", "--seed", str(seed))
    status, _, err = call("data", *options)
    assert status == 0, err


def test_a_lower_learning_rate_does_not_rise_again(here: Path, call: Any) -> None:
    """What a training that diverged says to do: the last rate must not be above the highest."""
    options = ("--config", "tiny.json", "--steps", "6", "--learning-rate", "0.0001")
    assert call("data", *options)[0] == 0
    rates = [line["learning_rate"] for line in read_history(Path("runs/teacher"))]
    assert max(rates) == 0.0001


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: no dataset folder at nowhere"),
        (["empty"], "error: no metadata.csv in empty; expected LJSpeech's layout"),
        (["broken"], "broken/wavs/u03.wav"),
        (["one"], "1 of 1 utterances have at most 120 frames"),
        (["data", "--config", "smal"], "no configuration 'smal': expected one of published, s"),
        (["data", "--config", "wrong.json"], "unknown settings: training.batchsize"),
        (["data", "--resume"], "nothing to resume in runs/teacher: leave out --resume to start"),
        (["data", "--out", "file"], "file is a file, expected a folder"),
        (["data", "--out", "data"], "data is not empty, and no run: give another folder"),
        (["data", "--out", "old"], "there is a run in old already: add --resume to go on with it"),
        (["data", "--freeze", "encoder"], "--freeze keeps parts of a checkpoint as they are: name"),
        (["data", "--from", "none.pt"], "none.pt"),
        (["data", "--from", "tiny.json"], "tiny.json"),
        (["data", "--from", "old/last.safetensors"], "last.safetensors"),
        (
            ["data", "--from", "mini.pt", "--config", "layers.json"],
            "layers.json differs from what to begin with (model.",
        ),
        (
            ["data", "--from", "mini.pt", "--freeze", "embedding", "encoder", "attention",
             "decoder", "postnet"],
            "--freeze",
        ),
        (["data", "--out", "old", "--resume", "--from", "mini.pt"], "leave out --from, --freeze"),
        (["data", "--out", "old", "--resume", "--freeze", "encoder"], "leave out --from, --freeze"),
        (
            ["data", "--out", "old", "--resume", "--frames-per-step", "130", "--seed", "9"],
            "asks for training.frames_per_step 130, not 400; training.seed 9, not 3: leave that",
        ),
        (["data", "--out", "old", "--resume", "--config", "small"], "only --steps may change"),
        (["other", "--out", "old", "--resume"], "was started on another dataset"),
        (["data", "--threads", "99999"], "--threads 99999: expected at most"),
        (["data", "--seed", "-1"], "seed must be a whole number of at least 0, not -1"),
        (["data", "--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(here: Path, call: Any, arguments: list[str], message: str) -> None:
    Path("file").touch()
    Path("empty").mkdir()
    write_json("wrong.json", {"training": {"batchsize": 3}})
    write_json("layers.json", {"model": {"prenet_dim": 3}})
    torch.save(draw_weights(MODEL), "mini.pt")
    if arguments[0] in ("broken", "one", "other"):
        make_dataset(Path(arguments[0]), {"broken": 5, "one": 1, "other": 6}[arguments[0]])
    if arguments[0] == "broken":
        Path("broken/wavs/u03.wav").write_bytes(b"no sound")
    config = tiny_config(steps=1, spoken=0)
    if any("old" in argument for argument in arguments):
        with open_teacher_run(Path("old"), False, Ranks()) as place:
            features = Features.open(Path("data/features"))
            loop = TeacherTraining(features, place.folder, config, Tacotron2(MODEL))
            loop.run()
    before = files_in(here)
    if not {"--config", "--resume", "--from"} & set(arguments):
        arguments = [*arguments, "--config", "tiny.json"]
    status, out, err = call(*arguments)
    assert status == 1, (out, err)
    assert message in err
    # On a machine so slow that there was a bar, it has wiped itself off the line.
    assert err.rpartition("\r")[2].startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert files_in(here) == before


@pytest.mark.parametrize("environment", [{"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "5"}])
def test_ranks_without_torchrun(
    here: Path, call: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    status, _, err = call("data", "--config", "tiny.json")
    assert status == 1
    assert err.startswith("error: ")
    assert "torchrun" in err
    assert err.count("\n") == 1


def test_no_finite_validation_ends_in_a_line(
    here: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lightspeech.teacher.validation.read_along",
        lambda *_: {"mel": float("nan"), "mel_absolute": 1.0, "gate": 1.0},
    )
    status, _, err = call("data", "--config", "tiny.json")
    assert status == 1
    assert "error: training is through and no validation was finite" in err


# Fine-tuning


@pytest.mark.parametrize("layout", ["bare", "published", "module"])
def test_fine_tuning_a_file_in_the_published_layout(here: Path, call: Any, layout: str) -> None:
    weights: Any = draw_weights(MODEL)
    if layout == "published":
        weights = {"state_dict": weights, "iteration": 7, "learning_rate": 1e-3}
    elif layout == "module":
        weights = {"state_dict": {f"module.{name}": w for name, w in weights.items()}}
    torch.save(weights, "theirs_statedict.pt")
    options = ("--from", "theirs_statedict.pt", "--freeze", "encoder", "embedding")
    write_json(
        "mine.json",
        {"name": "mine", "model": MODEL.as_dict(), "training": vars(tiny_config(steps=2).training)},
    )
    status, out, err = call("data", *options, "--config", "mine.json")
    assert status == 0, err
    assert "from      theirs_statedict" in out
    state = load_teacher_state(Path("runs/teacher"))[0]
    assert state.origin["frozen"] == ["embedding", "encoder"]
    assert state.origin["name"] == "theirs_statedict"
    teacher, before = load_tacotron2("runs/teacher/teacher.safetensors"), draw_tacotron2(MODEL)
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            same = torch.equal(value, before.state_dict()[name].half().float())
            assert same is name.startswith(("encoder.", "embedding.")), name


def test_fine_tuning_takes_the_layers_of_the_checkpoint(here: Path, call: Any) -> None:
    torch.save(draw_weights(MODEL), "theirs.pt")
    options = ("--from", "theirs.pt", "--steps", "1", "--frames-per-step", "1000")
    status, _, err = call("data", *options)  # the training of `small`
    assert status == 0, err
    config = load_configuration("runs/teacher/config.json", CONFIGS)
    assert config.model == MODEL
    assert config.training.guide_hold == CONFIGS["small"].training.guide_hold
    assert config.training.utterances_per_step == CONFIGS["small"].training.utterances_per_step


# Processes of their own


def started(here: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A process with one thread, lowest of priority; its output in one stream."""
    return subprocess.Popen(
        [sys.executable, *words], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        text=True,
    )  # fmt: skip


def lines_in(history: Path) -> int:
    return history.read_bytes().count(b"\n") if history.exists() else 0


def wait_for_line(process: subprocess.Popen[str], history: Path, count: int) -> None:
    """Returns when the history has `count` lines, or the process has ended."""
    while process.poll() is None and lines_in(history) < count:
        time.sleep(0.002)


COMMAND = ["-m", "tacotron2.train", "data", "--device", "cpu", "--threads", "1"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_help() -> None:
    with started(ROOT, "-m", "tacotron2.train", "--help") as process:
        output = process.communicate()[0]
    assert process.returncode == 0
    for part in (
        "--from CHECKPOINT",
        "--freeze PART",
        "--resume",
        "--config NAME|FILE",
        "torchrun",
    ):
        assert part in output


def whole_run(folder: Path, name: str, **training: Any) -> Path:
    """A run in this process that nothing stops, as the command makes it."""
    config = tiny_config(**training)
    write_json(folder / f"{name}.json", config.as_dict())
    with open_teacher_run(folder / "whole", False, Ranks()) as place:
        torch.manual_seed(config.training.seed)
        features = Features.open(folder / "data" / FOLDER)
        features.durations = aligning.align(folder / "data" / FOLDER, features)
        TeacherTraining(features, place.folder, config, Tacotron2(config.model)).run()
    return folder / "whole"


def assert_same(folder: Path, expected: Path) -> None:
    """The same history, state and teacher, to the last bit."""
    assert read_history(folder) == read_history(expected)
    ours, theirs = load_teacher_state(folder)[0], load_teacher_state(expected)[0]
    assert ours.step == theirs.step
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, value in ours.tensors.items():
        assert torch.equal(value, theirs.tensors[name]), name
    assert (ours.best_step, ours.best_score) == (theirs.best_step, theirs.best_score)
    name = "teacher.safetensors"
    assert (folder / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_kills_change_nothing(here: Path) -> None:
    steps, random_moment = 20 + 10 * KILLS, random.Random(20)
    whole = whole_run(here, "kills", steps=steps, save_every=4, validate_every=9, spoken=1)
    arguments, at_kill = ["--config", "kills.json", "--out", "killed"], []
    for step in sorted(random_moment.sample(range(1, steps - 8), KILLS)):
        process = started(here, *COMMAND, *arguments)
        wait_for_line(process, here / "killed" / "history.jsonl", step)
        time.sleep(random_moment.uniform(0.0, 0.05))  # anywhere in a step, a save or a validation
        process.kill()
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        at_kill.append(lines_in(here / "killed" / "history.jsonl"))
        arguments = ["--out", "killed", "--resume"]
    assert at_kill[0] < steps
    process = started(here, *COMMAND, *arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "going on after step" in output
    assert_same(here / "killed", whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(here: Path, kind: signal.Signals) -> None:
    write_json("long.json", tiny_config(steps=9000, save_every=9000, validate_every=9000).as_dict())
    process = started(here, *COMMAND, "--config", "long.json")
    folder = here / "runs" / "teacher"
    wait_for_line(process, folder / "history.jsonl", 2)
    process.send_signal(kind)
    output = process.communicate()[0]
    assert process.returncode == 128 + kind, output
    assert "stopping after this step" in output
    assert "no teacher yet: it comes with the first validation" in output
    again = "python -m tacotron2.train data --device cpu --threads 1 --config long.json --resume"
    assert f"go on    {again}\n" in output
    assert "Traceback" not in output
    assert 2 <= load_teacher_state(folder)[0].step == lines_in(folder / "history.jsonl") < 9000


STILL = """
# Without the convolutions' drop-out, which is drawn anew in each process.
import torch, tacotron2.decoder, tacotron2.layers, tacotron2.model, tacotron2.train
from lightspeech.cli import run

def keep_all(shape, probability, like):
    return like.new_ones(shape)

for module in (tacotron2.decoder, tacotron2.layers, tacotron2.model):
    module.keep_factors = keep_all
run(tacotron2.train.main)
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    here: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is random and batch norm is frozen, the same losses and weights."""
    torch.save(draw_weights(MODEL), "theirs.pt")
    Path("still.py").write_text(STILL, encoding="utf-8")
    config = tiny_config(steps=7, validate_every=4, spoken=1, frames_per_step=450)
    # a low rate, because Adam makes much of gradients that are nearly nothing
    config = config.override(learning_rate=2e-4, final_learning_rate=1e-4)
    write_json("still.json", config.as_dict())
    arguments = [
        "data", "--device", "cpu", "--config", "still.json", "--from", "theirs.pt",
        "--freeze", "embedding", "encoder", "postnet",
    ]  # fmt: skip
    for module in (decoder, layers, model):
        monkeypatch.setattr(module, "keep_factors", lambda shape, p, like: like.new_ones(shape))
    status, _, err = call(*arguments, "--out", "one")
    assert status == 0, err
    two = started(here, *TORCHRUN, "still.py", *arguments, "--out", "two")
    output = two.communicate()[0]
    assert two.returncode == 0, output
    assert "cpu, 2 processes of 1 thread" in output
    assert output.count("finished after step 7") == 1  # one of them speaks
    ours, theirs = read_history(here / "two"), read_history(here / "one")
    for line, expected in zip(ours, theirs, strict=True):
        validation, other = line.pop("validation", {}), expected.pop("validation", {})
        norm = line.pop("gradient_norm")
        assert norm == pytest.approx(expected.pop("gradient_norm"), rel=1e-4)
        assert line == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert validation == pytest.approx(other, rel=1e-4)
    states = [load_teacher_state(here / name)[0] for name in ("two", "one")]
    assert [state.ranks for state in states] == [2, 1]
    learned = 0
    for name, value in states[0].tensors.items():
        if not name.startswith(("random/", "optimizer/")):
            torch.testing.assert_close(value, states[1].tensors[name], rtol=1e-4, atol=1e-5)
            learned += name.startswith("module/model.decoder.")
    assert learned > 10


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_two_processes_stop_together_and_go_on(here: Path) -> None:
    write_json("two.json", tiny_config(steps=30, save_every=500, validate_every=500).as_dict())
    words = [*TORCHRUN, *COMMAND, "--config", "two.json"]
    folder = here / "runs" / "teacher"
    process = started(here, *words)
    wait_for_line(process, folder / "history.jsonl", 2)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    output = process.communicate()[0]
    assert process.returncode != 0
    assert "stopped after step" in output, output
    state = load_teacher_state(folder)[0]
    assert 2 <= state.step == lines_in(folder / "history.jsonl") < 30
    assert state.ranks == 2

    process = started(here, *words, "--resume")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert f"going on after step {state.step}" in output
    assert [line["step"] for line in read_history(folder)] == list(range(1, 31))
    load_tacotron2(folder / "teacher.safetensors")


def test_a_sound_file_of_another_kind(here: Path, call: Any) -> None:
    """FLAC at another rate, in stereo: what import would have mended is read all the same."""
    dataset = make_dataset(here / "mixed", 4)
    samples, _ = soundfile.read(dataset / "wavs" / "u01.wav")
    (dataset / "wavs" / "u01.wav").unlink()
    soundfile.write(dataset / "wavs" / "u01.flac", samples[:, None].repeat(2, 1), 22050)
    assert call("mixed", "--config", "tiny.json", "--steps", "1", "--jobs", "1")[0] == 0
    assert len(Features.open(dataset / "features")) == 4
