"""Judges at work in processes of their own, while this one goes on speaking.

To listen takes ten times as long as to speak, and one sound has nothing to do with the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightspeech.dataset.pool import new_processes
from lightspeech.errors import InputError
from lightspeech.evaluation.sound_judging import Judges, judge_wav

_AHEAD = 4  # sounds a process that wait for it: enough that it never does, few to lose

Then = Callable[[dict[str, Any]], None]


class Listening:
    """Has sounds judged; use it as a context, at the end of which all of them are.

    Args:
        judges: functions of modules if there are several processes, so that these can find them.
        jobs: processes that listen; 1 listens in this one, at once.
    """

    def __init__(self, judges: Judges, jobs: int) -> None:
        self._judges, self._jobs = judges, jobs
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: deque[tuple[Future[dict[str, Any]], Then]] = deque()

    def judge(self, wav: Tensor, said: str, then: Then) -> None:
        """Gives `then` what `judge_wav` makes of a sound, now or later, but in this process.

        Args:
            wav: (S,) at 22,050 Hz, on the CPU.
            said: its plain words.

        Raises:
            InputError: a process that listened has died.
        """
        if self._jobs == 1:
            then(judge_wav(wav, said, self._judges))
            return
        if self._pool is None:
            self._pool = new_processes(self._jobs)
        try:
            future = self._pool.submit(_judged, wav.numpy(), said, self._judges)
        except BrokenProcessPool as e:
            raise _died() from e
        self._waiting.append((future, then))
        while len(self._waiting) > _AHEAD * self._jobs:
            self._take_one()

    def _take_one(self) -> None:
        future, then = self._waiting.popleft()
        try:
            then(future.result())
        except BrokenProcessPool as e:
            raise _died() from e

    def __enter__(self) -> Listening:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._waiting:
                self._take_one()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=error is None, cancel_futures=True)


def _judged(samples: np.ndarray, said: str, judges: Judges) -> dict[str, Any]:
    """`judge_wav` in another process."""
    return judge_wav(torch.from_numpy(samples.copy()), said, judges)


def _died() -> InputError:
    return InputError(
        "a process that listened was ended from outside, perhaps for want of memory: run the same "
        "command again, which goes on where it was, with fewer --jobs"
    )
