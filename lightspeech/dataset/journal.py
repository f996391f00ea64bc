"""What an import has found out of each sound file: OUT/.import.jsonl, a line a file.

The first line says what is imported, and how; lines are added as files are done. A process that is
killed leaves at most half a line at the end, which is dropped. Who goes on trusts a line as long as
the file has the size and time of change that it had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from lightspeech.dataset.measuring import Sound
from lightspeech.errors import InputError
from lightspeech.files import write_text

JOURNAL = ".import.jsonl"
_FORMAT = "lightspeech-import-journal"
_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One sound file."""

    id: str
    file: str
    """relative to the folder that is imported, with /"""
    size: int
    """bytes; -1 where the file was gone"""
    modified: int
    """time of its last change, ns"""
    sound: Sound | None
    """None where it is at fault"""
    reason: str = ""
    """what is wrong with it, one of `checks.REASONS`"""
    detail: str = ""


class Journal:
    """The entries of earlier runs and of this one, by id."""

    def __init__(self, path: Path, head: dict[str, Any], entries: dict[str, Entry]) -> None:
        self._path, self._head, self.entries = path, head, entries
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__

    @classmethod
    def open(cls, out: Path, source: str, settings: Mapping[str, Any]) -> Journal:
        """Opens the journal of `out`, or begins one.

        Args:
            source: the folder that is imported.
            settings: what decides on the result, in JSON's types.

        Raises:
            InputError: `out` was made from another folder or with other settings, or its journal is
                not one.
        """
        path = out / JOURNAL
        head = {
            "format": _FORMAT, "version": _VERSION, "source": source, "settings": dict(settings),
        }  # fmt: skip
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        if len(lines) == 1:  # no whole line: nothing was done
            write_text(path, _line(head))
            return cls(path, head, {})
        _check_head(out, lines[0], head)
        entries, whole = _entries(lines[1:-1])
        if lines[-1] or not whole:
            write_text(path, _line(head) + "".join(map(_entry_line, entries.values())))
        return cls(path, head, entries)

    def add(self, entry: Entry) -> None:
        """Notes an entry, in place of an earlier one of its id."""
        self.entries[entry.id] = entry
        self._file.write(_entry_line(entry))
        self._file.flush()

    def finish(self, ids: Iterable[str]) -> None:
        """Closes it with the entries of these ids alone, in this order, however they came in."""
        self._file.close()
        self.entries = {id: self.entries[id] for id in ids if id in self.entries}
        lines = map(_entry_line, self.entries.values())
        write_text(self._path, _line(self._head) + "".join(lines))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def refuse_foreign(out: Path) -> None:
    """InputError where `out` is there, holds something and is not of an earlier import."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a new or an empty folder")
    if not out.is_dir() or (out / JOURNAL).is_file():
        return
    others = sorted(path.name for path in out.iterdir() if path.name != ".lock")
    if others:
        raise InputError(
            f"{out} holds {others[0]}, which no import has made; give --out a new or an empty "
            "folder"
        )


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n"


def _entry_line(entry: Entry) -> str:
    return _line(asdict(entry))


def _entries(lines: Iterable[bytes]) -> tuple[dict[str, Entry], bool]:
    """The entries of the lines, and whether each line was one; the others are as if never done."""
    entries, whole = {}, True
    for line in lines:
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
            continue
        entries[entry.id] = entry
    return entries, whole


def _entry(content: Any) -> Entry:
    """Raises TypeError, KeyError or ValueError for anything else."""
    sound = content["sound"]
    if not re.fullmatch(r"\w[\w.-]*", content["id"]):  # files by this name are deleted
        raise ValueError(content["id"])
    kinds = {"str": str, "int": int, "float": float | int}
    values = {**content, "sound": None if sound is None else Sound(**sound)}
    for holder, known in ((content, fields(Entry)), (sound or {}, fields(Sound))):
        for member in known:
            kind = kinds.get(str(member.type))
            if member.name in holder and kind and not isinstance(holder[member.name], kind):
                raise TypeError(member.name)
    return Entry(**values)


def _check_head(out: Path, line: bytes, head: Mapping[str, Any]) -> None:
    remedy = "give another --out, or delete that folder"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise InputError(f"{out / JOURNAL} is not the journal of an import; {remedy}")
    if found.get("version") != _VERSION:
        raise InputError(f"{out} was made by another version of LightSpeech; {remedy}")
    if found.get("source") != head["source"]:
        raise InputError(
            f"{out} was made from {found.get('source')}, not from {head['source']}; {remedy}"
        )
    before, now = found.get("settings"), head["settings"]
    if before != now:
        before = before if isinstance(before, dict) else {}
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        changes = [f"{name} {before.get(name)} (now {now.get(name)})" for name in names]
        raise InputError(f"{out} was made with other settings, {', '.join(changes)}; {remedy}")
