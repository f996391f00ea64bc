"""The manifest of a label store: what its labels have in common, and its list of shards.

A manifest is data from outside: it is checked field by field before anything relies on it.
"""

from __future__ import annotations

import json
import re
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
SHARD_NAME = re.compile(r"shard-\d{5,9}\.arrow", re.ASCII)


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


@dataclass(frozen=True)
class Shard:
    """One file of labels, as the manifest lists it."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a store."""

    identity: StoreIdentity
    shards: tuple[Shard, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**self.identity.as_dict(), "shards": [vars(shard) for shard in self.shards]}


def read_manifest(store: Path) -> Manifest:
    """Reads and checks STORE/manifest.json; nothing in it is taken on trust.

    Raises:
        InputError: no store there, not a manifest, another version, other audio facts or symbols.
    """
    path = store / MANIFEST
    if not path.is_file():
        raise InputError(
            f"no label store at {store} (it has no {MANIFEST}); "
            f"make one with: python preprocess.py --out {store}"
        )
    found = read_json(path, "manifest of a label store")
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
    teacher = found.get("teacher")
    if (
        not isinstance(teacher, dict)
        or not isinstance(teacher.get("name"), str)
        or not isinstance(teacher.get("sha256"), str)
        or not _is_count(found.get("memory_size"))
        or not isinstance(found.get("labelling"), dict)
        or not isinstance(found.get("shards"), list)
    ):
        raise InputError(
            f"{path} is damaged: expected teacher (name, sha256), memory_size, labelling, shards; "
            "restore it from a copy or label into another folder (preprocess.py --out)"
        )
    shards = tuple(_shard(entry, path) for entry in found["shards"])
    if len({shard.file for shard in shards}) < len(shards):
        raise InputError(f"{path} is damaged: it lists a shard twice; restore it from a copy")
    return Manifest(
        StoreIdentity(
            teacher=teacher["name"],
            teacher_sha256=teacher["sha256"],
            memory_size=found["memory_size"],
            labelling=found["labelling"],
            symbols=found["symbols"],
            audio=found["audio"],
        ),
        shards,
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
    ):
        return Shard(entry["file"], entry["rows"], entry["bytes"], entry["sha256"])
    raise InputError(
        f"{manifest} is damaged: expected a shard's file (shard-00000.arrow), rows, bytes, sha256; "
        f"got {json.dumps(entry)[:120]}; restore it from a copy"
    )


def _is_count(value: Any, most: int = 2**31 - 1) -> bool:
    """Whether it is a whole number from 1 to `most`; Arrow counts rows and widths in 32 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
