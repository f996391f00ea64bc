"""librosa's Griffin-Lim with 60 plain iterations: what ours is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH, mel_filters
from lightspeech.vocoders import Vocoder, check_mel

ITERATIONS = 60


class TextbookGriffinLim(Vocoder):
    """Inverts the mel by the filters' pseudo-inverse and leaves the phases to librosa.

    It works on the whole mel at once, so its memory grows with the length.
    """

    name = f"librosa, {ITERATIONS} iterations"

    def __init__(self, seed: int = 0) -> None:
        self.audio_facts: dict[str, Any] = dict(AUDIO_FACTS)
        self.seed = seed
        self._inverse = torch.linalg.pinv(mel_filters())  # (K, M)

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        """(T, M) -> one piece (256 T,)"""
        import librosa

        magnitude = (
            (self._inverse @ check_mel(mel).float().cpu().exp().T).clamp(min=0).numpy()
        )  # (K, T)
        wav = librosa.griffinlim(
            magnitude,
            n_iter=ITERATIONS,
            hop_length=HOP_LENGTH,
            momentum=0.0,
            random_state=self.seed,
        )
        # It ends at the centre of the last frame.
        yield F.pad(torch.from_numpy(wav), (0, HOP_LENGTH))
