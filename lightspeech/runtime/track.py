"""What several texts, spoken one after another, come to: how long, and what is said when."""

from __future__ import annotations

from pathlib import Path

from lightspeech.audio_facts import SAMPLE_RATE
from lightspeech.files import write_json
from lightspeech.joins import PAUSE
from lightspeech.runtime.speech import Span, Speech, Timing, captions


class Track:
    """Takes what is said, in order.

    Args:
        keeps_times: False forgets what was said when, so that a long session needs no more memory.
    """

    def __init__(self, keeps_times: bool = True) -> None:
        self.samples = 0
        """so far"""
        self._keeps_times = keeps_times
        self._beginning = 0.0  # of the present text, in seconds
        self._sentences: list[Span] = []
        self._timings: list[Timing] = []

    @property
    def seconds(self) -> float:
        """So far."""
        return self.samples / SAMPLE_RATE

    def begin_text(self, pause: int = 0) -> None:
        """Another text follows, after a pause of so many samples."""
        before = self.seconds
        self.samples += pause
        self._beginning = self.seconds
        if pause and self._keeps_times:
            self._timings.append((PAUSE, before, self.seconds))

    def add(self, part: Speech) -> None:
        """The next sentence of the text."""
        self.samples += part.wav.size
        if self._keeps_times:
            offset = self._beginning
            self._sentences += [
                Span(s.text, s.start + offset, s.end + offset) for s in part.sentences
            ]
            self._timings += [(symbol, a + offset, b + offset) for symbol, a, b in part.timings]

    def write(self, path: str | Path) -> None:
        """Writes the times as JSON."""
        write_json(path, captions(self.seconds, self._sentences, self._timings))
