"""Networks that learn to tell a vocoder's sound from a recording's; never part of a vocoder.

Spectral distances alone leave the phase open, and what they leave open sounds like a buzz. Critics
of two kinds hear what is wrong with it. Some look at every p-th sample, where periods show
(HiFi-GAN, Kong et al. 2020, arXiv:2010.05646, section 2.3), others at spectrograms of several
resolutions (UnivNet, Jang et al. 2021, arXiv:2106.07889, section 2.3), complex ones as in EnCodec
(Défossez et al. 2022, arXiv:2210.13438), since the phase is what matters here. They are small, so
that a step is fast on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERIODS = (2, 3, 5, 7, 11)
"""samples; primes, so that they share as few as possible"""
RESOLUTIONS = (512, 1024, 2048)
"""samples of the windows, a quarter of which is the hop"""
SLOPE = 0.1
"""of the leaky rectifiers"""
POWER = 0.3
"""to which magnitudes are raised, so that soft bins are heard beside loud ones"""


class PeriodCritic(nn.Module):
    """Sound folded into rows of `period` samples; convolutions along the columns.

    Args:
        period: samples a row.
        size: channels of the first layer; those after it have up to eight times as many.
    """

    def __init__(self, period: int, size: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, size, 4 * size, 8 * size, 8 * size)
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], (5, 1), (3, 1), padding=(2, 0))
            for i in range(4)
        )
        self.score = nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, wav: Tensor) -> list[Tensor]:
        """wav (B, S) -> the layers' outputs, the last of them the scores (B, 1, rows, period)."""
        wav = F.pad(wav, (0, -wav.shape[1] % self.period))
        x = wav.view(len(wav), 1, -1, self.period)
        return _through(self.layers, self.score, x)


class SpectrumCritic(nn.Module):
    """A complex spectrogram with its magnitudes compressed; convolutions over time and frequency.

    Args:
        window: samples of a window.
        size: channels of its layers.
    """

    window: Tensor

    def __init__(self, window: int, size: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(2, size, (3, 9), (1, 2), padding=(1, 4)),
                nn.Conv2d(size, size, (3, 9), (1, 2), padding=(1, 4)),
                nn.Conv2d(size, 2 * size, (3, 9), (1, 2), padding=(1, 4)),
                nn.Conv2d(2 * size, 4 * size, (3, 5), (1, 2), padding=(1, 2)),
            ]
        )
        self.score = nn.Conv2d(4 * size, 1, 3, padding=1)

    def forward(self, wav: Tensor) -> list[Tensor]:
        """wav (B, S) -> the layers' outputs, the last of them the scores (B, 1, T', F')."""
        size = len(self.window)
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float(), size, size // 4, window=self.window, return_complex=True
            )
            x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (B, 2, T', F')
            power = x.square().sum(1, keepdim=True) + 1e-6
            x = x * power ** ((POWER - 1) / 2)
        return _through(self.layers, self.score, x)


class Critics(nn.Module):
    """All of them.

    Args:
        size: channels of their first layers.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList(
            [
                *(PeriodCritic(period, size) for period in PERIODS),
                *(SpectrumCritic(window, size) for window in RESOLUTIONS),
            ]
        )

    def forward(self, wav: Tensor) -> list[list[Tensor]]:
        """wav (B, S) -> each critic's layers and scores."""
        return [critic(wav) for critic in self.critics]


def _through(layers: nn.ModuleList, score: nn.Module, x: Tensor) -> list[Tensor]:
    found = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        found.append(x)
    return [*found, score(x)]
