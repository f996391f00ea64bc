"""A shard: one file of a label store, and the labels in it.

One Arrow IPC file with one record batch; one row is

    id, text        string
    seed            int64      the pre-net's seed that gave this rendition
    frames          int32      T
    tokens          list of int16, N
    durations       list of int32, N; their sum is T
    mel             list of float16[80], T
    memory          list of float16[E], N
    scores          struct of float64, named

Mel and memory are kept as 16-bit floats, which halves the store. A log mel lies in [-11.6, 3]: the
rounding is at most 0.004 (0.03 dB), and 0.001 (0.01 dB) where it matters, above -4. The memory is
an LSTM's output in [-1, 1], rounded by at most 0.00025. Both are far below what differs between
two renditions of one text.

The schema's metadata says what store the shard belongs to (`lightspeech`) and what its labels must
hash to (`lightspeech.sha256`), so that a store whose manifest is lost can be put together again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightspeech.audio import N_MELS
from lightspeech.errors import InputError
from lightspeech.files import sha256, write_bytes
from lightspeech.manifest import SHARDS, Shard, StoreIdentity, read_identity
from lightspeech.text import SYMBOLS

MEND = "run preprocess.py again with the same options: it redoes what is damaged"
_STORE = b"lightspeech"
_DIGEST = b"lightspeech.sha256"


@dataclass(frozen=True, eq=False)
class Label:
    """What the teacher said about one text."""

    id: str
    text: str
    tokens: Tensor
    """(N,) int64, the teacher's symbol ids"""
    durations: Tensor
    """(N,) int64, frames a token; their sum is T"""
    mel: Tensor
    """(T, M) float32, natural log"""
    memory: Tensor
    """(N, E) float32, the teacher's encoder output"""
    scores: dict[str, float]
    """how good the alignment is, by name; never empty in a store"""
    seed: int = 0
    """the pre-net's seed that gave this rendition"""


def shard_schema(memory_size: int, score_names: Sequence[str]) -> pa.Schema:
    """The columns of a shard; see the module's docstring."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("seed", pa.int64()),
            ("frames", pa.int32()),
            ("tokens", pa.list_(pa.int16())),
            ("durations", pa.list_(pa.int32())),
            ("mel", pa.list_(pa.list_(pa.float16(), N_MELS))),
            ("memory", pa.list_(pa.list_(pa.float16(), memory_size))),
            ("scores", pa.struct([(name, pa.float64()) for name in score_names])),
        ]
    )


def encode_shard(
    labels: Sequence[Label], identity: StoreIdentity, calibration: dict[str, Any] | None = None
) -> bytes:
    """A shard's bytes. Its schema's metadata says what store it belongs to, should it stray."""
    names = sorted(labels[0].scores)
    assert all(sorted(label.scores) == names for label in labels), "labels with different scores"
    schema = shard_schema(identity.memory_size, names)

    def ragged(name: str, values: Sequence[torch.Tensor], dtype: type[np.generic]) -> pa.ListArray:
        starts = np.cumsum([0, *map(len, values)], dtype=np.int32)
        flat = pa.array(torch.cat(list(values)).cpu().numpy().astype(dtype).reshape(-1))
        inner = schema.field(name).type.value_type
        if isinstance(inner, pa.FixedSizeListType):
            flat = pa.FixedSizeListArray.from_arrays(flat, type=inner)
        return pa.ListArray.from_arrays(pa.array(starts), flat, type=schema.field(name).type)

    columns = {
        "id": [label.id for label in labels],
        "text": [label.text for label in labels],
        "seed": [label.seed for label in labels],
        "frames": [len(label.mel) for label in labels],
        "tokens": ragged("tokens", [label.tokens for label in labels], np.int16),
        "durations": ragged("durations", [label.durations for label in labels], np.int32),
        "mel": ragged("mel", [label.mel for label in labels], np.float16),
        "memory": ragged("memory", [label.memory for label in labels], np.float16),
        "scores": [label.scores for label in labels],
    }
    batch = pa.record_batch(
        [
            column if isinstance(column, pa.Array) else pa.array(column, schema.field(name).type)
            for name, column in columns.items()
        ],
        schema=schema,
    )
    store = identity.as_dict()
    if calibration is not None:
        store["calibration"] = calibration
    metadata = {_STORE: json.dumps(store), _DIGEST: _digest(batch)}
    batch = batch.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def write_shard(path: Path, name: str, content: bytes, rows: int) -> Shard:
    """Writes a shard into the store `path`, atomically; returns its entry for a manifest."""
    file = path / SHARDS / name
    write_bytes(file, content)
    checksum = hashlib.sha256(content).hexdigest()
    return Shard(name, rows, len(content), checksum, file.stat().st_mtime_ns)


def shard_problem(path: Path, shard: Shard) -> str | None:
    """Compares a shard with its checksum: None, or what is wrong with it in one line."""
    problem = size_problem(path, shard)
    if problem is None and sha256(path) != shard.sha256:
        problem = f"{path} is damaged: its checksum differs from the manifest's"
    return problem


def size_problem(path: Path, shard: Shard) -> str | None:
    """What can be said without reading the shard: None, or that it is missing or cut off."""
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != shard.bytes:
        return f"{path} has {path.stat().st_size:,} bytes instead of {shard.bytes:,}"
    return None


class ShardReader:
    """One shard, mapped into memory and checked: ids, frames, and labels by row.

    Args:
        rows: how many it must have; None where no manifest says so.

    Raises:
        InputError: the file is not the shard that the manifest describes. The contents are not
            compared with their checksum here (see `shard_problem`), but their structure is, so
            that a label that can be read has durations that sum to its frames.
    """

    def __init__(self, path: Path, rows: int | None, memory_size: int) -> None:
        self.path = path
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
                if file.num_record_batches != 1:
                    self._refuse(f"it has {file.num_record_batches} record batches instead of one")
                batch = file.get_batch(0)
            batch.validate(full=True)
            scores = batch.schema.field("scores").type if "scores" in batch.schema.names else None
            names = [f.name for f in scores] if isinstance(scores, pa.StructType) else []
        except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
            raise InputError(f"{path} is damaged ({e}); {MEND}") from e
        if not names or not batch.schema.equals(shard_schema(memory_size, names)):
            self._refuse("its columns are not those of a label store")
        if batch.num_rows != (batch.num_rows if rows is None else rows):
            self._refuse(f"it has {batch.num_rows} rows, the manifest says {rows}")
        if any(column.null_count for column in batch.columns):
            self._refuse("it has empty fields")
        self.batch = batch
        """the columns as Arrow has them; no copy"""
        column = {name: batch.column(name) for name in batch.schema.names}
        self.ids: list[str] = column["id"].to_pylist()
        self.texts: list[str] = column["text"].to_pylist()
        self.frames: list[int] = column["frames"].to_pylist()
        self._seeds: list[int] = column["seed"].to_pylist()
        self._scores = column["scores"]
        self._token_starts, self._tokens = _ragged(column["tokens"])
        duration_starts, self._durations = _ragged(column["durations"])
        self._mel_starts, self._mel = _ragged(column["mel"])  # (sum of T, M)
        memory_starts, self._memory = _ragged(column["memory"])  # (sum of N, E)
        for starts in (duration_starts, memory_starts):
            if not np.array_equal(starts, self._token_starts):
                self._refuse("tokens, durations and memory have different lengths")
        if not np.array_equal(np.diff(self._mel_starts), self.frames):
            self._refuse("a mel has another length than its frames")
        spent = np.concatenate([[0], np.cumsum(self._durations, dtype=np.int64)])[
            self._token_starts
        ]
        if not np.array_equal(np.diff(spent), self.frames) or (self._durations < 0).any():
            self._refuse("durations do not sum to the frames")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def token_counts(self) -> list[int]:
        """Every row's N."""
        counts: list[int] = np.diff(self._token_starts).tolist()
        return counts

    def _refuse(self, problem: str) -> None:
        raise InputError(f"{self.path} is damaged ({problem}); {MEND}")

    def label(self, row: int) -> Label:
        """The label in `row`; its tensors are copies, in the precision that training uses."""
        tokens = slice(self._token_starts[row], self._token_starts[row + 1])
        frames = slice(self._mel_starts[row], self._mel_starts[row + 1])
        return Label(
            id=self.ids[row],
            text=self.texts[row],
            tokens=torch.from_numpy(self._tokens[tokens].astype(np.int64)),
            durations=torch.from_numpy(self._durations[tokens].astype(np.int64)),
            mel=torch.from_numpy(self._mel[frames].astype(np.float32)),
            memory=torch.from_numpy(self._memory[tokens].astype(np.float32)),
            scores=self._scores[row].as_py(),
            seed=self._seeds[row],
        )

    def is_as_written(self) -> bool:
        """Whether the labels are what the shard's own metadata says; True where it says nothing."""
        written = (self.batch.schema.metadata or {}).get(_DIGEST)
        return written is None or written.decode("ascii", "replace") == _digest(self.batch)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = []
        for row, id in enumerate(self.ids):
            tokens = slice(self._token_starts[row], self._token_starts[row + 1])
            frames = slice(self._mel_starts[row], self._mel_starts[row + 1])
            if not (
                np.isfinite(self._mel[frames]).all() and np.isfinite(self._memory[tokens]).all()
            ):
                found.append(f"{self.path}: {id} has values that are not finite")
            if not ((self._tokens[tokens] >= 0) & (self._tokens[tokens] < len(SYMBOLS))).all():
                found.append(f"{self.path}: {id} has tokens that are not in the symbol table")
        return found


def read_origin(path: Path) -> tuple[StoreIdentity, dict[str, Any] | None] | None:
    """The identity and the calibration of the store that a shard was written for.

    Returns:
        None if it is no shard, or says nothing of the kind.

    Raises:
        InputError: written for a store of another version, other audio facts or symbols.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            metadata: Mapping[bytes, bytes] = file.schema.metadata or {}
            found = json.loads(metadata[_STORE])
    except (pa.ArrowException, OSError, KeyError, ValueError, RecursionError) as e:
        if is_the_systems_fault(e):
            raise
        return None
    return read_identity(found, path, path.parent.parent)


def is_the_systems_fault(error: BaseException | None) -> bool:
    """Whether a shard could not be read for want of memory, rights and so on, sound or not."""
    # Arrow raises OSErrors of its own for files that are no shards; those have no number.
    return isinstance(error, MemoryError) or getattr(error, "errno", None) is not None


def _digest(batch: pa.RecordBatch) -> str:
    """SHA-256 over the values of all columns, however Arrow lays them out in a file."""
    digest = hashlib.sha256()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.ListArray):
            for part in _ragged(column):
                digest.update(part.data)
        elif isinstance(column, pa.StringArray | pa.StructArray):
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            digest.update(column.to_numpy().data)
        digest.update(name.encode())
    return digest.hexdigest()


def _ragged(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Views of a list column: where each row starts (one more than rows), and all the values."""
    values, width = column.values, None
    if isinstance(values, pa.FixedSizeListArray):
        width, values = values.type.list_size, values.values
    flat = values.to_numpy(zero_copy_only=True)
    starts = column.offsets.to_numpy(zero_copy_only=True)
    return starts, flat if width is None else flat.reshape(-1, width)
