"""Joins label stores of one teacher and the same settings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lightspeech.errors import InputError
from lightspeech.files import make_folder, single_writer, sync_folder
from lightspeech.manifest import SHARDS
from lightspeech.rejects import joined
from lightspeech.shard import MEND, Label, shard_problem
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter


@dataclass(frozen=True)
class Merged:
    """What a new store was made of."""

    utterances: int
    rejects: int
    """texts without a label in any of the stores"""
    repeated: int
    """utterances that a later store holds too, and that were left out there"""
    different: int
    """of those, renditions that are not the first store's to the last bit: labels of two machines
    may differ by rounding"""


def merge(paths: Sequence[str | Path], out: str | Path) -> Merged:
    """Makes a store in the new folder `out` of what the stores in `paths` hold.

    Their shards are copied one by one, in the order given. `out` appears when all is in it: until
    then, and after a kill, there is a hidden folder beside it, which the next try replaces. Of an
    utterance that several stores hold, the first store's label is taken: for the same teacher,
    settings and text they differ by no more than rounding, or by tries of different runs.

    Raises:
        InputError: `out` is there already; a store that cannot be read, is damaged, is of another
            teacher or has other settings than the first; an id that stands for different texts.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; give a new folder as --out")
    stores = [LabelStore.open(path, may_be_empty=True) for path in paths]
    for store in stores[1:]:
        _refuse_other_kind(stores[0], store)
    _refuse_other_texts(stores)
    workshop = out.with_name(f".{out.name}.merging")
    make_folder(workshop)
    with single_writer(workshop):
        unfinished = workshop / "store"
        if unfinished.exists():  # by a merge that was killed
            shutil.rmtree(unfinished)
        try:
            merged = _copy(stores, unfinished)
            if out.is_dir():
                out.rmdir()
            unfinished.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return merged


def _copy(stores: Sequence[LabelStore], path: Path) -> Merged:
    """Writes the new store."""
    taken: dict[str, tuple[LabelStore, int]] = {}
    different = 0
    with StoreWriter.open(path, stores[0].identity) as writer:
        calibration = next((s.calibration for s in stores if s.calibration is not None), None)
        if calibration is not None:
            writer.set_calibration(calibration)
        for store in stores:
            index = 0
            for shard, reader, rows in store.shards():
                file = store.path / SHARDS / shard.file
                problem = shard_problem(file, shard)
                if problem is not None:
                    raise InputError(f"{problem}; {MEND}")
                new = []
                for row in rows:
                    first = taken.setdefault(reader.ids[row], (store, index))
                    index += 1
                    if first == (store, index - 1):
                        new.append(row)
                    else:
                        different += not _same(first[0][first[1]], reader.label(row))
                if len(new) == len(reader):
                    texts = dict(zip(reader.ids, reader.texts, strict=True))
                    writer.append_encoded(file.read_bytes(), texts)
                else:
                    writer.append([reader.label(row) for row in new])
        rejects = joined({reject.id: reject for reject in store.rejects} for store in stores)
        writer.reject([reject for id, reject in rejects.items() if id not in taken])
        return Merged(
            utterances=len(taken),
            rejects=len(writer.rejects),
            repeated=sum(map(len, stores)) - len(taken),
            different=different,
        )


def _same(one: Label, other: Label) -> bool:
    """Whether two labels are the same to the last bit."""
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("tokens", "durations", "mel", "memory")
    )


def _refuse_other_kind(first: LabelStore, other: LabelStore) -> None:
    """InputError that names what keeps two stores apart."""
    mine, theirs = first.identity, other.identity
    if not mine.same_teacher(theirs):
        raise InputError(
            f"{first.path} is of the teacher {mine.teacher} ({mine.teacher_sha256[:12]}), "
            f"{other.path} of {theirs.teacher} ({theirs.teacher_sha256[:12]}); "
            "only stores of one teacher can be joined"
        )
    different = [
        f"{name} {mine.labelling.get(name, 'not set')} and {theirs.labelling.get(name, 'not set')}"
        for name in mine.other_settings(theirs)
    ]
    if different:
        raise InputError(
            f"{first.path} and {other.path} were labelled with {', '.join(different)}; "
            "only stores of the same settings can be joined"
        )


def _refuse_other_texts(stores: Sequence[LabelStore]) -> None:
    """InputError if an id stands for different texts: to drop one of them would lose a label."""
    texts: dict[str, tuple[str, Path]] = {}
    clashes = []
    for store in stores:
        for _, reader, _ in store.shards():
            for id, text in zip(reader.ids, reader.texts, strict=True):
                first, where = texts.setdefault(id, (text, store.path))
                if first != text:
                    clashes.append((id, first, where, text, store.path))
    if clashes:
        id, first, where, text, path = clashes[0]
        raise InputError(
            f"{len(clashes)} ids stand for different texts: {id} is {first[:60]!r} in {where} and "
            f"{text[:60]!r} in {path}; label one of the corpora again with ids of its own"
        )
