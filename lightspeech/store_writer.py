"""Writing a label store so that no moment of dying harms it.

A shard is written under a temporary name, flushed and renamed; then the manifest is replaced the
same way. Several processes may write to a store together, the ranks of one run: each writes shards,
a manifest and a list of rejects of its own, so that they need not talk to each other, and the last
to leave, or else whoever opens the store next, makes one store of it.

`lightspeech.store_lock` says who may write; `lightspeech.store_recovery` puts in order what was
left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightspeech.audio import N_MELS
from lightspeech.errors import InputError
from lightspeech.files import make_folder, write_json
from lightspeech.manifest import (
    MANIFEST,
    SHARDS,
    Manifest,
    StoreIdentity,
    are_figures,
    rank_manifest,
    read_manifest,
    shard_files,
    shard_name,
)
from lightspeech.rejects import REJECTS, Reject, rank_rejects, read_rejects, write_rejects
from lightspeech.shard import Label, encode_shard, read_origin, write_shard
from lightspeech.store_lock import StoreLock, launched_run
from lightspeech.store_recovery import Recovered, join, next_number, recover

__all__ = ["Reject", "StoreWriter"]


class StoreWriter:
    """A store opened for writing, by one process or as one rank of a run. Use `StoreWriter.open`.

    What other ranks do while this one writes does not show here.
    """

    def __init__(self, path: Path, store: Recovered, lock: StoreLock, rank: int | None) -> None:
        self.path = path
        self.texts = store.texts
        """id -> text of every utterance that the store holds"""
        self.rejects = store.rejects
        """id -> reject"""
        self.repairs = store.repairs
        """what was found damaged on opening, and what became of it, one line each"""
        self.left_last = False
        """after the block: whether no other rank was at work any more, so the store is whole"""
        self._manifest = store.manifest  # the rank's own, if it is one
        self._lock, self._rank = lock, rank
        self._next_number = next_number(path, rank)
        self._manifest_file = path / (MANIFEST if rank is None else rank_manifest(rank))
        self._rejects_file = path / (REJECTS if rank is None else rank_rejects(rank))
        self._own_rejects = read_rejects(self._rejects_file)

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | Path,
        identity: StoreIdentity,
        rank: int = 0,
        ranks: int = 1,
        run: str | None = None,
    ) -> Iterator[StoreWriter]:
        """Opens the store in `path`, or makes it, and holds it until the block ends.

        Args:
            identity: of the labels to be written.
            rank, ranks: which of how many processes that write together; 0 and 1 for one alone.
                They may be on several machines that share the folder. No rank need wait for
                another, but while one of a run is at work no other run gets in.
            run: the same for all ranks of a run; by default what torchrun says.

        Raises:
            InputError: the folder holds something else, cannot be written, is being written by
                another process or run, or its store has another identity.
        """
        path = Path(path)
        _refuse_foreign_folder(path)
        make_folder(path)
        with StoreLock(path, rank, ranks, launched_run() if run is None else run) as lock:
            with lock.opening() as alone:
                store = recover(path, identity) if alone else join(path, identity, rank)
                make_folder(path / SHARDS)
                if alone and ranks > 1:  # all that is there is the main manifest's now
                    store.manifest = replace(store.manifest, shards=())
                writer = cls(path, store, lock, None if ranks == 1 else rank)
            yield writer
            if ranks > 1:
                with lock.leaving() as last:
                    if last:
                        writer.repairs += recover(path, identity).repairs
                    writer.left_last = last
            else:
                writer.left_last = True

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Figures measured once for the whole store, or None: see `set_calibration`."""
        return self._manifest.calibration

    def set_calibration(self, figures: dict[str, Any]) -> None:
        """Keeps finite numbers by name, or dicts of them, for good: only the first call counts.

        Where another rank was first, `calibration` becomes what that rank has set.
        """
        assert are_figures(figures), f"expected numbers by name, got {figures}"
        if self._rank is None:
            if self.calibration is None:
                self._replace_manifest(replace(self._manifest, calibration=figures))
            return
        with self._lock.among_ranks():
            main = read_manifest(self.path)
            if main.calibration is None:
                main = replace(main, calibration=figures)
                write_json(self.path / MANIFEST, main.as_dict())
        self._manifest = replace(self._manifest, calibration=main.calibration)

    def append(self, labels: Sequence[Label]) -> None:
        """Adds a shard with `labels`; once this returns they survive whatever happens."""
        if not labels:
            return
        identity = self._manifest.identity
        for label in labels:
            assert label.scores, f"{label.id} has no scores"
            assert label.mel.shape == (len(label.mel), N_MELS)
            assert label.memory.shape == (len(label.tokens), identity.memory_size)
            assert int(label.durations.sum()) == len(label.mel), f"{label.id}: durations"
        texts = {label.id: label.text for label in labels}
        assert len(texts) == len(labels), "an id twice"
        self.append_encoded(encode_shard(labels, identity, self.calibration), texts)

    def append_encoded(self, content: bytes, texts: Mapping[str, str]) -> None:
        """Adds a shard as `encode_shard` makes it, of the utterances `texts` (id -> text)."""
        for id in texts:
            assert id not in self.texts, f"{id} is in the store already"
        name = shard_name(self._next_number, self._rank)
        self._next_number += 1  # for good: were this to fail half-way, the name may be taken
        shard = write_shard(self.path, name, content, len(texts))
        self._replace_manifest(replace(self._manifest, shards=(*self._manifest.shards, shard)))
        self.texts |= texts
        self.rejects = {id: r for id, r in self.rejects.items() if id not in texts}
        if self._own_rejects.keys() & texts.keys():
            self._own_rejects = {id: r for id, r in self._own_rejects.items() if id not in texts}
            write_rejects(self._rejects_file, self._own_rejects)

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Remembers texts on which the teacher failed."""
        if rejects:
            new = {reject.id: reject for reject in rejects}
            self.rejects |= new
            self._own_rejects |= new
            write_rejects(self._rejects_file, self._own_rejects)

    def _replace_manifest(self, manifest: Manifest) -> None:
        write_json(self._manifest_file, manifest.as_dict())
        self._manifest = manifest  # not before: the disk may be full


def _refuse_foreign_folder(path: Path) -> None:
    """InputError if `path` is no store, and holds more than a writer killed at its start leaves."""
    if not path.is_dir():
        return
    # Listed before the manifest is looked for: another rank may be making the store right now,
    # and the manifest is the first thing that it makes.
    entries = sorted(p.name for p in path.iterdir())
    foreign = [n for n in entries if not n.startswith(".lock") and not n.endswith(".tmp")]
    if not foreign or (path / MANIFEST).is_file():
        return
    if not any(read_origin(file) is not None for file in shard_files(path)):
        raise InputError(
            f"{path} is not a label store and not empty (it holds {foreign[0]}); "
            "give a new or an empty folder as --out"
        )
