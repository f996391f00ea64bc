"""The audio facts: what a mel is, and how long a frame. Everything else derives from here.

They are those of NVIDIA's Tacotron 2 and WaveGlow: a magnitude spectrogram of a Hann window of
1,024 samples every 256, through 80 triangular filters on Slaney's mel scale, and the natural
logarithm of what comes out, held above 1e-5. Nothing here needs PyTorch; `lightspeech.audio` works
with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightspeech.errors import InputError

SAMPLE_RATE = 22050
"""samples a second"""
FFT_SIZE = 1024
"""samples of the FFT and of its Hann window"""
HOP_LENGTH = 256
"""samples from one frame to the next (11.61 ms)"""
FRAME_SECONDS = HOP_LENGTH / SAMPLE_RATE
"""seconds from one frame to the next"""
N_MELS = 80
"""mel bins, M"""
MEL_FMIN = 0.0
"""lower edge of the lowest mel filter, Hz"""
MEL_FMAX = 8000.0
"""upper edge of the highest mel filter, Hz"""
LOG_FLOOR = 1e-5
"""mel magnitudes below this are raised to it before the logarithm"""
SILENCE = 1e-4
"""a signal that never exceeds this (-80 dB of full scale) counts as silent"""

AUDIO_FACTS: dict[str, int | float | str] = {
    "sample_rate": SAMPLE_RATE,
    "fft_size": FFT_SIZE,
    "window": "hann",
    "window_length": FFT_SIZE,
    "hop_length": HOP_LENGTH,
    "n_mels": N_MELS,
    "mel_fmin": MEL_FMIN,
    "mel_fmax": MEL_FMAX,
    "mel_scale": "slaney",
    "spectrum": "magnitude",
    "log": "natural",
    "log_floor": LOG_FLOOR,
}
"""What a mel is, in JSON's types; stored with every label store, checkpoint and export.

Padding is left out on purpose: it touches only the outermost two frames, and HiFi-GAN, whose mels
differ from Tacotron 2's in nothing else, is used with them everywhere."""


def check_audio_facts(found: Any, where: str) -> None:
    """Refuses audio facts that differ from AUDIO_FACTS.

    Args:
        found: what a store, checkpoint or vocoder declares (a dict like AUDIO_FACTS).
        where: names the source in the message.

    Raises:
        InputError: names every field that differs, with both values.
    """
    if not isinstance(found, dict):
        raise InputError(f"{where} declares no audio facts: expected an object with {AUDIO_FACTS}")
    problems = differing_facts(found, AUDIO_FACTS)
    if problems:
        listed = "; ".join(
            f"{name} is {ours}, expected {theirs}" for name, ours, theirs in problems
        )
        raise InputError(
            f"{where} was made for other audio: {listed}; "
            "use one that was made with this project's audio facts"
        )


def differing_facts(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """(name, found, expected) of each audio fact that differs, with words for what is not there."""
    problems = [
        (name, found.get(name, "missing"), value)
        for name, value in expected.items()
        if not _same_fact(found.get(name), value)
    ]
    surplus = sorted(found.keys() - expected.keys(), key=str)
    return problems + [(name, found[name], "no such field") for name in surplus]


def _same_fact(found: Any, expected: float | str) -> bool:
    if isinstance(expected, str) or isinstance(found, bool) or not isinstance(found, int | float):
        return bool(found == expected) and not isinstance(found, bool)
    return math.isclose(found, expected, rel_tol=1e-6)
