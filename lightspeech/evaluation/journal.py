"""A journal of what was judged, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

_PACKAGES = ("torch", "numpy", "librosa", "speechmos", "onnxruntime", "pocketsphinx", "jiwer")


def journal_key(*parts: Any) -> str:
    """What an entry depends on (anything that JSON can hold) as 32 hexadecimal digits."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def package_versions() -> dict[str, str | None]:
    """The packages on which judgements depend; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


class Journal:
    """Entries by key, a line of JSON each, appended as they come.

    A line that a killed process left unfinished, or that is no entry, is passed over. An entry with
    the key of an earlier one takes its place. Use it as a context, which closes the file.

    Args:
        path: the file; it is made if need be, in a folder that is there.
    """

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, dict[str, Any]] = {}
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and isinstance(found.get("entry"), dict):
                self._entries[str(found.get("key"))] = found["entry"]
        self._file = open(path, "ab")  # noqa: SIM115 - closed by __exit__
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry with this key, or None."""
        return self._entries.get(key)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Keeps an entry, and has the operating system write it at once."""
        line = json.dumps({"key": key, "entry": entry}, ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self._entries[key] = entry

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
