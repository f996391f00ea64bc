"""What an engine has spoken into a dataset folder so far, so that a stopped run can go on.

DIR/.speak.jsonl begins with a row that says which engine, voice and settings made the folder, and
has a row for each utterance: its id, the digest of what the engine read, and how many samples it
said. A row is written after its sound file, which appears whole or not at all; so a recording
counts only if it was made from the same text in the same way, and a kill costs no more than what
had no row yet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import write_text

JOURNAL = ".speak.jsonl"
_HEAD = {"format": "lightspeech-speak-journal", "version": 1}
_WAV_HEADER_BYTES = 44


@dataclass(frozen=True)
class Entry:
    """One recording that is there."""

    id: str
    digest: str
    """SHA-256 of what the engine read"""
    samples: int
    """of the finished recording, at 22,050 Hz"""

    def is_at(self, path: Path) -> bool:
        """Whether a file of the length of this recording is at `path`."""
        try:
            return path.stat().st_size == _WAV_HEADER_BYTES + 2 * self.samples
        except OSError:
            return False


class Journal:
    """The journal of a folder that only this process writes to."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Opens a folder's journal, or begins one.

        Args:
            identity: JSON's types: everything on which the sound depends, but for the text.

        Raises:
            InputError: the folder holds a dataset that was made in another way.
        """
        self._path = folder / JOURNAL
        self._identity = _HEAD | dict(identity)
        self.entries: dict[str, Entry] = {}
        """by id"""
        refuse_foreign(folder)
        if self._path.exists():
            self._read(folder)
        self.write(())  # without a row that a kill has cut short

    def _read(self, folder: Path) -> None:
        head, *rows = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        found = _parsed(head)
        if not isinstance(found, dict):
            found = {}
        different = [key for key in self._identity if found.get(key) != self._identity[key]]
        if different:
            listed = "; ".join(
                f"{key} {_shown(found.get(key))}, now {_shown(self._identity[key])}"
                for key in different
            )
            raise InputError(
                f"what is in {folder} was made otherwise: {listed}; give another folder, or the "
                "same options"
            )
        for row in map(_parsed, rows):
            match row:
                case {"id": str(id), "digest": str(digest), "samples": int(samples)}:
                    self.entries[id] = Entry(id, digest, samples)
                case _:  # cut short, or damaged: what it stood for is spoken again
                    pass

    def add(self, entries: Iterable[Entry]) -> None:
        """Writes rows for recordings that are there; they are on disk afterwards."""
        new = list(entries)
        if not new:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(map(_row, new))
            file.flush()
            os.fsync(file.fileno())
        self.entries.update((entry.id, entry) for entry in new)

    def write(self, order: Iterable[str]) -> None:
        """Writes the whole anew: the ids of `order` first, in that order, then others by name."""
        ids = dict.fromkeys([id for id in order if id in self.entries] + sorted(self.entries))
        rows = [json.dumps(self._identity) + "\n", *(_row(self.entries[id]) for id in ids)]
        write_text(self._path, "".join(rows))


def refuse_foreign(folder: Path) -> None:
    """Raises InputError for a folder with a dataset, or recordings, that `speak` did not make."""
    if (folder / JOURNAL).exists():
        return
    wavs = folder / "wavs"
    signs = [name for name in ("metadata.csv", "dataset.json") if (folder / name).exists()]
    if signs or (wavs.is_dir() and any(wavs.iterdir())):
        raise InputError(
            f"{folder} holds {signs[0] if signs else 'recordings in wavs'} that this command did "
            "not make; give another folder with --out"
        )


def _row(entry: Entry) -> str:
    return json.dumps({"id": entry.id, "digest": entry.digest, "samples": entry.samples}) + "\n"


def _parsed(row: str) -> Any:
    try:
        return json.loads(row)
    except (ValueError, RecursionError):
        return None


def _shown(value: Any) -> str:
    return "unknown" if value is None else json.dumps(value)[:200]
