"""What a light vocoder is to get right: the pitch, spectra of several resolutions, what critics
hear."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightspeech.audio import SAMPLE_RATE
from lightspeech.sealed import Sealed
from lightspeech.vocoder_training.clips import ClipBatch
from lightspeech.vocoder_training.config import VocoderConfig
from lightspeech.vocoder_training.critics import Critics
from lightspeech.vocoders.light_network import FRAMES_BEFORE, Anchor, LightNetwork

SCALES = ((512, 40), (1024, 80), (2048, 160))
"""samples of a window, of which a quarter is the hop, and mel bands from 0 Hz to the highest"""
_FLOOR = 1e-5


class SpectralDistance(nn.Module):
    """Mean absolute difference of log-mel spectrograms over all frequencies, at several scales.

    What the vocoder is given ends at 8 kHz and has one resolution; what one hears does not.
    """

    def __init__(self) -> None:
        super().__init__()
        from librosa.filters import mel  # here: it takes a second that most imports need not spend

        for size, bands in SCALES:
            filters = torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=size, n_mels=bands))
            self.register_buffer(f"filters_{size}", filters, persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """(B, S) and (B, S), S > 1024 -> (B,)."""
        distances = []
        for size, _ in SCALES:
            a, b = (self._log_mel(wav, size) for wav in (made, real))
            distances.append((a - b).abs().mean((1, 2)))
        return torch.stack(distances).mean(0)

    def _log_mel(self, wav: Tensor, size: int) -> Tensor:
        window, filters = getattr(self, f"window_{size}"), getattr(self, f"filters_{size}")
        spectrum = torch.stft(wav, size, size // 4, window=window, return_complex=True)
        # Not abs(), whose gradient at zero is not finite in all versions.
        magnitude = torch.view_as_real(spectrum).square().sum(3).clamp(min=1e-12).sqrt()
        mel: Tensor = filters @ magnitude
        return mel.clamp(min=_FLOOR).log()


class VocoderObjective(nn.Module):
    """The network with its critics; a batch of clips in, each term's share of its mean out."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config.training
        self.network = LightNetwork(config.network)
        self.distance = SpectralDistance()
        self.critics = Critics(config.training.critic_size)

    def forward(self, sealed: Sealed[ClipBatch], criticised: bool) -> dict[str, Tensor]:
        """`loss`, which is minimised, and the terms that it is made of."""
        batch, settings = sealed.batch, self.config
        # Harmonics of a pitch that is not known yet would only teach it to do without them.
        pitch = None if criticised else batch.pitch
        spectra = self.network.spectra(batch.mel, Anchor(-1, batch.turned), pitch)
        made = self.network.sound(spectra.real, spectra.imaginary)
        terms = {
            "spectral": self.distance(made, batch.wav).sum(),
            "pitch": pitch_error(spectra.pitch, batch.pitch).sum(),
        }
        loss = settings.spectral_weight * terms["spectral"]
        loss = loss + settings.pitch_weight * terms["pitch"]
        if criticised:
            terms |= self._criticise(made, batch.wav)
            loss = loss + settings.adversarial_weight * terms["adversarial"]
            loss = loss + settings.features_weight * terms["features"] + terms["critics"]
        return {name: value / batch.all_clips for name, value in {"loss": loss, **terms}.items()}

    def _criticise(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Sums over clips: `critics`, whose gradient is the critics' alone; `adversarial` and
        `features`, whose gradients are the network's alone (least squares, arXiv:1611.04076)."""
        both = self.critics(torch.cat((real, made.detach())))
        # The same critics once more, which here are only judges: nothing of this is to change them.
        weights = {name: value.detach() for name, value in self.critics.named_parameters()}
        judged = functional_call(self.critics, weights, (made,))
        n = len(real)
        critics, adversarial, features = [], [], []
        for of_both, of_made in zip(both, judged, strict=True):
            scores = of_both[-1].float()
            critics.append(_means((scores[:n] - 1).square()) + _means(scores[n:].square()))
            adversarial.append(_means((of_made[-1].float() - 1).square()))
            features += [
                _means((a.float() - b[:n].detach().float()).abs())
                for a, b in zip(of_made[:-1], of_both[:-1], strict=True)
            ]
        return {
            "critics": torch.stack(critics).sum(),
            "adversarial": torch.stack(adversarial).sum(),
            "features": torch.stack(features).sum(),
        }


def pitch_error(said: Tensor, found: Tensor) -> Tensor:
    """Mean absolute error of pitches in semitones, where there is a voice.

    Args:
        said: (B, T + 3) Hz, as `LightNetwork.spectra` gives it.
        found: (B, T) Hz, 0 where there is no voice.

    Returns:
        (B,); 0 of a clip without any voice.
    """
    own = said[:, FRAMES_BEFORE : FRAMES_BEFORE + found.shape[1]]
    voiced = found > 0
    semitones = 12 * (own / found.masked_fill(~voiced, 1.0)).log2().abs()
    return semitones.masked_fill(~voiced, 0.0).sum(1) / voiced.sum(1).clamp(min=1)


def _means(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (B,)."""
    return values.mean((1, 2, 3))
