"""What a teacher's training minimises, as one module: the model, its losses and their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightspeech.sealed import Sealed
from lightspeech.teacher.batches import TeacherBatch
from lightspeech.teacher.config import TeacherTrainingConfig
from tacotron2 import Tacotron2
from tacotron2.attention_frames import Lead
from tacotron2.losses import teacher_losses


def batch_losses(
    model: Tacotron2,
    batch: TeacherBatch,
    config: TeacherTrainingConfig,
    *,
    lead: Lead | None = None,
    frame_dropout: float = 0.0,
) -> dict[str, Tensor]:
    """The losses of a batch that the model reads along with, each a sum over its frames."""
    output = model(
        batch.tokens,
        batch.token_lengths,
        batch.mel,
        batch.frames,
        prenet_dropout=config.prenet_dropout,
        padding_leaks=False,
        lead=lead,
        frame_dropout=frame_dropout,
    )
    with torch.autocast(batch.mel.device.type, enabled=False):
        return teacher_losses(
            output,
            batch.mel,
            batch.token_lengths,
            end_weight=config.gate_end_weight,
            guide_width=config.guide_width,
            path=batch.path if config.guide == "path" else None,
        )


class Objective(nn.Module):
    """The model and its losses, so that Fabric's wrapper sees one forward pass."""

    def __init__(self, model: Tacotron2, config: TeacherTrainingConfig) -> None:
        super().__init__()
        self.model = model
        model.encoder.dropout = config.encoder_dropout
        model.postnet.dropout = config.postnet_dropout
        self._config = config

    def forward(self, sealed: Sealed[TeacherBatch], led: float) -> dict[str, Tensor]:
        """The losses of a batch, each a sum over its frames.

        Args:
            led: share of its look in which the attention is led along the paths, 0 to 1.
        """
        batch = sealed.batch
        return batch_losses(
            self.model,
            batch,
            self._config,
            lead=Lead(batch.path, led) if led else None,
            frame_dropout=self._config.frame_dropout_at(led),
        )


def weighted(terms: dict[str, Tensor], config: TeacherTrainingConfig, step: int) -> Tensor:
    """The loss that `step` (0-based) minimises, of its terms."""
    return (
        config.mel_weight * terms["mel"]
        + config.mel_before_postnet_weight * terms["mel_before_postnet"]
        + config.mel_absolute_weight * terms["mel_absolute"]
        + config.gate_weight * terms["gate"]
        + config.guide_at(step) * terms["guide"]
        + config.order_weight * terms["order"]
    )
