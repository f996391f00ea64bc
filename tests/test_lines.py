"""Reading of text files: what is taken, what is reported, what is refused."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightspeech.errors import InputError
from lightspeech.text import Line, read_lines


def write(folder: Path, content: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffOne  line.\r\n\r\n\tAnother é\u2028line.\rLast")
    read = read_lines(path)
    assert [line.text for line in read.lines] == ["One line.", "Another é line.", "Last"]
    assert [line.where for line in read.lines] == [f"{path}:{row}" for row in (1, 3, 4)]
    assert all(re.fullmatch(r"l[0-9a-f]{12}", line.id) for line in read.lines)
    assert (read.problems, read.duplicates) == ([], 0)


def test_the_id_of_a_plain_line_is_its_text_alone(tmp_path: Path) -> None:
    first = read_lines(write(tmp_path, "One.\nTwo.\n"))
    edited = read_lines(write(tmp_path, "New.\n  Two. \nOne.\n", "edited.txt"))
    ids = {line.text: line.id for line in edited.lines}
    assert {line.text: line.id for line in first.lines}.items() <= ids.items()
    assert ids["One."] == "l194d30aed0d3"  # stores depend on it: it must never change
    assert len(set(ids.values())) == 3


def test_duplicates_are_kept_once(tmp_path: Path) -> None:
    read = read_lines(write(tmp_path, "One.\nTwo.\nOne.\n One. \n"))
    assert [line.text for line in read.lines] == ["One.", "Two."]
    assert (read.duplicates, read.problems) == (2, [])


def test_several_files_are_one(tmp_path: Path) -> None:
    first, second = write(tmp_path, "One.\n"), write(tmp_path, "x|Two.\n", "table.txt")
    third = write(tmp_path, "Three.\nOne.", "third.txt")
    read = read_lines([first, str(second), third])
    assert [line.text for line in read.lines] == ["One.", "Two.", "Three."]
    assert read.duplicates == 1


def test_tables(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "LJ-1|Dr. One|Doctor One\n"
        "b.2|Text two\n"
        "c|Only the second|\n"
        "wavs/deep/LJ022-0023.wav|A path\n"
        "a\\b\\Clip 7.wav|Spaces in it\n"
        "\n"
        "b.2|Text two\n",
    )
    read = read_lines(path)
    assert read.lines == [
        Line("LJ-1", "Doctor One", f"{path}:1"),
        Line("b.2", "Text two", f"{path}:2"),
        Line("c", "Only the second", f"{path}:3"),
        Line("LJ022-0023", "A path", f"{path}:4"),
    ]
    assert read.problems == [
        f"{path}:5: the id 'Clip 7'; expected 1 to 100 letters, digits, '.', '_' or '-'"
    ]
    assert read.duplicates == 1


def test_rows_of_a_table_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    rows = [
        "good|A text",
        "no columns",
        "a|b|c|d",
        "|No id",
        "../up|Not a name",
        "good|Another text",
        "speaker|A text|17",
        "year|1999|1999",
        "empty||",
    ]
    path = write(tmp_path, "\n".join(rows))
    read = read_lines(path)
    assert [line.id for line in read.lines] == ["good", "year"]
    columns = "expected id|text or id|text|normalised text"
    expected_id = "expected 1 to 100 letters, digits, '.', '_' or '-'"
    assert read.problems == [
        f"{path}:2: 1 column, {columns}",
        f"{path}:3: 4 columns, {columns}",
        f"{path}:4: the id ''; {expected_id}",
        f"{path}:5: the id '../up'; {expected_id}",
        f"{path}:6: the id good already stands for another text at {path}:1",
        f"{path}:7: the third column is 17; expected the normalised text, "
        "so take a column of speaker numbers out",
        f"{path}:9: nothing in it can be spoken",
    ]


def test_a_bar_in_plain_text_makes_no_table(tmp_path: Path) -> None:
    read = read_lines(write(tmp_path, "One.\nTwo | three.\nFour.\n"))
    assert [line.text for line in read.lines] == ["One.", "Two | three.", "Four."]


def test_rows_with_nothing_to_say_or_too_much(tmp_path: Path) -> None:
    path = write(tmp_path, f"Good.\n...\n😀\n{'x' * 5000}\n{'y' * 1000}\n")
    read = read_lines(path)
    assert [line.text for line in read.lines] == ["Good.", "y" * 1000]
    assert read.problems == [
        f"{path}:2: nothing in it can be spoken",
        f"{path}:3: nothing in it can be spoken",
        f"{path}:4: 5,000 characters, more than 1,000; split it into sentences, one a line",
    ]
    assert len(read_lines(path, max_characters=None).lines) == 3
    assert len(read_lines(path, max_characters=5).lines) == 1


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"Hello.\n...\n")))
    read = read_lines("-")
    assert [(line.text, line.where) for line in read.lines] == [("Hello.", "standard input:1")]
    assert read.problems == ["standard input:2: nothing in it can be spoken"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt is empty; expected one sentence a line"),
        (b" \n\t\r\n", "text.txt is empty"),
        (b"Fine\0 text", "text.txt is not a text file .it holds NUL bytes"),
        (b"\x89PNG\r\n\0\0", "text.txt is not a text file"),
        ("Ja\nNein".encode("utf-16"), "is UTF-16, expected UTF-8; .*iconv -f UTF-16 -t UTF-8"),
        (
            "One\r\nTwo\rcaf\u00e9\n".encode("latin-1"),
            r"text.txt:3: not UTF-8 \(byte 0xe9\); .*iconv -f LATIN1 -t UTF-8 '.*text.txt' > ",
        ),
        (b"\xef\xbb\xbfok\n\xff", r"text.txt:2: not UTF-8 \(byte 0xff\)"),
        (b"...\n!!!\n", "text.txt: none of its 2 rows can be used; the first: .*text.txt:1: noth"),
        (b"a|b|c|d", "text.txt: none of its 1 rows can be used; .*4 columns"),
    ],
)
def test_refuses_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_lines(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text file at .*gone.txt; give one with a sentence"):
        read_lines(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="is a folder; give a text file"):
        read_lines(tmp_path)


def test_one_bad_file_among_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"second\.txt is empty"):
        read_lines([write(tmp_path, "Good."), write(tmp_path, "", "second.txt")])


def test_reads_all_of_ljspeech(shared: Path) -> None:
    path = shared / "data" / "ljspeech_transcripts.txt"
    read = read_lines(path)
    assert (len(read.lines), read.problems, read.duplicates) == (13100, [], 0)
    assert read.lines[0].id == "LJ001-0001"
