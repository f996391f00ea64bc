"""Files that appear whole or not at all, their checksums, and folders with a single writer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so the single-writer check is skipped there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success flushes it to disk and renames it.

    If the block raises, or the process dies in it, `path` is what it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # make the rename itself durable
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of room, or of quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Writes `content` as UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str) -> Any:
    """Reads a JSON file; `what` names it in the InputError's message when it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise InputError(f"no {what} at {path}") from e
    except (ValueError, OSError, RecursionError) as e:
        raise InputError(f"{path} is not a readable {what}: {e}") from e


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files of `atomic_path` that a killed process left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(path: str | Path) -> Path:
    """Makes `path` and its parents; InputError if they or files in it cannot be made."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise InputError(
            f"cannot write into the folder {path}: {e.strerror or e}; "
            "give another one or change its permissions"
        ) from e
    return path


@contextmanager
def single_writer(folder: Path) -> Iterator[None]:
    """Holds a lock on `folder` until the block ends; a second writer gets an InputError.

    The lock is the operating system's, so it goes when the process does, however it ends.
    """
    with open(folder / ".lock", "a") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise InputError(
                    f"another process is writing to {folder}; wait for it or use another folder"
                ) from e
        yield
