"""Features -> batches of utterances of like length, the same ones for any number of processes.

Which utterances a step sees is a function of the configuration and the step alone, so that a
resumed training sees what it would have seen. Each process takes its share of every batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightspeech.dataset.features import Example, Features
from lightspeech.teacher.config import TeacherTrainingConfig

JITTER = 0.1
"""How much longer than it is an utterance may be taken for when they are sorted by length, so that
it meets other neighbours in each epoch."""


@dataclass(frozen=True)
class TeacherBatch:
    """Utterances padded with zeros to a common length."""

    tokens: Tensor
    """(B, N) int64"""
    token_lengths: Tensor
    """(B,) int64"""
    mel: Tensor
    """(B, T, M) float32"""
    frames: Tensor
    """(B,) int64"""
    path: Tensor
    """(B, T) int64, the token that each frame says; -1 where that is not known, and in padding"""
    all_frames: int
    """real frames of the whole batch, all processes' together"""

    def to(self, device: torch.device) -> TeacherBatch:
        """The same on a device."""
        return TeacherBatch(
            self.tokens.to(device),
            self.token_lengths.to(device),
            self.mel.to(device),
            self.frames.to(device),
            self.path.to(device),
            self.all_frames,
        )


def collate(examples: Sequence[Example], all_frames: int | None = None) -> TeacherBatch:
    """Pads utterances to a batch."""
    frames, counts = [len(e.mel) for e in examples], [len(e.tokens) for e in examples]
    tokens = np.zeros((len(examples), max(counts)), np.int64)
    mel = np.zeros((len(examples), max(frames), examples[0].mel.shape[1]), np.float32)
    path = np.full((len(examples), max(frames)), -1, np.int64)
    for row, example in enumerate(examples):  # numpy: see lightspeech.data.collate
        tokens[row, : counts[row]] = example.tokens.numpy()
        mel[row, : frames[row]] = example.mel.numpy()
        if example.path is not None:
            path[row, : frames[row]] = example.path.numpy()
    return TeacherBatch(
        torch.from_numpy(tokens),
        torch.tensor(counts),
        torch.from_numpy(mel),
        torch.tensor(frames),
        torch.from_numpy(path),
        sum(frames) if all_frames is None else all_frames,
    )


def epoch_plan(
    frames: Sequence[int],
    members: Sequence[int],
    config: TeacherTrainingConfig,
    epoch: int,
    ranks: int,
) -> list[list[int]]:
    """The batches of an epoch, each a list of positions, the longest utterance first.

    A batch is as full as `frames_per_step` and `utterances_per_step` let it be; the one of the
    longest may be smaller. If fewer utterances than processes are left over, they sit an epoch out.
    """
    generator = random.Random(f"{config.seed}/{epoch}")
    taken_for = {i: frames[i] * (1 + JITTER * generator.random()) for i in members}
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for i in sorted(members, key=lambda i: (taken_for[i], i)):
        full = (
            max(longest, frames[i]) * (len(batch) + 1) > config.frames_per_step
            or len(batch) == config.utterances_per_step
        )
        if full and len(batch) >= ranks:
            batches.append(batch)
            batch, longest = [], 0
        batch.append(i)
        longest = max(longest, frames[i])
    if len(batch) >= ranks:
        batches.append(batch)
    generator.shuffle(batches)
    return [sorted(batch, key=lambda i: (-frames[i], i)) for batch in batches]


def step_plan(
    frames: Sequence[int],
    members: Sequence[int],
    config: TeacherTrainingConfig,
    first_step: int,
    ranks: int,
) -> Iterator[list[int]]:
    """The batches of step `first_step` (0-based) and all that follow."""
    step = epoch = 0
    while True:
        batches = epoch_plan(frames, members, config, epoch, ranks)
        if not batches:
            return
        shortest = min(frames[batch[0]] for batch in batches)
        for batch in batches:
            if frames[batch[0]] > max(config.longest_at(step), shortest):
                continue
            if step >= first_step:
                yield batch
            step += 1
        epoch += 1


def training_batches(
    features: Features,
    members: Sequence[int],
    config: TeacherTrainingConfig,
    first_step: int,
    rank: int,
    ranks: int,
) -> Iterator[TeacherBatch]:
    """This process's share of each batch, from that of step `first_step` on, without end."""
    for batch in step_plan(features.frames, members, config, first_step, ranks):
        all_frames = sum(features.frames[i] for i in batch)
        yield collate([features[i] for i in batch[rank::ranks]], all_frames)


def validation_batches(
    features: Features, members: Sequence[int], frames_per_step: int
) -> Iterator[TeacherBatch]:
    """The members once, the longest first, always in the same batches."""
    order = sorted(members, key=lambda i: (-features.frames[i], i))
    while order:
        size = max(1, frames_per_step // features.frames[order[0]])
        yield collate([features[i] for i in order[:size]])
        order = order[size:]
