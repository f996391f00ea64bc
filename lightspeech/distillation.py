"""The student and its losses as one module, and its validation on held-out utterances."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightspeech.config import Config
from lightspeech.data import Batch
from lightspeech.losses import DistillationLoss
from lightspeech.model import LightSpeech
from lightspeech.sealed import Sealed


class Distillation(nn.Module):
    """The student and its losses as one module: what the optimiser sees and a checkpoint holds."""

    def __init__(self, config: Config, memory_size: int) -> None:
        super().__init__()
        self.student = LightSpeech(config.model)
        self.loss = DistillationLoss(config.training, memory_size, config.model.encoder_size)

    def forward(self, sealed: Sealed[Batch]) -> dict[str, Tensor]:
        """`loss`, the weighted total, and its terms before weighting, each a scalar."""
        batch = sealed.batch
        output = self.student(batch.tokens, batch.token_lengths, batch.durations)
        losses = self.loss(output, batch)
        return {"loss": losses.total, **losses.terms}


@torch.no_grad()
def validate(
    model: nn.Module, module: Distillation, batches: Iterator[Batch], device: torch.device
) -> dict[str, float | None]:
    """Losses over whole utterances, whatever the size of the batches.

    Args:
        model: `module` as Fabric wraps it.

    Returns:
        `loss` and its terms as in training; `duration_error`, the mean absolute difference in
        frames a token between the student's own rounded durations and the teacher's; and
        `length_ratio`, the student's total length over the teacher's. None stands for a value that
        is not finite.
    """
    sums: dict[str, float] = {}
    counts = {"frames": 0, "tokens": 0}
    wrong_frames = own_frames = 0.0
    for batch in batches:
        batch = batch.to(device)
        frames, tokens = int(batch.frames.sum()), int(batch.token_lengths.sum())
        for name, value in model(Sealed(batch)).items():
            weight = frames if name.startswith("mel") else tokens
            sums[name] = sums.get(name, 0.0) + weight * value.item()
        counts["frames"] += frames
        counts["tokens"] += tokens
        if all(math.isfinite(value) for value in sums.values()):
            spoken = module.student.infer(batch.tokens, batch.token_lengths)
            wrong_frames += (spoken.durations - batch.durations).abs().sum().item()
            own_frames += spoken.frames.sum().item()
        else:
            wrong_frames = own_frames = math.nan
    weights = module.loss.weights
    terms = {
        name: value / counts["frames" if name.startswith("mel") else "tokens"]
        for name, value in sums.items()
        if name in weights
    }
    result = {
        "loss": sum(weights[name] * value for name, value in terms.items()),
        **terms,
        "duration_error": wrong_frames / counts["tokens"],
        "length_ratio": own_frames / counts["frames"],
    }
    return {name: json_number(value) for name, value in result.items()}


def json_number(value: float) -> float | None:
    """`value`, or None where it is not finite, which JSON cannot write."""
    return value if math.isfinite(value) else None
