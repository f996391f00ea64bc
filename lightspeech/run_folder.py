"""The folder of a training run: who may use it, and its history, which never contradicts its state.

config.json           the configuration, which `--config RUN/config.json` takes too
history.jsonl         a line a step: losses, learning rate, gradient; validations
last.safetensors      the state from which --resume goes on; previous.safetensors the one before
best.safetensors      the voice with the lowest validation loss; voice.json says what it is
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from lightspeech.checkpoint import PREVIOUS_STATE_FILE, STATE_FILE
from lightspeech.errors import InputError
from lightspeech.files import make_folder, remove_leftovers, single_writer, write_text
from lightspeech.process_group import wait_for_all
from lightspeech.ranks import Ranks
from lightspeech.training_state import State

HISTORY_FILE = "history.jsonl"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Run(Generic[State]):
    """A run's folder, held by this process or by the first of those that share the run."""

    folder: Path
    state: State | None
    """where to go on; None for a new run"""
    note: str | None = None
    """what the user should know about the state"""


@contextmanager
def open_run(
    folder: Path,
    resume: bool,
    load: Callable[[Path], tuple[State, str | None]],
    ranks: Ranks | None = None,
) -> Iterator[Run[State]]:
    """Takes hold of a run's folder: an unused one, or with `resume` one that has a state.

    Args:
        load: reads the state in the folder, such as `load_state`.
        ranks: the processes that share the run; the first takes hold of the folder for all.

    Raises:
        InputError: an occupied folder, nothing to resume, a damaged state, a folder that cannot be
            written or that another process is writing to.
    """
    ranks = ranks or Ranks()
    if ranks.rank == 0:
        with _held(folder, resume, load) as run:
            wait_for_all(ranks)
            yield run
    else:
        wait_for_all(ranks)
        state, note = load(folder) if resume else (None, None)
        yield Run(folder, state, note)


@contextmanager
def _held(
    folder: Path, resume: bool, load: Callable[[Path], tuple[State, str | None]]
) -> Iterator[Run[State]]:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder: give another one with --out")
    if resume and not _has_state(folder):
        raise InputError(
            f"nothing to resume in {folder}: leave out --resume to start a run there, "
            "or name the folder of a run with --out"
        )
    if not resume:
        _check_unused(folder)
    make_folder(folder)
    with single_writer(folder):
        remove_leftovers(folder)
        state, note = load(folder) if resume else (None, None)
        yield Run(folder, state, note)


def _has_state(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (STATE_FILE, PREVIOUS_STATE_FILE))


def _check_unused(folder: Path) -> None:
    # Hidden files are our own: the lock, and what a kill in the first second leaves.
    if not folder.is_dir() or all(item.name.startswith(".") for item in folder.iterdir()):
        return
    if _has_state(folder):
        raise InputError(
            f"there is a run in {folder} already: add --resume to go on with it, "
            "or start another one with --out"
        )
    raise InputError(f"{folder} is not empty, and no run: give another folder with --out")


def json_number(value: float) -> float | None:
    """`value`, or None where it is not finite, which JSON cannot write."""
    return value if math.isfinite(value) else None


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The history of a run, a dict a step, in order."""
    lines = (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class History:
    """`history.jsonl`, opened to go on after `step`; what it holds of later steps is cut off.

    A process killed between two checkpoints leaves lines (the last perhaps half a line) of steps
    that the resumed training takes again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / HISTORY_FILE
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        # A line goes to the disk before the state of its step does, so what is kept is whole.
        kept = [line for line in text.splitlines(keepends=True) if _step_of(line) <= step]
        write_text(path, "".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def append(self, line: dict[str, Any]) -> None:
        """Adds a step, readable at once by who follows the file."""
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def secure(self) -> None:
        """Flushes to disk; comes before the state of the last step is saved."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line of the history; infinite for one that was cut short."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
    return step if isinstance(step, int) else math.inf
