"""Ctrl-C and SIGTERM as a request, so that work under way is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopRequest:
    """`number` is that of the signal that came, None until one does; a second one stops at once."""

    number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Takes the signals over while the block runs, in the main thread, which gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {kind: signal.signal(kind, self._take) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        # print() must not be called from a handler that may have interrupted a print()
        with suppress(OSError):
            os.write(2, b"\nstopping after this step; once more to stop without saving it\n")
