"""The three scripts, one after another, from the bundled teacher to wavs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from lightspeech.store import LabelStore

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "lightspeech" / "pretrained" / "slt.safetensors"
HELDOUT = (ROOT / "data" / "heldout.txt").read_text(encoding="utf-8").splitlines()


def run(script: str, *options: str | Path) -> str:
    """Runs a script as a user would and returns what it printed."""
    finished = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, options)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def label(store: Path) -> str:
    # by name: a user's own teacher may lie beside it
    teacher = ROOT / "tacotron2" / "pretrained" / "tacotron2_slt.safetensors"
    return run(
        "preprocess.py", "--limit", "12", "--batch-size", "12", "--teacher", teacher, "--out", store
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store, the run and the results of a tiny pass through the pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    label(folder / "store")
    run(
        "train.py", "--store", folder / "store", "--out", folder / "run", "--config", "quick",
        "--steps", "3", "--batch-size", "4",
    )  # fmt: skip
    lines = folder / "lines.txt"
    lines.write_text("\n".join(sorted(HELDOUT, key=len)[:2]), encoding="utf-8")
    run(
        "synthesize.py", "--text-file", lines, "--voice", folder / "run",
        "--beside", BUNDLED, "--out", folder / "results",
    )  # fmt: skip
    return folder


def test_every_label_has_durations_that_sum_to_its_frames(made: Path) -> None:
    store = LabelStore.open(made / "store")
    assert len(store) >= 10  # of 12: the teacher may fail on one
    assert store.verify() == []
    for label in (store[i] for i in range(len(store))):
        assert int(label.durations.sum()) == len(label.mel)
        assert len(label.tokens) == len(label.durations) == len(label.memory)


def test_the_demo_store_holds_the_same_promise() -> None:
    folder = ROOT / "demo" / "store"
    if not list(folder.glob("shards/*.arrow")):
        pytest.skip("there are no labels in demo/store; make demo makes them")
    store = LabelStore.open(folder)
    for label in (store[i] for i in range(len(store))):
        assert int(label.durations.sum()) == len(label.mel)


def test_synthesis_leaves_wavs_plots_and_a_page(made: Path) -> None:
    results = made / "results"
    teachers, bundled = sorted(results.glob("*.teacher.wav")), sorted(results.glob("*.slt.wav"))
    students = sorted({*results.glob("*.wav")} - {*teachers, *bundled})
    assert len(students) == len(teachers) == len(bundled) == 2
    for path in students + teachers + bundled:
        info = soundfile.info(path)
        assert (info.samplerate, info.subtype, info.channels) == (22050, "PCM_16", 1)
        assert info.frames > 2000
    assert len(list(results.glob("*.png"))) == 2
    page = (results / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert json.loads((results / "results.json").read_text(encoding="utf-8"))


def test_a_second_pass_finds_everything_done(made: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (made / "store").rglob("*.arrow")}
    output = label(made / "store")
    assert {p: p.stat().st_mtime_ns for p in (made / "store").rglob("*.arrow")} == before
    assert "already" in output
