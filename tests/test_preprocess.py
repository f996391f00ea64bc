"""preprocess.py from the outside: what it says, what it refuses, and that no kill loses a label."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import preprocess
from lightspeech import labelling, labelling_end
from lightspeech.audio import write_wav
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter
from tests.tiny_teacher import tiny_teacher

ROOT = Path(__file__).parent.parent
FRAMES = 70
TEXTS = [f"Say {first} and {second}." for first in "abcdefgh" for second in "vwxyz"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "tiny.pt"
    torch.save({"state_dict": tiny_teacher(FRAMES).state_dict()}, path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds that drawing takes."""
    monkeypatch.setattr(labelling_end, "write_report", lambda path, *_, **__: path / "report.html")


@pytest.fixture
def run_with_report(
    checkpoint: Path, corpus: Path, tmp_path: Path,
    run_in_process: Callable[..., tuple[int, str, str]],
) -> Callable[..., tuple[int, str, str]]:  # fmt: skip
    """Calls preprocess.py within this process: options -> exit status, stdout, stderr."""

    def call(**changes: object) -> tuple[int, str, str]:
        options: dict[str, object] = {
            "text": corpus, "teacher": checkpoint, "out": tmp_path / "store", "device": "cpu",
            "threshold": "all=none", "batch_size": 8, **changes,
        }  # fmt: skip
        words = [
            word
            for name, value in options.items()
            for word in (
                f"--{name.replace('_', '-')}",
                *map(str, value if isinstance(value, list) else [value]),
            )
        ]
        given = [word for word in words if word != "True"]
        return run_in_process(preprocess.main, "preprocess.py", *given)

    return call


@pytest.fixture
def run(run_with_report: Callable[..., Any], no_report: None) -> Callable[..., Any]:
    return run_with_report


def test_a_run_says_what_it_does_and_what_comes_next(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, checkpoint: Path
) -> None:
    status, out, _ = run(limit=10)
    assert status == 0
    assert f"labelling 10 texts from {tmp_path / 'corpus.txt'} into {tmp_path / 'store'}" in out
    assert f"teacher: {checkpoint} (as asked), on cpu" in out
    assert "10 of 10 texts labelled, 0 retries" in out
    assert "limits: none\n" in out  # --threshold all=none
    assert "no usual length was measured, for want of texts" in out
    assert "holds 10 labels, 0.00 hours; 0 texts are rejected" in out
    assert f"report: {tmp_path / 'store' / 'report.html'}" in out
    assert f"next: python train.py --store {tmp_path / 'store'}" in out
    store = LabelStore.open(tmp_path / "store")
    assert store.verify() == []
    assert store.frames == [FRAMES] * 10
    assert all(label.durations.sum() == FRAMES for label in store)
    assert {label.text for label in store} == set(TEXTS[:10])


def test_a_rerun_goes_on_where_the_last_one_ended(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run(limit=10)
    before = (tmp_path / "store" / "shards" / "shard-00000.arrow").stat().st_mtime_ns
    status, out, _ = run()
    assert status == 0
    assert "30 texts to label, 10 labelled already" in out
    assert "30 of 30 texts labelled" in out
    status, out, _ = run()
    assert status == 0
    assert "0 texts to label, 40 labelled already" in out
    assert (tmp_path / "store" / "shards" / "shard-00000.arrow").stat().st_mtime_ns == before
    assert sorted(LabelStore.open(tmp_path / "store").ids) == sorted(
        set(LabelStore.open(tmp_path / "store").ids)
    )


def test_a_damaged_shard_is_named_and_redone(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run(limit=24)
    shard = tmp_path / "store" / "shards" / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    status, out, err = run(limit=24)
    assert status == 0
    assert "shard-00001.arrow is damaged: its checksum differs" in err
    assert "its 8 utterances are dropped, and labelled again" in err
    assert "8 of 8 texts labelled" in out
    store = LabelStore.open(tmp_path / "store")
    assert store.verify() == []
    assert len(set(store.ids)) == len(store) == 24


def test_unknown_characters_and_bad_rows_are_named_and_the_run_goes_on(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    text = tmp_path / "odd.txt"
    text.write_text("Five € here.\nSix € there.\n...\nFine.\nFine.\n", encoding="utf-8")
    status, out, err = run(text=text)
    assert status == 0
    assert "3 of 3 texts labelled" in out
    assert f"{text}:3: nothing in it can be spoken" in err
    assert "1 lines that repeat an earlier one" in err


def test_a_character_is_warned_of_once(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    text = tmp_path / "odd.txt"
    text.write_text("Happy 😀 here.\nHappy 😀 there.\n", encoding="utf-8")
    _, _, err = run(text=text)
    assert err.count("U+1F600 GRINNING FACE") == 1
    assert f"in 2 texts, first at {text}:1" in err


def test_no_label_at_all_is_a_failure(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = run(limit=3, threshold="min_coverage=1")
    assert status == 1
    assert "3 rejected: " in out
    assert "limits: peak -4 to 2.62, " in out
    why = f"python -m lightspeech.store info {tmp_path / 'store'}"
    assert err == f"error: none of the 3 texts has a label; see why with: {why}\n"
    rejects = json.loads((tmp_path / "store" / "rejects.json").read_text())
    assert {len(reject["seeds"]) for reject in rejects} == {3}


def test_a_store_without_a_label_takes_other_settings(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "wavs").mkdir()
    status, _, err = run(limit=3, mode="forced", wavs=tmp_path / "wavs")
    assert status == 1
    assert "none of the 0 sound files" in err
    status, out, _ = run(limit=3)
    assert status == 0
    assert "3 of 3 texts labelled" in out
    status, _, err = run(limit=3, seed=5)
    assert status == 1
    assert "was labelled with seed 1234 (now 5)" in err


def test_what_a_full_disk_did_not_take_does_not_count(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = StoreWriter.append
    calls: list[int] = []

    def full(writer: StoreWriter, labels: Sequence[Label]) -> None:
        calls.append(len(labels))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, labels)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", full)
        status, out, err = run()
    assert status == 1
    assert calls[:3] == [8, 8, 8]
    assert "16 of 40 texts labelled" in out
    assert "error: the disk is full" in err
    assert len(LabelStore.open(tmp_path / "store")) == 16
    assert "24 of 24 texts labelled" in run()[1]


def test_long_lines_are_split_into_sentences(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    text = tmp_path / "long.txt"
    text.write_text("Here is one more sentence for the teacher. " * 20 + "\nShort.\n")
    status, out, err = run(text=text)
    assert status == 0
    assert "split into sentences: 1 lines that were too long" in err
    assert "texts labelled" in out
    store = LabelStore.open(tmp_path / "store")
    assert len(store) >= 3
    assert max(len(label.text) for label in store) <= 350
    assert "0 texts to label" in run(text=text)[1]


def test_texts_from_several_files_and_standard_input(
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tmp_path / "table.txt"
    table.write_text("a1|From a table.\na2|From a table too.|From a table as well.\n")
    piped = io.TextIOWrapper(io.BytesIO(b"Piped in.\nSay a and v.\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    status, out, err = run(text=[corpus, table, "-"])
    assert status == 0
    assert "43 of 43 texts labelled" in out
    assert "1 lines that repeat an earlier one" in err
    texts = {label.text for label in LabelStore.open(tmp_path / "store")}
    assert {"From a table as well.", "Piped in.", TEXTS[0]} < texts


def test_picking_makes_another_store(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert run(limit=4, pick=3)[0] == 0
    assert len(LabelStore.open(tmp_path / "store")) == 4
    status, _, err = run(limit=4)
    assert status == 1
    assert "was labelled with pick 3 (now 1); give the same settings or another --out" in err


def test_labels_without_drop_out(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    stores = []
    for name, seed in (("one", 1), ("other", 2)):
        assert run(limit=3, seed=seed, prenet_dropout=0, out=tmp_path / name)[0] == 0
        stores.append(LabelStore.open(tmp_path / name))
    assert stores[0].manifest["labelling"]["prenet_dropout"] == 0
    for ours, theirs in zip(*stores, strict=True):
        assert torch.equal(ours.mel, theirs.mel)  # nothing was drawn
    status, _, err = run(limit=3, prenet_dropout=1.5)
    assert status == 1
    assert "prenet_dropout must be a number of at least 0 and below 1, not 1.5" in err


def test_labels_from_recordings(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    wavs = tmp_path / "wavs"
    wavs.mkdir()
    table = tmp_path / "table.txt"
    table.write_text("r1|A recording.\nr2|Another one.\nr3|None of this.\n")
    for id in ("r1", "r2"):
        write_wav(wavs / f"{id}.wav", torch.rand(30000) - 0.5)
    status, out, _ = run(text=table, mode="forced", wavs=wavs)
    assert status == 0
    assert "1 rejected: no recording by its id" in out
    store = LabelStore.open(tmp_path / "store")
    assert store.verify() == []
    assert sorted(store.ids) == ["r1", "r2"]
    assert store.frames == [118, 118]
    status, _, err = run(text=table, mode="forced", wavs=wavs, targets="teacher")
    assert status == 1
    assert "was labelled with targets recording (now teacher)" in err
    status, _, err = run(text=table, mode="forced")
    assert status == 1
    assert "--mode forced and --wavs DIR go together" in err


def test_the_report_is_in_the_store(
    run_with_report: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert run_with_report(limit=1, no_report=True)[0] == 0
    assert not (tmp_path / "store" / "report.json").exists()
    assert run_with_report(limit=2)[0] == 0
    report = json.loads((tmp_path / "store" / "report.json").read_text())
    assert (report["kept"], report["run"]["kept"]) == (2, 1)
    assert "<html" in (tmp_path / "store" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [OSError("no room"), ValueError("no picture"), MemoryError()])
def test_a_report_that_fails_is_said_and_costs_no_label(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*args: object, **options: object) -> Path:
        raise error

    monkeypatch.setattr(labelling_end, "write_report", fail)
    status, out, err = run(limit=4)
    assert status == 0
    assert f"the labels are kept, their report failed: {str(error) or 'MemoryError'}" in err
    assert "holds 4 labels" in out
    assert len(LabelStore.open(tmp_path / "store")) == 4


def test_ctrl_c_keeps_what_is_done(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = labelling.judge
    calls: list[None] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return judge(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(labelling, "judge", interrupted)
        status, out, err = run()
    assert status == 130
    assert "19 of 40 texts labelled" in out
    assert f"what was labelled is kept in {tmp_path / 'store'}" in err
    assert "the same command goes on" in err
    assert len(LabelStore.open(tmp_path / "store")) == 19
    assert "21 of 21 texts labelled" in run()[1]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no text file at"),
        ("empty.txt", b"", "is empty; expected one sentence a line"),
        ("binary.txt", b"\x00\x01\x02", "is not a text file (it holds NUL bytes)"),
        ("latin.txt", "Café au lait.\n".encode("latin-1"), ":1: not UTF-8 (byte 0xe9); convert it"),
        ("dots.txt", b"...\n!!!\n", "none of its 2 rows can be used"),
    ],
)
def test_texts_that_cannot_be_used(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    status, _, err = run(text=tmp_path / name)
    assert status == 1
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_checkpoints_that_cannot_be_used(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, err = run(teacher=tmp_path / "missing.pt")
    assert status == 1
    assert "missing.pt" in err
    assert len(err.splitlines()) == 1
    status, _, err = run(teacher=write(tmp_path / "text.pt", b"These are no weights."))
    assert status == 1
    assert "text.pt" in err
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without an NVIDIA GPU")
def test_a_device_that_is_not_there(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, err = run(device="cuda")
    assert status == 1
    assert "--device cuda: PyTorch" in err
    assert "use --device cpu" in err
    assert not (tmp_path / "store").exists()


def test_folders_that_cannot_be_written(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, err = run(out=tmp_path / "corpus.txt" / "store")
    assert status == 1
    assert "cannot write into the folder" in err
    status, _, err = run(out=tmp_path)  # which holds the corpus
    assert status == 1
    assert "is not a label store and not empty (it holds corpus.txt)" in err


def test_stores_of_another_kind(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    run(limit=4)
    status, _, err = run(limit=4, seed=5)
    assert status == 1
    assert "was labelled with seed 1234 (now 5); give the same settings or another --out" in err
    other = tmp_path / "other.pt"
    torch.save({"state_dict": tiny_teacher(FRAMES, seed=1).state_dict()}, other)
    status, _, err = run(limit=4, teacher=other)
    assert status == 1
    assert "was labelled by the teacher tiny (" in err
    assert "give the same --teacher or another --out" in err
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    status, _, err = run(limit=4)
    assert status == 1
    assert "is a label store of version 99, expected 1" in err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("seed", -1, "seed must be a whole number of at least 0"),
        ("threshold", "min_coverage=2", "min_coverage must be from 0 to 1"),
        ("threshold", ["min_peak=5", "max_peak=2"], "min_peak must not be above max_peak, not 5"),
        ("threshold", "max_peak=inf", "max_peak must be a finite number, or none for no limit"),
        ("targets", "teacher", "--targets teacher is for recordings; give --mode forced"),
        ("threshold", "skips=2", "--threshold skips=2: expected NAME=VALUE with one of the names"),
    ],
)
def test_settings_that_make_no_sense(
    run: Callable[..., tuple[int, str, str]], option: str, value: object, message: str
) -> None:
    status, _, err = run(**{option: value})
    assert status == 1
    assert message in err


# Being killed

KILLS = int(os.environ.get("LIGHTSPEECH_KILLS", "2"))
"""how often labelling is killed; each kill costs the start of a process, 20 of them 5 minutes"""
SPOKEN = [f"{first} {second}" for first in TEXTS[:20] for second in ("No.", "Yes.", "Or not.", "A.",
          "So it is.", "And so on.")]  # fmt: skip
"""More than a calibration takes."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "large.txt"
    path.write_text("\n".join(SPOKEN), encoding="utf-8")
    return path


def command(checkpoint: Path, corpus: Path, store: Path) -> list[str]:
    return [
        str(ROOT / "preprocess.py"), "--text", str(corpus),
        "--teacher", str(checkpoint), "--out", str(store), "--batch-size", "8", "--device", "cpu",
        "--threshold", "all=none", "--no-report",
    ]  # fmt: skip


def started(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def wait_for_shards(store: Path, more: int, pattern: str = "shard-*.arrow") -> None:
    """Waits until a run has written that many shards more."""

    def count() -> int:
        return len(list((store / "shards").glob(pattern)))

    wanted, deadline = count() + more, time.monotonic() + 60
    while count() < wanted and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(checkpoint: Path, large: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody killed."""
    path = tmp_path_factory.mktemp("whole") / "store"
    with started(command(checkpoint, large, path)) as run:
        run.communicate()
    assert run.returncode == 0
    return path


def assert_same_store(folder: Path, expected: Path) -> None:
    """The store verifies and holds the same labels as `expected`, each once, in any order."""
    assert not [path for path in folder.rglob("*.tmp")]
    store = LabelStore.open(folder)
    assert store.verify() == []
    assert store.calibration == LabelStore.open(expected).calibration
    labels = {label.id: label for label in LabelStore.open(expected)}
    assert len(store) == len(labels) == len(SPOKEN)
    for label in store:
        same = labels.pop(label.id)
        assert label.text == same.text
        assert label.seed == same.seed
        assert torch.equal(label.tokens, same.tokens)
        assert torch.equal(label.durations, same.durations)
        torch.testing.assert_close(label.mel, same.mel, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(label.memory, same.memory, atol=1e-3, rtol=1e-3)
    assert not labels


posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and locks are POSIX")


@posix
def test_kills_lose_and_change_nothing(
    checkpoint: Path, large: Path, whole: Path, tmp_path: Path
) -> None:
    # One kill in five at some moment of the start, which takes seconds, the others after the first
    # shards of a run, at any moment of the next.
    rng = random.Random(4)
    folder = tmp_path / "killed"
    for number in range(KILLS):
        with started(command(checkpoint, large, folder)) as victim:
            if number % 5:
                wait_for_shards(folder, more=1)
                time.sleep(rng.uniform(0, 0.02))
            else:
                time.sleep(rng.uniform(0, 4))
            victim.kill()
        assert victim.returncode in (-signal.SIGKILL, 0)  # 0: there was nothing left to do
    with started(command(checkpoint, large, folder)) as last:
        last.communicate()
    assert last.returncode == 0
    assert_same_store(folder, whole)


@posix
def test_a_request_to_end_keeps_what_is_done(checkpoint: Path, large: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with started(command(checkpoint, large, folder)) as run:
        wait_for_shards(folder, 2)  # then the first one is in the manifest
        run.terminate()
        out, _ = run.communicate()
    assert run.returncode in (130, 0)  # 0: there was nothing left to do
    done = re.search(r"^(\d+) of 120 texts labelled", out, re.MULTILINE)
    assert done is not None
    # What it says it did is there; and a shard (8 texts) more, if it was told to end while the
    # shard that it had just written was not yet counted.
    assert len(LabelStore.open(folder)) - int(done[1]) in (0, 8)
    assert LabelStore.open(folder).verify() == []


@posix
def test_two_ranks_and_the_death_of_one(
    checkpoint: Path, large: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    words = command(checkpoint, large, folder)
    ranks = [started(words, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    wait_for_shards(folder, 1, "shard-*.rank-1.arrow")
    ranks[1].kill()
    out, _ = ranks[0].communicate()
    ranks[1].communicate()
    assert ranks[0].returncode == 0
    assert re.search(r"rank 0: \d+ of \d+ texts labelled, 0 retries, 0 rejected", out)
    assert LabelStore.open(folder).verify() == []
    # Alone again: what the dead one has left undone, and nothing twice.
    with started(words) as last:
        last.communicate()
    assert last.returncode == 0
    assert_same_store(folder, whole)


@posix
@pytest.mark.slow
def test_torchrun_labels_with_two_processes(
    checkpoint: Path, large: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with started([*torchrun, *command(checkpoint, large, folder)]) as run:
        out, _ = run.communicate()
    assert run.returncode == 0
    assert_same_store(folder, whole)
    assert out.count(f"holds {len(SPOKEN)} labels") == 1


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_cannot_share_standard_input(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = run(text="-")
    assert status == 1
    assert "several processes cannot share standard input; give --text a file" in err
