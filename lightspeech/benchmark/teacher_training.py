"""The part teacher-training: one step of a teacher, beside the same model frame after frame."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import MethodType

import torch
from torch import nn

from lightspeech.audio import N_MELS
from lightspeech.benchmark.floors import teacher_training_multiply_adds
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.stepwise import read_along_stepwise
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.teacher.batches import TeacherBatch
from lightspeech.teacher.config import CONFIGS, SMALL, TeacherTrainingConfig
from tacotron2 import Tacotron2
from tacotron2.losses import teacher_losses


def teacher_batch(B: int, N: int, T: int) -> TeacherBatch:
    """A full batch, without padding, of random content."""
    generator = torch.Generator().manual_seed(0)
    return TeacherBatch(
        tokens=torch.randint(1, 148, (B, N), generator=generator),
        token_lengths=torch.full((B,), N),
        mel=torch.randn(B, T, N_MELS, generator=generator),
        frames=torch.full((B,), T),
        path=(torch.arange(T) * N // T).expand(B, T),
        all_frames=B * T,
    )


def step_of(
    model: Tacotron2, batch: TeacherBatch, settings: TeacherTrainingConfig, precision: str
) -> Callable[[], None]:
    """One step: forward, losses, backward, clipping, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            output = model(
                batch.tokens, batch.token_lengths, batch.mel, batch.frames, padding_leaks=False
            )
        terms = teacher_losses(
            output,
            batch.mel,
            batch.token_lengths,
            end_weight=settings.gate_end_weight,
            guide_width=settings.guide_width,
            path=batch.path,
        )
        (torch.stack(list(terms.values())).sum() / batch.all_frames).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()

    return run


def bench_teacher_training(settings: Settings) -> Findings:
    """A step on a full batch of the configuration `small`, in single and in mixed precision."""
    batch, training = teacher_batch(16, 60, 320), CONFIGS["small"].training
    torch.manual_seed(0)
    ours = Tacotron2(SMALL).train()
    plain = deepcopy(ours)
    plain.decoder.read_along = MethodType(read_along_stepwise, plain.decoder)  # type: ignore[method-assign]
    rate = product_rate()
    sides = [
        step_of(ours, batch, training, "32-true"),
        step_of(plain, batch, training, "32-true"),
        step_of(deepcopy(ours), batch, training, "bf16-mixed"),
    ]
    single, stepwise, mixed = best_times(sides, max(1, settings.repeats // 3))
    rate = max(rate, product_rate())
    multiply_adds = teacher_training_multiply_adds(SMALL, batch)
    what = "teacher training step, 16 utterances of 320 frames"
    rows = [
        Row(
            "teacher-training",
            what,
            single,
            beside="frame after frame",
            ratio=stepwise / single,
            multiply_adds=multiply_adds,
            floor_seconds=multiply_adds / rate,
        ),
        Row(
            "teacher-training",
            f"{what}, bf16",
            mixed,
            beside="frame after frame, in single precision",
            ratio=stepwise / mixed,
        ),
    ]
    return Findings(rows)
