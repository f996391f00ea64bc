"""WaveGlow (Prenger, Valle, Catanzaro 2018, arXiv:1811.00002) with NVIDIA's parameter names.

    from waveglow import Denoiser, default_checkpoint, load_waveglow

    waveglow = load_waveglow(default_checkpoint())
    wav = waveglow.infer(mel, sigma=0.6, seed=0)         # (B, T, M) -> (B, 256 T)
    wav = Denoiser(waveglow)(wav, strength=0.1)

    config        sizes of the layers; the mels that the published model takes
    conditioning  mel -> the flow's positions
    wavenet       the coupling network
    invertible    the invertible 1x1 convolution
    noise         normal numbers by seed and position
    streaming     the inverse direction, piece by piece
    model         WaveGlow: the parts put together; FlowOutput
    denoiser      takes the model's hum out of its samples
    load          load_waveglow, default_checkpoint
    convert       python -m waveglow.convert OLD NEW: NVIDIA's checkpoint -> safetensors + JSON

Shape letters: B batch, T frames, M mel bins (80), S samples, L positions of n_group (8) samples,
C channels. The package imports nothing from `lightspeech`.
"""

from __future__ import annotations

from safeload import CheckpointError
from waveglow.config import AUDIO_FACTS, WaveGlowConfig
from waveglow.denoiser import Denoiser
from waveglow.load import default_checkpoint, load_waveglow
from waveglow.model import FlowOutput, WaveGlow

__all__ = [
    "AUDIO_FACTS",
    "CheckpointError",
    "Denoiser",
    "FlowOutput",
    "WaveGlow",
    "WaveGlowConfig",
    "default_checkpoint",
    "load_waveglow",
]
