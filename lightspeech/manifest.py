"""The manifest of a label store: what its labels have in common, and its list of shards.

One process writes STORE/manifest.json. Of several that label together (ranks), each writes its own
STORE/manifest.rank-K.json instead, with the shards that it has made; whoever is alone in the store
next folds them into the main one (see lightspeech.store_recovery). Readers take the union.

A manifest is data from outside: it is checked field by field before anything relies on it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightspeech.audio import AUDIO_FACTS, check_audio_facts
from lightspeech.errors import InputError
from lightspeech.files import read_json
from lightspeech.text import SYMBOLS_DIGEST

FORMAT = "lightspeech-labels"
VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shards"
SHARD_NAME = re.compile(r"shard-(\d{5,9})(?:\.rank-(\d{1,6}))?\.arrow", re.ASCII)
RANK_FILE = re.compile(r"(?:manifest|rejects)\.rank-\d{1,6}\.json", re.ASCII)
REBUILD = (
    "run preprocess.py again with the same options: it rebuilds the manifest from the shards, "
    "which say what they are"
)


class DamagedManifestError(InputError):
    """A manifest that is cut off, emptied or gone. What it said can be read off the shards."""


@dataclass(frozen=True)
class StoreIdentity:
    """What all labels of one store have in common. Labels that differ here may not be mixed."""

    teacher: str
    """the teacher's name, for people"""
    teacher_sha256: str
    """digest of the teacher's file"""
    memory_size: int
    """E"""
    labelling: dict[str, Any]
    """the settings that change labels: seed, pre-net drop-out, alignment method and so on"""
    symbols: str = SYMBOLS_DIGEST
    """digest of the symbol table: the same ids mean the same symbols where it is the same"""
    audio: dict[str, Any] = field(default_factory=lambda: dict(AUDIO_FACTS))
    """what a mel is; see lightspeech.audio"""

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "teacher": {"name": self.teacher, "sha256": self.teacher_sha256},
            "memory_size": self.memory_size,
            "symbols": self.symbols,
            "audio": self.audio,
            "labelling": self.labelling,
        }

    def same_teacher(self, other: StoreIdentity) -> bool:
        """Whether both are of one teacher, whatever its file is called."""
        mine, theirs = self.teacher_sha256, other.teacher_sha256
        return (mine, self.memory_size) == (theirs, other.memory_size)

    def other_settings(self, other: StoreIdentity) -> list[str]:
        """The names of the settings that are not the same in `other`, sorted."""
        mine, theirs = self.labelling, other.labelling
        return [
            name
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name, _NOT_SET) != theirs.get(name, _NOT_SET)
        ]


_NOT_SET = object()


@dataclass(frozen=True)
class Shard:
    """One file of labels, as the manifest lists it."""

    file: str
    rows: int
    bytes: int
    sha256: str
    modified: int = 0
    """when the file was last changed, in nanoseconds, at the time when its checksum was seen to be
    right: a file of this size and time is not read again at each opening; 0: never seen"""


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a store, or what one rank has added to it."""

    identity: StoreIdentity
    shards: tuple[Shard, ...] = ()
    """in the store's order: see `shard_order`"""
    calibration: dict[str, Any] | None = None
    """figures that were measured once for the whole store"""

    def as_dict(self) -> dict[str, Any]:
        calibration = {} if self.calibration is None else {"calibration": self.calibration}
        shards = [vars(shard) for shard in self.shards]
        return {**self.identity.as_dict(), **calibration, "shards": shards}


def shard_name(number: int, rank: int | None) -> str:
    """The file of a writer's `number`th shard; `rank` is None for one that writes alone."""
    return f"shard-{number:05d}{'' if rank is None else f'.rank-{rank}'}.arrow"


def shard_order(file: str) -> tuple[int, int]:
    """What a store's shards are sorted by: (rank, number), where -1 is who writes alone.

    Every writer counts its own shards, so that the order does not depend on who was faster.
    """
    found = SHARD_NAME.fullmatch(file)
    assert found is not None, file
    return (-1 if found[2] is None else int(found[2])), int(found[1])


def shard_files(store: Path) -> list[Path]:
    """Every shard in the folder, listed or not, in the store's order."""
    folder = store / SHARDS
    found = [p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: shard_order(path.name))


def rank_manifest(rank: int) -> str:
    """The name of a rank's own manifest."""
    return f"manifest.rank-{rank}.json"


def rank_files(store: Path, kind: str) -> list[Path]:
    """Files of ranks that are not folded in yet, by rank; `kind` is manifest or rejects."""
    found = [path for path in store.glob(f"{kind}.rank-*.json") if RANK_FILE.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.suffixes[-2].removeprefix(".rank-")))


def read_whole(store: Path) -> Manifest:
    """The main manifest with the shards that ranks have added since, in the store's order.

    Raises:
        InputError: see `read_manifest`; or a rank's manifest is of another store.
    """
    # Before the main one: whoever folds them writes that first and then deletes these.
    ranks = []
    for path in rank_files(store, "manifest"):
        try:
            ranks.append((path, read_manifest(store, path.name)))
        except InputError:
            if path.exists():
                raise
    main = read_manifest(store)
    for path, manifest in ranks:
        refuse_stray(path, manifest.identity, main.identity)
    return Manifest(main.identity, union([main, *(m for _, m in ranks)]), main.calibration)


def union(manifests: Iterable[Manifest]) -> tuple[Shard, ...]:
    """Every shard once, as the first manifest that lists it does, in the store's order."""
    shards: dict[str, Shard] = {}
    for manifest in manifests:
        for shard in manifest.shards:
            shards.setdefault(shard.file, shard)
    return tuple(sorted(shards.values(), key=lambda shard: shard_order(shard.file)))


def refuse_stray(path: Path, found: StoreIdentity, store: StoreIdentity) -> None:
    """InputError if a file in a store's folder is of another store."""
    if not found.same_teacher(store):
        what = f"of the teacher {found.teacher} ({found.teacher_sha256[:12]})"
    elif found.other_settings(store):
        what = f"made with another {', '.join(found.other_settings(store))}"
    else:
        return
    raise InputError(f"{path} is {what}, which its store is not; move it out of that folder")


def read_manifest(store: Path, file: str = MANIFEST) -> Manifest:
    """Reads and checks STORE/manifest.json or a rank's; nothing in it is taken on trust.

    Raises:
        DamagedManifestError: it is no JSON, or gone while there are shards.
        InputError: no store there, not a manifest, another version, other audio facts or symbols.
    """
    path = store / file
    if not path.is_file():
        if shard_files(store):
            raise DamagedManifestError(f"{store} has lost its {file}; {REBUILD}")
        raise InputError(
            f"no label store at {store} (it has no {file}); "
            f"make one with: python preprocess.py --out {store}"
        )
    try:
        found = read_json(path, "manifest of a label store")
    except InputError as e:
        if isinstance(e.__cause__, OSError):  # no rights, say: not the file's fault
            raise
        raise DamagedManifestError(f"{e}; {REBUILD}") from e
    identity, calibration = read_identity(found, path, store)
    if not isinstance(found.get("shards"), list):
        raise _damaged(path)
    shards = [_shard(entry, path) for entry in found["shards"]]
    if len({shard.file for shard in shards}) < len(shards):
        raise InputError(f"{path} is damaged: it lists a shard twice; restore it from a copy")
    ordered = tuple(sorted(shards, key=lambda shard: shard_order(shard.file)))
    return Manifest(identity, ordered, calibration)


def read_identity(
    found: Any, path: Path, store: Path
) -> tuple[StoreIdentity, dict[str, Any] | None]:
    """Checks what the file `path` says about the store that it belongs to.

    Returns:
        the store's identity, and its calibration where it has one.

    Raises:
        InputError: not of a label store, another version, other audio facts or symbols.
    """
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of a label store: expected format {FORMAT!r}")
    if found.get("version") != VERSION:
        raise InputError(
            f"{store} is a label store of version {found.get('version')!r}, expected {VERSION}; "
            "label into another folder (preprocess.py --out) or use the program that made it"
        )
    check_audio_facts(found.get("audio"), f"the label store {store}")
    if found.get("symbols") != SYMBOLS_DIGEST:
        raise InputError(
            f"{store} was labelled with another symbol table ({str(found.get('symbols'))[:12]}, "
            f"expected {SYMBOLS_DIGEST[:12]}); label into another folder (preprocess.py --out)"
        )
    teacher, calibration = found.get("teacher"), found.get("calibration")
    if (
        not isinstance(teacher, dict)
        or not isinstance(teacher.get("name"), str)
        or not isinstance(teacher.get("sha256"), str)
        or not _is_count(found.get("memory_size"))
        or not isinstance(found.get("labelling"), dict)
        or not (calibration is None or are_figures(calibration))
    ):
        raise _damaged(path)
    identity = StoreIdentity(
        teacher=teacher["name"],
        teacher_sha256=teacher["sha256"],
        memory_size=found["memory_size"],
        labelling=found["labelling"],
        symbols=found["symbols"],
        audio=found["audio"],
    )
    return identity, calibration


def are_figures(value: Any) -> bool:
    """Whether it is a dict of finite numbers by name, or of such dicts."""
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and (are_figures(figure) or (isinstance(figure, int | float) and abs(figure) < math.inf))
        for name, figure in value.items()
    )


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path} is damaged: expected teacher (name, sha256), memory_size, labelling, shards; "
        "restore it from a copy or label into another folder (preprocess.py --out)"
    )


def _shard(entry: Any, manifest: Path) -> Shard:
    """Checks one entry of the manifest. The name must be a shard's: it may not leave the folder."""
    if (
        isinstance(entry, dict)
        and isinstance(entry.get("file"), str)
        and SHARD_NAME.fullmatch(entry["file"])
        and _is_count(entry.get("rows"))
        and _is_count(entry.get("bytes"), most=2**63 - 1)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("modified", 0), int)
    ):
        return Shard(
            entry["file"],
            entry["rows"],
            entry["bytes"],
            entry["sha256"],
            entry.get("modified", 0),
        )
    raise InputError(
        f"{manifest} is damaged: expected a shard's file (shard-00000.arrow), rows, bytes, sha256; "
        f"got {json.dumps(entry)[:120]}; restore it from a copy"
    )


def _is_count(value: Any, most: int = 2**31 - 1) -> bool:
    """Whether it is a whole number from 1 to `most`; Arrow counts rows and widths in 32 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
