"""Vocoders: mel -> wav, behind one interface.

vocoder = load_vocoder()                # the best that is there; or "hifigan:PATH" and so on
wav = vocoder(mel)                      # (T, M) -> (256 T,)
for piece in vocoder.stream(mel):       # the same, for as long a mel as one likes
    ...

    vocoder       what every vocoder is; which mels they take
    choice        a name, a file or `auto` -> a vocoder
    options       what they can be told
    griffin_lim, hifigan, waveglow      the vocoders, imported when they are asked for
"""

from __future__ import annotations

from lightspeech.vocoders.choice import VOCODERS, load_vocoder
from lightspeech.vocoders.options import PRECISIONS, VocoderOptions
from lightspeech.vocoders.vocoder import (
    LOUDEST_MEL,
    SOFTEST_MEL,
    Vocoder,
    check_fits,
    check_mel,
    check_sound,
)

__all__ = [
    "LOUDEST_MEL",
    "PRECISIONS",
    "SOFTEST_MEL",
    "VOCODERS",
    "Vocoder",
    "VocoderOptions",
    "check_fits",
    "check_mel",
    "check_sound",
    "load_vocoder",
]
