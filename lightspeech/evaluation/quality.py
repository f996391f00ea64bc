"""How good speech is, in figures: DNSMOS (how it sounds) and recognition errors (what is heard).

DNSMOS: a network's guess at what listeners would say, 1 to 5 (Reddy et al. 2021, arXiv:2010.15258,
for P.808; Reddy et al. 2022, arXiv:2110.01763, for the overall figure). Recognition: PocketSphinx,
a small recogniser that mishears clean recordings too, so its figures compare voices and do not
judge one. Both work offline; they are the optional extra `eval`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from lightspeech.audio import SAMPLE_RATE
from lightspeech.errors import InputError

JUDGING_RATE = 16000
"""samples a second that both judges expect"""


@dataclass(frozen=True)
class Dnsmos:
    """Mean opinion scores, 1 (bad) to 5 (excellent)."""

    p808: float
    """of the whole impression, as by ITU-T P.808"""
    overall: float
    """of signal and background together, as by ITU-T P.835"""


@dataclass(frozen=True)
class ErrorRates:
    """Edits that turn what was said into what was heard, over the length of what was said."""

    character: float
    word: float


def require_extras() -> None:
    """InputError if a package of the extra `eval` is not installed."""
    for name in ("speechmos.dnsmos", "pocketsphinx", "jiwer"):
        _extra(name)


def _extra(name: str) -> Any:
    """A module of the extra."""
    try:
        return import_module(name)
    except ModuleNotFoundError as e:
        raise InputError(
            f"the package {e.name} is not installed, and judging speech needs it: "
            "pip install -c constraints.txt -e '.[eval]', or run make eval"
        ) from e


def _at_judging_rate(wav: Tensor) -> np.ndarray:
    """(S,) at 22,050 Hz -> (S',) float32 in [-1, 1] at 16,000 Hz."""
    import librosa

    if wav.ndim != 1 or len(wav) < 2 or not wav.isfinite().all():
        raise InputError(
            "cannot judge this signal: expected (S,) finite samples, at least two, "
            f"got {tuple(wav.shape)}, {int((~wav.isfinite()).sum())} of them not finite"
        )
    samples = librosa.resample(
        wav.detach().cpu().float().numpy(), orig_sr=SAMPLE_RATE, target_sr=JUDGING_RATE
    )
    return samples / max(1.0, float(np.abs(samples).max()))


def dnsmos(wav: Tensor) -> Dnsmos:
    """Scores a signal of any length: (S,) at 22,050 Hz.

    It is judged in windows of 9 seconds, a shorter one is repeated to that length, and the scores
    of the windows are averaged.
    """
    scores = _extra("speechmos.dnsmos").run(_at_judging_rate(wav), JUDGING_RATE)
    return Dnsmos(p808=float(scores["p808_mos"]), overall=float(scores["ovrl_mos"]))


def recognise(wav: Tensor) -> str:
    """What PocketSphinx hears in a signal (S,) at 22,050 Hz: lower-case words, maybe none."""
    decoder = _recogniser()
    pcm = (_at_judging_rate(wav) * 32767).astype("<i2").tobytes()
    decoder.start_utt()
    # The whole utterance at once: then its mean is taken over all of it, and what was decoded
    # before has no influence.
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return heard.hypstr if heard is not None else ""


@lru_cache(maxsize=1)
def _recogniser() -> Any:
    return _extra("pocketsphinx").Decoder(samprate=JUDGING_RATE, loglevel="FATAL")


def error_rates(said: str | Sequence[str], heard: str | Sequence[str]) -> ErrorRates:
    """Compares normalised texts with transcripts; case, punctuation and hyphens do not count.

    Of several it counts all the edits over all the length, so that short ones weigh less.
    """
    jiwer = _extra("jiwer")
    references = [plain_words(text) for text in ([said] if isinstance(said, str) else said)]
    transcripts = [plain_words(text) for text in ([heard] if isinstance(heard, str) else heard)]
    if not all(references):
        raise InputError("nothing was said: expected words to compare the transcript with")
    return ErrorRates(
        character=float(jiwer.cer(references, transcripts)),
        word=float(jiwer.wer(references, transcripts)),
    )


def plain_words(text: str) -> str:
    """Lower-case letters, digits and apostrophes inside words; single spaces."""
    words = re.findall(r"[a-z0-9]+(?:'[a-z0-9]+)*", text.lower().replace("\u2019", "'"))
    return " ".join(words)
