"""What a teacher is trained on: each utterance's mel and symbol ids, computed once and kept.

    DATASET/features/features.json     version, audio facts, symbols, and the shards
    DATASET/features/00000.arrow       up to SHARD utterances: id, text, tokens, mel

The sibling of the label store: Arrow files that appear whole or not at all and are mapped into
memory, mels as 16-bit floats (see `lightspeech.shard`). A shard is named after nothing but its
number; its schema's metadata says which recordings and texts it was made from, so that a changed
one is computed anew and the others stay.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightspeech.audio import AUDIO_FACTS, N_MELS, mel_spectrogram, read_wav
from lightspeech.dataset.folder import Utterance
from lightspeech.errors import InputError
from lightspeech.files import make_folder, read_json, remove_leftovers, write_bytes, write_json
from lightspeech.text import SYMBOLS_DIGEST, encode

FOLDER = "features"
CARD = "features.json"
VERSION = 1
SHARD = 256
"""utterances in a shard"""
_MADE_FROM = b"lightspeech.features"
_CHECKSUM = b"lightspeech.sha256"
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int16())),
        ("mel", pa.list_(pa.list_(pa.float16(), N_MELS))),
    ]
)


@dataclass(frozen=True, eq=False)
class Example:
    """An utterance of N tokens and T frames."""

    id: str
    tokens: Tensor
    """(N,) int64"""
    mel: Tensor
    """(T, M) float32, natural log"""
    path: Tensor | None = None
    """(T,) int64, the token that each frame says, where that is known"""


def prepare_features(
    folder: Path,
    sources: Sequence[Utterance],
    jobs: int = 1,
    on_shard: Callable[[int, int], None] | None = None,
) -> Features:
    """Computes what is missing of a dataset's features, and opens them.

    Args:
        folder: where they are kept, DATASET/features.
        sources: the utterances, in an order that stays the same.
        jobs: processes that work at it.
        on_shard: called with the shards done and their number after each one that is made.

    Raises:
        InputError: nothing to read, a recording that cannot be read, a folder that cannot be
            written.
    """
    if not sources:
        raise InputError("the dataset has no utterances: expected at least two")
    pieces = [list(sources[at : at + SHARD]) for at in range(0, len(sources), SHARD)]
    make_folder(folder)
    remove_leftovers(folder)
    digests = [_digest(piece) for piece in pieces]
    known = [_made_from(_path(folder, i), whole=True) for i in range(len(pieces))]
    missing = [i for i, digest in enumerate(digests) if known[i] != digest]
    work = [(_path(folder, i), pieces[i], digests[i]) for i in missing]
    done = len(pieces) - len(missing)
    if len(work) > 1 and jobs > 1:
        with multiprocessing.get_context("spawn").Pool(min(jobs, len(work))) as pool:
            for _ in pool.imap_unordered(_make_shard, work):
                done += 1
                if on_shard:
                    on_shard(done, len(pieces))
    else:
        for item in work:
            _make_shard(item)
            done += 1
            if on_shard:
                on_shard(done, len(pieces))
    surplus = set(folder.glob("[0-9]*.arrow")) - {_path(folder, i) for i in range(len(pieces))}
    for path in surplus:
        path.unlink()
    write_json(
        folder / CARD,
        {
            "format": "lightspeech-features",
            "version": VERSION,
            "audio": AUDIO_FACTS,
            "symbols": SYMBOLS_DIGEST,
            "shards": digests,
            "utterances": len(sources),
        },
    )
    return Features.open(folder)


class Features:
    """The features of a dataset, mapped into memory."""

    def __init__(self, batches: Sequence[pa.RecordBatch], digest: str) -> None:
        self.durations: Sequence[np.ndarray] | None = None
        """frames a token of each utterance, (N,) or empty, where they are known"""
        self.digest = digest
        """changes with any recording or text"""
        self.ids: list[str] = []
        self._place: list[tuple[int, int]] = []
        self._columns = []
        frames, tokens = [], []
        for number, batch in enumerate(batches):
            self.ids += batch.column("id").to_pylist()
            self._place += [(number, row) for row in range(batch.num_rows)]
            mels, ids = batch.column("mel"), batch.column("tokens")
            mel_ends, id_ends = mels.offsets.to_numpy(), ids.offsets.to_numpy()
            values = mels.values.flatten().to_numpy(zero_copy_only=True).reshape(-1, N_MELS)
            self._columns.append((values, mel_ends, ids.values.to_numpy(), id_ends))
            frames.append(np.diff(mel_ends))
            tokens.append(np.diff(id_ends))
        self.frames: list[int] = np.concatenate(frames).tolist()
        """T of each utterance"""
        self.token_counts: list[int] = np.concatenate(tokens).tolist()
        """N of each utterance"""

    @classmethod
    def open(cls, folder: Path) -> Features:
        """Opens what `prepare_features` made; InputError where that is not there or damaged."""
        card = read_json(folder / CARD, "card of prepared features")
        try:
            digests = list(card["shards"])
            fits = (card["version"], card["audio"], card["symbols"]) == (
                VERSION,
                AUDIO_FACTS,
                SYMBOLS_DIGEST,
            )
        except (TypeError, KeyError) as e:
            raise InputError(f"{folder / CARD} is damaged: delete {folder}") from e
        if not fits:
            raise InputError(
                f"the features in {folder} were made by another version: delete that folder"
            )
        batches = []
        for i, digest in enumerate(digests):
            path = _path(folder, i)
            if _made_from(path) != digest:
                raise InputError(f"{path} is missing or damaged: run the command again to mend it")
            batches.append(pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0))
        return cls(batches, hashlib.sha256("".join(digests).encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Example:
        number, row = self._place[i]
        path = None
        if self.durations is not None and len(durations := self.durations[i]):
            path = torch.from_numpy(np.repeat(np.arange(len(durations)), durations))
        mel, mel_ends, tokens, id_ends = self._columns[number]
        return Example(
            id=self.ids[i],
            tokens=torch.from_numpy(tokens[id_ends[row] : id_ends[row + 1]].astype(np.int64)),
            mel=torch.from_numpy(mel[mel_ends[row] : mel_ends[row + 1]].astype(np.float32)),
            path=path,
        )


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.arrow"


def _digest(sources: Sequence[Utterance]) -> str:
    """Of everything that decides a shard's content; recordings by their size and date."""
    digest = hashlib.sha256(f"{VERSION} {AUDIO_FACTS} {SYMBOLS_DIGEST}".encode())
    for source in sources:
        try:
            facts = os.stat(source.path)
        except OSError as e:
            raise InputError(f"cannot read the recording {source.path}: {e.strerror or e}") from e
        line = (source.id, source.text, source.path.name, facts.st_size, facts.st_mtime_ns)
        digest.update(repr(line).encode())
    return digest.hexdigest()


def _made_from(path: Path, whole: bool = False) -> str | None:
    """The digest that a shard was made with; None where it cannot be read.

    Args:
        whole: reads all of it, and compares its checksum.
    """
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            metadata = reader.schema.metadata or {}
            if whole and _checksum(reader.get_batch(0)) != metadata.get(_CHECKSUM):
                return None
    except (OSError, pa.ArrowException, IndexError):
        return None
    return metadata.get(_MADE_FROM, b"").decode(errors="replace")


def _checksum(batch: pa.RecordBatch) -> bytes:
    """Of the content of a shard."""
    return hashlib.sha256(batch.serialize()).hexdigest().encode()


def _make_shard(work: tuple[Path, list[Utterance], str]) -> None:
    path, sources, digest = work
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the other cores have shards of their own
    try:
        mels = [mel_spectrogram(read_wav(source.path)).half().numpy() for source in sources]
    finally:
        torch.set_num_threads(threads)
    tokens = [encode(source.text) for source in sources]

    def ends(lengths: Sequence[int]) -> pa.Array:
        return pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())

    values = pa.array(np.concatenate(mels).reshape(-1))
    columns = [
        pa.array([source.id for source in sources]),
        pa.array([source.text for source in sources]),
        pa.ListArray.from_arrays(
            ends([len(ids) for ids in tokens]), pa.array(np.concatenate(tokens), pa.int16())
        ),
        pa.ListArray.from_arrays(
            ends([len(mel) for mel in mels]), pa.FixedSizeListArray.from_arrays(values, N_MELS)
        ),
    ]
    checksum = _checksum(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
    schema = _SCHEMA.with_metadata({_MADE_FROM: digest.encode(), _CHECKSUM: checksum})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    write_bytes(path, sink.getvalue())
