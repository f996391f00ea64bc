"""Who may write to a store: one process alone, or the ranks of one run together.

Three locks of the operating system, which go when their process does, however it ends, and hold on
folders that several machines share (NFS from version 4 on, and other file systems with flock):

    .lock           held by a process that writes alone; shared by the ranks of a run
    .lock.opening   held for as long as one process opens the store, or the last rank leaves it
    .lock.rank-K    held by rank K, so that nobody else is rank K

Whoever comes when `.lock` is free is alone, be it the only process or the first rank, and may put
in order what others have left. It does so behind the gate `.lock.opening`; the other ranks wait
there, and then share the lock. Which run it is they read in `.lock` itself.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lightspeech.errors import InputError
from lightspeech.files import has_locks, lock_file

_LOCK = ".lock"
_GATE = ".lock.opening"


def launched_run(environment: Mapping[str, str] = os.environ) -> str:
    """What the processes of one run have in common and those of another have not.

    torchrun says it: by the id of the run, or where it was given none, by the address at which the
    ranks meet.
    """
    run = environment.get("TORCHELASTIC_RUN_ID", "none")
    if run != "none":
        return run
    address = environment.get("MASTER_ADDR", "localhost")
    if address in ("localhost", "127.0.0.1", "::1"):
        address = socket.gethostname()
    return f"{address}:{environment.get('MASTER_PORT', '')}"


class StoreLock:
    """The lock of one writer, held from `opening` to the end of the `with` block.

    Args:
        folder: an existing folder.
        rank, ranks: which of how many processes; 0 and 1 for one that writes alone.
        run: the same for all ranks of a run, see `launched_run`.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, run: str) -> None:
        assert 0 <= rank < ranks, f"rank {rank} of {ranks}"
        self._folder, self._rank, self._ranks, self._run = folder, rank, ranks, run
        self._files = ExitStack()

    def __enter__(self) -> StoreLock:
        if self._ranks > 1 and not has_locks():
            raise InputError(
                "several processes cannot write to one store on this operating system; "
                "run preprocess.py without torchrun"
            )
        self._hold = self._open(_LOCK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

    @contextmanager
    def opening(self) -> Iterator[bool]:
        """Yields whether this process is alone in the store; nobody else enters in the block.

        Raises:
            InputError: another process or another run writes to the store.
        """
        with self._gate(wait=self._ranks > 1):
            alone = self._enter()
            yield alone
            if alone and self._ranks > 1:  # nobody can come between, for want of the gate
                lock_file(self._hold, shared=True)

    @contextmanager
    def among_ranks(self) -> Iterator[None]:
        """Nobody else is in such a block, or opens or leaves the store."""
        with self._gate(wait=True):
            yield

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        """Yields whether all other ranks have left; the lock is given up after the block."""
        with self._gate(wait=True):
            yield lock_file(self._hold)

    def _open(self, name: str) -> IO[str]:
        # For reading and writing: NFS wants either for one of the two kinds of lock.
        return self._files.enter_context(open(self._folder / name, "a+", encoding="utf-8"))

    @contextmanager
    def _gate(self, wait: bool) -> Iterator[None]:
        with open(self._folder / _GATE, "a+") as gate:
            if not lock_file(gate, wait=wait):
                self._refuse()
            yield

    def _enter(self) -> bool:
        alone = lock_file(self._hold)
        if alone:
            self._write_holder()
        else:
            same = self._holder() == self._described()
            if self._ranks == 1 or not same or not lock_file(self._hold, shared=True):
                self._refuse()
        if self._ranks > 1 and not lock_file(self._open(f"{_LOCK}.rank-{self._rank}")):
            raise InputError(
                f"another process is rank {self._rank} of the run that writes to {self._folder}; "
                "give each process a RANK of its own, as torchrun does"
            )
        return alone

    def _described(self) -> dict[str, Any] | None:
        return {"run": self._run, "ranks": self._ranks} if self._ranks > 1 else None

    def _write_holder(self) -> None:
        self._hold.truncate(0)
        if self._ranks > 1:
            self._hold.write(json.dumps(self._described()))
            self._hold.flush()

    def _holder(self) -> Any:
        self._hold.seek(0)
        try:
            return json.loads(self._hold.read())
        except ValueError:  # a process that writes alone leaves it empty
            return None

    def _refuse(self) -> None:
        holder = self._holder()
        who = "process"
        if isinstance(holder, dict) and isinstance(holder.get("ranks"), int):
            who = f"run (of {holder['ranks']} processes)"
        raise InputError(
            f"another {who} is writing to {self._folder}; wait for it or use another folder"
        )
