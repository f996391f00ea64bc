"""Long mels in pieces: which frames to keep, and which to compute them from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames [first, last) are kept of what is computed on frames [start, stop)."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """[first, last), counted from `start`."""
        return slice(self.first - self.start, self.last - self.start)


def windows(n_frames: int, chunk: int, context: int) -> Iterator[Window]:
    """Covers `n_frames` frames with windows that keep `chunk` frames each, the last perhaps fewer.

    A window reaches `context` frames beyond what it keeps, on either side, but not beyond the
    utterance: there a vocoder finds the same edge as in the whole mel.
    """
    assert n_frames >= 0, n_frames
    assert chunk >= 1, chunk
    assert context >= 0, context
    for first in range(0, n_frames, chunk):
        last = min(first + chunk, n_frames)
        yield Window(max(0, first - context), min(n_frames, last + context), first, last)
