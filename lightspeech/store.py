"""The label store: what the teacher said about each text, kept for training.

    STORE/manifest.json              what the store is, and its shards with sizes and checksums
    STORE/shards/shard-00000.arrow   the labels, one row an utterance
    STORE/rejects.json               texts on which the teacher failed, and why

While several processes label together, and if they were killed, each has a manifest.rank-K.json,
rejects.rank-K.json and shards of its own beside these; readers take them all together.

The arrays are read through a memory map without copies; pandas, polars and Hugging Face datasets
read the shards as they are. (DuckDB knows no 16-bit floats: give it the other columns.)

`lightspeech.store_writer` writes stores, `lightspeech.shard` describes the columns; this module
reads and checks. `python -m lightspeech.store verify|info|merge|export` are commands for stores.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from lightspeech.errors import InputError
from lightspeech.manifest import (
    SHARDS,
    Manifest,
    Shard,
    StoreIdentity,
    rank_files,
    read_whole,
)
from lightspeech.rejects import Reject, read_all_rejects
from lightspeech.shard import MEND, Label, ShardReader, shard_problem, size_problem

__all__ = ["Label", "LabelStore"]


class LabelStore(Sequence[Label]):
    """A store opened for reading.

    It may be pickled and forked (workers of a DataLoader): the memory maps are opened by whoever
    reads, on first use.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest
        self._ends = list(itertools.accumulate(shard.rows for shard in manifest.shards))
        self._readers: dict[int, ShardReader] = {}
        self._rows: list[tuple[int, int]] | None = None
        """(shard, row) of each utterance; None: all rows of all shards"""

    @classmethod
    def open(cls, path: str | Path, *, may_be_empty: bool = False) -> LabelStore:
        """Opens the store in the folder `path` after quick checks; `verify` makes thorough ones.

        Raises:
            InputError: no store there or none that this program understands, an empty one, a shard
                that is missing or has another size than the manifest says.
        """
        path = Path(path)
        # A writer that was alone left no utterance twice; of ranks nobody has looked at that yet.
        unchecked = bool(rank_files(path, "manifest"))
        store = cls(path, read_whole(path))
        for shard in store._manifest.shards:
            problem = size_problem(path / SHARDS / shard.file, shard)
            if problem is not None:
                raise InputError(f"{problem}; {MEND}")
        if not store._manifest.shards and not may_be_empty:
            raise InputError(f"the label store {path} holds no utterance yet; run preprocess.py")
        if unchecked:
            store._leave_out_repetitions()
        return store

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON has it: version, teacher, memory_size, audio, labelling, shards,
        and calibration where there is one."""
        return self._manifest.as_dict()

    @property
    def identity(self) -> StoreIdentity:
        """What all labels have in common; stores that differ here may not be joined."""
        return self._manifest.identity

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Figures that were measured once for the whole store, by name, where there are any."""
        return self._manifest.calibration

    @property
    def memory_size(self) -> int:
        """E, the size of the teacher's encoder memory."""
        return self._manifest.identity.memory_size

    @property
    def digest(self) -> str:
        """SHA-256 over the shards' checksums: it changes when any label or their order does."""
        checksums = "\n".join(shard.sha256 for shard in self._manifest.shards)
        return hashlib.sha256(checksums.encode()).hexdigest()

    @cached_property
    def ids(self) -> list[str]:
        """Every utterance's id, in the store's order."""
        return self._of_all(lambda reader: reader.ids)

    @cached_property
    def frames(self) -> list[int]:
        """Every utterance's T, in the store's order, without reading its mel."""
        return self._of_all(lambda reader: reader.frames)

    @cached_property
    def token_counts(self) -> list[int]:
        """Every utterance's N, in the store's order, without reading its mel."""
        return self._of_all(lambda reader: reader.token_counts)

    @cached_property
    def rejects(self) -> list[Reject]:
        """The texts that have no label because the teacher failed on them every time."""
        labelled = set(self.ids)
        return [r for id, r in read_all_rejects(self.path).items() if id not in labelled]

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Label: ...

    @overload
    def __getitem__(self, index: slice) -> list[Label]: ...

    def __getitem__(self, index: int | slice) -> Label | list[Label]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"the store has {len(self)} utterances, there is no {index}")
        index %= len(self)
        if self._rows is not None:
            shard, row = self._rows[index]
            return self._reader(shard).label(row)
        shard = bisect.bisect_right(self._ends, index)
        start = self._ends[shard] - self._manifest.shards[shard].rows
        return self._reader(shard).label(index - start)

    def shards(self) -> Iterator[tuple[Shard, ShardReader, list[int]]]:
        """Every shard, opened, with the rows that count; each is closed again when it is let go."""
        rows: dict[int, list[int]] = {}
        for number, row in self._rows or []:
            rows.setdefault(number, []).append(row)
        for number, shard in enumerate(self._manifest.shards):
            reader = self._open_shard(number)
            every = list(range(len(reader)))
            yield shard, reader, every if self._rows is None else rows.get(number, [])

    def verify(self, on_shard: Callable[[Shard], None] | None = None) -> list[str]:
        """Checks every byte: checksums, structure, finite values, ids that occur once.

        A shard whose checksum is wrong is marked as changed now (its time, not its contents), if
        that may be done, so that the next writer does not pass over it.

        Args:
            on_shard: called after each shard.

        Returns:
            one line a problem; an empty list when all is well.
        """
        problems: list[str] = []
        seen: dict[str, str] = {}
        for number, shard in enumerate(self._manifest.shards):
            problems += self._problems(number, seen)
            if on_shard is not None:
                on_shard(shard)
        try:
            read_all_rejects(self.path)
        except InputError as e:
            problems.append(str(e))
        return problems

    def _problems(self, number: int, seen: dict[str, str]) -> list[str]:
        shard = self._manifest.shards[number]
        path = self.path / SHARDS / shard.file
        problem = shard_problem(path, shard)
        if problem is not None:
            with suppress(OSError):
                os.utime(path)
            return [problem]
        try:
            reader = self._open_shard(number)
        except InputError as e:
            return [str(e)]
        problems = reader.problems()
        for id in reader.ids:
            if id in seen:
                problems.append(f"{path}: {id} is there twice, first in {seen[id]}")
            seen.setdefault(id, shard.file)
        return problems

    def _leave_out_repetitions(self) -> None:
        """Where an utterance is there twice, only the first in the store's order counts."""
        first: dict[str, tuple[int, int]] = {}
        for number in range(len(self._manifest.shards)):
            for row, id in enumerate(self._reader(number).ids):
                first.setdefault(id, (number, row))
        if not self._ends or len(first) < self._ends[-1]:
            self._rows = list(first.values())

    def _of_all(self, column: Callable[[ShardReader], list[Any]]) -> list[Any]:
        columns = [column(self._reader(n)) for n in range(len(self._manifest.shards))]
        if self._rows is not None:
            return [columns[number][row] for number, row in self._rows]
        return [value for values in columns for value in values]

    def _reader(self, number: int) -> ShardReader:
        if number not in self._readers:
            self._readers[number] = self._open_shard(number)
        return self._readers[number]

    def _open_shard(self, number: int) -> ShardReader:
        shard = self._manifest.shards[number]
        return ShardReader(self.path / SHARDS / shard.file, shard.rows, self.memory_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}


if __name__ == "__main__":
    from lightspeech import cli, store_commands

    cli.run(store_commands.main)
