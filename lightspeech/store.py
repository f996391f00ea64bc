"""The label store: what the teacher said about each text, kept for training.

    STORE/manifest.json              what the store is, and its shards with sizes and checksums
    STORE/shards/shard-00000.arrow   the labels, one row an utterance
    STORE/rejects.json               texts on which the teacher failed, and why

The arrays are read through a memory map without copies; pandas, polars and Hugging Face datasets
read the shards as they are. (DuckDB knows no 16-bit floats: give it the other columns.)

`lightspeech.store_writer` writes stores, `lightspeech.shard` describes the columns; this module
reads and checks.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from lightspeech.errors import InputError
from lightspeech.manifest import SHARDS, Manifest, read_manifest
from lightspeech.shard import MEND, Label, ShardReader, shard_problem

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

    @classmethod
    def open(cls, path: str | Path) -> LabelStore:
        """Opens the store in the folder `path` after quick checks; `verify` makes thorough ones.

        Raises:
            InputError: no store there or none that this program understands, an empty one, a shard
                that is missing or has another size than the manifest says.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for shard in manifest.shards:
            file = path / SHARDS / shard.file
            size = file.stat().st_size if file.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise InputError(f"{file} {found} instead of having {shard.bytes:,} bytes; {MEND}")
        if not manifest.shards:
            raise InputError(f"the label store {path} holds no utterance yet; run preprocess.py")
        return cls(path, manifest)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON has it: version, teacher, memory_size, audio, labelling, shards."""
        return self._manifest.as_dict()

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
        return [id for reader in self._all_readers() for id in reader.ids]

    @cached_property
    def frames(self) -> list[int]:
        """Every utterance's T, in the store's order, without reading its mel."""
        return [frames for reader in self._all_readers() for frames in reader.frames]

    def __len__(self) -> int:
        return self._ends[-1]

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
        shard = bisect.bisect_right(self._ends, index)
        start = self._ends[shard] - self._manifest.shards[shard].rows
        return self._reader(shard).label(index - start)

    def verify(self) -> list[str]:
        """Checks every byte: checksums, structure, finite values, ids that occur once.

        Returns:
            one line a problem; an empty list when all is well.
        """
        problems: list[str] = []
        seen: dict[str, str] = {}
        for number, shard in enumerate(self._manifest.shards):
            path = self.path / SHARDS / shard.file
            problem = shard_problem(path, shard)
            if problem is not None:
                problems.append(problem)
                continue
            try:
                reader = self._reader(number)
            except InputError as e:
                problems.append(str(e))
                continue
            problems += reader.problems()
            for id in reader.ids:
                if id in seen:
                    problems.append(f"{path}: {id} is there twice, first in {seen[id]}")
                seen.setdefault(id, shard.file)
        return problems

    def _reader(self, number: int) -> ShardReader:
        if number not in self._readers:
            shard = self._manifest.shards[number]
            path = self.path / SHARDS / shard.file
            self._readers[number] = ShardReader(path, shard, self.memory_size)
        return self._readers[number]

    def _all_readers(self) -> list[ShardReader]:
        return [self._reader(number) for number in range(len(self._manifest.shards))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}
