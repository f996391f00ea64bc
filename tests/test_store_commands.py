"""python -m lightspeech.store verify, info, merge, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightspeech import store_commands
from lightspeech.manifest import StoreIdentity
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import Reject, StoreWriter
from tests.synthetic_store import IDENTITY, make_label

ROOT = Path(__file__).parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_in_process: Run) -> Run:
    """Runs a command in this process -> exit status, standard output, standard error."""
    return partial(run_in_process, store_commands.main, "lightspeech.store")


def make_store(
    path: Path, *shards: list[int | Label], identity: StoreIdentity = IDENTITY
) -> list[Label]:
    """A store with a shard for each list; a number is the label of that number."""
    labels = [[x if isinstance(x, Label) else make_label(x, 4 + x % 3) for x in s] for s in shards]
    with StoreWriter.open(path, identity) as writer:
        for shard in labels:
            writer.append(shard)
    return [label for shard in labels for label in shard]


def ids(*numbers: int) -> list[str]:
    return [f"u{number:03d}" for number in numbers]


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_the_commands_run_from_the_module() -> None:
    command = [sys.executable, "-W", "error", "-m", "lightspeech.store"]
    result = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("verify", "info", "merge", "export"))
    result = subprocess.run(
        [*command, "verify", "nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: no label store at nowhere")
    assert result.stderr.count("\n") == 1


def test_verify_says_that_all_is_well(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path, [1, 2], [3])
    status, out, err = run("verify", tmp_path)
    assert (status, err) == (0, "")
    assert f"{tmp_path} is sound: 3 utterances in 2 shards" in out


def test_verify_prints_a_line_for_each_problem(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path, [1, 2], [3], [4], [5])
    shards = sorted((tmp_path / "shards").iterdir())
    spoil(shards[0])
    shards[1].write_bytes(b"")
    shards[2].unlink()
    (tmp_path / "rejects.json").write_text("[{]")
    status, out, err = run("verify", tmp_path)
    assert status == 1
    lines = out.splitlines()
    assert len(lines) == 4
    assert "checksum differs" in lines[0]
    assert "has 0 bytes" in lines[1]
    assert "is missing" in lines[2]
    assert "rejects.json is not a readable" in lines[3]
    assert "4 problems" in err
    assert "run preprocess.py again" in err
    (tmp_path / "manifest.json").write_text("{")
    status, out, err = run("verify", tmp_path)
    assert status == 1
    assert "it rebuilds the manifest from the shards" in err


def test_info_shows_what_is_there(run: Run, tmp_path: Path) -> None:
    labels = make_store(tmp_path, [1, 2], [3])
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        writer.set_calibration({"median": 2.5})
        writer.reject([Reject(f"r{n}", "r", "did not stop", {}, (1,)) for n in range(3)])
        writer.reject([Reject("s", "s", "coverage below 0.85", {}, (1,))])
    status, out, _ = run("info", tmp_path, "--json")
    assert status == 0
    facts = json.loads(out)
    frames, tokens = sum(len(x.mel) for x in labels), sum(len(x.tokens) for x in labels)
    assert facts["utterances"] == 3
    assert facts["hours"] == pytest.approx(frames * 256 / 22050 / 3600)
    assert facts["frames_per_token"] == frames / tokens
    assert facts["rejects"] == {"did not stop": 3, "coverage below 0.85": 1}
    assert facts["teacher"] == {"name": "synthetic", "sha256": "a" * 64}
    assert facts["calibration"] == {"median": 2.5}
    assert facts["bytes"] == sum(f.stat().st_size for f in (tmp_path / "shards").iterdir())
    assert facts["digest"] == LabelStore.open(tmp_path).digest
    status, out, _ = run("info", tmp_path)
    assert status == 0
    for part in ("3 utterances", "2 shards", "seed 1", "4 texts rejected", "3: did not stop"):
        assert part in out


def test_info_of_a_store_without_labels(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path)
    status, out, _ = run("info", tmp_path)
    assert status == 0
    assert "0 utterances, 0.00 hours" in out


def test_merge_joins_stores(run: Run, tmp_path: Path) -> None:
    labels = make_store(tmp_path / "a", [1, 2], [3])
    make_store(tmp_path / "b", [2, 4], [1, 3], [5])
    other = make_label(3, 9)
    labels[2:] = [labels[2], make_label(4, 5), make_label(5, 6)]
    make_store(tmp_path / "c", [replace(other, scores={"another_score": 2.0})])
    for name, number in (("a", 5), ("b", 6), ("c", 7)):
        with StoreWriter.open(tmp_path / name, IDENTITY) as writer:
            writer.reject([Reject(f"u{number:03d}", "x", "did not stop", {}, (1,))])
            if name != "a":  # the first that has any counts
                writer.set_calibration({"median": float(number)})
    sources = [tmp_path / name for name in "abc"]
    status, out, err = run("merge", *sources, "--out", tmp_path / "all")
    assert (status, err) == (0, "")
    assert "5 utterances and 2 rejected texts" in out
    assert "4 utterances were in more than one store; 1 of them as different rend" in out
    store = LabelStore.open(tmp_path / "all")
    assert store.verify() == []
    assert store.ids == ids(1, 2, 3, 4, 5)
    assert [reject.id for reject in store.rejects] == ids(6, 7)
    assert store.calibration == {"median": 6.0}
    for found, given in zip(store, labels, strict=True):
        assert torch.equal(found.mel, given.mel.half().float())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "all", "b", "c"]
    with StoreWriter.open(tmp_path / "all", IDENTITY) as writer:  # it is a store like any other
        writer.append([make_label(9, 4)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_sha256": "b" * 64}, "only stores of one teacher can be joined"),
        ({"labelling": {"seed": 2}}, "were labelled with seed 1 and 2; only stores of the same"),
    ],
)
def test_merge_refuses_other_kinds(
    run: Run, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    make_store(tmp_path / "a", [1])
    make_store(tmp_path / "b", [2], identity=replace(IDENTITY, **change))  # type: ignore[arg-type]
    status, _, err = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert status == 1
    assert message in err
    assert not (tmp_path / "all").exists()


def test_merge_refuses_an_id_with_two_texts(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path / "a", [1, 2])
    make_store(tmp_path / "b", [replace(make_label(2, 4), text="something else")])
    status, _, err = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert status == 1
    assert "1 ids stand for different texts: u002 is 'text 2' in" in err
    assert not (tmp_path / "all").exists()


def test_merge_is_all_or_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "a", [1], [2])
    make_store(tmp_path / "b", [3])
    command = ("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    left = tmp_path / ".all.merging" / "store"  # by a merge that was killed
    make_store(left, [7])
    with monkeypatch.context() as patch:
        fsync, calls = os.fsync, []

        def full(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > 9:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        patch.setattr(os, "fsync", full)
        status, _, err = run(*command)
    assert status == 1
    assert "the disk is full" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    make_store(left, [7])
    assert run(*command)[0] == 0
    assert LabelStore.open(tmp_path / "all").ids == ids(1, 2, 3)
    status, _, err = run(*command)
    assert status == 1
    assert "is there already" in err


def test_merge_copies_no_damage(run: Run, tmp_path: Path) -> None:
    make_store(tmp_path / "a", [1], [2])
    spoil(tmp_path / "a" / "shards" / "shard-00001.arrow")
    status, _, err = run("merge", tmp_path / "a", "--out", tmp_path / "all")
    assert status == 1
    assert "checksum differs" in err
    assert not (tmp_path / "all").exists()


def test_export_writes_the_same_arrays(run: Run, tmp_path: Path) -> None:
    labels = make_store(tmp_path / "store", [1, 2, 3], [4, 5])
    labels += make_store(
        tmp_path / "store", [replace(make_label(6, 5), scores=dict.fromkeys("edcba", 0.5))]
    )
    file = tmp_path / "new" / "store.parquet"
    status, out, err = run("export", tmp_path / "store", "--out", file)
    assert (status, err) == (0, "")
    assert "6 utterances" in out
    parquet = pq.ParquetFile(file)
    assert [parquet.metadata.row_group(n).num_rows for n in range(3)] == [3, 2, 1]
    table = parquet.read()
    assert table.schema.field("mel").type == pa.list_(pa.list_(pa.float16(), 80))
    assert json.loads(table.schema.metadata[b"lightspeech"])["labelling"] == {"seed": 1}
    assert [field.name for field in table.schema.field("scores").type] == [*"abcde", "focus_rate"]
    assert len(table) == len(labels)
    for row, label in zip(table.to_pylist(), labels, strict=True):
        assert (row["id"], row["text"], row["frames"]) == (label.id, label.text, len(label.mel))
        assert row["tokens"] == label.tokens.tolist()
        assert row["durations"] == label.durations.tolist()
        np.testing.assert_array_equal(np.array(row["mel"]), label.mel.half().numpy())
        np.testing.assert_array_equal(np.array(row["memory"]), label.memory.half().numpy())
        assert {k: v for k, v in row["scores"].items() if v is not None} == label.scores


def test_export_is_all_or_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "store", [1], [2])
    file = tmp_path / "store.parquet"
    file.write_bytes(b"PAR1, an older one")
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        assert run("export", tmp_path / "store", "--out", file)[0] == 1
    spoil(tmp_path / "store" / "shards" / "shard-00001.arrow")
    status, _, err = run("export", tmp_path / "store", "--out", file)
    assert status == 1
    assert "checksum differs" in err
    assert file.read_bytes() == b"PAR1, an older one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "store.parquet"]
    status, _, err = run("export", tmp_path / "store", "--out", tmp_path)
    assert status == 1
    assert "is a folder; name the Parquet file" in err


@pytest.mark.parametrize("name", ["manifest.json", "shards/shard-00000.arrow", "pipe"])
def test_export_replaces_nothing_but_parquet(run: Run, tmp_path: Path, name: str) -> None:
    make_store(tmp_path, [1], [2])
    if name == "pipe":  # as good as /dev/full, which is not to be tried
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes by name here")
        os.mkfifo(tmp_path / name)
    status, _, err = run("export", tmp_path, "--out", tmp_path / name)
    assert status == 1
    assert f"{tmp_path / name} is there already and no Parquet file; give another name" in err
    assert name != "pipe" or (tmp_path / name).is_fifo()
    assert LabelStore.open(tmp_path).verify() == []
    (tmp_path / "empty").touch()  # as mktemp makes one
    for _ in range(2):  # and then a Parquet file
        assert run("export", tmp_path, "--out", tmp_path / "empty")[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_full_for_parquet_is_said_to_be_full(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightspeech import store_export

    make_store(tmp_path / "store", list(range(100)))

    def on_a_full_disk(path: Path, mode: str) -> object:
        return open("/dev/full", mode)

    monkeypatch.setattr(store_export, "open", on_a_full_disk, raising=False)
    status, _, err = run("export", tmp_path / "store", "--out", tmp_path / "x.parquet")
    assert status == 1
    assert "the disk is full" in err
    assert not (tmp_path / "x.parquet").exists()


def test_commands_take_what_ranks_left(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="locks are POSIX")
    with (
        suppress(KeyError),
        StoreWriter.open(tmp_path / "store", IDENTITY, 0, 2, "run") as zero,
        StoreWriter.open(tmp_path / "store", IDENTITY, 1, 2, "run") as one,
    ):
        zero.append([make_label(1, 4), make_label(2, 4)])
        one.append([make_label(2, 4), make_label(3, 4)])  # which cannot happen within the rules
        raise KeyError("both died")
    assert run("export", tmp_path / "store", "--out", tmp_path / "x.parquet")[0] == 0
    assert pq.read_table(tmp_path / "x.parquet")["id"].to_pylist() == ids(1, 2, 3)
    assert run("merge", tmp_path / "store", "--out", tmp_path / "new")[0] == 0
    assert LabelStore.open(tmp_path / "new").ids == ids(1, 2, 3)
    assert json.loads(run("info", tmp_path / "store", "--json")[1])["utterances"] == 3
    status, out, _ = run("verify", tmp_path / "store")
    assert status == 1
    assert "u002 is there twice" in out
