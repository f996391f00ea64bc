"""The label store: what goes in comes out, and what is damaged, foreign or half-done is noticed."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightspeech import store_writer
from lightspeech.errors import InputError
from lightspeech.files import sha256, single_writer
from lightspeech.manifest import Shard, StoreIdentity
from lightspeech.shard import encode_shard
from lightspeech.store import Label, LabelStore
from lightspeech.store_writer import Reject, StoreWriter

MEMORY_SIZE = 6
IDENTITY = StoreIdentity("teacher.pt", "a" * 64, MEMORY_SIZE, {"seed": 1, "alignment": "monotonic"})


def make_label(id: str, seed: int = 0) -> Label:
    """A label with random contents."""
    rng = np.random.default_rng([seed, *id.encode()])
    durations = torch.from_numpy(rng.integers(0, 5, int(rng.integers(1, 9))))
    durations[0] += 1
    T, N = int(durations.sum()), len(durations)
    return Label(
        id=id,
        text=f"Text — {id}, “quoted”.",
        tokens=torch.from_numpy(rng.integers(1, 148, N)),
        durations=durations,
        mel=torch.from_numpy(rng.uniform(-11.5, 2, (T, 80)).astype(np.float32)),
        memory=torch.from_numpy(rng.uniform(-1, 1, (N, MEMORY_SIZE)).astype(np.float32)),
        scores={"coverage": float(rng.uniform()), "longest_stay": 3.0},
        seed=int(rng.integers(0, 2**32)),
    )


def fill(path: Path, *shards: str) -> list[Label]:
    """Writes a store with a shard for each argument, whose letters are the ids."""
    labels = []
    with StoreWriter.open(path, IDENTITY) as writer:
        for ids in shards:
            labels += [make_label(id) for id in ids]
            writer.append(labels[-len(ids) :])
    return labels


def shard_file(store: Path, number: int) -> Path:
    return store / "shards" / f"shard-{number:05d}.arrow"


def flip_byte(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x40
    path.write_bytes(bytes(content))


def edit_manifest(store: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    labels = fill(tmp_path / "store", "abc", "d", "ef")
    store = LabelStore.open(tmp_path / "store")
    assert len(store) == 6
    assert store.ids == list("abcdef")
    assert store.frames == [len(label.mel) for label in labels]
    assert store.memory_size == MEMORY_SIZE
    assert store.verify() == []
    for found, given in zip(store, labels, strict=True):
        assert (found.id, found.text, found.seed) == (given.id, given.text, given.seed)
        assert found.scores == given.scores
        assert torch.equal(found.tokens, given.tokens)
        assert torch.equal(found.durations, given.durations)
        assert found.durations.sum() == len(found.mel)
        assert found.mel.dtype == found.memory.dtype == torch.float32
        assert torch.equal(found.mel, given.mel.half().float())
        assert torch.equal(found.memory, given.memory.half().float())


def test_sixteen_bits_lose_what_the_docstring_says() -> None:
    mel = torch.linspace(-11.6, 3, 100_001)
    error = (mel - mel.half().float()).abs()
    assert error.max() <= 0.004
    assert error[mel > -4].max() <= 0.001
    memory = torch.linspace(-1, 1, 100_001)
    assert (memory - memory.half().float()).abs().max() <= 0.00025


def test_indices_behave_like_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "abc", "d", "ef")
    store = LabelStore.open(tmp_path)
    assert [label.id for label in store[2:5]] == ["c", "d", "e"]
    assert store[-1].id == "f"
    assert store[-6].id == "a"
    for index in (6, -7):
        with pytest.raises(IndexError, match="has 6 utterances"):
            store[index]


def test_labels_may_be_changed_without_changing_the_store(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    store = LabelStore.open(tmp_path)
    store[0].mel.zero_()
    store[0].durations.zero_()
    assert store[0].mel.abs().sum() > 0
    assert store.verify() == []


def test_a_store_that_was_read_can_be_pickled(tmp_path: Path) -> None:
    fill(tmp_path, "abc")
    store = LabelStore.open(tmp_path)
    first = store[0]
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert torch.equal(copy[0].mel, first.mel)
    assert copy.digest == store.digest
    assert copy.frames == store.frames


def test_the_digest_changes_with_the_labels(tmp_path: Path) -> None:
    fill(tmp_path / "one", "ab")
    before = LabelStore.open(tmp_path / "one").digest
    fill(tmp_path / "same", "ab")
    assert LabelStore.open(tmp_path / "same").digest == before
    fill(tmp_path / "one", "c")
    assert LabelStore.open(tmp_path / "one").digest != before


def test_arrow_reads_a_shard_by_itself(tmp_path: Path) -> None:
    labels = fill(tmp_path, "abc")
    with pa.ipc.open_file(str(shard_file(tmp_path, 0))) as file:
        table = file.read_all()
    assert table.schema.field("mel").type == pa.list_(pa.list_(pa.float16(), 80))
    assert table.schema.field("tokens").type == pa.list_(pa.int16())
    assert json.loads(table.schema.metadata[b"lightspeech"])["teacher"]["name"] == "teacher.pt"
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    for row, label in zip(rows, labels, strict=True):
        assert sum(row["durations"]) == row["frames"] == len(row["mel"])
        assert row["tokens"] == label.tokens.tolist()
        assert row["scores"]["coverage"] == label.scores["coverage"]
        np.testing.assert_array_equal(np.array(row["mel"]), label.mel.half().numpy())


def test_reading_copies_no_shard_into_memory(tmp_path: Path) -> None:
    fill(tmp_path, "abc")
    allocated = pa.total_allocated_bytes()
    store = LabelStore.open(tmp_path)
    labels = list(store)
    assert sum(label.mel.nbytes for label in labels) > 2000
    assert pa.total_allocated_bytes() - allocated < 1000


# Damage


def test_a_sound_shard_that_cannot_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "abc")

    def short_of_memory(*_: object) -> None:
        raise InputError("shard-00000.arrow is damaged") from OSError("Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr("lightspeech.store_recovery.ShardReader", short_of_memory)
        with (
            pytest.raises(InputError, match=r"though its checksum is right \(Cannot allocate"),
            StoreWriter.open(tmp_path, IDENTITY),
        ):
            pass
    assert LabelStore.open(tmp_path).ids == ["a", "b", "c"]


def test_a_shard_of_a_lost_manifest_that_cannot_be_read_now_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "abc")
    (tmp_path / "manifest.json").unlink()

    def short_of_memory(*_: object) -> None:
        raise InputError("cannot read it") from OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr("lightspeech.store_recovery.ShardReader", short_of_memory)
        with (
            pytest.raises(InputError, match=r"cannot read .*shard-00000\.arrow.*run this again"),
            StoreWriter.open(tmp_path, IDENTITY),
        ):
            pass
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.texts.keys() == {"a", "b", "c"}


def test_a_flipped_byte_is_found_named_and_redone(tmp_path: Path) -> None:
    fill(tmp_path, "abc", "de", "f")
    good = LabelStore.open(tmp_path)[3]
    flip_byte(shard_file(tmp_path, 1))
    problems = LabelStore.open(tmp_path).verify()
    assert len(problems) == 1
    assert "shard-00001.arrow is damaged: its checksum differs" in problems[0]
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.texts.keys() == set("abcf")
        assert len(writer.repairs) == 1
        assert "shard-00001.arrow is damaged" in writer.repairs[0]
        assert "its 2 utterances are dropped, and labelled again" in writer.repairs[0]
        assert not shard_file(tmp_path, 1).exists()
        writer.append([make_label("d"), make_label("e")])
    store = LabelStore.open(tmp_path)
    assert store.verify() == []
    assert sorted(store.ids) == list("abcdef")
    assert torch.equal(store[store.ids.index("d")].mel, good.mel)


@pytest.mark.parametrize("harm", ["truncate", "delete", "empty"])
def test_a_truncated_or_missing_shard_is_refused_and_redone(tmp_path: Path, harm: str) -> None:
    fill(tmp_path, "abc", "de")
    file = shard_file(tmp_path, 0)
    if harm == "delete":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:700] if harm == "truncate" else b"")
    with pytest.raises(InputError, match=r"shard-00000\.arrow .*run preprocess.py again"):
        LabelStore.open(tmp_path)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.texts.keys() == set("de")
        assert "shard-00000.arrow" in writer.repairs[0]
    assert LabelStore.open(tmp_path).verify() == []


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.98])
def test_no_flipped_byte_gets_past_verify(tmp_path: Path, share: float) -> None:
    fill(tmp_path, "abc")
    flip_byte(shard_file(tmp_path, 0), share)
    assert LabelStore.open(tmp_path).verify() != []


def test_reading_a_damaged_shard_ends_in_a_message_or_in_consistent_labels(tmp_path: Path) -> None:
    fill(tmp_path, "ab")
    good = shard_file(tmp_path, 0).read_bytes()
    refused = 0
    rng = np.random.default_rng(5)
    for position in rng.integers(0, len(good), 400):
        content = bytearray(good)
        content[position] ^= int(rng.integers(1, 256))
        shard_file(tmp_path, 0).write_bytes(bytes(content))
        try:
            labels = list(LabelStore.open(tmp_path))
        except InputError:
            refused += 1
        else:
            assert all(label.durations.sum() == len(label.mel) for label in labels)
    assert refused > 20


def plant(path: Path, *labels: Label) -> LabelStore:
    """A store whose only shard holds `labels`, with the checksum to match, whatever they are."""
    fill(path, "x")
    content = encode_shard(labels, IDENTITY)
    shard_file(path, 0).write_bytes(content)
    shard = Shard("shard-00000.arrow", len(labels), len(content), sha256(shard_file(path, 0)))
    edit_manifest(path, lambda m: m.update(shards=[vars(shard)]))
    return LabelStore.open(path)


def test_durations_that_do_not_sum_to_the_frames_are_refused_on_load(tmp_path: Path) -> None:
    good = make_label("a")
    store = plant(tmp_path, make_label("b"), replace(good, durations=good.durations + 1))
    with pytest.raises(InputError, match="durations do not sum to the frames"):
        store[0]
    assert "durations do not sum to the frames" in store.verify()[0]


def test_negative_durations_are_refused_on_load(tmp_path: Path) -> None:
    good = make_label("a")
    durations = torch.tensor([len(good.mel) + 1, -1])
    bad = replace(good, tokens=good.tokens[:1].repeat(2), durations=durations)
    store = plant(tmp_path, replace(bad, memory=good.memory[:1].repeat(2, 1)))
    with pytest.raises(InputError, match="durations do not sum"):
        store[0]


def test_ragged_tokens_are_refused_on_load(tmp_path: Path) -> None:
    good = make_label("a")
    store = plant(tmp_path, replace(good, tokens=torch.cat([good.tokens, good.tokens])))
    with pytest.raises(InputError, match="tokens, durations and memory have different lengths"):
        store[0]


def test_verify_finds_values_that_are_no_labels(tmp_path: Path) -> None:
    good = make_label("a")
    nan, inf = good.mel.clone(), good.memory.clone()
    nan[0, 3], inf[0, 0] = float("nan"), float("inf")
    bad_tokens = replace(make_label("d"), tokens=make_label("d").tokens + 148)
    store = plant(
        tmp_path,
        replace(good, mel=nan),
        make_label("b"),
        replace(good, id="c", memory=inf),
        bad_tokens,
    )
    problems = store.verify()
    assert len(problems) == 3
    assert "a has values that are not finite" in problems[0]
    assert "c has values that are not finite" in problems[1]
    assert "d has tokens that are not in the symbol table" in problems[2]


def test_verify_finds_an_utterance_that_is_there_twice(tmp_path: Path) -> None:
    store = plant(tmp_path, make_label("a"), make_label("b"), make_label("a", seed=7))
    assert len(store.verify()) == 1
    assert "a is there twice, first in shard-00000.arrow" in store.verify()[0]
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert "holds 1 utterances twice" in writer.repairs[0]
    store = LabelStore.open(tmp_path)
    assert store.verify() == []
    assert store.ids == ["a", "b"]
    assert torch.equal(store[0].mel, make_label("a").mel.half().float())


def test_columns_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    table = pa.table({"id": ["a"], "mel": [[1.0]]})
    with pa.ipc.new_file(str(shard_file(tmp_path, 0)), table.schema) as file:
        file.write_table(table)
    size, digest = shard_file(tmp_path, 0).stat().st_size, sha256(shard_file(tmp_path, 0))
    edit_manifest(tmp_path, lambda m: m["shards"][0].update(bytes=size, sha256=digest))
    with pytest.raises(InputError, match="its columns are not those of a label store"):
        LabelStore.open(tmp_path)[0]


# Dying


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, "ab")
    shards = tmp_path / "shards"
    shard_file(tmp_path, 1).write_bytes(b"renamed, but not yet in the manifest")
    with pa.ipc.open_file(str(shard_file(tmp_path, 0))) as file:
        table = file.read_all().replace_schema_metadata(None)
    with pa.ipc.new_file(str(shard_file(tmp_path, 7)), table.schema) as file:
        file.write_table(table)  # labels that do not say whose they are
    (shards / ".shard-00002.arrow.77.tmp").write_bytes(b"half a sh")
    (tmp_path / ".manifest.json.77.tmp").write_bytes(b"{")
    (shards / "notes.txt").write_text("somebody's own file")
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.repairs == []
        assert writer.texts.keys() == set("ab")
        writer.append([make_label("c")])
    assert sorted(p.name for p in shards.iterdir()) == [
        "notes.txt", "shard-00000.arrow", "shard-00001.arrow",
    ]  # fmt: skip
    assert not list(tmp_path.glob("*.tmp"))
    assert LabelStore.open(tmp_path).verify() == []


@pytest.mark.parametrize("step", ["write_shard", "write_json"])
def test_a_full_disk_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fill(tmp_path, "ab")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(store_writer, step, full)
            with pytest.raises(OSError, match="No space left"):
                writer.append([make_label("c")])
        writer.append([make_label("c"), make_label("d")])  # somebody made room
    store = LabelStore.open(tmp_path)
    assert store.ids == list("abcd")
    assert store.verify() == []


def test_a_writer_killed_before_its_first_manifest_leaves_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.77.tmp").write_bytes(b"{")
    assert len(fill(tmp_path, "a")) == len(LabelStore.open(tmp_path)) == 1


def test_rejects_are_remembered_until_they_are_labelled(tmp_path: Path) -> None:
    rejects = [Reject(id, id.upper(), "did not stop", {"frames": 9.0}, (1, 2)) for id in "xy"]
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        writer.reject(rejects)
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert list(writer.rejects.values()) == rejects
        writer.append([make_label("x")])
        assert writer.rejects.keys() == {"y"}
    assert [r["id"] for r in json.loads((tmp_path / "rejects.json").read_text())] == ["y"]


def test_a_label_counts_more_than_its_rejection(tmp_path: Path) -> None:
    fill(tmp_path, "x")
    stale = [{"id": "x", "text": "X", "reason": "did not stop", "scores": {}, "seeds": [1]}]
    (tmp_path / "rejects.json").write_text(json.dumps(stale), encoding="utf-8")
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.rejects == {}


@pytest.mark.parametrize("content", ["{}", '[{"id": 1}]', '[{"id": "a", "te', ""])
def test_damaged_rejects_are_named_and_tried_again(tmp_path: Path, content: str) -> None:
    fill(tmp_path, "x")
    (tmp_path / "rejects.json").write_text(content, encoding="utf-8")
    store = LabelStore.open(tmp_path)
    with pytest.raises(InputError, match=r"rejects\.json is (damaged|not a readable)"):
        _ = store.rejects
    assert len(store.verify()) == 1
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.rejects == {}
        assert len(writer.repairs) == 1
        assert "it is dropped, and its texts are tried again" in writer.repairs[0]
    assert LabelStore.open(tmp_path).verify() == []
    assert LabelStore.open(tmp_path).rejects == []


# Refusals


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no label store at .*make one with: python preprocess.py"
    ):
        LabelStore.open(tmp_path / "nowhere")


def test_an_empty_store_is_not_opened_for_reading(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match="holds no utterance yet"):
        LabelStore.open(tmp_path)


MANIFEST_DAMAGE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (
        lambda m: m.update(version=2),
        "is a label store of version 2, expected 1; label into another",
    ),
    (lambda m: m.update(format="other"), "is not the manifest of a label store"),
    (lambda m: m["audio"].update(hop_length=300), "hop_length is 300, expected 256"),
    (lambda m: m.update(symbols="f" * 64), "with another symbol table .ffffffffffff, expected"),
    (lambda m: m.pop("audio"), "declares no audio facts"),
    (lambda m: m.pop("teacher"), "is damaged: expected teacher"),
    (lambda m: m.update(memory_size="6"), "is damaged: expected teacher"),
    (lambda m: m.update(memory_size=True), "is damaged: expected teacher"),
    (lambda m: m.update(memory_size=10**12), "is damaged: expected teacher"),
    (lambda m: m.update(shards={}), "is damaged: expected teacher"),
    (lambda m: m["shards"].append(m["shards"][0]), "lists a shard twice"),
    (lambda m: m["shards"].append(7), "expected a shard's file"),
    (lambda m: m["shards"][0].update(rows=-1), "expected a shard's file"),
    (lambda m: m["shards"][0].update(rows=1.5), "expected a shard's file"),
    (lambda m: m["shards"][0].update(sha256=None), "expected a shard's file"),
    (lambda m: m["shards"][0].update(file="../../escape.arrow"), "expected a shard's file"),
    (lambda m: m["shards"][0].update(file="/etc/shard-00000.arrow"), "expected a shard's file"),
    (lambda m: m["shards"][0].update(file="shard-00000.arrow\n"), "expected a shard's file"),
]


@pytest.mark.parametrize(("edit", "message"), MANIFEST_DAMAGE)
def test_a_manifest_is_not_taken_on_trust(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    fill(tmp_path, "ab")
    edit_manifest(tmp_path, edit)
    with pytest.raises(InputError, match=message):
        LabelStore.open(tmp_path)
    with pytest.raises(InputError, match=message):
        fill(tmp_path)
    assert shard_file(tmp_path, 0).exists()


def test_half_a_manifest_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "ab")
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    with pytest.raises(InputError, match=r"manifest\.json is not a readable manifest"):
        LabelStore.open(tmp_path)


def test_a_row_count_that_lies_is_found(tmp_path: Path) -> None:
    fill(tmp_path, "ab")
    edit_manifest(tmp_path, lambda m: m["shards"][0].update(rows=3))
    with pytest.raises(InputError, match="it has 2 rows, the manifest says 3"):
        LabelStore.open(tmp_path)[0]
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        (repair,) = writer.repairs
    # Nor is a run that mends it told to run again.
    assert "the manifest says 3); its 3 utterances are dropped" in repair


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher": "b.pt", "teacher_sha256": "b" * 64},
            r"teacher.pt \(aaaaaaaaaaaa\), not by b.pt \(bbbbbbbbbbbb\); give the same --teacher",
        ),
        (
            {"labelling": {"seed": 2, "alignment": "monotonic"}},
            r"labelled with seed 1 \(now 2\); give the same settings or another --out",
        ),
        (
            {"labelling": {"seed": 1, "alignment": "monotonic", "mode": "forced"}},
            r"mode not set \(now forced\)",
        ),
    ],
)
def test_labels_of_another_kind_are_not_mixed_in(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fill(tmp_path, "ab")
    with (
        pytest.raises(InputError, match=message),
        StoreWriter.open(tmp_path, replace(IDENTITY, **change)),
    ):
        pass
    assert len(LabelStore.open(tmp_path)) == 2


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"not a label store and not empty \(it holds thesis.tex"):
        fill(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_that_another_rank_makes_at_this_moment_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    path.mkdir()
    listed = Path.iterdir

    def made_just_before(folder: Path) -> Iterator[Path]:
        monkeypatch.undo()
        with StoreWriter.open(path, IDENTITY):
            pass
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", made_just_before)
    with StoreWriter.open(path, IDENTITY) as writer:
        assert writer.repairs == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into the folder"):
        fill(tmp_path / "file" / "store")
    with pytest.raises(InputError, match="cannot write into the folder"):
        fill(tmp_path / "file")


def test_two_writers_are_refused_and_readers_are_not(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="locks are POSIX")
    fill(tmp_path, "a")
    with single_writer(tmp_path):
        with pytest.raises(InputError, match="another process is writing to"):
            fill(tmp_path, "b")
        assert len(LabelStore.open(tmp_path)) == 1
    fill(tmp_path, "b")


def test_the_writer_refuses_labels_that_break_the_contract(tmp_path: Path) -> None:
    good = make_label("a")
    bad = {
        "no scores": replace(good, scores={}),
        "durations": replace(good, durations=good.durations + 1),
    }
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        for message, label in bad.items():
            with pytest.raises(AssertionError, match=message):
                writer.append([label])
        with pytest.raises(AssertionError, match="an id twice"):
            writer.append([good, good])
        writer.append([good])
        with pytest.raises(AssertionError, match="in the store already"):
            writer.append([good])
    assert len(LabelStore.open(tmp_path)) == 1


def test_the_digest_changes_with_the_order(tmp_path: Path) -> None:
    fill(tmp_path / "ab", "a", "b")
    fill(tmp_path / "ba", "b", "a")
    assert LabelStore.open(tmp_path / "ab").digest != LabelStore.open(tmp_path / "ba").digest


def test_what_is_damaged_in_a_store_without_its_manifest_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    (tmp_path / "manifest.json").unlink()
    flip_byte(shard_file(tmp_path, 1))
    with StoreWriter.open(tmp_path, IDENTITY) as writer:
        assert writer.texts.keys() == {"a"}
        lost, damaged = writer.repairs
    assert "has lost its manifest.json; it is rebuilt from the shards" in lost
    assert "shard-00001.arrow is damaged" in damaged
    assert "its utterances are dropped" in damaged


def test_the_order_in_which_a_manifest_lists_the_shards_does_not_matter(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", "c")
    before = LabelStore.open(tmp_path)
    edit_manifest(tmp_path, lambda m: m["shards"].reverse())
    after = LabelStore.open(tmp_path)
    assert (after.ids, after.digest) == (before.ids, before.digest)


def test_a_shard_whose_checksum_was_right_is_not_read_again(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    shard = shard_file(tmp_path, 0)
    os.utime(shard, ns=(1, 10**18))  # by a copy, say
    with StoreWriter.open(tmp_path, IDENTITY):
        pass
    [listed] = LabelStore.open(tmp_path).manifest["shards"]
    assert listed["modified"] == shard.stat().st_mtime_ns


def test_an_utterance_in_two_shards_is_found_and_mended(tmp_path: Path) -> None:
    fill(tmp_path / "other", "a")
    fill(tmp_path / "store", "x", "ab")
    first = tmp_path / "store" / "shards" / "shard-00000.arrow"
    first.write_bytes((tmp_path / "other" / "shards" / "shard-00000.arrow").read_bytes())
    listed = json.loads((tmp_path / "other" / "manifest.json").read_text())["shards"][0]
    edit_manifest(tmp_path / "store", lambda m: m["shards"].__setitem__(0, listed))
    problems = LabelStore.open(tmp_path / "store").verify()
    assert len(problems) == 1
    assert "a is there twice, first in shard-00000.arrow" in problems[0]
    with StoreWriter.open(tmp_path / "store", IDENTITY) as writer:
        assert "holds 1 utterances twice, or that another shard holds too" in writer.repairs[0]
        assert writer.texts.keys() == {"a", "b"}
    store = LabelStore.open(tmp_path / "store")
    assert store.verify() == []
    assert store.ids == ["a", "b"]
    assert not (tmp_path / "store" / "shards" / "shard-00001.arrow").exists()
