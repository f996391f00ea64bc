"""preprocess.py from the outside: what it says, what it refuses, and that no kill loses a label."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import preprocess
from lightspeech import cli
from lightspeech.store import LabelStore
from tacotron2 import Tacotron2
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
def run(
    checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:  # fmt: skip
    """Calls preprocess.py within this process: options -> exit status, stdout, stderr."""

    def call(**changes: object) -> tuple[int, str, str]:
        options: dict[str, object] = {
            "text": corpus, "teacher": checkpoint, "out": tmp_path / "store", "device": "cpu",
            "min_coverage": 0, "max_backward_jumps": 10**6, "batch_size": 8, **changes,
        }  # fmt: skip
        words = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
        monkeypatch.setattr(sys, "argv", ["preprocess.py", *(w for w in words if w != "True")])
        status = 0
        try:
            cli.run(preprocess.main)
        except SystemExit as e:
            status = int(e.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_a_run_says_what_it_does_and_what_comes_next(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, checkpoint: Path
) -> None:
    status, out, _ = run(limit=10)
    assert status == 0
    assert f"labelling 10 texts from {tmp_path / 'corpus.txt'} into {tmp_path / 'store'}" in out
    assert f"teacher: {checkpoint} (as asked), on cpu" in out
    assert "10 of 10 texts labelled, 0 retries" in out
    assert f"holds 10 labels; next: python train.py --store {tmp_path / 'store'}" in out
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
    text.write_text(
        f"Five € here.\nSix € there.\n...\n{'long ' * 1000}\nFine.\nFine.\n", encoding="utf-8"
    )
    status, out, err = run(text=text)
    assert status == 0
    assert "3 of 3 texts labelled" in out
    assert f"{text}:3: nothing in it can be spoken" in err
    assert "1 lines that repeat an earlier one" in err
    assert f"{text}:4: 4,999 characters, more than 350" in err


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
    status, out, err = run(limit=3, min_coverage=1)
    assert status == 1
    assert "3 rejected: coverage below 1" in out
    assert "error: none of the 3 texts was labelled" in err
    rejects = json.loads((tmp_path / "store" / "rejects.json").read_text())
    assert {len(reject["seeds"]) for reject in rejects} == {3}


def test_ctrl_c_keeps_what_is_done(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = Tacotron2.infer
    calls: list[None] = []

    def interrupted(self: Tacotron2, *args: object, **options: object) -> object:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return infer(self, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Tacotron2, "infer", interrupted)
        status, out, err = run()
    assert status == 130
    assert "16 of 40 texts labelled" in out
    assert f"what was labelled is kept in {tmp_path / 'store'}" in err
    assert "the same command goes on" in err
    assert len(LabelStore.open(tmp_path / "store")) == 16
    assert "24 of 24 texts labelled" in run()[1]


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
        ("long.txt", b"word " * 1000, "4,999 characters, more than 350"),
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
        ("min_coverage", 2, "min_coverage must be from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(
    run: Callable[..., tuple[int, str, str]], option: str, value: float, message: str
) -> None:
    status, _, err = run(**{option: value})
    assert status == 1
    assert message in err


# Being killed


def command(checkpoint: Path, corpus: Path, store: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "preprocess.py"), "--text", str(corpus),
        "--teacher", str(checkpoint), "--out", str(store), "--batch-size", "2", "--device", "cpu",
        "--min-coverage", "0", "--max-backward-jumps", "1000000",
    ]  # fmt: skip


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_shards(store: Path, more: int) -> None:
    """Waits until a run has written that many shards more."""

    def count() -> int:
        return len(list((store / "shards").glob("shard-*.arrow")))

    wanted, deadline = count() + more, time.monotonic() + 60
    while count() < wanted and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_five_kills_lose_and_change_nothing(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    with started(command(checkpoint, corpus, tmp_path / "whole")) as whole:  # nobody kills this one
        whole.communicate()
    assert whole.returncode == 0

    # One kill at some moment of the start, which takes seconds, the others during the twenty
    # batches: after the first to third that a run gets done, at any moment of the next.
    rng = random.Random(4)
    folder = tmp_path / "killed"
    for number in range(5):
        with started(command(checkpoint, corpus, folder)) as victim:
            if number > 0:
                wait_for_shards(folder, more=rng.randint(1, 3))
            time.sleep(rng.uniform(0, 0.05 if number else 2.0))
            victim.kill()
        assert victim.returncode == -signal.SIGKILL
    written = sum(1 for _ in (folder / "shards").glob("shard-*.arrow"))
    assert 4 <= written < 20
    last = subprocess.run(
        command(checkpoint, corpus, folder), capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    assert not [p for p in folder.rglob("*.tmp")]
    store = LabelStore.open(folder)
    assert store.verify() == []
    assert len(store.ids) == len(set(store.ids)) == len(TEXTS)
    expected = {label.id: label for label in LabelStore.open(tmp_path / "whole")}
    for label in store:
        same = expected.pop(label.id)
        assert label.text == same.text
        assert label.seed == same.seed
        assert torch.equal(label.tokens, same.tokens)
        assert torch.equal(label.durations, same.durations)
        torch.testing.assert_close(label.mel, same.mel, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(label.memory, same.memory, atol=1e-3, rtol=1e-3)
    assert not expected
