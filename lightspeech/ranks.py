"""Several processes that share one piece of work: which one this is, as torchrun tells it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lightspeech.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """One of several processes of a run, on one machine or on many."""

    rank: int = 0
    """which one this is, from 0"""
    count: int = 1
    """how many there are"""
    local: int = 0
    """which one of those on this machine this is: the GPU that it takes"""
    on_this_machine: int = 1
    """how many of them there are on this machine"""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """What RANK, WORLD_SIZE and LOCAL_RANK say, as torchrun sets them; without them one alone.

        Raises:
            InputError: they contradict each other.
        """
        names = {"rank": "RANK", "count": "WORLD_SIZE", "local": "LOCAL_RANK"}
        names["on_this_machine"] = "LOCAL_WORLD_SIZE"
        given = {field: environment[name] for field, name in names.items() if name in environment}
        if not {"rank", "count"} & given.keys():
            return cls()
        try:
            ranks = cls(**{field: int(value) for field, value in given.items()})
        except ValueError as e:
            raise InputError(_told(given)) from e
        if not ({"rank", "count"} <= given.keys() and 0 <= ranks.rank < ranks.count):
            raise InputError(_told(given))
        if "on_this_machine" not in given:
            ranks = replace(ranks, on_this_machine=ranks.count)
        if not ranks.local >= 0 or ranks.on_this_machine < 1:
            raise InputError(_told(given))
        return ranks

    @property
    def prefix(self) -> str:
        """What a line of this process begins with, where there are several."""
        return f"rank {self.rank}: " if self.count > 1 else ""

    def has(self, id: str) -> bool:
        """Whether the text `id` is this process's to label: each has just one that it is for."""
        digest = hashlib.sha256(f"rank/{id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.rank


def _told(given: Mapping[str, str]) -> str:
    return (
        f"RANK {given.get('rank', 'not set')}, WORLD_SIZE {given.get('count', 'not set')}, "
        f"LOCAL_RANK {given.get('local', 'not set')} in the environment: expected a RANK below "
        "WORLD_SIZE, as torchrun sets them, or none of them"
    )
