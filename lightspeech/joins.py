"""How sentences become one speech: what is said, the pauses between, the time of each symbol.

Shared by what speaks with PyTorch and what speaks without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from lightspeech.audio_facts import FRAME_SECONDS, HOP_LENGTH, SAMPLE_RATE
from lightspeech.errors import InputError
from lightspeech.text import split_sentences

PAUSE = "<pause>"
"""stands in timings for the silence between two sentences"""
FADE = HOP_LENGTH // 2
"""samples over which a sentence's ends are faded where they meet a pause"""
SENTENCE_SILENCE = 0.2
"""seconds of silence between two sentences, if nothing else is asked for"""
LONGEST_SILENCE = 10.0
"""its limit, in seconds"""


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, at least one; InputError if nothing in it can be spoken."""
    sentences = split_sentences(text)
    if not sentences:
        shown = " ".join(text.split())
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise InputError(
            f"nothing in {shown!r} can be spoken: expected at least one letter or digit"
        )
    return sentences


def spelled(symbols: Iterable[str]) -> str:
    """Symbols as a text, phonemes in braces."""
    parts = []
    for is_phoneme, run in groupby(symbols, lambda symbol: symbol.startswith("@")):
        names = list(run)
        parts.append(
            "{" + " ".join(name[1:] for name in names) + "}" if is_phoneme else "".join(names)
        )
    return "".join(parts)


def check_pace(pace: float, slowest: float, fastest: float) -> None:
    """InputError for a pace out of range."""
    if not slowest <= pace <= fastest:  # NaN is refused too
        raise InputError(
            f"pace {pace:g}: expected {slowest:g} to {fastest:g}; 1 is the voice's own, "
            "2 is twice as fast"
        )


def pause_frames(sentence_silence: float) -> int:
    """Seconds of silence between two sentences -> whole frames; InputError if out of range."""
    if not 0 <= sentence_silence <= LONGEST_SILENCE:
        raise InputError(
            f"sentence silence {sentence_silence:g}: expected 0 to {LONGEST_SILENCE:g} seconds"
        )
    return round(sentence_silence * SAMPLE_RATE / HOP_LENGTH)


def timings_of(
    spans: Iterable[tuple[str, int]], first_frame: int = 0
) -> list[tuple[str, float, float]]:
    """(symbol, frames) of each symbol, in order -> (symbol, start, end) in seconds."""
    timings, position = [], first_frame
    for symbol, frames in spans:
        start, position = position, position + frames
        timings.append((symbol, start * FRAME_SECONDS, position * FRAME_SECONDS))
    return timings
