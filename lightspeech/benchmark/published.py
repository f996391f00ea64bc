"""Neural vocoders of the published sizes that have learnt nothing: their sound is noise.

Weights decide neither speed nor memory, so these measure what nobody needs to download for it.
"""

from __future__ import annotations

import torch

from lightspeech.audio import (
    FFT_SIZE,
    HOP_LENGTH,
    MEL_FMAX,
    MEL_FMIN,
    N_MELS,
    SAMPLE_RATE,
)
from lightspeech.vocoders.hifigan import HifiGan
from lightspeech.vocoders.hifigan_config import HifiGanConfig
from lightspeech.vocoders.hifigan_generator import Generator
from lightspeech.vocoders.waveglow import WaveGlowVocoder
from waveglow import WaveGlow, WaveGlowConfig

_Blocks = dict[int, tuple[int, ...]]
_LONG_BLOCKS: _Blocks = {3: (1, 3, 5), 7: (1, 3, 5), 11: (1, 3, 5)}
_SHORT_BLOCKS: _Blocks = {3: (1, 2), 5: (2, 6), 7: (3, 12)}


def _config(
    resblock: str,
    rates: tuple[int, ...],
    kernels: tuple[int, ...],
    channels: int,
    blocks: _Blocks,
) -> HifiGanConfig:
    return HifiGanConfig(
        resblock=resblock,
        upsample_rates=rates,
        upsample_kernel_sizes=kernels,
        upsample_initial_channel=channels,
        resblock_kernel_sizes=tuple(blocks),
        resblock_dilation_sizes=tuple(blocks.values()),
        num_mels=N_MELS,
        n_fft=FFT_SIZE,
        hop_size=HOP_LENGTH,
        win_size=FFT_SIZE,
        sampling_rate=SAMPLE_RATE,
        fmin=MEL_FMIN,
        fmax=MEL_FMAX,
    )


HIFIGAN_SIZES = {
    "V1": _config("1", (8, 8, 2, 2), (16, 16, 4, 4), 512, _LONG_BLOCKS),
    "V2": _config("1", (8, 8, 2, 2), (16, 16, 4, 4), 128, _LONG_BLOCKS),
    "V3": _config("2", (8, 8, 4), (16, 16, 8), 256, _SHORT_BLOCKS),
}
"""Kong et al. 2020 (arXiv:2010.05646), table of hyper-parameters, and the files config_v1 to v3"""


def untrained_hifigan(size: str) -> HifiGan:
    """One of HIFIGAN_SIZES, the same weights each time."""
    torch.manual_seed(0)
    return HifiGan(Generator(HIFIGAN_SIZES[size]).requires_grad_(False))


def untrained_waveglow() -> WaveGlowVocoder:
    """WaveGlow of 256 channels with its denoiser, the same weights each time."""
    torch.manual_seed(0)
    return WaveGlowVocoder(WaveGlow(WaveGlowConfig()).requires_grad_(False))
