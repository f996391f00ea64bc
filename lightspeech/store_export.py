"""A label store as one Parquet file, for programs that read no Arrow files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightspeech.errors import InputError
from lightspeech.files import atomic_path, make_folder
from lightspeech.manifest import SHARDS, Shard
from lightspeech.shard import MEND, shard_problem, shard_schema
from lightspeech.store import LabelStore


def export(
    store: LabelStore, file: str | Path, on_shard: Callable[[Shard], None] | None = None
) -> None:
    """Writes every utterance of `store` as a row of `file`, which appears whole or not at all.

    The columns are those of a shard (see lightspeech.shard); a row group is a shard, and no more
    than one is in memory. Scores that a shard lacks and others have are null. The file's metadata
    holds what the store is under `lightspeech`, as JSON.

    Args:
        on_shard: called after each shard.

    Raises:
        InputError: a shard that is damaged; a folder that cannot be written; a `file` that is there
            and is something else.
    """
    file = Path(file)
    if file.is_dir():
        raise InputError(f"{file} is a folder; name the Parquet file to be written")
    if file.exists() and not _is_replaceable(file):
        raise InputError(f"{file} is there already and no Parquet file; give another name")
    make_folder(file.parent)
    names: set[str] = set()
    for _, reader, _ in store.shards():
        names |= {field.name for field in reader.batch.schema.field("scores").type}
    facts = {key: value for key, value in store.manifest.items() if key != "shards"}
    schema = shard_schema(store.memory_size, sorted(names))
    schema = schema.with_metadata({"lightspeech": json.dumps(facts)})
    # Opened here, not by Arrow, so that a full disk is Python's OSError with its number.
    with (
        atomic_path(file) as temporary,
        open(temporary, "wb") as sink,
        pq.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        for shard, reader, rows in store.shards():
            problem = shard_problem(store.path / SHARDS / shard.file, shard)
            if problem is not None:
                raise InputError(f"{problem}; {MEND}")
            if rows:
                writer.write_table(_table(reader.batch, rows, schema), row_group_size=len(rows))
            if on_shard is not None:
                on_shard(shard)


def _is_replaceable(file: Path) -> bool:
    """Whether it is a Parquet file or an empty one: no device, no part of a store."""
    if not file.is_file():
        return False
    with open(file, "rb") as found:
        return found.read(4) in (b"PAR1", b"")


def _table(batch: pa.RecordBatch, rows: list[int], schema: pa.Schema) -> pa.Table:
    """The given rows, with all the scores that the schema names."""
    if len(rows) < batch.num_rows:
        batch = batch.take(pa.array(rows))
    scores = batch.column("scores")
    own = {field.name: column for field, column in zip(scores.type, scores.flatten(), strict=True)}
    wanted = schema.field("scores").type
    unified = pa.StructArray.from_arrays(
        [own.get(field.name, pa.nulls(len(rows), field.type)) for field in wanted],
        fields=list(wanted),
    )
    at = batch.schema.get_field_index("scores")
    columns = [*batch.columns[:at], unified, *batch.columns[at + 1 :]]
    return pa.table(columns, schema=schema)
