"""The label store under SIGKILL, on a full disk, and with files that somebody has spoilt."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightspeech import shard
from lightspeech.errors import InputError
from lightspeech.store import LabelStore
from lightspeech.store_writer import Reject, StoreWriter
from tests.synthetic_store import IDENTITY, make_label

pytest.importorskip("fcntl", reason="kills and locks are POSIX")


class Died(BaseException):
    """The process is gone; nothing that it does afterwards reaches the disk."""


class Disk:
    """Counts what is done to the disk, and from the call number `fails_at` on does it no more."""

    def __init__(self, patch: pytest.MonkeyPatch, fails_at: int, error: BaseException) -> None:
        self.calls, self._fails_at, self._error = 0, fails_at, error
        for name in ("write", "fsync", "replace"):
            patch.setattr(os, name, self._counted(getattr(os, name), name))
        if isinstance(error, Died):  # who is dead tidies nothing up
            patch.setattr(os, "unlink", self._counted(os.unlink, "unlink"))

    @property
    def failed(self) -> bool:
        return self.calls >= self._fails_at

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if not self.failed:
                return call(*args, **options)
            if name == "write" and self.calls == self._fails_at:
                call(args[0], args[1][: len(args[1]) // 2])  # a part gets through
            raise self._error

        return counted


def label(writer: StoreWriter, *numbers: int) -> None:
    writer.append([make_label(number, 4) for number in numbers])


def rejected(number: int) -> Reject:
    return Reject(f"u{number:03d}", f"text {number}", "did not stop", {}, (1,))


def left_by_dead_ranks(path: Path) -> set[str]:
    """A store with shards of its own, and what two ranks left; returns the ids that it holds."""
    with StoreWriter.open(path, IDENTITY) as writer:
        label(writer, 0, 1)
        writer.reject([rejected(50), rejected(10)])
    with suppress(Died), ExitStack() as ranks:
        for rank in (0, 1):
            writer = ranks.enter_context(StoreWriter.open(path, IDENTITY, rank, 2, "run"))
            label(writer, 10 + rank)
            label(writer, 20 + rank)
            writer.reject([rejected(60 + rank)])
        raise Died
    return {"u000", "u001", "u010", "u011", "u020", "u021"}


def session(path: Path, rank: int, ranks: int, acknowledged: set[str]) -> None:
    """Opens the store, which puts it in order, and adds to it."""
    with StoreWriter.open(path, IDENTITY, rank, ranks, "another run") as writer:
        if writer.calibration is None:
            writer.set_calibration({"frames_per_token": 5.0})
        for number in (30, 40, 41):
            if f"u{number:03d}" not in writer.texts:
                label(writer, number)
            acknowledged.add(f"u{number:03d}")
        writer.reject([rejected(70)])


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Died()])
def test_a_disk_that_fails_at_any_call_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, ranks: int
) -> None:
    """Each call in turn fails, and all after it: nothing that was there or acknowledged is lost."""
    held = left_by_dead_ranks(tmp_path / "before")
    rejects = {"u050", "u060", "u061"}
    fails_at, failed = 0, True
    while failed:
        fails_at += 1
        path = tmp_path / f"after {fails_at}"
        shutil.copytree(tmp_path / "before", path)
        acknowledged: set[str] = set()
        with monkeypatch.context() as patch:
            disk = Disk(patch, fails_at, error)
            with suppress(type(error)):
                session(path, ranks - 1, ranks, acknowledged)
            failed = disk.failed
        store = LabelStore.open(path)
        assert store.verify() == []
        assert held | acknowledged <= set(store.ids)
        assert rejects <= {reject.id for reject in store.rejects}
        session(path, ranks - 1, ranks, acknowledged)
        store = LabelStore.open(path)
        assert store.verify() == []
        assert sorted(store.ids) == sorted(held | {"u030", "u040", "u041"})
        assert sorted(reject.id for reject in store.rejects) == sorted(rejects | {"u070"})
        assert store.calibration == {"frames_per_token": 5.0}
        assert not [*path.rglob("*.tmp"), *path.glob("*.rank-*.json")]
        shutil.rmtree(path)
    assert fails_at > 30


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Died()])
def test_repairs_may_be_interrupted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A lost manifest, a damaged shard and a repetition: mended at once or at the second try."""
    before = tmp_path / "before"
    left_by_dead_ranks(before)
    (before / "manifest.json").unlink()
    shards = before / "shards"
    spoil(shards / "shard-00001.rank-1.arrow")
    repetition = shards / "shard-00007.rank-3.arrow"
    with StoreWriter.open(tmp_path / "other", IDENTITY) as writer:
        label(writer, 0, 99)
    shutil.copy(tmp_path / "other" / "shards" / "shard-00000.arrow", repetition)
    fails_at, failed = 0, True
    while failed:
        fails_at += 1
        path = tmp_path / f"after {fails_at}"
        shutil.copytree(before, path)
        with monkeypatch.context() as patch:
            disk = Disk(patch, fails_at, error)
            with suppress(type(error)), StoreWriter.open(path, IDENTITY):
                pass
            failed = disk.failed
        with StoreWriter.open(path, IDENTITY) as writer:
            assert sorted(writer.texts) == ["u000", "u001", "u010", "u011", "u020", "u099"]
        assert LabelStore.open(path).verify() == []
        shutil.rmtree(path)
    assert fails_at > 10


# Spoilt files


def spoil(file: Path, share: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("harm", [cut, empty, zeros, Path.unlink])
def test_a_lost_manifest_is_rebuilt_from_the_shards(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    held = left_by_dead_ranks(tmp_path)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 30)
    before = LabelStore.open(tmp_path)
    harm(tmp_path / "manifest.json")
    with pytest.raises(
        InputError, match=r"manifest.json.*it rebuilds the manifest from the shards"
    ):
        LabelStore.open(tmp_path)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert len(writer.repairs) == 1
        assert "it is rebuilt from the shards" in writer.repairs[0]
    store = LabelStore.open(tmp_path)
    assert set(store.ids) == held | {"u030"}
    assert store.digest == before.digest
    assert store.manifest == before.manifest
    assert store.rejects == before.rejects
    assert store.verify() == []


def test_a_rebuilt_store_loses_only_what_is_damaged(tmp_path: Path) -> None:
    held = left_by_dead_ranks(tmp_path)
    cut(tmp_path / "manifest.json")
    spoil(tmp_path / "shards" / "shard-00001.rank-0.arrow")  # u020
    for number, harm in ((0, empty), (1, cut)):  # u011 and u021
        harm(tmp_path / "shards" / f"shard-{number:05d}.rank-1.arrow")
    (tmp_path / "manifest.rank-0.json").unlink()
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.texts.keys() == held - {"u020", "u011", "u021"}
        assert len(writer.repairs) == 4
        assert sum("labelled again" in line for line in writer.repairs) == 3
    assert LabelStore.open(tmp_path).verify() == []


def test_a_lost_manifest_does_not_open_the_store_to_other_labels(tmp_path: Path) -> None:
    left_by_dead_ranks(tmp_path)
    (tmp_path / "manifest.json").unlink()
    other = replace(IDENTITY, labelling={"seed": 2})
    with (
        pytest.raises(InputError, match=r"labelled with seed 1 \(now 2\)"),
        StoreWriter.open(tmp_path, other),
    ):
        pass
    assert len(list((tmp_path / "shards").iterdir())) == 5


def test_where_nothing_says_what_it_is_a_person_decides(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 0)
    cut(tmp_path / "manifest.json")
    cut(tmp_path / "shards" / "shard-00000.arrow")
    with (
        pytest.raises(InputError, match=r"none of its 1 shards says what it is; restore the fold"),
        StoreWriter.open(tmp_path, IDENTITY),
    ):
        pass
    assert (tmp_path / "shards" / "shard-00000.arrow").exists()


def test_damage_that_changes_no_time_is_found_by_verify_and_then_redone(tmp_path: Path) -> None:
    """A rotten disk changes neither size nor time: opening passes over it, `verify` does not."""
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 0)
        label(writer, 1)
    file = tmp_path / "shards" / "shard-00001.arrow"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    spoil(file)
    os.utime(file, ns=times)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.repairs == []
    assert len(LabelStore.open(tmp_path).verify()) == 1
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert "checksum differs" in writer.repairs[0]
        assert writer.texts.keys() == {"u000"}
    assert LabelStore.open(tmp_path).verify() == []


def test_a_copied_store_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter.open(tmp_path / "store", IDENTITY) as writer:
        label(writer, 0)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=shutil.copyfile)
    read: list[Path] = []
    checksum = shard.sha256
    monkeypatch.setattr(shard, "sha256", lambda path: (read.append(path), checksum(path))[1])
    for store, expected in (("store", 0), ("copy", 1), ("copy", 0)):
        read.clear()
        with StoreWriter.open(tmp_path / store, IDENTITY) as writer:
            assert writer.repairs == []
        assert len(read) == expected
    assert LabelStore.open(tmp_path / "copy").digest == LabelStore.open(tmp_path / "store").digest


# Kills


def write_until_killed(path: Path, log: Path, rank: int = 0, ranks: int = 1) -> None:
    """Labels as fast as it can, and notes each utterance once it is promised."""
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with StoreWriter.open(path, IDENTITY, rank, ranks, "run") as writer:
        number = rank
        while True:
            if f"u{number:03d}" not in writer.texts:
                label(writer, number)
                os.write(notes, f"u{number:03d}\n".encode())
            number += ranks


def promised(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes quickly, from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_store_faults"])
    return context


def kill_after(process: Any, log: Path, seconds: float, begun: int) -> None:
    """Kills a process that long after it has promised something that was not in the log."""
    deadline = time.monotonic() + 60
    while len(promised(log)) <= begun and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_twenty_kills_lose_nothing_that_was_promised(tmp_path: Path, processes: Any) -> None:
    path, log = tmp_path / "store", tmp_path / "log"
    moments = random.Random(5)
    for _ in range(20):
        begun = len(promised(log))
        process = processes.Process(target=write_until_killed, args=(path, log))
        process.start()
        kill_after(process, log, moments.uniform(0, 0.05), begun)
    with StoreWriter.open(path, IDENTITY) as writer:
        assert writer.repairs == []
    store = LabelStore.open(path)
    assert store.verify() == []
    assert len(store.ids) == len(set(store.ids))
    given = promised(log)
    assert len(given) == len(set(given)) >= 20
    assert set(given) <= set(store.ids)
    assert len(store) - len(given) <= 20  # each kill fell on one label at the most


def test_killed_ranks_lose_nothing_whatever_their_number(tmp_path: Path, processes: Any) -> None:
    path = tmp_path / "store"
    moments = random.Random(6)
    logs = []
    for run, ranks in enumerate((2, 3, 1, 2)):
        started = []
        for rank in range(ranks):
            log = tmp_path / f"log-{run}-{rank}"
            arguments = (path, log, rank, ranks)
            process = processes.Process(target=write_until_killed, args=arguments)
            process.start()
            started.append((process, log))
        for process, log in started:
            kill_after(process, log, moments.uniform(0, 0.1), 0)
            logs.append(log)
    assert LabelStore.open(path).verify() == []
    with StoreWriter.open(path, IDENTITY) as writer:
        assert writer.repairs == []
    store = LabelStore.open(path)
    assert store.verify() == []
    assert len(store.ids) == len(set(store.ids))
    given = [id for log in logs for id in promised(log)]
    assert len(given) == len(set(given)) >= 8
    assert set(given) <= set(store.ids)
