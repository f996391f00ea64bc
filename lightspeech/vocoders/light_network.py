"""The light vocoder's network: a mel in, a spectrum a frame out, and an inverse Fourier transform.

    mel -> convolution -> ConvNeXt blocks -> linear = log magnitude and phase of 513 bins
        -> inverse short-time Fourier transform -> sound

Nothing is up-sampled: all layers run once a frame (86 a second) and not once a sample, and the
Fourier transform does the rest. So it is ten times cheaper than a vocoder that up-samples. The idea
is that of Vocos (Siuzdak 2023, arXiv:2306.00814) and iSTFTNet (Kaneko et al. 2022,
arXiv:2203.02395).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightspeech.audio import FFT_SIZE, HOP_LENGTH, N_MELS
from lightspeech.convnext import KERNEL_SIZE, Block
from lightspeech.errors import InputError

BINS = FFT_SIZE // 2 + 1
"""of a frame's spectrum, 513"""
FRAMES_BEFORE, FRAMES_AFTER = 1, 2
"""Frames that are made beyond the mel's own on either side, of the mel's first and last frame: with
them every sample that is kept has all four frames that overlap there."""
LOUDEST = 100.0
"""magnitude at which a bin is held: nothing within [-1, 1] has more than 512"""
MIDDLE, SPREAD = -5.0, 2.0
"""about the mean and the deviation of log-mels of speech, by which the network scales them"""


@dataclass(frozen=True)
class LightConfig:
    """Sizes of the network; by default 1.43 M parameters."""

    size: int = 192
    """C, channels of a frame"""
    hidden_size: int = 480
    """channels within a block"""
    blocks: int = 6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value <= 4096:
                raise InputError(f"light vocoder: {field.name} {value!r}, expected 1 to 4096")

    @staticmethod
    def from_dict(values: Any, where: str) -> LightConfig:
        """The inverse of dataclasses.asdict; InputError, which names `where`, for anything else."""
        known = {field.name for field in fields(LightConfig)}
        if not isinstance(values, dict) or values.keys() - known:
            raise InputError(f"{where}: expected an object with {', '.join(sorted(known))}")
        return LightConfig(**values)


class LightNetwork(nn.Module):
    """Mel to sound, frame by frame."""

    window: Tensor

    def __init__(self, config: LightConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LightConfig()
        self.first = nn.Conv1d(N_MELS, config.size, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.first_norm = nn.LayerNorm(config.size)
        self.blocks = nn.ModuleList(
            Block(config.size, config.hidden_size) for _ in range(config.blocks)
        )
        self.last_norm = nn.LayerNorm(config.size)
        self.spectrum = nn.Linear(config.size, 2 * BINS)
        # Overlapping squares of this window add up to 1.5.
        window = torch.hann_window(FFT_SIZE) / 1.5
        self.register_buffer("window", window, persistent=False)

    @property
    def context_frames(self) -> int:
        """How many frames on either side a frame's samples depend on."""
        layers = (1 + self.config.blocks) * (KERNEL_SIZE // 2)
        return layers + FFT_SIZE // HOP_LENGTH // 2

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, T, M), natural log -> sound (B, 256 T); frame t is centred on sample 256 t."""
        log_magnitude, phase = self.spectra(mel)
        return self.sound(log_magnitude, phase)

    def spectra(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """mel (B, T, M) -> log magnitudes and phases (B, T + 3, BINS) of frames -1 to T + 1."""
        x = ((mel - MIDDLE) / SPREAD).transpose(1, 2)  # (B, M, T)
        x = F.pad(x, (FRAMES_BEFORE, FRAMES_AFTER), mode="replicate")
        x = self.first(x).to(self.first.weight.dtype)  # in mixed precision the sum stays exact
        x = self.first_norm(x.transpose(1, 2))  # (B, T + 3, C)
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):  # a phase in bfloat16 is noise
            x = self.spectrum(self.last_norm(x).to(self.spectrum.weight.dtype))
        log_magnitude, phase = x.chunk(2, 2)
        return log_magnitude, phase

    def sound(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """(B, T + 3, BINS) of each -> (B, 256 T)."""
        magnitude = log_magnitude.exp().clamp(max=LOUDEST)
        spectrum = torch.polar(magnitude, phase)
        frames = torch.fft.irfft(spectrum, FFT_SIZE) * self.window  # (B, T + 3, 1024)
        # Sample 256 t + j is the sum of the quarters (1 - q) of the frames t - 1 + ... + q.
        quarters = frames.unflatten(2, (-1, HOP_LENGTH))  # (B, T + 3, 4, 256)
        n_frames = frames.shape[1] - FRAMES_BEFORE - FRAMES_AFTER
        overlapping = [quarters[:, 3 - q : 3 - q + n_frames, q] for q in range(4)]
        return torch.stack(overlapping).sum(0).flatten(1)
