"""Batches of a teacher's training: of like length, full, shared exactly, a function of the step."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightspeech.dataset.features import Example, Features
from lightspeech.teacher.batches import (
    TeacherBatch,
    collate,
    epoch_plan,
    step_plan,
    training_batches,
    validation_batches,
)
from lightspeech.teacher.config import TeacherTrainingConfig
from tests.tiny_dataset import make_features, tiny_config

CONFIG = TeacherTrainingConfig(frames_per_step=8_000, utterances_per_step=40)
LENGTHS = random.Random(1).choices(range(60, 901), k=1000)
MEMBERS = [i for i in range(len(LENGTHS)) if i % 10]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return make_features(tmp_path_factory.mktemp("batches") / "dataset")


def first(count: int, config: TeacherTrainingConfig, step: int, ranks: int = 1) -> list[list[int]]:
    return list(islice(step_plan(LENGTHS, MEMBERS, config, step, ranks), count))


# An epoch


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch(epoch: int, ranks: int) -> None:
    plan = epoch_plan(LENGTHS, MEMBERS, CONFIG, epoch, ranks)
    seen = Counter(i for batch in plan for i in batch)
    assert set(seen.values()) == {1}
    assert seen.keys() <= set(MEMBERS)
    absent = [LENGTHS[i] for i in MEMBERS if i not in seen]
    assert len(absent) * max(LENGTHS) * 2 < CONFIG.frames_per_step  # not half a batch
    for batch in plan:
        longest = max(LENGTHS[i] for i in batch)
        assert longest * len(batch) <= CONFIG.frames_per_step
        assert ranks <= len(batch) <= CONFIG.utterances_per_step
        assert [LENGTHS[i] for i in batch] == sorted((LENGTHS[i] for i in batch), reverse=True)


def test_the_batches_are_full_and_of_like_length() -> None:
    plan = epoch_plan(LENGTHS, MEMBERS, CONFIG, 0, 1)
    real = sum(LENGTHS[i] for batch in plan for i in batch)
    padded = sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in plan)
    assert real / padded > 0.9
    by_frames = [batch for batch in plan if len(batch) < CONFIG.utterances_per_step]
    assert padded > 0.8 * CONFIG.frames_per_step * len(by_frames)


def test_epochs_and_seeds_have_other_batches_in_another_order() -> None:
    plans = [epoch_plan(LENGTHS, MEMBERS, CONFIG, epoch, 1) for epoch in (0, 1)]
    other = TeacherTrainingConfig(frames_per_step=8_000, utterances_per_step=40, seed=1)
    plans.append(epoch_plan(LENGTHS, MEMBERS, other, 0, 1))
    for i, one in enumerate(plans):
        for another in plans[:i]:
            same = {frozenset(batch) for batch in one} & {frozenset(batch) for batch in another}
            assert len(same) < len(one) / 4  # other neighbours
    lengths = [max(LENGTHS[i] for i in batch) for batch in plans[0]]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("frames", "config"),
    [
        (LENGTHS, CONFIG),
        ([50] * 30 + [60] * 10, TeacherTrainingConfig(utterances_per_step=20)),
        (list(range(60, 260)), TeacherTrainingConfig(utterances_per_step=9)),
    ],
)
def test_nobody_sits_out_for_ever(frames: list[int], config: TeacherTrainingConfig) -> None:
    members, epochs = range(len(frames)), 12
    seen = Counter(
        i
        for epoch in range(epochs)
        for batch in epoch_plan(frames, members, config, epoch, 1)
        for i in batch
    )
    assert min(seen[i] for i in members) >= epochs / 4


def test_a_batch_that_is_full_of_utterances_is_one() -> None:
    config = TeacherTrainingConfig(utterances_per_step=4)  # far from full of frames
    plan = epoch_plan([50] * 8, range(8), config, 0, 1)
    assert sorted(map(len, plan)) == [4, 4]


def test_as_few_utterances_as_there_may_be() -> None:
    assert epoch_plan([50, 60], [1], CONFIG, 0, 1) == [[1]]
    assert epoch_plan([50, 60], [0, 1], CONFIG, 0, 2) == [[1, 0]]
    assert epoch_plan([50, 60], [0, 1], CONFIG, 0, 3) == []
    assert list(step_plan([50, 60], [0, 1], CONFIG, 0, 3)) == []


# Steps


@pytest.mark.parametrize("first_step", [1, 17, 60, 200])
@pytest.mark.parametrize("short_steps", [0, 90])
def test_a_step_sees_the_same_whenever_one_begins(first_step: int, short_steps: int) -> None:
    config = TeacherTrainingConfig(
        frames_per_step=8_000, utterances_per_step=40, short_steps=short_steps, short_frames=200
    )
    whole = first(first_step + 40, config, 0)
    assert first(40, config, first_step) == whole[first_step:]


def test_at_first_only_short_utterances() -> None:
    config = TeacherTrainingConfig(
        frames_per_step=8_000, short_steps=120, short_frames=250, longest_frames=1000
    )
    steps = first(200, config, 0)
    longest = [max(LENGTHS[i] for i in batch) for batch in steps]
    for step, frames in enumerate(longest[:120]):
        assert frames <= 250 + 750 * step / 120
    assert max(longest[:10]) > 200
    assert max(longest[120:]) > 850
    without = first(200, TeacherTrainingConfig(frames_per_step=8_000), 0)
    assert max(LENGTHS[i] for i in without[0] + without[1] + without[2]) > 250


def test_where_nothing_is_short_enough_the_shortest_come_first() -> None:
    config = TeacherTrainingConfig(
        frames_per_step=1_100, short_steps=10, short_frames=100, longest_frames=1_000
    )
    frames = [500, 510, 800, 810]
    steps = list(islice(step_plan(frames, range(4), config, 0, 1), 30))
    assert steps[0] == [1, 0]
    assert {i for batch in steps for i in batch} == {0, 1, 2, 3}


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_every_batch_exactly(features: Features, ranks: int) -> None:
    config = tiny_config().training
    members = list(range(2, 24))
    plan = step_plan(features.frames, members, config, 5, ranks)
    streams = [training_batches(features, members, config, 5, rank, ranks) for rank in range(ranks)]
    for _ in range(12):
        whole = next(plan)
        shares = [next(stream) for stream in streams]
        assert {share.all_frames for share in shares} == {sum(features.frames[i] for i in whole)}
        rows = [row for share in shares for row in rows_of(share)]
        assert len(rows) == len(whole)
        expected = [key(features[i].tokens, features[i].mel) for i in whole]
        assert sorted(rows) == sorted(expected)
        assert max(map(len, map(rows_of, shares))) - min(map(len, map(rows_of, shares))) <= 1


def key(tokens: Tensor, mel: Tensor) -> tuple[list[int], int, float]:
    return tokens.tolist(), len(mel), float(mel.double().sum())


def rows_of(batch: TeacherBatch) -> list[tuple[list[int], int, float]]:
    return [
        key(tokens[:n], mel[:t])
        for tokens, n, mel, t in zip(
            batch.tokens, batch.token_lengths, batch.mel, batch.frames, strict=True
        )
    ]


def test_one_process_sees_whole_batches(features: Features) -> None:
    config = tiny_config().training
    batches = training_batches(features, range(24), config, 0, 0, 1)
    plan = step_plan(features.frames, range(24), config, 0, 1)
    for batch, members in islice(zip(batches, plan, strict=True), 9):
        assert batch.frames.tolist() == [features.frames[i] for i in members]
        assert batch.all_frames == int(batch.frames.sum())


# Padding


def test_padding_is_zero() -> None:
    torch.manual_seed(0)
    examples = [
        Example("a", torch.arange(1, 4), torch.randn(9, 80)),
        Example("b", torch.arange(1, 6), torch.randn(4, 80), torch.tensor([0, 1, 3, 4])),
    ]
    batch = collate(examples)
    assert batch.tokens.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert batch.token_lengths.tolist() == [3, 5]
    assert batch.frames.tolist() == [9, 4]
    assert (batch.tokens.dtype, batch.mel.dtype) == (torch.int64, torch.float32)
    assert (batch.token_lengths.dtype, batch.frames.dtype) == (torch.int64, torch.int64)
    assert batch.mel.shape == (2, 9, 80)
    assert torch.equal(batch.mel[0], examples[0].mel)
    assert torch.equal(batch.mel[1, :4], examples[1].mel)
    assert not batch.mel[1, 4:].any()
    assert batch.path.tolist() == [[-1] * 9, [0, 1, 3, 4, -1, -1, -1, -1, -1]]
    assert batch.all_frames == 13
    assert collate(examples, 99).all_frames == 99
    moved = batch.to(torch.device("cpu"))
    assert all(torch.equal(vars(moved)[n], vars(batch)[n]) for n in ("tokens", "mel", "path"))
    assert moved.all_frames == 13


def test_validation_sees_each_once_the_longest_first(features: Features, tmp_path: Path) -> None:
    members = list(range(1, 24, 2))
    batches = list(validation_batches(features, members, 200))
    frames = [t for batch in batches for t in batch.frames.tolist()]
    assert frames == sorted((features.frames[i] for i in members), reverse=True)
    assert all(batch.mel.shape[0] * batch.mel.shape[1] <= 200 for batch in batches)
    again = list(validation_batches(features, members[::-1], 200))
    assert all(torch.equal(a.mel, b.mel) for a, b in zip(batches, again, strict=True))
    alone = list(validation_batches(features, members, 1))  # none fits: one at a time
    assert [len(batch.frames) for batch in alone] == [1] * len(members)
