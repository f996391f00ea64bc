"""Spreads texts over processes of a speech engine, and makes recordings of what they say."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from lightspeech.audio import SAMPLE_RATE, SILENCE, read_wav, write_wav
from lightspeech.dataset.clean import clean
from lightspeech.dataset.engines import Engine, Stopped, render
from lightspeech.dataset.speak_journal import Entry, Journal
from lightspeech.errors import InputError
from lightspeech.interrupt import StopRequest

BATCH = 50
"""most utterances that a worker takes at a time; a kill costs no more than this for each"""
WORKPLACE = ".speaking"
TEST_TEXT = "hello."


@dataclass(frozen=True)
class Script:
    """One utterance to be spoken."""

    id: str
    text: str
    """as the table will have it"""
    spoken: str
    """what the engine reads; empty where it cannot read the text"""

    @property
    def digest(self) -> str:
        """SHA-256 of `spoken`."""
        return hashlib.sha256(self.spoken.encode()).hexdigest()


@dataclass
class Batch:
    """What came of some texts."""

    spoken: list[Entry] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """why, by id"""


class Workers:
    """Several threads, each with a process of the engine at a time."""

    def __init__(self, engine: Engine, wavs: Path, workplace: Path, patience: float) -> None:
        """
        Args:
            wavs: folder of the recordings.
            workplace: folder of the engine's own files.
            patience: seconds without a new utterance after which an engine is taken to hang.
        """
        self._engine, self._wavs = engine, wavs
        self._workplace, self._patience = workplace, patience
        self._stop = threading.Event()

    def speak(
        self, scripts: Sequence[Script], jobs: int, journal: Journal, stop: StopRequest
    ) -> dict[str, str]:
        """Speaks the texts, or those that come before a stop; shows how far it is.

        Returns:
            why some were left out, by id.

        Raises:
            InputError, OSError: a recording could not be written, so that none can.
        """
        # several for each job, so that all end at about the same time
        size = min(BATCH, max(5, len(scripts) // (4 * jobs)))
        failed: dict[str, str] = {}
        samples, began = 0, time.monotonic()
        # a log file needs a line now and then, not ten a second
        pause = 0.5 if sys.stderr.isatty() else 15.0
        with (
            tqdm(
                total=len(scripts), unit=" utterances", mininterval=pause, leave=False, delay=0.5
            ) as bar,
            ThreadPoolExecutor(jobs) as pool,
        ):
            waiting: set[Future[Batch]] = {
                pool.submit(self._batch, scripts[i : i + size])
                for i in range(0, len(scripts), size)
            }
            try:
                while waiting:
                    ended, waiting = wait(waiting, 0.2, FIRST_COMPLETED)
                    for batch in (future.result() for future in ended):
                        journal.add(batch.spoken)
                        for id, reason in batch.failed.items():
                            bar.write(f"warning: left out: {id}: {reason}", sys.stderr)
                        failed |= batch.failed
                        samples += sum(entry.samples for entry in batch.spoken)
                        pace = samples / SAMPLE_RATE / (time.monotonic() - began)
                        bar.set_postfix_str(f"{pace:.0f} x real time", refresh=False)
                        bar.update(len(batch.spoken) + len(batch.failed))
                    if stop.number is not None:
                        self._stop.set()
            finally:
                self._stop.set()  # the batches that wait return at once then
        return failed

    def _batch(self, scripts: Sequence[Script]) -> Batch:
        """Speaks some texts one after the other, in a thread of its own."""
        batch = Batch()
        if self._stop.is_set():
            return batch

        def take(index: int, sound: Path) -> None:
            script = scripts[index]
            try:
                wav = clean(read_wav(sound))  # (S,)
            except InputError:
                batch.failed[script.id] = f"{self._engine.name} made no readable sound of it"
                return
            if not float(wav.abs().max()) > SILENCE:
                batch.failed[script.id] = f"{self._engine.name} was silent"
                return
            write_wav(self._wavs / f"{script.id}.wav", wav)
            batch.spoken.append(Entry(script.id, script.digest, len(wav)))

        texts = [script.spoken for script in scripts]
        try:
            failed = render(
                self._engine, texts, self._workplace, self._patience, take, self._stop.is_set
            )
        except Stopped:
            return batch
        batch.failed |= {scripts[index].id: reason for index, reason in failed.items()}
        return batch


def try_out(engine: Engine, workplace: Path, patience: float, stopped: Callable[[], bool]) -> None:
    """Raises InputError where an engine cannot even say hello, and Stopped where `stopped`."""
    failed = render(engine, [TEST_TEXT], workplace, patience, lambda index, sound: None, stopped)
    if failed:
        raise InputError(
            f"{engine.name} cannot speak with the voice {engine.voice}: {failed[0]}; take another "
            f"--voice or --engine, or reinstall it: apt install --reinstall {engine.packages}"
        )


@contextmanager
def a_workplace(folder: Path) -> Iterator[Path]:
    """An empty folder for the engines' files, which goes afterwards."""
    path = folder / WORKPLACE
    shutil.rmtree(path, ignore_errors=True)  # a killed run has left it
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
