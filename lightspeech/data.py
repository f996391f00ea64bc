"""Label store -> batches: which utterances train, in which order, padded, prepared ahead.

The order of the batches is a pure function of the seed and the step, so that a resumed training
needs to know nothing but its step to see what it would have seen. Of several processes each takes
its share of every batch, and all of them together see what one alone would see.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightspeech.ranks import Ranks

if TYPE_CHECKING:
    from lightspeech.store import Label, LabelStore

POOL = 16
"""Batches that are sorted by length together: enough to leave little padding, few enough that an
utterance meets other neighbours in each epoch."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Whole:
    """What the means of a loss are taken over: the whole batch of a step, all processes' together.

    A sum over a process's share divided by these counts is its share of the mean, whoever has the
    rest.
    """

    frames: int
    """real frames"""
    tokens: int
    """real tokens"""
    utterances: int
    counts: bool = True
    """False in the share of a process for which no utterance is left: it goes through the step with
    another's, which counts nothing there"""


@dataclass(frozen=True)
class Batch:
    """Utterances padded to a common length; zeros beyond each one's own."""

    ids: list[str]
    """the utterances' ids in the store"""
    tokens: Tensor
    """(B, N) symbol ids, int64"""
    token_lengths: Tensor
    """(B,) tokens of each utterance, int64"""
    durations: Tensor
    """(B, N) frames of each token, int64"""
    mel: Tensor
    """(B, T, M) the teacher's log-mel spectrogram, float32"""
    frames: Tensor
    """(B,) frames of each utterance, int64"""
    memory: Tensor
    """(B, N, E) the teacher's encoder memory, float32"""
    whole: Whole
    """what it is a share of"""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device)
        return Batch(**moved)


def collate(labels: Sequence[Label], whole: Whole | None = None) -> Batch:
    """Pads utterances to a batch, in the order in which they come.

    Args:
        whole: what the batch is a share of; without it, of nothing larger.
    """

    # numpy, because PyTorch's copies would start a pool of threads of their own in the thread that
    # prepares batches.
    def padded(arrays: list[np.ndarray], dtype: type) -> Tensor:
        longest = max(len(array) for array in arrays)
        result = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), dtype)
        for row, array in zip(result, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(result)

    def lengths(tensors: list[Tensor]) -> Tensor:
        return torch.tensor([len(tensor) for tensor in tensors])

    tokens = [label.tokens for label in labels]
    mels = [label.mel for label in labels]
    return Batch(
        ids=[label.id for label in labels],
        tokens=padded([item.numpy() for item in tokens], np.int64),
        token_lengths=lengths(tokens),
        durations=padded([label.durations.numpy() for label in labels], np.int64),
        mel=padded([item.numpy() for item in mels], np.float32),
        frames=lengths(mels),
        memory=padded([label.memory.numpy() for label in labels], np.float32),
        whole=whole or Whole(sum(map(len, mels)), sum(map(len, tokens)), len(labels)),
    )


def split(ids: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the utterances for training and of those held out for validation.

    Whether an utterance is held out depends on its id, the share and the seed alone, so it stays on
    its side when the store grows, shrinks or is put in another order; only in a store so small that
    the share of it is nobody, one is chosen (two utterances are needed).
    """
    assert len(ids) >= 2, "a split needs two utterances"

    def draw(position: int) -> float:
        """Uniform in [0, 1)."""
        digest = hashlib.sha256(f"{seed}/{ids[position]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    order = sorted(range(len(ids)), key=lambda position: (draw(position), ids[position]))
    held_out = sum(draw(position) < share for position in order)
    held_out = min(max(held_out, 1), len(ids) - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])


def epoch_batches(
    frames: Sequence[int], members: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch: every member exactly once, utterances of similar length together.

    Args:
        frames: length of every utterance of the store, in frames.
        members: positions in the store of those to use.
        batch_size: utterances a batch; one batch of the epoch may be smaller.
        seed, epoch: they alone decide the order (Python's generator, the same on every platform).
    """
    generator = random.Random(f"{seed}/{epoch}")
    order = list(members)
    generator.shuffle(order)
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lambda item: frames[item])
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    generator.shuffle(batches)
    return batches


def shares(frames: Sequence[int], batch: Sequence[int], ranks: int) -> list[list[int]]:
    """Shares a batch among processes: each utterance once, about as many frames for each.

    Args:
        frames: length of every utterance of the store, in frames.
        batch: positions in the store.
        ranks: how many processes there are.

    Returns:
        A list for each process, in the order of the batch; empty ones if there are more processes
        than utterances, but never that of the first process.
    """
    rank_of, given = {}, [0] * ranks
    for item in sorted(batch, key=lambda item: (-frames[item], item)):
        rank = given.index(min(given))
        rank_of[item] = rank
        given[rank] += frames[item]
    return [[item for item in batch if rank_of[item] == rank] for rank in range(ranks)]


def training_batches(
    store: LabelStore,
    members: Sequence[int],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    ranks: Ranks | None = None,
) -> Iterator[Batch]:
    """This process's share of each batch, epoch after epoch without end.

    Args:
        batch_size: utterances a batch, all processes' together.
        first_step: the step (0-based) whose batch comes first.
    """
    ranks = ranks or Ranks()
    steps_an_epoch = -(-len(members) // batch_size)
    epoch, done = divmod(first_step, steps_an_epoch)
    while True:
        for batch in epoch_batches(store.frames, members, batch_size, seed, epoch)[done:]:
            own = shares(store.frames, batch, ranks.count)[ranks.rank]
            whole = replace(_whole(store, batch), counts=bool(own))
            yield collate([store[item] for item in own or batch[:1]], whole)
        epoch, done = epoch + 1, 0


def validation_batches(
    store: LabelStore, members: Sequence[int], batch_size: int
) -> Iterator[Batch]:
    """The members once, the longest first, always in the same batches, each a share of them all."""
    order = sorted(members, key=lambda item: (-store.frames[item], item))
    for start in range(0, len(order), batch_size):
        labels = [store[item] for item in order[start : start + batch_size]]
        yield collate(labels, _whole(store, order))


def _whole(store: LabelStore, batch: Sequence[int]) -> Whole:
    return Whole(
        frames=sum(store.frames[item] for item in batch),
        tokens=sum(store.token_counts[item] for item in batch),
        utterances=len(batch),
    )


def prefetch(items: Iterator[Item], depth: int = 2) -> Generator[Item]:
    """The same items, prepared `depth` ahead in a thread.

    What goes wrong in the thread is raised here. Closing the generator (or an exception in the
    loop that reads it, under `contextlib.closing`) ends the thread.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # `end` has been ruled out
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
