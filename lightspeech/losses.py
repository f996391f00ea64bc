"""What the student is trained on: masked, named terms over real frames and tokens.

A term is a sum over the real frames (or tokens) of a batch divided by those of the whole that the
batch is a share of (`Batch.whole`). So the shares of several processes, or of several batches,
add up to the mean over all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightspeech.config import TrainingConfig
from lightspeech.length_regulator import valid_positions
from lightspeech.model import TrainingOutput

if TYPE_CHECKING:
    from lightspeech.data import Batch


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, each a scalar: its share of a mean."""

    total: Tensor
    """weighted sum of the terms; what training minimises, the only one with a gradient"""
    terms: dict[str, Tensor]
    """mel_squared, mel_absolute, duration, memory: before weighting, without a gradient"""


class DistillationLoss(nn.Module):
    """The teacher's mel, durations and encoder memory against the student's.

    Where the teacher's memory has another size than the student's, a linear layer maps the one to
    the other. It is trained with the student and thrown away after training, never part of a voice.

    Padding never counts, and the loss of a batch is the mean of its utterances' losses weighted by
    their frames (mel) or tokens.
    """

    def __init__(
        self, config: TrainingConfig, memory_size: int, projection_size: int = 512
    ) -> None:
        super().__init__()
        self.weights = {
            "mel_squared": config.mel_squared_weight,
            "mel_absolute": config.mel_absolute_weight,
            "duration": config.duration_weight,
            "memory": config.memory_weight,
        }
        self.memory_adapter: nn.Module = (
            nn.Identity()
            if memory_size == projection_size
            else nn.Linear(projection_size, memory_size)
        )

    def forward(self, output: TrainingOutput, batch: Batch) -> Losses:
        """The losses of a student's `output` for the `batch` that it was computed from."""
        assert output.mel.shape == batch.mel.shape, (output.mel.shape, batch.mel.shape)
        valid_frames = valid_positions(batch.frames, batch.mel.shape[1])  # (B, T)
        valid_tokens = valid_positions(batch.token_lengths, batch.tokens.shape[1])  # (B, N)

        mel_error = _masked_difference(output.mel, batch.mel, valid_frames)
        # The adapter comes after the mask: a gradient of zero times padding that is not a number
        # would still spoil the adapter's own.
        memory = output.memory.masked_fill(~valid_tokens.unsqueeze(2), 0.0)
        frames, tokens = batch.whole.frames, batch.whole.tokens
        compute: dict[str, Callable[[], Tensor]] = {
            "mel_squared": lambda: _mean(mel_error.square(), frames),
            "mel_absolute": lambda: _mean(mel_error.abs(), frames),
            "duration": lambda: _mean(
                _masked_difference(output.durations, batch.durations, valid_tokens).abs(), tokens
            ),
            "memory": lambda: _mean(
                _masked_difference(self.memory_adapter(memory), batch.memory, valid_tokens).abs(),
                tokens,
            ),
        }
        total = torch.zeros((), device=output.mel.device)
        terms = {}
        for name, weight in self.weights.items():
            # A term that weighs nothing is reported all the same, without a graph behind it.
            with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                term = compute[name]()
            terms[name] = term.detach()
            if weight > 0:
                total = total + weight * term
        return Losses(total, terms)


def _masked_difference(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """`predicted` - `target`, (B, L) or (B, L, D), and zero wherever `valid` (B, L) is false."""
    if predicted.dim() == 3:
        valid = valid.unsqueeze(2)
    return (predicted - target).masked_fill(~valid, 0.0)


def _mean(errors: Tensor, count: int) -> Tensor:
    """What (B, L) or (B, L, D) errors, zero at padding, add to the mean over `count` positions."""
    values_a_position = errors.shape[2:].numel()
    return errors.sum() / (count * values_a_position)
