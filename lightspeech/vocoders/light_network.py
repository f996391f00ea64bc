"""The light vocoder's network: a mel in, a spectrum a frame out, and an inverse Fourier transform.

    mel -> convolution -> ConvNeXt blocks -> pitch = phases of its harmonics
                                          -> log magnitude of 513 bins, how much of each is
                                             harmonic, phases of what is not
        -> inverse short-time Fourier transform -> sound

Nothing is up-sampled: all layers run once a frame (86 a second) and not once a sample, and the
Fourier transform does the rest. So it is ten times cheaper than a vocoder that up-samples. The idea
is that of Vocos (Siuzdak 2023, arXiv:2306.00814) and iSTFTNet (Kaneko et al. 2022,
arXiv:2203.02395).

A frame's phases must go on from those of the frame before it, or voices sound hoarse; and to know
where they stand takes a long memory, or a long training. But all harmonics turn with the pitch: so
the network says the pitch of each frame, its integral says where each harmonic stands, and what is
left to learn, how the vocal tract colours them, is a matter of the frames at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightspeech.audio import FFT_SIZE, FRAME_SECONDS, HOP_LENGTH, N_MELS, SAMPLE_RATE
from lightspeech.convnext import KERNEL_SIZE, Block
from lightspeech.settings import check, number, whole

BINS = FFT_SIZE // 2 + 1
"""of a frame's spectrum, 513"""
BANDS = 65
"""points, 172 Hz apart, between which what is smooth in frequency is a straight line"""
FRAMES_BEFORE, FRAMES_AFTER = 1, 2
"""Frames that are made beyond the mel's own on either side, of the mel's first and last frame: with
them every sample that is kept has all four frames that overlap there."""
LOUDEST = 100.0
"""magnitude at which a bin is held: nothing within [-1, 1] has more than 512"""
MIDDLE, SPREAD = -5.0, 2.0
"""about the mean and the deviation of log-mels of speech, by which the network scales them"""
LOWEST_PITCH, HIGHEST_PITCH = 60.0, 450.0
"""Hz"""
SMALLEST_POWER = 1e-20
"""limit of what is heard where the configuration has none"""
MASKING_BINS = 4
"""on either side, 86 Hz"""


@dataclass(frozen=True)
class LightConfig:
    """Sizes of the network; by default 1.45 M parameters."""

    size: int = whole(192, most=4096)
    """C, channels of a frame"""
    hidden_size: int = whole(480, most=4096)
    """channels within a block"""
    blocks: int = whole(6, most=4096)
    softest: float = number(0.05, most=1)
    """magnitude below which a bin is silent when the vocoder speaks, though not while it learns, at
    0 Hz: what is left there is mostly hiss, 74 dB below a sine of full scale"""
    softest_highest: float = number(0.15, most=1)
    """the same at 11 kHz; in between it lies on a straight line"""
    masked: float = number(0.25, most=1)
    """share of the loudest bin within MASKING_BINS below which a bin is silent likewise: what is so
    far below a harmonic beside it is hiss, or not heard"""

    def __post_init__(self) -> None:
        check(self, "light vocoder")


class Anchor(NamedTuple):
    """Where the pitch stands in one frame."""

    frame: int
    """of the mel, from 0; -1 is the frame before it"""
    turned: Tensor
    """(B,) float64, how often the pitch has turned by then"""


class Spectra(NamedTuple):
    """What the network makes of a mel: frames -1 to T + 1."""

    real: Tensor
    """(B, T + 3, BINS); the middle of each window is the origin of time"""
    imaginary: Tensor
    """(B, T + 3, BINS)"""
    pitch: Tensor
    """(B, T + 3) Hz, as the network says it, also where there is no voice"""
    turned: Tensor
    """(B, T + 3) float64, how often the pitch has turned by the middle of each window"""


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
        self.harmonics = nn.Linear(config.size, 2 * BANDS)
        # A voice is mostly harmonic, and finds it out late if it starts otherwise.
        nn.init.constant_(self.harmonics.bias[:BANDS], 2.0)
        self.pitch = nn.Linear(config.size, 1)
        # Overlapping squares of this window add up to 1.5.
        window = torch.hann_window(FFT_SIZE) / 1.5
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("between_bands", _between_bands(), persistent=False)

    @property
    def context_frames(self) -> int:
        """How many frames on either side a frame's samples depend on."""
        layers = (1 + self.config.blocks) * (KERNEL_SIZE // 2)
        return layers + FFT_SIZE // HOP_LENGTH // 2

    def forward(self, mel: Tensor, anchor: Anchor | None = None) -> Tensor:
        """mel (B, T, M), natural log -> sound (B, 256 T); frame t is centred on sample 256 t."""
        spectra = self.spectra(mel, anchor)
        return self.sound(spectra.real, spectra.imaginary)

    def spectra(
        self, mel: Tensor, anchor: Anchor | None = None, pitch: Tensor | None = None
    ) -> Spectra:
        """mel (B, T, M) -> the spectra of frames -1 to T + 1.

        Args:
            anchor: where the pitch stands in one frame, if not at 0 in the first.
            pitch: (B, T) Hz, which is taken where it is above 0, and not what the network says.
        """
        x = ((mel - MIDDLE) / SPREAD).transpose(1, 2)  # (B, M, T)
        x = F.pad(x, (FRAMES_BEFORE, FRAMES_AFTER), mode="replicate")
        x = self.first(x).to(self.first.weight.dtype)  # in mixed precision the sum stays exact
        x = self.first_norm(x.transpose(1, 2))  # (B, T + 3, C)
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):  # a phase in bfloat16 is noise
            x = self.last_norm(x).to(self.spectrum.weight.dtype)
            log_magnitude, phase = self.spectrum(x).chunk(2, 2)
            bands = self.harmonics(x).unflatten(2, (2, BANDS)) @ self.between_bands
            share, shift = bands.unbind(2)
            octaves = math.log(HIGHEST_PITCH / LOWEST_PITCH)
            # In double precision, as its integral is: what is off by a last bit adds up.
            said = F.linear(x.double(), self.pitch.weight.double(), self.pitch.bias.double())
            said = LOWEST_PITCH * (octaves * said.squeeze(2).sigmoid()).exp()
            taken = said.detach()
            if pitch is not None:
                given = F.pad(pitch.double(), (FRAMES_BEFORE, FRAMES_AFTER))
                taken = torch.where(given > 0, given, taken)
            turned = turns(taken, anchor)
            low, high, low_weight, high_weight = nearest_harmonics(taken.float(), turned)
            magnitude = log_magnitude.exp().clamp(max=LOUDEST)
            harmonic = magnitude * share.sigmoid()
            free = magnitude - harmonic
            low, high = low + shift, high + shift
            real = harmonic * (low_weight * low.cos() + high_weight * high.cos())
            imaginary = harmonic * (low_weight * low.sin() + high_weight * high.sin())
            real = real + free * phase.cos()
            imaginary = imaginary + free * phase.sin()
            if not self.training:
                kept = audible(real.square() + imaginary.square(), self.config)
                real, imaginary = kept * real, kept * imaginary
        return Spectra(real, imaginary, said.float(), turned)

    def sound(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """(B, T + 3, BINS) of each, time's origin in the middle of the window -> (B, 256 T)."""
        centred = torch.fft.irfft(torch.complex(real, imaginary), FFT_SIZE)
        frames = centred.roll(FFT_SIZE // 2, 2) * self.window  # (B, T + 3, 1024)
        # Sample 256 t + j is the sum of the quarters (1 - q) of the frames t - 1 + ... + q.
        quarters = frames.unflatten(2, (-1, HOP_LENGTH))  # (B, T + 3, 4, 256)
        n_frames = frames.shape[1] - FRAMES_BEFORE - FRAMES_AFTER
        overlapping = [quarters[:, 3 - q : 3 - q + n_frames, q] for q in range(4)]
        return torch.stack(overlapping).sum(0).flatten(1)


def turns(pitch: Tensor, anchor: Anchor | None = None) -> Tensor:
    """The integral of the pitch (B, T), Hz, at each frame's centre: (B, T) float64, in turns.

    In double precision, because the highest harmonic turns a hundred times as often.
    """
    steps = 0.5 * (pitch[:, 1:] + pitch[:, :-1]).double() * FRAME_SECONDS
    turned = F.pad(steps, (1, 0)).cumsum(1)
    if anchor is None:
        return turned
    index = anchor.frame + FRAMES_BEFORE
    return turned + (anchor.turned - turned[:, index]).unsqueeze(1)


def nearest_harmonics(pitch: Tensor, turned: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The harmonics below and above each bin.

    Args:
        pitch: (B, T) Hz.
        turned: (B, T) float64, as `turns` gives it.

    Returns:
        the phases of both, and how much of each is in the bin, all (B, T, BINS): the main lobe of
        the window's spectrum, raised cosine, which ends two bins away.
    """
    hertz = torch.arange(BINS, device=pitch.device) * (SAMPLE_RATE / FFT_SIZE)
    number = (hertz / pitch.unsqueeze(2)).floor()  # (B, T, BINS)
    turned = (turned - turned.floor()).to(pitch.dtype).unsqueeze(2)
    phases, weights = [], []
    for harmonic in (number, number + 1):
        phase = harmonic * turned
        phases.append(2 * math.pi * (phase - phase.floor()))
        away = (hertz - harmonic * pitch.unsqueeze(2)).abs() * (FFT_SIZE / SAMPLE_RATE)
        weight = 0.5 + 0.5 * (away.clamp(max=2.0) * (math.pi / 2)).cos()
        weights.append(weight * (harmonic > 0))
    return phases[0], phases[1], weights[0], weights[1]


def audible(power: Tensor, config: LightConfig) -> Tensor:
    """How much of each bin is heard, 0 to 1.

    A bin fades out between its limit and half its power, so that no last bit decides what is heard.

    Args:
        power: (B, T, BINS), squared magnitudes.
        config: whose `softest`, `softest_highest` and `masked` are the limits.
    """
    loudest_near = F.max_pool1d(power, 2 * MASKING_BINS + 1, 1, MASKING_BINS)
    limit = torch.maximum(least_power(config).to(power.device), config.masked**2 * loudest_near)
    return (2 * power / limit - 1).clamp(0, 1)


def least_power(config: LightConfig) -> Tensor:
    """(BINS,) the squared magnitude below which a bin is silent whatever is beside it."""
    softest = torch.linspace(config.softest, config.softest_highest, BINS)
    return softest.square().clamp(min=SMALLEST_POWER)


def _between_bands() -> Tensor:
    """(BANDS, BINS): straight lines between the points of an envelope."""
    places = torch.arange(BINS) * ((BANDS - 1) / (BINS - 1))
    away = (places - torch.arange(BANDS).unsqueeze(1)).abs()
    return (1 - away).clamp(min=0.0)
