"""What every vocoder is: a mel goes in, sound comes out, whole or piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lightspeech.audio import HOP_LENGTH, N_MELS, SILENCE, differing_facts
from lightspeech.errors import InputError

LOUDEST_MEL = 10.0
"""natural log of a magnitude that no signal in [-1, 1] reaches (a full-scale sine: about 2)"""
SOFTEST_MEL = -30.0
"""far below what a mel is floored at (-11.5), so that a model may undershoot, decibels may not"""
SILENT_MEL = -8.0
"""a mel without anything above this sounds like nothing through any vocoder"""

_BLOCK = 4096  # frames that are checked at a time: 1.3 MB


class Vocoder(ABC):
    """Turns mels into sound.

    A new one has a `name` in lightspeech.vocoders.VOCODERS, says in `audio_facts` which mels it
    takes, and gives the sound in pieces; one that is read from a file says which in `source`.
    """

    name: str
    """what load_vocoder knows it by"""
    audio_facts: dict[str, Any]
    """the mels that it takes, as in lightspeech.audio.AUDIO_FACTS"""
    source: Mapping[str, str] = MappingProxyType({})
    """its checkpoint's `path`, `name` and `sha256`; empty where it needs none"""
    reason: str = ""
    """why load_vocoder("auto") chose it; empty where it was asked for by its name"""

    @property
    def title(self) -> str:
        """Its name and its checkpoint's: `hifigan (generator_v2)`, `griffin-lim`."""
        checkpoint = self.source.get("name")
        return f"{self.name} ({checkpoint})" if checkpoint else self.name

    @property
    def spec(self) -> str:
        """What load_vocoder makes it from: `hifigan:PATH`, `griffin-lim`."""
        path = self.source.get("path")
        return f"{self.name}:{path}" if path else self.name

    def knows(self, teacher: str | None) -> bool:
        """Whether it is made for the voice of a teacher (its SHA-256; None: nobody knows whose), or
        for all voices, as most are."""
        return True

    @abstractmethod
    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        """The sound of a mel, piece by piece, in memory that does not grow with its length.

        Args:
            mel: (T, M) natural log magnitudes, T >= 1, of any floating-point type and on any
                device. It may be mapped from a file: convert and move pieces of it, never all.

        Yields:
            (s,) float32 on the vocoder's device, at 22,050 Hz; 256 T samples in all.

        Raises:
            InputError: a mel that check_mel refuses.
        """

    def __call__(self, mel: Tensor) -> Tensor:
        """(T, M) -> (256 T,) float32 on the vocoder's device: what `stream` yields, joined."""
        wav, position = torch.empty(0), 0
        for piece in self.stream(mel):
            if position == 0:  # the pieces know the device
                wav = torch.empty(HOP_LENGTH * len(mel), device=piece.device)
            wav[position : position + len(piece)] = piece
            position += len(piece)
        assert position == len(wav), (self.name, position, len(wav))
        return wav


def check_fits(vocoder: Vocoder, audio_facts: Mapping[str, Any], whose: str = "voice") -> None:
    """Refuses a vocoder that takes other mels than it will be given.

    Args:
        audio_facts: what is known of those mels, as in lightspeech.audio.AUDIO_FACTS.
        whose: who makes them, for the message: `voice`, `teacher`.

    Raises:
        InputError: names every field that differs, with both values.
    """
    problems = differing_facts(vocoder.audio_facts, audio_facts)
    if problems:
        listed = "; ".join(f"{name} is {its} ({whose}: {ours})" for name, its, ours in problems)
        raise InputError(
            f"the vocoder {vocoder.spec} takes mels that this {whose} does not make: {listed}; "
            "use one that was trained on such mels, or griffin-lim, which fits every voice"
        )


def check_mel(mel: Tensor) -> Tensor:
    """The mel, detached, if it is one that a vocoder can take.

    It is looked at block by block and comes back as it is, in its own type, so that neither a long
    one nor one that is mapped from a file is ever copied whole; vocoders convert their pieces.

    Raises:
        InputError: not (T, M) with T >= 1 and M = 80, not finite, or out of the range of natural
            logs of magnitudes.
    """
    if mel.ndim != 2 or mel.shape[1] != N_MELS or not mel.is_floating_point():
        hint = "; transpose it" if mel.ndim == 2 and mel.shape[0] == N_MELS else ""
        raise InputError(
            f"expected a floating-point mel of shape (frames, {N_MELS}), "
            f"got {mel.dtype} of shape {tuple(mel.shape)}{hint}"
        )
    if mel.shape[0] == 0:
        raise InputError("expected a mel of at least one frame, got none: there is nothing to say")
    mel = mel.detach()
    broken, softest, loudest = 0, float("inf"), float("-inf")
    for first in range(0, len(mel), _BLOCK):
        block = mel[first : first + _BLOCK].float()
        broken += int((~block.isfinite()).sum())
        low, high = block.aminmax()
        softest, loudest = min(softest, low.item()), max(loudest, high.item())
    if broken:
        raise InputError(
            f"{broken} of the mel's {mel.numel()} values are NaN or infinite; "
            "the model that made it is at fault"
        )
    if loudest > LOUDEST_MEL or softest < SOFTEST_MEL:
        raise InputError(
            f"the mel reaches {loudest if loudest > LOUDEST_MEL else softest:.3g}, expected "
            "natural logs of magnitudes (-11.5 to about 2); is it in decibels, or normalised?"
        )
    return mel


def check_sound(vocoder: Vocoder, mels: Sequence[Tensor], wavs: Sequence[Tensor]) -> None:
    """Refuses what a vocoder made if it is broken or silent as a whole.

    Args:
        mels, wavs: what it was given, each (T, M), and what it made of it, each (256 T,).

    Raises:
        InputError: NaN or infinite samples, or nothing above lightspeech.audio.SILENCE.
    """
    extremes = torch.stack([end.cpu() for wav in wavs for end in wav.aminmax()])  # NaN stays NaN
    if not extremes.isfinite().all():
        raise InputError(
            f"the vocoder {vocoder.spec} made samples that are NaN or infinite; use another one"
        )
    peak = extremes.abs().amax().item()
    if peak <= SILENCE:
        loudest = max(mel.amax().item() for mel in mels)
        cause = (
            "the mel itself is silent, so the model that made it is at fault"
            if loudest < SILENT_MEL
            else "its weights are damaged, or it was made for other mels: use another one"
        )
        raise InputError(
            f"the vocoder {vocoder.spec} made silence (peak {peak:.2g}) of a mel that reaches "
            f"{loudest:.3g}; {cause}"
        )
