"""What the runtime makes of a text: sound, and when each symbol, word and sentence is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightspeech.joins import spelled
from lightspeech.wav_file import pcm16, write_blocks

_JOINERS = ("'", "-")  # within a word: don't, well-known

Timing = tuple[str, float, float]
"""symbol, start and end in seconds"""


class Span(NamedTuple):
    """A part of a text, and when it is said."""

    text: str
    start: float
    """seconds"""
    end: float
    """seconds"""


@dataclass(frozen=True)
class Speech:
    """A spoken text, or, from `Voice.stream`, one sentence of it and the pause before it.

    All times are in seconds from the beginning of the whole text.
    """

    wav: np.ndarray
    """(S,) float32, full scale is 1"""
    sample_rate: int
    """samples a second"""
    timings: list[Timing]
    """(symbol, start, end) without gaps; `<pause>` stands for the silence between two sentences"""
    sentences: list[Span]
    """as they were given"""

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return self.wav.size / self.sample_rate

    @property
    def words(self) -> list[Span]:
        """As they are spoken: numbers in words; phonemes in braces; without punctuation."""
        return list(words_of(self.timings))

    @property
    def pcm16(self) -> bytes:
        """The sound as 16-bit little-endian samples; what is above full scale is clipped."""
        return pcm16(self.wav)

    def save(self, path: str | Path) -> None:
        """Writes a 16-bit WAV file; InputError if that cannot be. A sound with a peak above full
        scale is scaled down to it."""
        write_blocks(path, self.wav.size, lambda: [self.wav], self.sample_rate)

    def captions(self) -> dict[str, Any]:
        """The times in JSON's types, as --timings writes them."""
        return captions(self.duration, self.sentences, self.timings)


def joined(parts: Iterable[Speech]) -> Speech:
    """What `Voice.stream` yields, as one."""
    parts = list(parts)
    return Speech(
        wav=np.concatenate([part.wav for part in parts]),
        sample_rate=parts[0].sample_rate,
        timings=[timing for part in parts for timing in part.timings],
        sentences=[sentence for part in parts for sentence in part.sentences],
    )


def words_of(timings: list[Timing]) -> Iterator[Span]:
    """The words of timed symbols: runs of letters and phonemes, and what joins two of them."""
    spoken = [symbol.isalpha() or symbol.startswith("@") for symbol, _, _ in timings]
    padded = [False, *spoken, False]
    in_words = [
        here or (symbol in _JOINERS and before and after)
        for (symbol, _, _), here, before, after in zip(
            timings, spoken, padded, padded[2:], strict=False
        )
    ]
    for in_word, run in groupby(zip(in_words, timings, strict=True), key=itemgetter(0)):
        word = [timing for _, timing in run]
        if in_word:
            yield Span(spelled(symbol for symbol, _, _ in word), word[0][1], word[-1][2])


def captions(duration: float, sentences: list[Span], timings: list[Timing]) -> dict[str, Any]:
    """Times in JSON's types: `duration`, and lists of `sentences`, `words` and `symbols`, of which
    each has its `text`, `start` and `end`."""
    symbols = [Span(*timing) for timing in timings]
    words = list(words_of(timings))
    lists = {"sentences": sentences, "words": words, "symbols": symbols}
    return {
        "duration": duration,
        **{name: [span._asdict() for span in spans] for name, spans in lists.items()},
    }
