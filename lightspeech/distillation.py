"""The student and its losses as one module, and its validation on held-out utterances."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightspeech.adversarial import AdversarialLoss
from lightspeech.config import Config
from lightspeech.data import Batch
from lightspeech.length_regulator import valid_positions
from lightspeech.losses import DistillationLoss
from lightspeech.model import LightSpeech
from lightspeech.run_folder import json_number
from lightspeech.sealed import Sealed


class Distillation(nn.Module):
    """The student and its losses as one module: what the optimiser sees and a checkpoint holds."""

    def __init__(self, config: Config, memory_size: int) -> None:
        super().__init__()
        self.student = LightSpeech(config.model)
        self.loss = DistillationLoss(config.training, memory_size, config.model.encoder_size)
        settings = config.training
        self.adversarial = AdversarialLoss() if settings.adversarial_weight > 0 else None
        self._adversarial_weights = {
            "critic": 1.0,
            "adversarial": settings.adversarial_weight,
            "features": settings.features_weight,
        }

    def forward(self, sealed: Sealed[Batch], criticised: bool = False) -> dict[str, Tensor]:
        """`loss`, the weighted total, and its terms before weighting, each a scalar.

        Each is the batch's share of the mean over what the batch is a share of (`Batch.whole`);
        only `loss` has a gradient.

        Args:
            criticised: whether the critic, if there is one, learns and is listened to.
        """
        batch = sealed.batch
        output = self.student(batch.tokens, batch.token_lengths, batch.durations)
        losses = self.loss(output, batch)
        shares = {"loss": losses.total, **losses.terms}
        if self.adversarial is not None and criticised:
            terms = self.adversarial(output.mel.float(), batch.mel, batch.frames)
            for name, term in terms.items():
                share = term / batch.whole.utterances
                shares["loss"] = shares["loss"] + self._adversarial_weights[name] * share
                shares[name] = share.detach()
        if not batch.whole.counts:
            shares = {name: value * 0.0 for name, value in shares.items()}
        return shares


@torch.no_grad()
def validate(
    module: Distillation, batches: Iterator[Batch], device: torch.device
) -> dict[str, float | None]:
    """Losses over whole utterances, whatever the size of the batches.

    Args:
        module: in evaluation mode.
        batches: of `validation_batches`, each a share of all of them.
        device: where the module is.

    Returns:
        `loss` and its terms as in training; `duration_error`, the mean absolute difference in
        frames a token between the student's own rounded durations and the teacher's; and
        `length_ratio`, the student's total length over the teacher's; `variance_ratio`, how much
        the student's mels move at the teacher's durations over how much the teacher's do (below 1
        they are too smooth). None stands for a value that is not finite.
    """
    sums: dict[str, float] = {}
    frames = tokens = 0
    wrong_frames = own_frames = own_variance = variance = 0.0
    for batch in batches:
        batch = batch.to(device)
        output = module.student(batch.tokens, batch.token_lengths, batch.durations)
        for name, value in module.loss(output, batch).terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        own_variance += _variance(output.mel, batch.frames)
        variance += _variance(batch.mel, batch.frames)
        frames += int(batch.frames.sum())
        tokens += int(batch.token_lengths.sum())
        if all(math.isfinite(value) for value in sums.values()):
            spoken = module.student.infer(batch.tokens, batch.token_lengths)
            wrong_frames += (spoken.durations - batch.durations).abs().sum().item()
            own_frames += spoken.frames.sum().item()
        else:
            wrong_frames = own_frames = math.nan
    weights = module.loss.weights
    result = {
        "loss": sum(weights[name] * value for name, value in sums.items()),
        **sums,
        "duration_error": wrong_frames / tokens,
        "length_ratio": own_frames / frames,
        "variance_ratio": own_variance / variance if variance else math.nan,
    }
    return {name: json_number(value) for name, value in result.items()}


def _variance(mel: Tensor, frames: Tensor) -> float:
    """How much mels (B, T, M) move: the squares of what differs from each bin's mean over the
    (B,) frames of its utterance, added up."""
    valid = valid_positions(frames, mel.shape[1]).unsqueeze(2)  # (B, T, 1)
    means = mel.masked_fill(~valid, 0.0).sum(1, keepdim=True) / frames.view(-1, 1, 1)
    return (mel - means).masked_fill(~valid, 0.0).square().sum().item()
