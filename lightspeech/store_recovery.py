"""Puts a label store in order, whatever state its last writers have left it in.

A shard is written under a temporary name, flushed and renamed, and only then listed in a manifest.
So a killed writer leaves temporary files, perhaps a whole shard that no list has and, if it was a
rank of several, lists of its own. And files get damaged. The rule is: what is sound in the folder
belongs to the store, once; what is not is dropped by name, and labelled again. A shard that is

    listed, of the size and time listed   is taken, if its structure is right; `verify` reads it all
    listed, and changed since             is taken, if its checksum is right
    not listed                            is taken, if its labels are what its own metadata says

and of an utterance that is there twice the first in the store's order counts. Nothing is deleted
before the new manifest is on the disk, and every step may be done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import remove_leftovers, sha256, write_json
from lightspeech.manifest import (
    MANIFEST,
    SHARDS,
    DamagedManifestError,
    Manifest,
    Shard,
    StoreIdentity,
    rank_files,
    rank_manifest,
    read_manifest,
    refuse_stray,
    shard_files,
    shard_name,
    shard_order,
    union,
)
from lightspeech.rejects import (
    REJECTS,
    DamagedRejectsError,
    Reject,
    joined,
    rank_rejects,
    read_rejects,
    reject_files,
    write_rejects,
)
from lightspeech.shard import (
    MEND,
    ShardReader,
    encode_shard,
    is_the_systems_fault,
    read_origin,
    shard_problem,
    size_problem,
    write_shard,
)

_Origin = tuple[StoreIdentity, dict[str, Any] | None]


@dataclass
class Recovered:
    """A store in order, or what one rank has added to it."""

    manifest: Manifest
    texts: dict[str, str] = field(default_factory=dict)
    """id -> text of every utterance in the store"""
    rejects: dict[str, Reject] = field(default_factory=dict)
    """id -> reject, of those that have no label"""
    repairs: list[str] = field(default_factory=list)
    """what was found damaged, and what became of it, one line each"""


def recover(path: Path, wanted: StoreIdentity) -> Recovered:
    """Makes one sound store of what is in the folder `path`, for a writer that is alone there.

    Raises:
        InputError: the store is of another teacher, other settings or another version; it holds
            shards of another store, or nothing that says what it is; a sound shard cannot be read
            just now.
    """
    main, ranks, repairs = _read_manifests(path)
    known = [manifest for manifest in (main, *ranks) if manifest is not None]
    listed = union(known)
    origins = _origins(path, listed)
    if not (listed or origins or any(file.is_file() for file in reject_files(path))):
        # Settings bind the labels made with them, and a run that ended at its start has none.
        known = [manifest for manifest in known if manifest.identity == wanted]
    said = [found for found in origins.values() if found is not None]
    if origins and not known and not said:
        raise InputError(
            f"{path} has no readable {MANIFEST}, and none of its {len(origins)} shards says what "
            "it is; restore the folder from a copy, or delete it and label again"
        )
    identity = next(iter([m.identity for m in known] + [found[0] for found in said]), wanted)
    refuse_other_identity(path, identity, wanted)
    for file, found in origins.items():
        if found is not None:
            refuse_stray(file, found[0], identity)
    calibrations = [m.calibration for m in known] + [calibration for _, calibration in said]
    manifest = Manifest(identity, calibration=next((c for c in calibrations if c), None))
    remove_leftovers(path)
    remove_leftovers(path / SHARDS)
    store = Recovered(manifest, repairs=repairs)
    _take_shards(path, store, listed, origins)
    if _recover_rejects(path, store) != store.rejects or rank_files(path, "rejects"):
        write_rejects(path / REJECTS, store.rejects)
    if store.manifest != main:
        write_json(path / MANIFEST, store.manifest.as_dict())
    for file in rank_files(path, "manifest") + rank_files(path, "rejects"):
        file.unlink()
    kept = {shard.file for shard in store.manifest.shards}
    for file in shard_files(path):
        if file.name not in kept:
            file.unlink()
    return store


def join(path: Path, wanted: StoreIdentity, rank: int) -> Recovered:
    """What a rank finds that comes while others of its run are at work, and what it has itself.

    Only its own files are put in order here: the others write theirs. Its manifest is its own.
    """
    main = read_manifest(path)
    refuse_other_identity(path, main.identity, wanted)
    own = Manifest(main.identity, calibration=main.calibration)
    others: list[Manifest] = []
    repairs: list[str] = []
    for file in rank_files(path, "manifest"):
        try:
            found = read_manifest(path, file.name)
        except DamagedManifestError as e:
            if file.name == rank_manifest(rank):
                repairs.append(f"{e.__cause__ or e}; it is rebuilt from its shards")
            continue  # another rank's: whoever is alone next rebuilds it, and shares do not overlap
        refuse_stray(file, found.identity, main.identity)
        if file.name == rank_manifest(rank):
            own = replace(own, shards=found.shards)
        else:
            others.append(found)
    store = Recovered(own, repairs=repairs)
    foreign = union([main, *others])
    unlisted = _origins(path, foreign + own.shards)
    mine = {f: found for f, found in unlisted.items() if shard_order(f.name)[0] == rank}
    _take_shards(path, store, own.shards, mine)
    for shard in foreign:
        reader = ShardReader(path / SHARDS / shard.file, shard.rows, main.identity.memory_size)
        store.texts |= dict(zip(reader.ids, reader.texts, strict=True))
    _recover_rejects(path, store)
    try:
        read_rejects(path / rank_rejects(rank))
    except DamagedRejectsError:
        write_rejects(path / rank_rejects(rank), {})
    if store.manifest != own:
        write_json(path / rank_manifest(rank), store.manifest.as_dict())
    return store


def refuse_other_identity(path: Path, found: StoreIdentity, wanted: StoreIdentity) -> None:
    """InputError if labels of `wanted` may not be added to a store of `found`."""
    if not found.same_teacher(wanted):
        raise InputError(
            f"{path} was labelled by the teacher {found.teacher} ({found.teacher_sha256[:12]}), "
            f"not by {wanted.teacher} ({wanted.teacher_sha256[:12]}); "
            "give the same --teacher or another --out"
        )
    before, now = found.labelling, wanted.labelling
    different = [
        f"{name} {before.get(name, 'not set')} (now {now.get(name, 'not set')})"
        for name in found.other_settings(wanted)
    ]
    if different:
        raise InputError(
            f"{path} was labelled with {', '.join(different)}; "
            "give the same settings or another --out"
        )


def next_number(path: Path, rank: int | None) -> int:
    """One more than the number of any shard of this writer that is in the folder."""
    own = -1 if rank is None else rank
    numbers = [n for r, n in (shard_order(file.name) for file in shard_files(path)) if r == own]
    return max(numbers, default=-1) + 1


def _read_manifests(path: Path) -> tuple[Manifest | None, list[Manifest], list[str]]:
    """The main manifest, the ranks', and a line for each that must be rebuilt."""
    main: Manifest | None = None
    ranks: list[Manifest] = []
    repairs: list[str] = []
    files = rank_files(path, "manifest")
    if (path / MANIFEST).is_file() or files or shard_files(path):
        try:
            main = read_manifest(path)
        except DamagedManifestError as e:
            repairs.append(
                f"{e.__cause__ or f'{path} has lost its {MANIFEST}'}; it is rebuilt from the shards"
            )
    for file in files:
        try:
            manifest = read_manifest(path, file.name)
        except DamagedManifestError as e:
            repairs.append(f"{e.__cause__}; it is rebuilt from its shards")
            continue
        first = main or (ranks[0] if ranks else manifest)
        refuse_stray(file, manifest.identity, first.identity)
        ranks.append(manifest)
    return main, ranks, repairs


def _origins(path: Path, listed: Sequence[Shard]) -> dict[Path, _Origin | None]:
    """Every shard file that no manifest lists, and what it says about its store."""
    names = {shard.file for shard in listed}
    return {file: read_origin(file) for file in shard_files(path) if file.name not in names}


def _take_shards(
    path: Path,
    store: Recovered,
    listed: Sequence[Shard],
    unlisted: Mapping[Path, _Origin | None],
) -> None:
    """Adds what is sound, once, to a store without shards."""
    kept: list[Shard] = []
    rebuilt = bool(store.repairs)
    items: list[Shard | Path] = [*listed, *unlisted]
    found: tuple[Shard, ShardReader] | str
    for item in items:
        if isinstance(item, Shard):
            file, found = path / SHARDS / item.file, _check_listed(path, item, store)
            rows = f"its {item.rows} utterances are"
        else:
            file, found = item, f"{item} is damaged: it does not say what store it is of"
            if unlisted[item] is not None:
                found = _check_unlisted(item, store)
            rows = "its utterances are"
        if isinstance(found, str):
            # What was never listed was never promised either; its writer was killed.
            if rebuilt or isinstance(item, Shard):
                store.repairs.append(
                    f"{found}; {rows} dropped, and labelled again where their texts are given"
                )
            continue
        shard, reader = found
        new: dict[str, int] = {}
        for row, id in enumerate(reader.ids):
            if id not in store.texts:
                new.setdefault(id, row)
        if len(new) < len(reader):
            if isinstance(item, Shard):
                store.repairs.append(
                    f"{file} holds {len(reader) - len(new)} utterances twice, or that another "
                    "shard holds too; they are kept once"
                )
            if not new:
                continue
            labels = [reader.label(row) for row in new.values()]
            content = encode_shard(labels, store.manifest.identity, store.manifest.calibration)
            own, _ = shard_order(file.name)
            rank = None if own < 0 else own
            shard = write_shard(
                path, shard_name(next_number(path, rank), rank), content, len(labels)
            )
        kept.append(shard)
        store.texts |= {id: reader.texts[row] for id, row in new.items()}
    kept.sort(key=lambda shard: shard_order(shard.file))
    store.manifest = replace(store.manifest, shards=tuple(kept))


def _check_listed(path: Path, shard: Shard, store: Recovered) -> tuple[Shard, ShardReader] | str:
    """A shard that is as its manifest says, or what is wrong with it."""
    file = path / SHARDS / shard.file
    problem = size_problem(file, shard)
    if problem is not None:
        return problem
    modified = file.stat().st_mtime_ns
    checked = modified != shard.modified
    if checked:
        problem = shard_problem(file, shard)
        if problem is not None:
            return problem
    try:
        reader = ShardReader(file, shard.rows, store.manifest.identity.memory_size)
    except InputError as e:
        problem = None if checked else shard_problem(file, shard)
        if problem is None and e.__cause__ is not None:  # the system's fault, not the shard's
            raise _unreadable_now(file, e) from e
        return problem or _without_advice(e)
    return replace(shard, modified=modified), reader


def _check_unlisted(file: Path, store: Recovered) -> tuple[Shard, ShardReader] | str:
    """A shard whose labels are as they were written, or what is wrong with it."""
    try:
        status = file.stat()
        reader = ShardReader(file, None, store.manifest.identity.memory_size)
    except InputError as e:
        if is_the_systems_fault(e.__cause__):
            raise _unreadable_now(file, e) from e
        return _without_advice(e)
    if not reader.is_as_written() or reader.problems():
        return f"{file} is damaged: its labels differ from its own checksum"
    shard = Shard(file.name, len(reader), status.st_size, sha256(file), status.st_mtime_ns)
    return shard, reader


def _without_advice(error: InputError) -> str:
    """What is wrong with a shard, for whoever follows the advice just now."""
    return str(error).removesuffix(f"; {MEND}")


def _unreadable_now(file: Path, error: InputError) -> InputError:
    return InputError(
        f"cannot read {file}, though its checksum is right ({error.__cause__}); "
        "free some memory and run this again"
    )


def _recover_rejects(path: Path, store: Recovered) -> dict[str, Reject] | None:
    """Fills `store.rejects` and returns what the main list says; None if that cannot be read."""
    lists: list[dict[str, Reject] | None] = []
    for file in reject_files(path):
        try:
            lists.append(read_rejects(file))
        except DamagedRejectsError as e:
            store.repairs.append(f"{e}; it is dropped, and its texts are tried again")
            lists.append(None)
    whole = joined(rejects for rejects in lists if rejects is not None)
    store.rejects = {id: reject for id, reject in whole.items() if id not in store.texts}
    return lists[0]
