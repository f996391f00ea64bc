"""Files that appear whole or not at all, their checksums, and folders with a single writer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes what was renamed in a folder durable, on systems that can."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of room, or of quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` atomically."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            rest = memoryview(content)
            while rest:  # a disk that fills up takes a part
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)


def write_text(path: str | Path, content: str) -> None:
    """Writes `content` as UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str) -> Any:
    """Reads a JSON file; `what` names it in the InputError's message when it cannot be read."""
    try:
        content = Path(path).read_text(encoding="utf-8-sig")  # editors on Windows add a mark
    except FileNotFoundError as e:
        raise InputError(f"no {what} at {path}") from e
    except (ValueError, OSError) as e:
        raise InputError(f"{path} is not a readable {what}: {e}") from e
    if not content.strip():
        raise InputError(f"{path} is not a readable {what}: it is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not a readable {what}: {e}") from e


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files of `atomic_path` that a killed process left in `folder`."""
    for leftover in folder.glob(".*.[0-9]*.tmp"):  # other programs' .*.tmp are none of ours
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
        probe.unlink(missing_ok=True)  # processes of two machines may have the same number
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
        if not lock_file(lock):
            raise InputError(
                f"another process is writing to {folder}; wait for it or use another folder"
            )
        yield


def lock_file(file: IO[Any], *, shared: bool = False, wait: bool = False) -> bool:
    """Locks an open file, or changes the kind of its lock: shared by many, or held by one.

    Args:
        wait: until nobody holds a lock in the way; otherwise the answer comes at once.

    Returns:
        whether the lock is held. Where it is not, an earlier lock of this file may be gone too.

    Raises:
        InputError: the file system knows no locks.
    """
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        raise InputError(
            f"the file system of {file.name} cannot lock files ({e.strerror or e}), which keeps "
            "two writers apart; use a folder on another one"
        ) from e
    return True


def has_locks() -> bool:
    """Whether this operating system keeps two writers apart (Windows: not yet)."""
    return fcntl is not None
