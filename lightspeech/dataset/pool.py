"""One function over many things, in several processes, whatever becomes of a process.

A file that is broken in the right way can take the process that decodes it down with it. What was
being worked on then is tried again, one thing at a time, and only what kills its process once more
is given up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from lightspeech.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # tasks a process that are handed out: enough that none waits, few to try again


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def results(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[tuple[T, R | None]]:
    """Yields each task with its result as they come, or with None where its process died.

    Args:
        work: a function of a module, so that a new process can find it. What it raises ends all.
        jobs: processes; 1 works in this one, where a death is everybody's.

    Raises:
        InputError: processes cannot be started here.
    """
    if jobs == 1 or not tasks:
        for task in tasks:
            yield task, work(task)
        return
    waiting = deque(tasks)
    first = True
    while waiting:
        pool = new_processes(min(jobs, len(waiting)))
        try:
            if first:
                _try_out(pool)
                first = False
            suspects = yield from _run(pool, work, waiting, jobs * _AHEAD)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if suspects:
            yield from _one_by_one(work, suspects)


def _run(
    pool: ProcessPoolExecutor, work: Callable[[T], R], waiting: deque[T], most: int
) -> Generator[tuple[T, R | None], None, list[T]]:
    """Takes from `waiting` until it is empty or a process dies; returns what was under way then."""
    running: dict[Future[R], T] = {}
    suspects: list[T] = []
    while (waiting and not suspects) or running:
        while waiting and not suspects and len(running) < most:
            try:
                running[pool.submit(work, waiting[0])] = waiting[0]
            except BrokenProcessPool:
                suspects.append(waiting[0])
            waiting.popleft()
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            task = running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                suspects.append(task)
            else:
                yield task, future.result()
    return suspects


def _one_by_one(work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]:
    """Each task in a process that has no other, so that a death says whose fault it is."""
    pool = new_processes(1)
    try:
        for task in tasks:
            try:
                result = pool.submit(work, task).result()
            except BrokenProcessPool:
                yield task, None
                pool.shutdown()
                pool = new_processes(1)
            else:
                yield task, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def new_processes(jobs: int) -> ProcessPoolExecutor:
    """Processes of one thread each that end with this one, and leave Ctrl-C to it."""
    # Not forked: PyTorch's threads and locks do not survive that.
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)


def _try_out(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as e:
        raise InputError(
            "no further processes can be started here (a script that calls this needs "
            'if __name__ == "__main__"); use --jobs 1'
        ) from e


def _begin() -> None:
    """In a new process: it leaves when its parent does, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # whatever it was in: what it writes is whole or not at all
