"""Several processes write to one store: it is one store afterwards, whoever died and when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightspeech.errors import InputError
from lightspeech.files import lock_file
from lightspeech.manifest import (
    Manifest,
    Shard,
    rank_files,
    rank_manifest,
    read_manifest,
    shard_name,
    shard_order,
    union,
)
from lightspeech.rejects import joined, read_rejects
from lightspeech.store import LabelStore
from lightspeech.store_columns import read_columns
from lightspeech.store_lock import launched_run
from lightspeech.store_writer import Reject, StoreWriter
from tests.synthetic_store import IDENTITY, make_label

pytest.importorskip("fcntl", reason="locks are POSIX")


class Died(Exception):  # noqa: N818 - it is no error
    """A rank is gone, without leaving in an orderly way."""


@contextmanager
def ranks_at_work(path: Path, ranks: int, run: str = "run") -> Iterator[list[StoreWriter]]:
    """All ranks of a run at once."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(StoreWriter.open(path, IDENTITY, rank, ranks, run))
            for rank in range(ranks)
        ]


def label(writer: StoreWriter, *numbers: int) -> None:
    writer.append([make_label(number, 4) for number in numbers])


def die(path: Path, rank: int, ranks: int, *numbers: int, run: str = "run") -> None:
    """A rank comes, labels and dies."""
    with suppress(Died), StoreWriter.open(path, IDENTITY, rank, ranks, run) as writer:
        for number in numbers:
            label(writer, number)
        raise Died


def rejected(number: int, *seeds: int) -> Reject:
    return Reject(f"u{number:03d}", f"text {number}", "did not stop", {"frames": 9.0}, seeds)


def ids(*numbers: int) -> list[str]:
    return [f"u{number:03d}" for number in numbers]


def files(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if not p.name.startswith(".lock"))


def test_ranks_write_one_store(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path, 3) as (zero, one, two):
        label(two, 8)
        label(zero, 0, 1)
        label(one, 4)
        label(zero, 2)
        one.reject([rejected(5, 1)])
        store = LabelStore.open(tmp_path)  # while they are at work
        assert store.ids == ids(0, 1, 2, 4, 8)
        assert store.rejects == [rejected(5, 1)]
        working = store.digest
    assert [writer.left_last for writer in (zero, one, two)] == [True, False, False]
    assert files(tmp_path) == ["manifest.json", "rejects.json", "shards"]
    store = LabelStore.open(tmp_path)
    assert store.ids == ids(0, 1, 2, 4, 8)
    assert [x.id for x in store] == store.ids
    assert store.token_counts == [4] * 5
    assert store.digest == working
    assert store.rejects == [rejected(5, 1)]
    assert store.verify() == []
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.repairs == []
        assert sorted(writer.texts) == store.ids
        label(writer, 9)
    assert LabelStore.open(tmp_path).ids == ids(9, 0, 1, 2, 4, 8)


def test_what_dead_ranks_left_is_folded_in_whatever_comes_next(tmp_path: Path) -> None:
    for next_ranks in (1, 2, 5):
        path = tmp_path / str(next_ranks)
        with suppress(Died), ranks_at_work(path, 3) as writers:
            for rank, writer in enumerate(writers):
                label(writer, 10 * rank, 10 * rank + 1)
            raise Died
        assert [f for f in files(path) if "rank" in f] == [
            f"manifest.rank-{rank}.json" for rank in range(3)
        ]
        assert LabelStore.open(path).verify() == []
        with StoreWriter.open(path, IDENTITY, next_ranks - 1, next_ranks, "another") as writer:
            assert sorted(writer.texts) == ids(0, 1, 10, 11, 20, 21)
            label(writer, 30)
        store = LabelStore.open(path)
        assert sorted(store.ids) == ids(0, 1, 10, 11, 20, 21, 30)
        assert store.verify() == []
        assert files(path) == ["manifest.json", "shards"]


def test_the_digest_does_not_depend_on_who_was_first(tmp_path: Path) -> None:
    digests = set()
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1)), ("c", (1, 2, 0))):
        for rank in order:  # one after another: each has left before the next one comes
            with StoreWriter.open(tmp_path / name, IDENTITY, rank, 3, "run") as writer:
                label(writer, rank)
                label(writer, 10 + rank)
        digests.add(LabelStore.open(tmp_path / name).digest)
    with ranks_at_work(tmp_path / "d", 3) as writers:
        for number in (0, 10):
            for rank in (2, 1, 0):
                label(writers[rank], number + rank)
        digests.add(LabelStore.open(tmp_path / "d").digest)
    digests.add(LabelStore.open(tmp_path / "d").digest)
    assert len(digests) == 1


def test_a_rank_that_comes_late_or_again_finds_what_is_there(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY, 0, 2, "run") as zero:
        label(zero, 0)
        zero.reject([rejected(2, 7)])
        die(tmp_path, 1, 2, 1)
        with StoreWriter.open(tmp_path, IDENTITY, 1, 2, "run") as one:
            assert sorted(one.texts) == ids(0, 1)
            assert one.rejects == {"u002": rejected(2, 7)}
            label(one, 3)
        label(zero, 4)
    assert LabelStore.open(tmp_path).ids == ids(0, 4, 1, 3)
    assert LabelStore.open(tmp_path).verify() == []


def test_nobody_enters_while_a_rank_opens_or_leaves_the_store(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY):
        pass
    with open(tmp_path / ".lock.opening", "a+") as gate:
        assert lock_file(gate)
        with (
            pytest.raises(InputError, match="another process is writing to"),
            StoreWriter.open(tmp_path, IDENTITY),
        ):
            pass


def test_another_run_is_refused_while_any_rank_is_alive(tmp_path: Path) -> None:
    with ExitStack() as rest:
        with StoreWriter.open(tmp_path, IDENTITY, 0, 2, "run"):
            rest.enter_context(StoreWriter.open(tmp_path, IDENTITY, 1, 2, "run"))
        for rank, ranks, run in ((0, 1, "run"), (0, 2, "other"), (0, 3, "run")):
            with (
                pytest.raises(InputError, match=r"another run \(of 2 processes\) is writing to"),
                StoreWriter.open(tmp_path, IDENTITY, rank, ranks, run),
            ):
                pass
        with (
            pytest.raises(InputError, match="another process is rank 1 of the run"),
            StoreWriter.open(tmp_path, IDENTITY, 1, 2, "run"),
        ):
            pass
    with (
        StoreWriter.open(tmp_path, IDENTITY),
        pytest.raises(InputError, match="another process is writing to"),
        StoreWriter.open(tmp_path, IDENTITY, 0, 2, "run"),
    ):
        pass
    with StoreWriter.open(tmp_path, IDENTITY, 0, 3, "another"):
        pass


def test_ranks_refuse_other_settings_and_strays(tmp_path: Path) -> None:
    other = replace(IDENTITY, labelling={"seed": 2})
    with StoreWriter.open(tmp_path / "one", IDENTITY, 0, 2, "run") as zero:
        label(zero, 0)
        with (
            pytest.raises(InputError, match=r"labelled with seed 1 \(now 2\)"),
            StoreWriter.open(tmp_path / "one", other, 1, 2, "run"),
        ):
            pass
    with suppress(Died), StoreWriter.open(tmp_path / "two", other, 0, 2, "run") as writer:
        label(writer, 7)
        raise Died
    shutil.copy(tmp_path / "two" / "manifest.rank-0.json", tmp_path / "one")
    stray = r"manifest\.rank-0\.json is made with another seed, which its store is not; move it"
    with pytest.raises(InputError, match=stray):
        LabelStore.open(tmp_path / "one")
    with pytest.raises(InputError, match=stray), StoreWriter.open(tmp_path / "one", IDENTITY):
        pass
    (tmp_path / "one" / "manifest.rank-0.json").unlink()
    shard = tmp_path / "one" / "shards" / shard_name(55, None)
    shutil.copy(next((tmp_path / "two" / "shards").iterdir()), shard)
    with (
        pytest.raises(InputError, match=r"shard-00055\.arrow is made with another seed"),
        StoreWriter.open(tmp_path / "one", IDENTITY),
    ):
        pass
    assert shard.exists()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_ranks_files_that_are_cut_are_rebuilt(tmp_path: Path, share: float) -> None:
    with suppress(Died), ranks_at_work(tmp_path, 2) as writers:
        for rank, writer in enumerate(writers):
            label(writer, rank)
            label(writer, 10 + rank)
            writer.reject([rejected(20 + rank, 1)])
        raise Died
    for name in ("manifest.rank-1.json", "rejects.rank-1.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"manifest\.rank-1\.json is not .*it rebuilds the mani"):
        LabelStore.open(tmp_path)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert len(writer.repairs) == 2
        assert "it is rebuilt from its shards" in writer.repairs[0]
        assert "it is dropped, and its texts are tried again" in writer.repairs[1]
    store = LabelStore.open(tmp_path)
    assert store.ids == ids(0, 10, 1, 11)
    assert store.rejects == [rejected(20, 1)]
    assert store.verify() == []


def test_a_rank_rebuilds_its_own_files_while_others_work(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY, 0, 3, "run") as zero:
        label(zero, 0)
        for rank in (1, 2):
            with suppress(Died), StoreWriter.open(tmp_path, IDENTITY, rank, 3, "run") as writer:
                label(writer, rank)
                writer.reject([rejected(20 + rank, 1)])
                raise Died
            for name in (f"manifest.rank-{rank}.json", f"rejects.rank-{rank}.json"):
                (tmp_path / name).write_text("{")
        with StoreWriter.open(tmp_path, IDENTITY, 1, 3, "run") as one:
            assert "it is rebuilt from its shards" in one.repairs[0]
            assert sorted(one.texts) == ids(0, 1)  # rank 2's are for whoever is alone next
            assert len(read_manifest(tmp_path, rank_manifest(1)).shards) == 1
            label(one, 11)
        assert zero.repairs == []
    assert [repair.count("rank-2.json") for repair in zero.repairs] == [1, 1]
    store = LabelStore.open(tmp_path)
    assert store.ids == ids(0, 1, 11, 2)
    assert store.verify() == []


def test_a_rank_that_comes_again_names_its_damaged_shards(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY, 0, 2, "run"):
        die(tmp_path, 1, 2, 1, 2)
        shard = tmp_path / "shards" / shard_name(0, 1)
        shard.write_bytes(shard.read_bytes()[:-9])
        with StoreWriter.open(tmp_path, IDENTITY, 1, 2, "run") as one:
            [repair] = one.repairs
            assert repair.startswith(f"{shard} has ")
            assert "its 1 utterances are dropped" in repair
            assert sorted(one.texts) == ids(2)


def test_an_utterance_that_two_ranks_labelled_counts_once(tmp_path: Path) -> None:
    """It cannot happen within the rules: here, by a folder that was put together by hand."""
    for name, number in (("one", 1), ("two", 2)):
        die(tmp_path / name, number - 1, 2, 7, number)
    shutil.copy(tmp_path / "two" / "manifest.rank-1.json", tmp_path / "one")
    for shard in (tmp_path / "two" / "shards").iterdir():
        shutil.copy(shard, tmp_path / "one" / "shards")
    store = LabelStore.open(tmp_path / "one")
    assert store.ids == [x.id for x in store] == ids(7, 1, 2)
    assert len(store) == len(store.frames) == len(store.token_counts) == 3
    columns = read_columns(store)  # what the report counts, and takes labels by
    assert columns.ids == store.ids
    assert columns.frames.tolist() == store.frames
    assert columns.tokens.tolist() == store.token_counts
    for name, values in columns.scores.items():
        assert values.tolist() == [label.scores[name] for label in store]
    assert "u007 is there twice" in store.verify()[0]
    with StoreWriter.open(tmp_path / "one", IDENTITY) as writer:
        assert len(writer.repairs) == 1
        assert "kept once" in writer.repairs[0]
    store = LabelStore.open(tmp_path / "one")
    assert store.ids == ids(7, 1, 2)
    assert store.verify() == []


def test_the_rest_of_a_shard_with_repetitions_is_kept(tmp_path: Path) -> None:
    for name, rank, numbers in (("one", 0, (1, 2)), ("two", 1, (2, 3, 4))):
        with suppress(Died), StoreWriter.open(tmp_path / name, IDENTITY, rank, 2, "run") as writer:
            label(writer, *numbers)
            raise Died
    shutil.copy(tmp_path / "two" / "manifest.rank-1.json", tmp_path / "one")
    for shard in (tmp_path / "two" / "shards").iterdir():
        shutil.copy(shard, tmp_path / "one" / "shards")
    before = {x.id: x for x in LabelStore.open(tmp_path / "one")}
    assert list(before) == ids(1, 2, 3, 4)
    with StoreWriter.open(tmp_path / "one", IDENTITY):
        pass
    store = LabelStore.open(tmp_path / "one")
    assert store.ids == ids(1, 2, 3, 4)
    assert all(torch.equal(x.mel, before[x.id].mel) for x in store)
    assert store.verify() == []


def test_rejects_of_ranks_are_joined_and_labels_count_more(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        writer.reject([rejected(1, 5), rejected(2, 5), rejected(3, 5)])
    with ranks_at_work(tmp_path, 2) as (zero, one):
        assert zero.rejects.keys() == one.rejects.keys() == set(ids(1, 2, 3))
        label(one, 1)
        zero.reject([rejected(2, 5, 6), rejected(4, 9)])
        label(zero, 4)
        assert zero.rejects == {"u001": rejected(1, 5), "u002": rejected(2, 5, 6),
                                "u003": rejected(3, 5)}  # fmt: skip
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert list(writer.rejects.values()) == [rejected(2, 5, 6), rejected(3, 5)]


def test_of_a_text_in_several_lists_the_reject_that_was_tried_most_counts(tmp_path: Path) -> None:
    few, many = {"u001": rejected(1, 5)}, {"u001": rejected(1, 5, 6)}
    assert joined([few, many]) == joined([many, few]) == many


def test_a_list_of_rejects_that_is_folded_in_just_now_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # a moment ago
    assert read_rejects(tmp_path / "rejects.rank-0.json") == {}


def test_files_of_ranks_are_read_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    for rank in (10, 2, 1):
        (tmp_path / rank_manifest(rank)).touch()
    found = [path.name for path in rank_files(tmp_path, "manifest")]
    assert found == [rank_manifest(rank) for rank in (1, 2, 10)]


def test_of_a_shard_in_several_manifests_the_first_ones_counts(tmp_path: Path) -> None:
    one, other = (Shard(shard_name(0, 0), 2, 9, "f" * 64, modified) for modified in (5, 0))
    manifests = [Manifest(IDENTITY, (shard,)) for shard in (one, other)]
    assert union(manifests) == (one,)


def test_the_calibration_is_set_once_for_all_ranks(tmp_path: Path) -> None:
    with ranks_at_work(tmp_path, 2) as (zero, one):
        assert zero.calibration is one.calibration is None
        one.set_calibration({"frames_per_token": {"median": 5.5, "count": 20}})
        zero.set_calibration({"frames_per_token": {"median": 6.5, "count": 21}})
        assert zero.calibration == one.calibration
        label(zero, 1)
    store = LabelStore.open(tmp_path)
    assert store.calibration == {"frames_per_token": {"median": 5.5, "count": 20}}
    assert store.manifest["calibration"] == store.calibration
    (tmp_path / "manifest.json").unlink()  # the shards remember it
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.calibration == store.calibration
        writer.set_calibration({"other": 1.0})
        assert writer.calibration == store.calibration


def test_no_rank_comes_between_while_the_calibration_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def watched(path: Path) -> Manifest:
        with open(path / ".lock.opening", "a+") as gate:
            held.append(not lock_file(gate))
        return read_manifest(path)

    with ranks_at_work(tmp_path, 2) as (_, one), monkeypatch.context() as patch:
        patch.setattr("lightspeech.store_writer.read_manifest", watched)
        one.set_calibration({"median": 5.5})
    assert held == [True]


def test_a_rank_lists_what_it_has_made_itself(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 1)
    die(tmp_path, 0, 2, 2)
    found = json.loads((tmp_path / "manifest.rank-0.json").read_text())
    assert [shard["file"] for shard in found["shards"]] == [shard_name(0, 0)]


@pytest.mark.parametrize("wrong", ['{"a": "b"}', "[1]", '{"a": NaN}', '{"a": {"b": null}}'])
def test_a_calibration_that_is_no_figures_is_refused(tmp_path: Path, wrong: str) -> None:
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 1)
        with pytest.raises(AssertionError, match="expected numbers by name"):
            writer.set_calibration(json.loads(wrong))
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "calibration": json.loads(wrong)}))
    with pytest.raises(InputError, match="is damaged: expected teacher"):
        LabelStore.open(tmp_path)


def test_shards_above_99999_and_ranks_above_9_keep_their_order(tmp_path: Path) -> None:
    names = [shard_name(n, None) for n in (3, 99_999, 100_000)]
    names += [shard_name(n, rank) for rank in (2, 10) for n in (99_999, 100_000)]
    assert sorted(names[::-1], key=shard_order) == names
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 0)
        writer._next_number = 99_999
        for number in (1, 2):
            label(writer, number)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        label(writer, 3)
    store = LabelStore.open(tmp_path)
    assert store.ids == ids(0, 1, 2, 3)
    assert [s["file"] for s in store.manifest["shards"]] == [
        "shard-00000.arrow", "shard-99999.arrow", "shard-100000.arrow", "shard-100001.arrow",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "same"),
    [
        ({"TORCHELASTIC_RUN_ID": "job", "MASTER_PORT": "1"}, {"TORCHELASTIC_RUN_ID": "job"}),
        (
            {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            {"MASTER_ADDR": "a", "MASTER_PORT": "1"},
        ),
    ],
)
def test_ranks_of_a_run_recognise_each_other(
    environment: dict[str, str], same: dict[str, str]
) -> None:
    assert launched_run(environment) == launched_run(same)
    assert launched_run(environment) != launched_run({"TORCHELASTIC_RUN_ID": "another"})


def test_two_machines_that_call_themselves_localhost_are_not_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    runs = set()
    for host in ("left", "right"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        runs.add(launched_run(environment))
    assert len(runs) == 2


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        open(tmp_path / "x", "w") as file,
        pytest.raises(InputError, match=r"cannot lock files \(Operation not supported\)"),
    ):
        lock_file(file)


def share_of(numbers: Sequence[int], rank: int, ranks: int) -> list[int]:
    return [number for number in numbers if number % ranks == rank]


def test_runs_of_any_size_take_turns(tmp_path: Path) -> None:
    """Each run dies in the middle, but for the last; nothing is lost, and nothing is twice."""
    corpus = range(24)
    for ranks in (3, 1, 4, 2):
        with suppress(Died), ranks_at_work(tmp_path, ranks, run=f"run of {ranks}") as writers:
            held = set(writers[0].texts)
            for rank, writer in enumerate(writers):
                for number in share_of(corpus, rank, ranks)[: 24 // ranks // 2]:
                    if f"u{number:03d}" not in held:
                        label(writer, number)
            raise Died
        store = LabelStore.open(tmp_path)
        assert store.verify() == []
        assert len(set(store.ids)) == len(store.ids) >= 12
        assert held <= set(store.ids)
    with ranks_at_work(tmp_path, 3) as writers:
        for rank, writer in enumerate(writers):
            todo = [n for n in share_of(corpus, rank, 3) if f"u{n:03d}" not in writers[0].texts]
            for number in todo:
                label(writer, number)
    store = LabelStore.open(tmp_path)
    assert sorted(store.ids) == ids(*corpus)
    assert store.verify() == []
