"""Which frame of a recording says which symbol: learned from the recordings and texts alone.

Two small convolutional networks give each symbol of a text, and each frame of a mel, a point in one
space; the nearer two points, the more likely the frame says the symbol. They learn by making the
paths that read every symbol in order likely (Badlani et al. 2021, arXiv:2108.10447). The best such
path of each utterance then shows a teacher's attention where to look while it learns, which keeps
it from the straight line that knows nothing of the text.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightspeech.alignment import durations_from_attention
from tacotron2.config import N_SYMBOLS
from tacotron2.layers import within

SIZE = 128
"""channels of both networks"""
MEAN, SPREAD = -5.0, 2.5
"""of log-mels, roughly"""
BLANK = -1.0
"""log-weight of a frame that reads no symbol"""
PRIOR_WIDTH = 0.15
"""standard deviation of the diagonal that is likely before anything is learned, in shares of the
text"""


class Aligner(nn.Module):
    """Symbols (B, N) and mels (B, T, M) -> how likely each frame says each symbol."""

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_SYMBOLS, SIZE)
        self.text = nn.ModuleList(nn.Conv1d(SIZE, SIZE, 5, padding=2) for _ in range(3))
        self.sound = nn.ModuleList(
            nn.Conv1d(before, SIZE, 5, padding=2) for before in (n_mels, SIZE, SIZE)
        )
        self.text_norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))
        self.sound_norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))

    def forward(self, tokens: Tensor, token_lengths: Tensor, mel: Tensor, frames: Tensor) -> Tensor:
        """(B, T, N) log-probabilities over each utterance's symbols, -inf beyond them."""
        padded_tokens = ~within(token_lengths, tokens.shape[1])
        keys = _run(self.embedding(tokens), padded_tokens, self.text, self.text_norms)
        padded_frames = ~within(frames, mel.shape[1])
        queries = _run((mel - MEAN) / SPREAD, padded_frames, self.sound, self.sound_norms)
        nearness = 2 * torch.bmm(queries, keys.transpose(1, 2))  # (B, T, N)
        nearness = nearness - keys.square().sum(2)[:, None] - queries.square().sum(2)[:, :, None]
        nearness = nearness / math.sqrt(SIZE)
        return nearness.masked_fill(padded_tokens[:, None], -torch.inf).log_softmax(2)


def _run(x: Tensor, padding: Tensor, layers: nn.ModuleList, norms: nn.ModuleList) -> Tensor:
    """(B, L, C) -> (B, L, SIZE)"""
    x = x.masked_fill(padding[:, :, None], 0.0)
    for i, layer in enumerate(layers):
        x = layer(x.transpose(1, 2)).transpose(1, 2)
        if i < len(norms):
            x = torch.relu(norms[i](x))
        x = x.masked_fill(padding[:, :, None], 0.0)
    return x


def log_prior(token_lengths: Tensor, frames: Tensor, T: int, N: int) -> Tensor:
    """(B, T, N): log-weights of a broad diagonal."""
    at_frame = (torch.arange(T, device=frames.device) + 0.5) / frames[:, None]
    at_token = (torch.arange(N, device=frames.device) + 0.5) / token_lengths[:, None]
    return (at_frame[:, :, None] - at_token[:, None]).square() / (-2 * PRIOR_WIDTH**2)


def alignment_loss(logs: Tensor, token_lengths: Tensor, frames: Tensor) -> Tensor:
    """-log-probability of all paths that read every symbol in order, a frame (see forward_sum).

    Args:
        logs: (B, T, N) log-probabilities over the symbols.
    """
    B, _, N = logs.shape
    logs = F.pad(logs.clamp(min=-1e4), (1, 0), value=BLANK).log_softmax(2)
    targets = torch.arange(1, N + 1, device=logs.device).expand(B, N)
    losses = F.ctc_loss(
        logs.transpose(0, 1), targets, frames, token_lengths, reduction="none", zero_infinity=True
    )
    return losses.sum() / frames.sum()


def best_durations(logs: Tensor, token_lengths: Tensor, frames: Tensor) -> list[np.ndarray]:
    """Frames a symbol (N,) of each utterance's best path; each symbol has at least one."""
    weights = logs.exp().cpu().numpy()
    lengths = zip(frames.tolist(), token_lengths.tolist(), strict=True)
    return [durations_from_attention(weights[i, :T, :N]) for i, (T, N) in enumerate(lengths)]
