"""What becomes of each row of a table: kept, or left out for a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightspeech.dataset.checks import Limits, above, duplicates, pace_faults
from lightspeech.dataset.folder import METADATA, Row, missing_sound
from lightspeech.dataset.import_report import Dropped
from lightspeech.dataset.journal import Entry
from lightspeech.dataset.measuring import Sound
from lightspeech.text import encode


@dataclass(frozen=True)
class Verdict:
    """What becomes of each row."""

    kept: dict[str, Row]
    """by id, in the order of the table"""
    dropped: list[Dropped]
    """in the order of the table, then the sounds without a row"""
    pace: tuple[float, float] | None
    """median (s a symbol) and robust standard deviation (of its logarithm), where one can tell"""


def judge(
    rows: Sequence[Row],
    recordings: Mapping[str, Path],
    entries: Mapping[str, Entry],
    source: Path,
    limits: Limits,
) -> Verdict:
    """Decides on each row in the light of all; the order in which sounds were read has no part.

    Of several utterances with the same samples the first stays whose text fits them.

    Args:
        rows: the whole table, see `folder.read_table`.
        recordings: id -> sound file.
        entries: what was found of each sound file that a usable row of a permitted length has.
        source: the folder that is imported; sound files are named relative to it.
    """
    faults: dict[str, tuple[str, str]] = {}  # of rows that are usable as rows
    usable = {row.id: row for row in rows if not row.fault}
    for id, row in usable.items():
        if id not in recordings:
            faults[id] = "missing_sound", missing_sound(id)
        elif above(len(row.text), limits.max_characters):
            faults[id] = (
                "text_too_long", f"{len(row.text)} characters, more than {limits.max_characters:g}"
            )  # fmt: skip
        elif entries[id].sound is None:
            faults[id] = entries[id].reason, entries[id].detail
    sounds = {id: measured(entries[id]) for id in usable if id not in faults}
    paces = {id: (sound.seconds, len(encode(usable[id].text))) for id, sound in sounds.items()}
    off_pace, pace = pace_faults(paces, limits)
    for ids in duplicates([(id, sound.digest) for id, sound in sounds.items()]):
        fitting = [id for id in ids if id not in off_pace]
        for id in ids if fitting else ():
            if id != fitting[0]:
                other = usable[id].text != usable[fitting[0]].text
                said = "; their texts differ: listen to which of them is right" if other else ""
                faults[id] = "duplicate_sound", f"the samples of {fitting[0]}{said}"
    faults = off_pace | faults
    dropped = []
    for row in rows:
        file = recordings[row.id].relative_to(source).as_posix() if row.id in recordings else None
        reason, detail = (row.fault, row.detail) if row.fault else faults.get(row.id, ("", ""))
        if reason:
            dropped.append(Dropped(row.id, row.number, file, reason, detail))
    for id in sorted(recordings.keys() - {row.id for row in rows}):
        file = recordings[id].relative_to(source).as_posix()
        dropped.append(Dropped(id, None, file, "orphan_sound", f"no row of {METADATA} is {id}"))
    return Verdict({id: row for id, row in usable.items() if id not in faults}, dropped, pace)


def measured(entry: Entry) -> Sound:
    """What was measured of a sound that is not at fault."""
    assert entry.sound is not None, f"{entry.id} was kept without a sound"
    return entry.sound
