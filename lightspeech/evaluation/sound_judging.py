"""What is heard of an utterance: how it sounds, and what a recogniser makes of it.

A judgement is a plain dict that JSON can hold; `lightspeech.evaluation.sound_figures` adds many of
them up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, SAMPLE_RATE
from lightspeech.errors import InputError
from lightspeech.evaluation import quality
from lightspeech.evaluation.quality import Dnsmos, ErrorRates, plain_words
from lightspeech.speech import Piece
from lightspeech.text import decode
from lightspeech.vocoders import Vocoder, check_sound


@dataclass(frozen=True)
class Judges:
    """Who listens. The default ones need the optional extra `eval`."""

    dnsmos: Callable[[Tensor], Dnsmos] = quality.dnsmos
    """(S,) at 22,050 Hz -> scores; shorter sound than 9 s is repeated to that length"""
    recognise: Callable[[Tensor], str] = quality.recognise
    """(S,) at 22,050 Hz -> the words heard"""
    error_rates: Callable[[str, str], ErrorRates] = quality.error_rates
    """said, heard -> edits over length"""


def said_words(text: str, tokens: Sequence[int]) -> str:
    """The plain words that the tokens of a text say; may be empty."""
    return plain_words(Piece(text, decode(tokens), torch.zeros(0), 0).spoken)


def vocode(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """(T, M) -> (256 T,) float32 on the CPU; InputError where that is broken or silent."""
    wav = vocoder(mel).float().cpu()
    check_sound(vocoder, [mel], [wav])
    return wav


def judge_wav(wav: Tensor | None, said: str, judges: Judges) -> dict[str, Any]:
    """What the judges make of a sound (S,) at 22,050 Hz, or of None, in which nothing is heard.

    Args:
        said: its plain words; where there are none, nothing is recognised.

    Returns:
        `dnsmos_p808`, `dnsmos_overall` (None of no sound); where anything was said, `heard` and the
        edits that make what was said of it: `character_edits` of `characters`, `word_edits` of
        `words`.
    """
    scores = None if wav is None else judges.dnsmos(wav)
    judgement: dict[str, Any] = {
        "dnsmos_p808": None if scores is None else scores.p808,
        "dnsmos_overall": None if scores is None else scores.overall,
    }
    if said:
        heard = "" if wav is None else judges.recognise(wav)
        rates = judges.error_rates(said, heard)
        characters, words = len(said), len(said.split())
        judgement["heard"] = heard
        judgement["character_edits"] = round(rates.character * characters)
        judgement["characters"] = characters
        judgement["word_edits"] = round(rates.word * words)
        judgement["words"] = words
    return judgement


def judge_sound(
    mel: Tensor, said: str, vocoder: Vocoder, judges: Judges | None
) -> tuple[dict[str, Any], Tensor | None]:
    """A mel (T, M) through the vocoder, and what the judges make of it.

    Sound that cannot be judged (broken values, silence) has no DNSMOS, and nothing is heard in it,
    so that all its characters count as wrong; `problem` says what is the matter.

    Args:
        said: its plain words; where there are none, nothing is recognised.
        judges: None leaves all but the length out.

    Returns:
        the judgement: `seconds` of sound, `vocoder_seconds` of work, `problem`, and with judges
        what `judge_wav` gives. And the sound, (256 T,), or None.
    """
    started = time.perf_counter()
    wav, problem = None, None
    try:
        wav = vocode(vocoder, mel)
    except InputError as e:
        problem = str(e)
    judgement: dict[str, Any] = {
        "seconds": len(mel) * FRAME_SECONDS if wav is None else len(wav) / SAMPLE_RATE,
        "vocoder_seconds": time.perf_counter() - started,
        "problem": problem,
    }
    if judges is not None:
        judgement |= judge_wav(wav, said, judges)
    return judgement, wav
