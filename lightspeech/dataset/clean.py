"""A recording -> one that a teacher learns from: silence cut from its ends, at a set loudness.

Loudness is taken in moments of 256 samples (11.6 ms), and everything is relative to the loudest of
them, so that a quiet recording is treated as a loud one is. A constant offset counts as sound: who
imports recordings leaves those out that have one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightspeech.audio import HOP_LENGTH, SAMPLE_RATE

TRIM_DECIBELS = 45.0
"""what is so far below the loudest moment counts as silence"""
MARGIN_SECONDS = 0.05
"""silence that stays at either end"""
LOUDNESS_DECIBELS = -22.0
"""root mean square of the speech, against full scale"""
SPEECH_DECIBELS = 30.0
"""moments less far below the loudest one are speech, of which the loudness is taken"""
HIGHEST_PEAK = 0.95
"""a signal is made no louder than this peak allows"""


def moments(wav: Tensor) -> Tensor:
    """(S,) -> (ceil(S / 256),) root mean squares of its pieces of 256 samples (11.6 ms)."""
    padded = torch.nn.functional.pad(wav.double(), (0, -len(wav) % HOP_LENGTH))
    return padded.view(-1, HOP_LENGTH).square().mean(1).sqrt()


def trim(wav: Tensor) -> Tensor:
    """(S,) -> (S',) without the silence at its ends but for MARGIN_SECONDS of it."""
    loudness = moments(wav)
    loud = torch.nonzero(loudness > loudness.max() * 10 ** (-TRIM_DECIBELS / 20))[:, 0]
    if not len(loud):
        return wav
    margin = round(MARGIN_SECONDS * SAMPLE_RATE)
    first, last = int(loud[0]) * HOP_LENGTH, (int(loud[-1]) + 1) * HOP_LENGTH
    return wav[max(first - margin, 0) : last + margin]


def normalize_loudness(wav: Tensor) -> Tensor:
    """(S,) -> (S,) with its speech at LOUDNESS_DECIBELS, or as near as HIGHEST_PEAK lets it."""
    loudness = moments(wav)
    speech = loudness[loudness > loudness.max() * 10 ** (-SPEECH_DECIBELS / 20)]
    if not len(speech):
        return wav
    level = float(speech.square().mean().sqrt())
    gain = 10 ** (LOUDNESS_DECIBELS / 20) / level
    return wav * min(gain, HIGHEST_PEAK / float(wav.abs().max()))


def clean(wav: Tensor) -> Tensor:
    """(S,) at 22,050 Hz -> (S',), trimmed and at the loudness of all others; silence stays it."""
    return normalize_loudness(trim(wav))
