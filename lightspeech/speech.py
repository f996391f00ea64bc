"""What speaking a text gives: sound, mel, timings, and how sentences are joined to one `Speech`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightspeech.audio import HOP_LENGTH, LOG_FLOOR, SAMPLE_RATE
from lightspeech.joins import FADE, PAUSE, spelled, timings_of


@dataclass(frozen=True)
class Piece:
    """One sentence of a speech. N tokens, T frames."""

    text: str
    """the sentence as it was given"""
    symbols: list[str]
    """the N symbols that were spoken"""
    durations: Tensor
    """(N,) int64, frames per symbol; their sum is T"""
    start: int
    """its first frame in `Speech.mel`"""
    attention: Tensor | None = None
    """(T, N) of a teacher; a student has none"""
    stopped: bool = True
    """False: a teacher that did not find the end of the sentence and was cut off"""

    @property
    def spoken(self) -> str:
        """The symbols as a text, phonemes in braces: what was really said."""
        return spelled(self.symbols).strip()

    @property
    def frames(self) -> int:
        """T"""
        return int(self.durations.sum())

    @property
    def mel_rows(self) -> slice:
        """The rows of `Speech.mel` that are this sentence's."""
        return slice(self.start, self.start + self.frames)


@dataclass(frozen=True)
class Speech:
    """A spoken text, on the CPU. T frames, S = 256 T samples."""

    wav: Tensor
    """(S,) float32, full scale is 1"""
    sample_rate: int
    """samples a second"""
    mel: Tensor
    """(T, M) float32, natural log of magnitudes; silence between the sentences"""
    timings: list[tuple[str, float, float]]
    """(symbol, start, end) in seconds without gaps from 0 to the end; PAUSE between sentences"""
    pieces: list[Piece]
    """the sentences, in order"""
    seconds: dict[str, float]
    """time spent on each stage: `text`, `mel`, `vocoder`"""

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return self.wav.numel() / self.sample_rate

    @property
    def spoken(self) -> str:
        """What was really said: numbers and abbreviations in words, unknown characters gone."""
        return " ".join(piece.spoken for piece in self.pieces)

    @property
    def durations(self) -> Tensor:
        """(N,) int64, frames per symbol over all the sentences, without the pauses."""
        return torch.cat([piece.durations for piece in self.pieces])


@dataclass(frozen=True)
class Reading:
    """What a model made of one sentence. N tokens, T frames."""

    text: str
    """the sentence as it was given"""
    symbols: list[str]
    """its N symbols"""
    mel: Tensor
    """(T, M)"""
    durations: Tensor
    """(N,) int64; their sum is T"""
    attention: Tensor | None = None
    """(T, N) of a teacher"""
    stopped: bool = True
    """False: a teacher that was cut off"""


def join_readings(
    readings: list[Reading], wavs: list[Tensor], pause_frames: int, seconds: dict[str, float]
) -> Speech:
    """Sentences, each with its (256 T,) samples, and the pauses between them -> one Speech."""
    n_mels = readings[0].mel.shape[1]
    mel_parts: list[Tensor] = []
    wav_parts: list[Tensor] = []
    spans: list[tuple[str, int]] = []  # symbol, frames
    pieces: list[Piece] = []
    position = 0  # frames so far
    for i, (reading, wav) in enumerate(zip(readings, wavs, strict=True)):
        frames = reading.mel.shape[0]
        assert wav.shape == (frames * HOP_LENGTH,), (wav.shape, frames)
        assert int(reading.durations.sum()) == frames, (reading.durations, frames)
        if i and pause_frames:
            mel_parts.append(torch.full((pause_frames, n_mels), math.log(LOG_FLOOR)))
            wav_parts.append(torch.zeros(pause_frames * HOP_LENGTH))
            spans.append((PAUSE, pause_frames))
            position += pause_frames
        pieces.append(
            Piece(
                text=reading.text,
                symbols=reading.symbols,
                durations=reading.durations,
                start=position,
                attention=reading.attention,
                stopped=reading.stopped,
            )
        )
        mel_parts.append(reading.mel)
        # A step from speech to digital silence would click.
        wav_parts.append(_faded(wav, at_start=i > 0, at_end=i < len(wavs) - 1))
        spans += zip(reading.symbols, reading.durations.tolist(), strict=True)
        position += frames
    return Speech(
        wav=torch.cat(wav_parts),
        sample_rate=SAMPLE_RATE,
        mel=torch.cat(mel_parts),
        timings=timings_of(spans),
        pieces=pieces,
        seconds=seconds,
    )


def _faded(wav: Tensor, *, at_start: bool, at_end: bool) -> Tensor:
    ramp = torch.linspace(0, 1, FADE)
    wav = wav.clone()
    if at_start:
        wav[:FADE] *= ramp
    if at_end:
        wav[-FADE:] *= ramp.flip(0)
    return wav
