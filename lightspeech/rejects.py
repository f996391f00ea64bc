"""The texts on which the teacher failed: STORE/rejects.json, and each rank's own beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json, write_json
from lightspeech.manifest import rank_files

REJECTS = "rejects.json"


@dataclass(frozen=True)
class Reject:
    """A text on which the teacher failed every time."""

    id: str
    text: str
    reason: str
    """why the last try failed"""
    scores: dict[str, float]
    """of the last try; empty where it had nothing to score"""
    seeds: tuple[int, ...]
    """every seed tried so far"""


class DamagedRejectsError(InputError):
    """A list of rejects that cannot be read. Without it their texts are merely tried again."""


def rank_rejects(rank: int) -> str:
    """The name of the list that a rank writes."""
    return f"rejects.rank-{rank}.json"


def reject_files(store: Path) -> list[Path]:
    """The main list, there or not, and those of ranks that have not been folded in."""
    return [store / REJECTS, *rank_files(store, "rejects")]


def read_all_rejects(store: Path) -> dict[str, Reject]:
    """What the whole store rejects, by id, for readers: also those that have a label since.

    Raises:
        DamagedRejectsError: see `read_rejects`.
    """
    return joined(read_rejects(path) for path in reject_files(store))


def joined(lists: Iterable[Mapping[str, Reject]]) -> dict[str, Reject]:
    """Rejects of several lists by id; of one that is in several, the one that was tried most."""
    whole: dict[str, Reject] = {}
    for rejects in lists:
        for id, reject in rejects.items():
            if id not in whole or len(reject.seeds) > len(whole[id].seeds):
                whole[id] = reject
    return whole


def write_rejects(path: Path, rejects: Mapping[str, Reject]) -> None:
    """Writes a list of rejects, atomically."""
    write_json(path, [asdict(reject) for reject in rejects.values()])


def read_rejects(path: Path) -> dict[str, Reject]:
    """Reads a list of rejects and checks it; an absent one is an empty one.

    Raises:
        DamagedRejectsError: not a list of rejects.
    """
    if not path.is_file():
        return {}
    try:
        found = read_json(path, "list of rejects")
    except InputError as e:
        if isinstance(e.__cause__, FileNotFoundError):  # folded in just now
            return {}
        if isinstance(e.__cause__, OSError):
            raise
        raise DamagedRejectsError(str(e)) from e
    if not isinstance(found, list) or not all(map(_is_reject, found)):
        raise DamagedRejectsError(
            f"{path} is damaged: expected a list of id, text, reason, scores and seeds"
        )
    return {
        entry["id"]: Reject(
            entry["id"], entry["text"], entry["reason"], entry["scores"], tuple(entry["seeds"])
        )
        for entry in found
    }


def _is_reject(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in ("id", "text", "reason"))
        and isinstance(entry.get("scores"), dict)
        and isinstance(entry.get("seeds"), list)
        and all(isinstance(seed, int) for seed in entry["seeds"])
    )
