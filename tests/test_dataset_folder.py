"""Dataset folders: what is read of a table, what is reported, and the card."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightspeech.dataset.folder import (
    Row,
    Utterance,
    read_card,
    read_dataset,
    read_table,
    write_card,
)
from lightspeech.errors import InputError
from lightspeech.text import read_lines

CARD = {"made_by": "speak", "utterances": 2, "hours": 0.1, "source": {}, "settings": {}}


def dataset(folder: Path, table: str | bytes, *sounds: str) -> Path:
    (folder / "wavs").mkdir()
    (folder / "metadata.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    for name in sounds:
        (folder / "wavs" / name).touch()
    return folder


def test_two_and_three_columns(tmp_path: Path) -> None:
    table = "b|In 1995.|In nineteen ninety-five.\r\na|  Plain   text. \nc|Kept.|\n"
    folder = dataset(tmp_path, table, "a.wav", "b.FLAC", "c.mp3", "c.flac", "._c.wav")
    wavs = folder / "wavs"
    assert read_dataset(folder) == (
        [
            Utterance("b", "In nineteen ninety-five.", wavs / "b.FLAC"),
            Utterance("a", "Plain text.", wavs / "a.wav"),
            Utterance("c", "Kept.", wavs / "c.flac"),
        ],
        [],
    )


def test_a_heading_is_no_row(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "id|text\na|Yes.\n", "a.wav")
    assert [row.id for row in read_table(folder)] == ["a"]
    assert [utterance.id for utterance in read_dataset(str(folder))[0]] == ["a"]


BAD_ROWS = {
    b"no bar here": ("no", "bad_row", "1 column, expected id|text"),
    b"../up|Out of here.": ("up", "bad_row", "the id '../up'"),
    b"x y|Two words.": ("", "bad_row", "the id 'x y'"),
    b"x|a|b|c": ("x", "bad_row", "4 columns"),
    b"x|One.|7": ("x", "bad_row", "the third column is 7"),
    b"x|caf\xe9": ("x", "undecodable", "not UTF-8 (byte 0xe9)"),
    b"x|  ": ("x", "no_text", "no text after the id"),
    b"x|... --": ("x", "unspeakable", "nothing in its text can be spoken"),
    b"a|Yes.": ("a", "repeated_row", "the same as row 1"),
    b"a|No.": ("a", "id_conflict", "already stands for another text in row 1"),
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=lambda row: ascii(row))
def test_a_bad_row_is_named_and_the_rest_is_read(tmp_path: Path, row: bytes) -> None:
    folder = dataset(tmp_path, b"a|Yes.\n\n" + row + b"\nz|Last.\n", "a.wav", "z.wav", "x.wav")
    utterances, problems = read_dataset(folder)
    assert [utterance.id for utterance in utterances] == ["a", "z"]
    assert len(problems) == 1
    id, fault, detail = BAD_ROWS[row]
    assert problems[0].startswith(f"{folder / 'metadata.csv'}:3: ")
    assert detail in problems[0]
    assert [(r.number, r.id, r.fault) for r in read_table(folder) if r.fault] == [(3, id, fault)]


def test_a_row_without_a_sound_is_named(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "a|Yes.\nb|No.\n", "b.wav", "c.wav")
    utterances, problems = read_dataset(folder)
    assert [utterance.id for utterance in utterances] == ["b"]
    assert problems == [f"{folder / 'metadata.csv'}:1: no sound file wavs/a.wav (or .flac, .mp3)"]


def test_agrees_with_the_reader_of_texts(tmp_path: Path) -> None:
    table = "id|text\nwavs/a.wav|One.\nb|Raw 2|Two.\nb|Two.\nb|Three.\nc|\nd|...\n|x\ne|Four|\n"
    folder = dataset(tmp_path, table)
    rows = read_table(folder)
    read = read_lines(folder / "metadata.csv")
    assert [(r.id, r.text) for r in rows if not r.fault] == [(x.id, x.text) for x in read.lines]
    n_faults = sum(bool(row.fault) for row in rows)
    assert n_faults == len(read.problems) - 1 + read.duplicates  # the heading is no fault here
    assert rows[0] == Row(2, "a", "One.")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no dataset folder at .*missing"),
        (lambda folder: folder, "no metadata.csv in .*expected LJSpeech's layout"),
        (lambda folder: dataset(folder, "\n \n"), "is empty; expected rows id|text"),
        (lambda folder: dataset(folder, "a|Yes.\n"), "none of its 1 rows can be used; .*:1: no s"),
        (lambda folder: dataset(folder, b"a|Y\0\n"), "not a text file"),
        (lambda folder: dataset(folder, "a|Yes.".encode("utf-16")), "is UTF-16, expected UTF-8"),
    ],
)
def test_what_is_no_dataset(tmp_path: Path, make, message: str) -> None:
    folder = make(tmp_path)
    with pytest.raises(InputError, match=message):
        read_dataset(folder)


def test_a_folder_without_sounds(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("a|Yes.\n")
    with pytest.raises(InputError, match="no folder wavs in"):
        read_dataset(tmp_path)


def test_the_card(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == {"format": "lightspeech-dataset", "version": 1, **CARD}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a readable dataset card"),
        ("[]", "is not a dataset card"),
        ('{"format": "other"}', "is not a dataset card"),
        ('{"format": "lightspeech-dataset", "version": 2}', "is of version 2, expected 1"),
    ],
)
def test_a_card_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_card(tmp_path)


@pytest.mark.parametrize("change", [{"made_by": "hand"}, {"hours": None}])
def test_a_card_says_who_made_it_and_how_much_there_is(tmp_path: Path, change: dict) -> None:
    card = {key: value for key, value in {**CARD, **change}.items() if value is not None}
    with pytest.raises(AssertionError):
        write_card(tmp_path, card)
