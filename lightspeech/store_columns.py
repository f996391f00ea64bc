"""The small columns of a label store, read without its mels: lengths, scores and seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightspeech.errors import InputError
from lightspeech.manifest import SHARDS
from lightspeech.renditions import utterance_seed
from lightspeech.shard import MEND
from lightspeech.store import LabelStore


@dataclass(frozen=True, eq=False)
class Columns:
    """Of all L labels of a store, in its order."""

    ids: list[str]
    frames: npt.NDArray[np.int64]
    """(L,) T of each"""
    tokens: npt.NDArray[np.int64]
    """(L,) N of each"""
    scores: dict[str, npt.NDArray[np.float64]]
    """(L,) each; NaN where a label lacks a score that others have"""
    drawn_again: int | None
    """labels that are not the first rendition of their text; None where their seeds cannot tell"""


def read_columns(store: LabelStore) -> Columns:
    """Reads them shard by shard; an utterance takes a few numbers of memory.

    Raises:
        InputError: a shard that cannot be read.
    """
    labelling = store.manifest["labelling"]
    seed = labelling.get("seed")
    # Of several renditions (--pick) any may be the label, and recordings are not drawn at all.
    seeds_tell = (
        isinstance(seed, int)
        and labelling.get("pick", 1) == 1
        and labelling.get("mode", "inference") == "inference"
    )
    ids: list[str] = []
    frames, tokens, scores = [], [], []
    drawn_again = 0
    for shard in store.manifest["shards"]:
        path = store.path / SHARDS / shard["file"]
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
                batch = file.get_batch(0)
                column = {name: batch.column(name) for name in batch.schema.names}
                frames.append(column["frames"].to_numpy().astype(np.int64))
                tokens.append(np.diff(column["tokens"].offsets.to_numpy()).astype(np.int64))
                parts = zip(column["scores"].type, column["scores"].flatten(), strict=True)
                scores.append(
                    {
                        field.name: values.to_numpy(zero_copy_only=False).astype(np.float64)
                        for field, values in parts
                    }
                )
                names = column["id"].to_pylist()
                if seeds_tell:
                    seeds = column["seed"].to_pylist()
                    drawn_again += sum(
                        utterance_seed(seed, name, 0) != given
                        for name, given in zip(names, seeds, strict=True)
                    )
                ids += names
        except (pa.ArrowException, OSError, KeyError, ValueError) as e:
            raise InputError(f"{path} is damaged ({e}); {MEND}") from e
    all_names = sorted(set().union(*scores))
    return Columns(
        ids=ids,
        frames=np.concatenate(frames),
        tokens=np.concatenate(tokens),
        scores={
            name: np.concatenate(
                [
                    part.get(name, np.full(len(length), np.nan))
                    for part, length in zip(scores, frames, strict=True)
                ]
            )
            for name in all_names
        },
        drawn_again=drawn_again if seeds_tell else None,
    )
