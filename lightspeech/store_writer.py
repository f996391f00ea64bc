"""Writing a label store so that no moment of dying harms it.

A shard is written under a temporary name, flushed and renamed; then the manifest is replaced the
same way. Whatever the manifest does not list does not exist: opening a store for writing deletes
such files, and takes out of the manifest, by name, every shard that no longer has its checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightspeech.audio import N_MELS
from lightspeech.errors import InputError
from lightspeech.files import (
    make_folder,
    read_json,
    remove_leftovers,
    single_writer,
    write_bytes,
    write_json,
)
from lightspeech.manifest import (
    MANIFEST,
    SHARD_NAME,
    SHARDS,
    Manifest,
    Shard,
    StoreIdentity,
    read_manifest,
)
from lightspeech.shard import Label, ShardReader, encode_shard, shard_problem

REJECTS = "rejects.json"


@dataclass(frozen=True)
class Reject:
    """A text on which the teacher failed every time."""

    id: str
    text: str
    reason: str
    """why the last try failed"""
    scores: dict[str, float]
    """of the last try; empty where it had nothing to score"""
    seeds: tuple[int, ...]
    """every seed tried so far"""


class StoreWriter:
    """A store opened for writing, by one process at a time. Use `StoreWriter.open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        """id -> text of every utterance that the store holds"""
        self.rejects: dict[str, Reject] = {}
        """id -> reject"""
        self.repairs: list[str] = []
        """what was found damaged and dropped on opening, one line each"""
        self._manifest = manifest

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, identity: StoreIdentity) -> Iterator[StoreWriter]:
        """Opens the store in `path`, or makes it, and holds it until the block ends.

        Raises:
            InputError: the folder holds something else, cannot be written, is being written by
                another process, or its store has another identity.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            _refuse_foreign_folder(path)
        make_folder(path)
        with single_writer(path):
            remove_leftovers(path)
            if (path / MANIFEST).is_file():
                manifest = read_manifest(path)
                _refuse_other_identity(path, manifest.identity, identity)
                writer = cls(path, manifest)
            else:
                writer = cls(path, Manifest(identity))
                write_json(path / MANIFEST, writer._manifest.as_dict())
            make_folder(path / SHARDS)
            writer._recover()
            yield writer

    def append(self, labels: Sequence[Label]) -> None:
        """Adds a shard with `labels`; once this returns they survive whatever happens."""
        if not labels:
            return
        identity = self._manifest.identity
        for label in labels:
            assert label.id not in self.texts, f"{label.id} is in the store already"
            assert label.scores, f"{label.id} has no scores"
            assert label.mel.shape == (len(label.mel), N_MELS)
            assert label.memory.shape == (len(label.tokens), identity.memory_size)
            assert int(label.durations.sum()) == len(label.mel), f"{label.id}: durations"
        assert len({label.id for label in labels}) == len(labels), "an id twice"
        content = encode_shard(labels, identity)
        numbers = [
            int(shard.file.removeprefix("shard-").removesuffix(".arrow"))
            for shard in self._manifest.shards
        ]
        file = f"shard-{max(numbers, default=-1) + 1:05d}.arrow"
        write_bytes(self.path / SHARDS / file, content)
        shard = Shard(file, len(labels), len(content), hashlib.sha256(content).hexdigest())
        self._replace_manifest((*self._manifest.shards, shard))
        self.texts |= {label.id: label.text for label in labels}
        if self.rejects.keys() & {label.id for label in labels}:
            self._write_rejects()

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Remembers texts on which the teacher failed."""
        if rejects:
            self.rejects |= {reject.id: reject for reject in rejects}
            self._write_rejects()

    def _write_rejects(self) -> None:
        self.rejects = {id: r for id, r in self.rejects.items() if id not in self.texts}
        write_json(self.path / REJECTS, [asdict(reject) for reject in self.rejects.values()])

    def _replace_manifest(self, shards: tuple[Shard, ...]) -> None:
        manifest = replace(self._manifest, shards=shards)
        write_json(self.path / MANIFEST, manifest.as_dict())
        self._manifest = manifest  # not before: the disk may be full

    def _recover(self) -> None:
        """Reads what is there; drops damaged shards and what a killed writer left."""
        folder = self.path / SHARDS
        remove_leftovers(folder)
        kept = []
        for shard in self._manifest.shards:
            problem = shard_problem(folder / shard.file, shard)
            if problem is None:
                try:
                    reader = ShardReader(
                        folder / shard.file, shard, self._manifest.identity.memory_size
                    )
                except InputError as e:
                    if e.__cause__ is not None:  # the system's fault, not the shard's: keep it
                        raise InputError(
                            f"cannot read {folder / shard.file}, though its checksum is right "
                            f"({e.__cause__}); free some memory and run this again"
                        ) from e
                    problem = str(e)
            if problem is None and (self.texts.keys() & set(reader.ids)):
                problem = f"{folder / shard.file} holds utterances that another shard holds too"
            if problem is None:
                kept.append(shard)
                self.texts |= dict(zip(reader.ids, reader.texts, strict=True))
            else:
                self.repairs.append(
                    f"{problem}; its {shard.rows} utterances are dropped, and labelled again where "
                    "their texts are given"
                )
        if self.repairs:
            self._replace_manifest(tuple(kept))
        listed = {shard.file for shard in kept}
        for file in folder.iterdir():
            if SHARD_NAME.fullmatch(file.name) and file.name not in listed:
                file.unlink()
        self.rejects = _read_rejects(self.path / REJECTS)
        if self.rejects.keys() & self.texts.keys():
            self._write_rejects()


def _refuse_foreign_folder(path: Path) -> None:
    """InputError if `path` holds anything but what a writer killed at its very start left."""
    if not path.is_dir():
        return
    entries = sorted(p.name for p in path.iterdir())
    foreign = [name for name in entries if name != ".lock" and not name.endswith(".tmp")]
    if foreign:
        raise InputError(
            f"{path} is not a label store and not empty (it holds {foreign[0]}); "
            "give a new or an empty folder as --out"
        )


def _refuse_other_identity(path: Path, found: StoreIdentity, wanted: StoreIdentity) -> None:
    """InputError if labels of `wanted` may not be added to a store of `found`."""
    if found.teacher_sha256 != wanted.teacher_sha256 or found.memory_size != wanted.memory_size:
        raise InputError(
            f"{path} was labelled by the teacher {found.teacher} ({found.teacher_sha256[:12]}), "
            f"not by {wanted.teacher} ({wanted.teacher_sha256[:12]}); "
            "give the same --teacher or another --out"
        )
    before, now = found.labelling, wanted.labelling
    different = [
        f"{name} {before.get(name, 'not set')} (now {now.get(name, 'not set')})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if different:
        raise InputError(
            f"{path} was labelled with {', '.join(different)}; "
            "give the same settings or another --out"
        )


def _read_rejects(path: Path) -> dict[str, Reject]:
    """Reads rejects.json and checks it; an absent one is an empty one."""
    if not path.is_file():
        return {}
    found = read_json(path, "list of rejects")
    if not isinstance(found, list) or not all(map(_is_reject, found)):
        raise InputError(
            f"{path} is damaged: expected a list of id, text, reason, scores and seeds; "
            "delete it and the rejected texts are tried again"
        )
    return {
        entry["id"]: Reject(
            entry["id"], entry["text"], entry["reason"], entry["scores"], tuple(entry["seeds"])
        )
        for entry in found
    }


def _is_reject(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in ("id", "text", "reason"))
        and isinstance(entry.get("scores"), dict)
        and isinstance(entry.get("seeds"), list)
        and all(isinstance(seed, int) for seed in entry["seeds"])
    )
