"""What a Tacotron 2 is trained on: named terms over real frames, as sums, so that ranks add up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacotron2.layers import within
from tacotron2.model import TeacherOutput

BLANK = -4.0
"""log-weight with which the path of `forward_sum` may pass a frame without reading a token"""
SMALLEST = 1e-8
"""attention below it counts as this much under a logarithm"""


def mel_squared(output: Tensor, mel: Tensor, frames: Tensor) -> Tensor:
    """Squared error of a mel (B, T, M), its mean over bins, summed over real frames."""
    return _framewise((output.float() - mel).square().mean(2), frames)


def mel_absolute(output: Tensor, mel: Tensor, frames: Tensor) -> Tensor:
    """Absolute error of a mel (B, T, M), its mean over bins, summed over real frames."""
    return _framewise((output.float() - mel).abs().mean(2), frames)


def gate(gate_logits: Tensor, frames: Tensor, end_weight: float) -> Tensor:
    """Cross-entropy of the gate (B, T), summed over real frames.

    The gate says "the end" at the last frame alone, once in hundreds; `end_weight` is how many
    ordinary frames that one counts for.
    """
    last = torch.zeros_like(gate_logits, dtype=torch.float32)
    last.scatter_(1, (frames - 1)[:, None], 1.0)
    weight = 1 + (end_weight - 1) * last
    error = F.binary_cross_entropy_with_logits(
        gate_logits.float(), last, weight=weight, reduction="none"
    )
    return _framewise(error, frames)


def guided_attention(
    attention: Tensor, token_lengths: Tensor, frames: Tensor, width: float
) -> Tensor:
    """How far the attention (B, T, N) is from the diagonal, summed over real frames.

    Each weight counts 1 - exp(-d^2 / 2 width^2), d being its distance from the diagonal as a share
    of the text (Tachibana et al. 2018, arXiv:1710.08969).
    """
    T, N = attention.shape[1:]
    at_frame = torch.arange(T, device=frames.device) / frames[:, None]  # (B, T)
    at_token = torch.arange(N, device=frames.device) / token_lengths[:, None]  # (B, N)
    distance = at_frame[:, :, None] - at_token[:, None]  # (B, T, N)
    penalty = 1 - torch.exp(distance.square() / (-2 * width**2))
    return _framewise((attention.float() * penalty).sum(2), frames)


def forward_sum(attention: Tensor, token_lengths: Tensor, frames: Tensor) -> Tensor:
    """-log of how much attention (B, T, N) lies on paths that read every token in order.

    Summed over all such paths by CTC (Badlani et al. 2021, arXiv:2108.10447): what keeps the
    attention from skipping and repeating, without saying when to read what. Needs at least as many
    frames as tokens; an utterance with fewer counts nothing.
    """
    B, _, N = attention.shape
    logs = torch.log(attention.float() + SMALLEST)  # (B, T, N)
    logs = F.pad(logs, (1, 0), value=BLANK).log_softmax(2)
    targets = torch.arange(1, N + 1, device=attention.device).expand(B, N)
    losses = F.ctc_loss(
        logs.transpose(0, 1), targets, frames, token_lengths, reduction="none", zero_infinity=True
    )
    return losses.sum()


def path_attention(attention: Tensor, path: Tensor) -> Tensor:
    """Cross-entropy of the attention (B, T, N) with a path, summed over the frames that it passes.

    Args:
        path: (B, T) the symbol that each frame reads; -1 where no frame is, or that is not known.
    """
    chosen = attention.float().gather(2, path.clamp(min=0)[:, :, None])[:, :, 0]
    return -torch.log(chosen + SMALLEST).masked_fill(path < 0, 0.0).sum()


def teacher_losses(
    output: TeacherOutput,
    mel: Tensor,
    token_lengths: Tensor,
    *,
    end_weight: float,
    guide_width: float,
    path: Tensor | None = None,
) -> dict[str, Tensor]:
    """All the terms of a teacher-forced batch; each is a sum over its real frames.

    Args:
        output: of `Tacotron2.forward`.
        mel: (B, T, M), what it read along with.
        token_lengths: (B,)
        end_weight: see `gate`.
        guide_width: see `guided_attention`.
        path: see `path_attention`, which then is the guide; without a path the diagonal is.
    """
    frames = output.frames
    return {
        "mel": mel_squared(output.mel, mel, frames),
        "mel_before_postnet": mel_squared(output.mel_before_postnet, mel, frames),
        "mel_absolute": mel_absolute(output.mel, mel, frames),
        "gate": gate(output.gate_logits, frames, end_weight),
        "guide": guided_attention(output.attention, token_lengths, frames, guide_width)
        if path is None
        else path_attention(output.attention, path),
        "order": forward_sum(output.attention, token_lengths, frames),
    }


def _framewise(errors: Tensor, frames: Tensor) -> Tensor:
    """Sum of (B, T) errors over each row's real frames."""
    return errors.masked_fill(~within(frames, errors.shape[1]), 0.0).sum()
