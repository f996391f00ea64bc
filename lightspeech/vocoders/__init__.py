"""Vocoders: mel -> wav, behind one interface.

vocoder = load_vocoder("griffin-lim")
wav = vocoder(mel)                      # (T, M) -> (256 T,)
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightspeech.audio import N_MELS, check_audio_facts
from lightspeech.errors import InputError

VOCODERS: tuple[str, ...] = ("griffin-lim",)
"""the names that load_vocoder knows"""

LOUDEST_MEL = 10.0
"""natural log of a magnitude that no signal in [-1, 1] reaches (a full-scale sine: about 2)"""


class Vocoder(Protocol):
    """Turns mels into sound. A new one needs these three members and a name in VOCODERS."""

    name: str
    """what load_vocoder knows it by"""
    audio_facts: dict[str, Any]
    """the mels that it takes, as in lightspeech.audio.AUDIO_FACTS"""

    def __call__(self, mel: Tensor) -> Tensor:
        """(T, M) natural log magnitudes, T >= 1 -> (S,) float32 at 22,050 Hz, S = 256 T.

        Raises InputError for any other mel (see check_mel).
        """
        ...


def load_vocoder(name: str = "griffin-lim", device: str | torch.device = "cpu") -> Vocoder:
    """A vocoder by its name, ready on `device`.

    Raises:
        InputError: no such vocoder, or one made for other mels than ours.
    """
    if name == "griffin-lim":
        from lightspeech.vocoders.griffin_lim import GriffinLim

        vocoder: Vocoder = GriffinLim(device=device)
    else:
        raise InputError(f"no vocoder {name!r}: expected one of {', '.join(VOCODERS)}")
    check_audio_facts(vocoder.audio_facts, f"the vocoder {name}")
    return vocoder


def check_mel(mel: Tensor) -> Tensor:
    """The mel as detached float32, if it is one that a vocoder can take.

    Raises:
        InputError: not (T, M) with T >= 1 and M = 80, not finite, or too large for a log magnitude.
    """
    if mel.ndim != 2 or mel.shape[1] != N_MELS or not mel.is_floating_point():
        hint = "; transpose it" if mel.ndim == 2 and mel.shape[0] == N_MELS else ""
        raise InputError(
            f"expected a floating-point mel of shape (frames, {N_MELS}), "
            f"got {mel.dtype} of shape {tuple(mel.shape)}{hint}"
        )
    if mel.shape[0] == 0:
        raise InputError("expected a mel of at least one frame, got none: there is nothing to say")
    mel = mel.detach().float()
    broken = int((~mel.isfinite()).sum())
    if broken:
        raise InputError(
            f"{broken} of the mel's {mel.numel()} values are NaN or infinite; "
            "the model that made it is at fault"
        )
    loudest = mel.amax().item()
    if loudest > LOUDEST_MEL:
        raise InputError(
            f"the mel reaches {loudest:.3g}, expected natural logs of magnitudes "
            "(-11.5 to about 2); is it in decibels, or normalised?"
        )
    return mel
