"""A dataset folder: LJSpeech's layout, and a card that says how it was made.

    DIR/metadata.csv       id|text, or id|text|normalised text, an utterance a row
    DIR/wavs/ID.wav        its recording (or .flac, .mp3)
    DIR/dataset.json       the card; a folder that came from elsewhere has none

What is read here may come from anywhere: each row of the table that cannot be used is named with
the reason, and the rest is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json, write_json
from lightspeech.forced import find_recordings
from lightspeech.text import SOUND_SUFFIXES, can_be_spoken
from lightspeech.text.lines import columns_of, content_of, refuse_undecoded, rows_of

METADATA = "metadata.csv"
WAVS = "wavs"
CARD = "dataset.json"
CARD_FORMAT = "lightspeech-dataset"
CARD_VERSION = 1
MAKERS = ("import", "speak")
"""What may have made a dataset that has a card."""

BAD_ROW = "bad_row"
UNDECODABLE = "undecodable"
NO_TEXT = "no_text"
UNSPEAKABLE = "unspeakable"
REPEATED_ROW = "repeated_row"
ID_CONFLICT = "id_conflict"

_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class Utterance:
    """A text and the recording of it."""

    id: str
    """stable name: letters, digits, `.`, `_` and `-`, fit for a file name"""
    text: str
    """as the table has it (the normalised one, where there is one), white space collapsed"""
    path: Path
    """its sound file"""


@dataclass(frozen=True)
class Row:
    """A row of the table, usable or not."""

    number: int
    """from 1, as an editor counts"""
    id: str
    """the utterance's id; in a bad row the name that is most likely meant, or empty"""
    text: str
    """empty where the row is bad"""
    fault: str = ""
    """why it cannot be used, such as BAD_ROW; empty for a usable row"""
    detail: str = ""
    """a clause that says what is wrong with it"""


def read_dataset(folder: str | Path) -> tuple[list[Utterance], list[str]]:
    """Reads a dataset folder, or any folder in LJSpeech's layout; looks at no sample of sound.

    Returns:
        the utterances in the order of the table, each id once, and a sentence for each row that
        cannot be used (it begins with `file:row`).

    Raises:
        InputError: no such folder, no table or no `wavs` in it, or no row of it can be used.
    """
    folder = Path(folder)
    rows = read_table(folder)
    recordings = dataset_recordings(folder)
    utterances, problems = [], []
    for row in rows:
        if row.fault:
            problems.append(f"{folder / METADATA}:{row.number}: {row.detail}")
        elif row.id not in recordings:
            problems.append(f"{folder / METADATA}:{row.number}: {missing_sound(row.id)}")
        else:
            utterances.append(Utterance(row.id, row.text, recordings[row.id]))
    if not utterances:
        raise InputError(
            f"{folder / METADATA}: none of its {len(rows):,} rows can be used; "
            f"the first: {problems[0]}"
        )
    return utterances, problems


def missing_sound(id: str) -> str:
    """What is said of a row without a recording."""
    return f"no sound file {WAVS}/{id}.wav (or {', '.join(SOUND_SUFFIXES[1:])})"


def dataset_recordings(folder: Path) -> dict[str, Path]:
    """The sound files of a dataset folder by their ids, hidden ones left out.

    Raises:
        InputError: there is no folder `wavs` in it, or it cannot be read.
    """
    if not (folder / WAVS).is_dir():
        raise InputError(
            f"no folder {WAVS} in {folder}; expected LJSpeech's layout: {METADATA} with rows "
            f"id|text, and the recording of each in {WAVS}/ID.wav"
        )
    found = find_recordings(folder / WAVS)
    return {id: path for id, path in found.items() if not id.startswith(".")}


def read_table(folder: Path) -> list[Row]:
    """Every row of a dataset's table that holds anything, but for a heading, in order.

    Rows are understood as `lightspeech.text.read_lines` does. A row that repeats an earlier usable
    one, or gives its id another text, is at fault; the earlier one stays.

    Raises:
        InputError: no such folder or table, an empty one, or a file that is no UTF-8 text at all.
    """
    folder = Path(folder)
    path = folder / METADATA
    if not folder.is_dir():
        raise InputError(f"no dataset folder at {folder}; expected one with {METADATA} and {WAVS}/")
    if not path.is_file():
        raise InputError(
            f"no {METADATA} in {folder}; expected LJSpeech's layout: {METADATA} with rows id|text, "
            f"and the recording of each in {WAVS}/ID.wav"
        )
    rows: list[Row] = []
    usable: dict[str, Row] = {}
    n_seen = 0
    for number, content in rows_of(content_of(str(path), str(path))):
        if not content or content.isspace():
            continue
        n_seen += 1
        if n_seen == 1 and _is_heading(content):
            continue
        row = _row(number, content, usable)
        if not row.fault:
            usable[row.id] = row
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty; expected rows id|text")
    return rows


def _row(number: int, content: str, usable: Mapping[str, Row]) -> Row:
    """A row of the table, judged in the light of the usable ones before it."""
    try:
        refuse_undecoded(content)
    except InputError as e:
        return Row(number, _meant(content), "", UNDECODABLE, f"{e}; save the table as UTF-8")
    try:
        id, text = columns_of(content, is_first=False)
    except InputError as e:
        return Row(number, _meant(content), "", BAD_ROW, str(e))
    if not text:
        return Row(number, id, text, NO_TEXT, "there is no text after the id")
    if not can_be_spoken(text):
        return Row(number, id, text, UNSPEAKABLE, "nothing in its text can be spoken")
    known = usable.get(id)
    if known is None:
        return Row(number, id, text)
    if known.text == text:
        return Row(number, id, text, REPEATED_ROW, f"the same as row {known.number}")
    return Row(
        number, id, text, ID_CONFLICT,
        f"the id {id} already stands for another text in row {known.number}, which was taken; "
        "listen to which of them is right",
    )  # fmt: skip


def _is_heading(content: str) -> bool:
    """Whether the first row is the columns' names: then it is an utterance anywhere but there."""
    try:
        columns_of(content, is_first=False)
    except InputError:
        return False
    try:
        columns_of(content, is_first=True)
    except InputError:
        return True
    return False


def _meant(content: str) -> str:
    """The name that a bad row most likely means, so that its recording can be told from others."""
    first = content.split("|")[0].strip() if "|" in content else (content.split() or [""])[0]
    name = PureWindowsPath(first).name
    if name.lower().endswith(SOUND_SUFFIXES):
        name = PureWindowsPath(name).stem
    return name if _NAME.fullmatch(name) else ""


def write_card(folder: str | Path, card: Mapping[str, Any]) -> None:
    """Writes a dataset's card, whole or not at all; `format` and `version` are put in here.

    Args:
        card: JSON's types; `made_by` (one of MAKERS), `utterances`, `hours`, `source` and
            `settings`, and whatever else the maker has to say.
    """
    missing = {"made_by", "utterances", "hours", "source", "settings"} - card.keys()
    assert not missing, f"the card lacks {missing}"
    assert card["made_by"] in MAKERS, card["made_by"]
    head = {"format": CARD_FORMAT, "version": CARD_VERSION}
    write_json(Path(folder) / CARD, head | dict(card))


def read_card(folder: str | Path) -> dict[str, Any] | None:
    """A dataset's card; None where there is none.

    Raises:
        InputError: the file is damaged, is no such card, or is of a later version.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        return None
    card = read_json(path, "dataset card")
    if not isinstance(card, dict) or card.get("format") != CARD_FORMAT:
        raise InputError(
            f'{path} is not a dataset card: expected an object with "format": "{CARD_FORMAT}"; '
            "take the file away, or make the dataset anew"
        )
    if card.get("version") != CARD_VERSION:
        raise InputError(
            f"{path} is of version {card.get('version')!r}, expected {CARD_VERSION}; "
            "make the dataset anew with this version of LightSpeech, or use a newer LightSpeech"
        )
    return card
