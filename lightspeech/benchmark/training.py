"""The part training: one step of the student, beside the same with nn.GRU and beside its floor.

And how much of a step, as train.py takes it, is not the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import nn

from lightspeech.audio import N_MELS
from lightspeech.benchmark.floors import training_multiply_adds
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.student import two_students
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.config import Config, TrainingConfig
from lightspeech.data import Batch, collate
from lightspeech.losses import DistillationLoss
from lightspeech.manifest import StoreIdentity
from lightspeech.model import LightSpeech
from lightspeech.run_folder import Run
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter
from lightspeech.training import Training

UTTERANCES, TOKENS, FRAMES, MEMORY_SIZE = 32, 73, 400, 512
Value = TypeVar("Value")


def training_labels(B: int, N: int, T: int, E: int) -> list[Label]:
    """Utterances of one length and of random content."""
    generator = torch.Generator().manual_seed(0)
    durations = torch.full((N,), T // N)
    durations[: T - N * (T // N)] += 1
    return [
        Label(
            id=f"{i:04d}",
            text=f"text {i}",
            tokens=torch.randint(1, 148, (N,), generator=generator),
            durations=durations,
            mel=torch.randn(T, N_MELS, generator=generator),
            memory=torch.randn(N, E, generator=generator),
            scores={"none": 0.0},
        )
        for i in range(B)
    ]


def training_batch(B: int, N: int, T: int, E: int) -> Batch:
    """A full batch, without padding, of random content."""
    return collate(training_labels(B, N, T, E))


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step of train.py."""

    whole: float
    """from its beginning to that of the next"""
    model: float
    """of that, forward and backward pass with the losses"""
    update: float
    """of that, clipping, Adam and the checks around them; the rest is data, history and display"""


def time_steps(training: Training) -> list[StepTimes]:
    """Runs a training and times its steps, but for the first and for those with a validation."""
    now = time.perf_counter
    begins: list[float] = []
    model, inside, validated = [], [], []

    def timed(function: Callable[..., Value], seconds: list[float]) -> Callable[..., Value]:
        def call(*arguments: Any, **options: Any) -> Value:
            began = now()
            result = function(*arguments, **options)
            seconds[-1] += now() - began
            return result

        return call

    take_step, validate = training._take_step, training._validate

    def step(batch: Batch) -> dict[str, Any]:
        begins.append(now())
        model.append(0.0)
        validated.append(False)
        line = take_step(batch)
        inside.append(now() - begins[-1])
        return line

    def validation() -> dict[str, float | None]:
        validated[-1] = True
        return validate()

    training._take_step = step  # type: ignore[method-assign]
    training._validate = validation  # type: ignore[method-assign]
    training._losses = timed(training._losses, model)  # type: ignore[method-assign]
    training.fabric.backward = timed(training.fabric.backward, model)
    training.run()
    begins.append(now())
    return [
        StepTimes(begins[i + 1] - begins[i], model[i], inside[i] - model[i])
        for i in range(1, len(model))
        if not validated[i]
    ]


def real_steps(steps: int) -> list[StepTimes]:
    """Steps of train.py on a store of full batches, in a folder that is removed again."""
    settings = TrainingConfig(
        steps=steps + 2,  # the first and the last do not count
        batch_size=UTTERANCES,
        validate_every=steps + 2,
        validation_share=1e-9,  # then just one utterance is held out
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with StoreWriter.open(path, StoreIdentity("random", "0" * 64, MEMORY_SIZE, {})) as writer:
            writer.append(training_labels(UTTERANCES + 1, TOKENS, FRAMES, MEMORY_SIZE))
        store = LabelStore.open(path)
        run = Path(folder) / "run"
        run.mkdir()
        training = Training(store, Run(run, None), Config(training=settings))
        with redirect_stderr(StringIO()):  # its progress bar would disturb our own
            return time_steps(training)


def bench_training(settings: Settings) -> Findings:
    """A step on a full batch: forward, losses, backward, clipping, Adam."""
    batch = training_batch(UTTERANCES, TOKENS, FRAMES, MEMORY_SIZE)
    loss = DistillationLoss(TrainingConfig(), MEMORY_SIZE)

    def step(student: LightSpeech) -> Callable[[], None]:
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)

        def run() -> None:
            optimizer.zero_grad()
            output = student(batch.tokens, batch.token_lengths, batch.durations)
            loss(output, batch).total.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

        return run

    rate = product_rate()
    ours, plain = best_times([step(student) for student in two_students()], settings.repeats)
    real = min(real_steps(settings.repeats), key=lambda times: times.whole)
    rate = max(rate, product_rate())
    multiply_adds = training_multiply_adds(batch, MEMORY_SIZE)
    what = f"{UTTERANCES} utterances of {FRAMES} frames"
    rows = [
        Row(
            "training",
            f"training step, {what}",
            ours,
            beside="nn.GRU",
            ratio=plain / ours,
            multiply_adds=multiply_adds,
            floor_seconds=multiply_adds / rate,
        ),
        Row("training", f"training step of train.py, {what}", real.whole),
    ]
    return Findings(rows, (describe_steps(real),))


def describe_steps(times: StepTimes) -> str:
    """What share of a step is not the model, for people."""
    rest = times.whole - times.model - times.update
    return (
        f"training: {1 - times.model / times.whole:.1%} of a step of train.py is not the model: "
        f"{times.update / times.whole:.1%} clipping, Adam and checks, "
        f"{rest / times.whole:.1%} data, history and display"
    )
