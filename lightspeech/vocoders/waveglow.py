"""WaveGlow behind the interface of all vocoders; the model itself is the package `waveglow`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lightspeech.errors import InputError
from lightspeech.vocoders.options import DENOISE, SIGMA, VocoderOptions
from lightspeech.vocoders.vocoder import Vocoder, check_mel
from waveglow import Denoiser, WaveGlow, load_waveglow


class WaveGlowVocoder(Vocoder):
    """WaveGlow and its denoiser.

    Args:
        model: on the device on which it is to run.
        sigma: standard deviation of the noise that the sound is made from.
        denoise: how much of the model's own hum is taken off; 0 leaves it all.
        seed: of the noise. A sample's noise depends on the seed and its place alone.
    """

    name = "waveglow"

    def __init__(
        self, model: WaveGlow, sigma: float = SIGMA, denoise: float = DENOISE, seed: int = 0
    ) -> None:
        self.model = model.eval()
        self.audio_facts = dict(model.audio_facts)
        self.source = dict(model.source)
        self.sigma = sigma
        self.denoise = denoise
        self.seed = seed
        self.device = next(model.parameters()).device
        self._denoiser = Denoiser(model) if denoise > 0 else None

    @torch.no_grad()
    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        """(T, M) natural log magnitudes -> pieces (s,) float32; 256 T samples in all."""
        mel = check_mel(mel)
        pieces = self.model.stream(mel.unsqueeze(0).to(self.device), self.sigma, seed=self.seed)
        if self._denoiser is not None:
            pieces = self._denoiser.stream(pieces, self.denoise)
        try:
            for piece in pieces:
                yield piece[0].float()  # (1, s) -> (s,)
        except ValueError as e:  # the denoiser's, of samples that are not finite
            raise InputError(
                f"the vocoder {self.spec} failed ({e}); its weights are damaged, or the precision "
                "is too low: use another one, or float32"
            ) from e


def load_waveglow_vocoder(
    path: str | Path, device: str | torch.device, options: VocoderOptions
) -> WaveGlowVocoder:
    """Any published WaveGlow; waveglow.CheckpointError if the file is none."""
    model = load_waveglow(path, device)
    if options.precision is not None:
        model = model.with_precision(getattr(torch, options.precision))
    return WaveGlowVocoder(
        model,
        SIGMA if options.sigma is None else options.sigma,
        DENOISE if options.denoise is None else options.denoise,
        options.seed,
    )
