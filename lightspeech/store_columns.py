"""The small columns of a label store, read without its mels: lengths, scores and seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightspeech.renditions import utterance_seed
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
    for _, reader, rows in store.shards():
        names = [reader.ids[row] for row in rows]
        frames.append(np.array(reader.frames, np.int64)[rows])
        tokens.append(np.array(reader.token_counts, np.int64)[rows])
        column = reader.batch.column("scores")
        parts = zip(column.type, column.flatten(), strict=True)
        scores.append(
            {
                field.name: values.to_numpy(zero_copy_only=False).astype(np.float64)[rows]
                for field, values in parts
            }
        )
        if seeds_tell:
            seeds = reader.batch.column("seed").to_pylist()
            drawn_again += sum(
                utterance_seed(seed, name, 0) != seeds[row]
                for name, row in zip(names, rows, strict=True)
            )
        ids += names
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
