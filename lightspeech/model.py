"""The student: text in, mel spectrogram out, without recurrence over its own output.

    tokens -> embedding -> bi-GRU -> linear = projected memory (compared with Tacotron 2's)
           -> duration predictor -> length regulator -> bi-GRU [-> refiner] -> linear -> mel

References: LightSpeech (github.com/xcmyz/LightSpeech) for the layers; the length regulator and
the duration predictor follow FastSpeech (Ren et al. 2019, arXiv:1905.09263, sections 3.2 and 3.3);
Tacotron 2 (Shen et al. 2018, arXiv:1712.05884) is the teacher; the GRU is Cho et al. 2014,
arXiv:1406.1078.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightspeech.config import ModelConfig
from lightspeech.errors import InputError
from lightspeech.gru import BidirectionalGRU
from lightspeech.length_regulator import token_of_frame, valid_positions
from lightspeech.refiner import Refiner

MIN_PACE, MAX_PACE = 0.1, 10.0
"""Limits of `pace`: beyond them a sentence takes minutes, or a frame a token."""

TYPICAL_DURATION = 5.5
"""Frames (64 ms) that a symbol of read English takes; where the duration predictor starts."""


@dataclass(frozen=True)
class TrainingOutput:
    """What `LightSpeech.forward` gives; zeros beyond each item's frames and tokens."""

    mel: Tensor
    """(B, T, M) log-mel spectrogram at the given durations"""
    durations: Tensor
    """(B, N) predicted frames per token, fractional, at least 0"""
    memory: Tensor
    """(B, N, encoder_size) projected memory, in the place of the teacher's encoder memory"""


@dataclass(frozen=True)
class StudentOutput:
    """What `LightSpeech.infer` gives; zeros beyond each item's frames and tokens."""

    mel: Tensor
    """(B, T, M) log-mel spectrogram"""
    frames: Tensor
    """(B,) frames of each item; T is the largest"""
    durations: Tensor
    """(B, N) frames of each token, int64; they add up to `frames`"""


class LightSpeech(nn.Module):
    """The student network; 1,867,089 parameters with the default ModelConfig."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.embedding = nn.Embedding(config.n_symbols, config.embedding_size, padding_idx=0)
        self.encoder = BidirectionalGRU(config.embedding_size, config.encoder_size // 2)
        self.projection = nn.Linear(config.encoder_size, config.encoder_size)
        last = nn.Linear(config.duration_size, 1)
        # A ReLU whose input is negative for every token has no gradient and never recovers; around
        # the typical duration it starts alive, and near the answer.
        nn.init.constant_(last.bias, TYPICAL_DURATION)
        self.duration_predictor = nn.Sequential(
            nn.Linear(config.encoder_size, config.duration_size), nn.ReLU(), last, nn.ReLU()
        )
        self.decoder = BidirectionalGRU(config.encoder_size, config.decoder_size // 2)
        self.refiner = None
        last_size = config.decoder_size
        if config.refiner_blocks:
            last_size = config.refiner_size
            self.refiner = Refiner(
                config.decoder_size,
                config.encoder_size,
                last_size,
                config.refiner_hidden,
                config.refiner_blocks,
            )
        self.output = nn.Linear(last_size, config.n_mels)

    def forward(self, tokens: Tensor, token_lengths: Tensor, durations: Tensor) -> TrainingOutput:
        """Predicts the mel at the given durations, for training.

        Args:
            tokens: (B, N) symbol ids, int64; what lies beyond an item's length does not matter.
            token_lengths: (B,) tokens of each item, 1 to N.
            durations: (B, N) frames of each token, int64, at least 0 and one frame an item.

        Raises:
            InputError: an id outside the symbol table, a length outside 1 to N, durations of
                another shape, negative ones, or an item without a single frame.
        """
        valid_tokens = self._check_tokens(tokens, token_lengths)
        if durations.shape != tokens.shape:
            raise InputError(
                f"durations must have the tokens' shape {tuple(tokens.shape)}, "
                f"not {tuple(durations.shape)}"
            )
        durations = durations.masked_fill(~valid_tokens, 0)
        if bool((durations < 0).any()) or bool((durations.sum(1) < 1).any()):
            raise InputError(
                "durations must be at least 0 and add up to at least one frame an item"
            )
        memory, predicted = self._encode(tokens, token_lengths, valid_tokens)
        mel, _ = self._decode(memory, durations)
        return TrainingOutput(mel, predicted, memory)

    @torch.inference_mode()
    def infer(self, tokens: Tensor, token_lengths: Tensor, pace: float = 1.0) -> StudentOutput:
        """Speaks: predicts the durations, then the mel.

        Args:
            tokens: (B, N) symbol ids, int64; what lies beyond an item's length does not matter.
            token_lengths: (B,) tokens of each item, 1 to N.
            pace: how fast to speak, 0.1 to 10; 2.0 takes half as long. A token takes its
                predicted frames divided by `pace`, rounded, and always at least one.

        Raises:
            InputError: an id outside the symbol table, a length outside 1 to N, a pace outside
                its limits.
        """
        if not MIN_PACE <= pace <= MAX_PACE:  # false for nan too
            raise InputError(
                f"pace must be {MIN_PACE} to {MAX_PACE:g} (1 is the voice's own), not {pace}"
            )
        valid_tokens = self._check_tokens(tokens, token_lengths)
        memory, predicted = self._encode(tokens, token_lengths, valid_tokens)
        durations = (predicted / pace).round().long().clamp(min=1).masked_fill(~valid_tokens, 0)
        mel, frames = self._decode(memory, durations)
        return StudentOutput(mel, frames, durations)

    def _check_tokens(self, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """(B, N) booleans, True where a token is real; InputError if anything is out of range."""
        if tokens.dim() != 2 or token_lengths.shape != tokens.shape[:1] or tokens.numel() == 0:
            raise InputError(
                "tokens must be (B, N) and token_lengths (B,) with B and N at least 1, "
                f"not {tuple(tokens.shape)} and {tuple(token_lengths.shape)}"
            )
        n_tokens = tokens.shape[1]
        shortest, longest = (int(x) for x in token_lengths.aminmax())
        if shortest < 1 or longest > n_tokens:
            raise InputError(
                f"token_lengths must be 1 to {n_tokens} (the width of tokens), "
                f"not {shortest} to {longest}"
            )
        valid_tokens = valid_positions(token_lengths, n_tokens)
        smallest, largest = (int(x) for x in tokens.masked_fill(~valid_tokens, 0).aminmax())
        if smallest < 0 or largest >= self.config.n_symbols:
            raise InputError(
                f"symbol ids must be 0 to {self.config.n_symbols - 1}, "
                f"not {smallest if smallest < 0 else largest}; "
                "encode the text with the symbol table that the voice was trained with"
            )
        return valid_tokens

    def _encode(
        self, tokens: Tensor, token_lengths: Tensor, valid_tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The projected memory (B, N, encoder_size) and the predicted durations (B, N)."""
        tokens = tokens.masked_fill(~valid_tokens, 0)
        source = None
        if len(tokens) == 1 and tokens.device.type == "cpu":  # each symbol's projection once
            symbols, source = tokens.unique(return_inverse=True)
            tokens = symbols.unsqueeze(0)
        embedded = self.embedding(tokens)  # (B, N or symbols, embedding_size)
        encoded = self.encoder(embedded, token_lengths, source)  # (B, N, encoder_size)
        memory = self.projection(encoded).masked_fill(~valid_tokens.unsqueeze(2), 0.0)
        durations = self.duration_predictor(memory).squeeze(2).masked_fill(~valid_tokens, 0.0)
        return memory, durations

    def _decode(self, memory: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
        """The mel (B, T, M) of a memory (B, N, encoder_size) and the frames (B,) of each item."""
        source, frames = token_of_frame(durations)
        decoded = self.decoder(memory, frames, source)  # (B, T, decoder_size)
        padded_frames = None
        if len(frames) > 1:  # the longest item, and so one alone, has no padding
            padded_frames = ~valid_positions(frames, source.shape[1]).unsqueeze(2)  # (B, T, 1)
        if self.refiner is not None:
            decoded = self.refiner(decoded, memory, durations, source, padded_frames)
        with torch.autocast(decoded.device.type, enabled=False):  # a bfloat16 mel is off by 0.03
            decoded = decoded.to(self.output.weight.dtype)
            mel = self.output(decoded)
        if padded_frames is not None:
            mel = mel.masked_fill(padded_frames, 0.0)
        return mel, frames
