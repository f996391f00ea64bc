"""The part training: one step of the student, beside the same with nn.GRU and beside its floor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lightspeech.audio import N_MELS
from lightspeech.benchmark.floors import training_multiply_adds
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.student import two_students
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.config import TrainingConfig
from lightspeech.data import Batch
from lightspeech.losses import DistillationLoss
from lightspeech.model import LightSpeech


def training_batch(B: int, N: int, T: int, E: int) -> Batch:
    """A full batch, without padding, of random content."""
    generator = torch.Generator().manual_seed(0)
    durations = torch.full((B, N), T // N)
    durations[:, : T - N * (T // N)] += 1
    return Batch(
        ids=[str(i) for i in range(B)],
        tokens=torch.randint(1, 148, (B, N), generator=generator),
        token_lengths=torch.full((B,), N),
        durations=durations,
        mel=torch.randn(B, T, N_MELS, generator=generator),
        frames=torch.full((B,), T),
        memory=torch.randn(B, N, E, generator=generator),
    )


def bench_training(settings: Settings) -> Findings:
    """A step on a full batch: forward, losses, backward, clipping, Adam."""
    batch, E = training_batch(32, 73, 400, 512), 512
    loss = DistillationLoss(TrainingConfig(), E)

    def step(student: LightSpeech) -> Callable[[], None]:
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)

        def run() -> None:
            optimizer.zero_grad()
            output = student(batch.tokens, batch.token_lengths, batch.durations)
            loss(output, batch).total.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

        return run

    rate = product_rate()
    ours, plain = best_times([step(student) for student in two_students()], settings.repeats)
    rate = max(rate, product_rate())
    multiply_adds = training_multiply_adds(batch, E)
    rows = [
        Row(
            "training",
            "training step, 32 utterances of 400 frames",
            ours,
            beside="nn.GRU",
            ratio=plain / ours,
            multiply_adds=multiply_adds,
            floor_seconds=multiply_adds / rate,
        )
    ]
    return Findings(rows)
