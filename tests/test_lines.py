"""Reading of text files: what is taken, what is reported, what is refused."""

from __future__ import annotations

import io
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightspeech.errors import InputError
from lightspeech.text import (
    Line,
    can_be_spoken,
    encode,
    is_speakable,
    read_lines,
    split_sentences,
    unknown_characters,
)
from lightspeech.text import (
    lines as lines_module,
)


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


def test_the_same_text_under_two_ids_of_a_table_stays(tmp_path: Path) -> None:
    read = read_lines(write(tmp_path, "a|Yes.\nb|Yes.\na|Yes.\n"))
    assert [line.id for line in read.lines] == ["a", "b"]
    assert (read.duplicates, read.problems) == (1, [])


@pytest.mark.parametrize(
    "heading",
    ["id|text", "ID | Text | normalized_text", "file_name|transcription", "wav|sentence|"],
)
def test_the_heading_of_a_table_is_not_read_aloud(tmp_path: Path, heading: str) -> None:
    path = write(tmp_path, f"\n{heading}\na|One.\nid|text\n")
    read = read_lines(path)
    assert [line.id for line in read.lines] == ["a", "id"]  # a heading comes first
    assert read.problems == [f"{path}:2: the heading of the columns, not an utterance"]


def test_tables_as_other_programs_write_them(tmp_path: Path) -> None:
    rows = [
        "\ufeffa|One.",  # a byte-order mark, CRLF
        "b\t|\tTwo \t words. ",  # tabs
        "c|Three.|",  # an empty third column
        "d|4|four|",  # a bar at the end
        'e|"Five," she said.',  # quotes that belong to the text
        "f|Six.||",
        'g|"Seven"|"seven"',
        "sounds/h.FLAC|Eight.",
        "i.mp3|Nine.",
        "j|Mr. X|",
    ]
    path = write(tmp_path, "\r\n".join(rows) + "\r\n")
    read = read_lines(path)
    assert [(line.id, line.text) for line in read.lines] == [
        ("a", "One."),
        ("b", "Two words."),
        ("c", "Three."),
        ("d", "four"),
        ("e", '"Five," she said.'),
        ("f", "Six."),
        ("g", '"seven"'),
        ("h", "Eight."),
        ("i", "Nine."),
        ("j", "Mr. X"),
    ]
    assert [line.where for line in read.lines] == [f"{path}:{row}" for row in range(1, 11)]
    assert (read.problems, read.duplicates) == ([], 0)


def test_a_quoted_id_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, '"a"|"One."\nb|Two.\n')
    assert read_lines(path).problems == [
        f"{path}:1: the id '\"a\"'; expected 1 to 100 letters, digits, '.', '_' or '-'"
    ]


def test_a_table_with_tabs_is_refused_and_not_read_aloud(tmp_path: Path) -> None:
    table = "LJ001-0001\tPrinting.\nLJ001-0002\tIn being.\tIn being.\nnothing\n"
    message = r"text.txt has columns with tabs between; expected id.text .*: tr '\\t' '\|' < '.*"
    with pytest.raises(InputError, match=message):
        read_lines(write(tmp_path, table))
    with pytest.raises(InputError, match="has columns with tabs"):
        read_lines(write(tmp_path, "1.\tFirst.\n2.\tSecond.\n"))
    text = "\tIndented 1.\nTwo\twords.\n10 o'clock\tcame.\n7\tswans.\n"
    assert len(read_lines(write(tmp_path, text)).lines) == 4


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


LONG = "Here is one sentence. And here, at 9 a.m., another one! A third? Yes."


def test_long_lines_are_split_at_sentence_ends(tmp_path: Path) -> None:
    path = write(tmp_path, f"Short.\n{LONG}\n...\n{LONG}\n{'.' * 50}\n{'x' * 90}\n")
    read = read_lines(path, 40, split_long=True)
    pieces = [line for line in read.lines if line.where == f"{path}:2"]
    assert [line.text for line in pieces] == split_sentences(LONG, 40)
    assert [line.text for line in pieces] == [
        "Here is one sentence.",
        "And here, at 9 a.m., another one!",
        "A third?",
        "Yes.",
    ]
    whole = next(line for line in read_lines(path).lines if line.text == LONG)
    assert [line.id for line in pieces] == [f"{whole.id}-{i}" for i in (1, 2, 3, 4)]
    words = [line.text for line in read.lines if line.where == f"{path}:6"]
    assert words == ["x" * 40, "x" * 40, "x" * 10]
    assert (read.split, read.duplicates, len(read.lines)) == (2, 1, 8)
    nothing = "nothing in it can be spoken"
    assert read.problems == [f"{path}:3: {nothing}", f"{path}:5: {nothing}"]


def test_only_what_is_too_long_is_split(tmp_path: Path) -> None:
    path = write(tmp_path, f"a|{LONG}\nb|One. Two.\n")
    for limit in (len(LONG), None):
        read = read_lines(path, limit, split_long=True)
        assert ([line.id for line in read.lines], read.split) == (["a", "b"], 0)
    read = read_lines(path, len(LONG) - 1, split_long=True)
    assert [line.id for line in read.lines] == ["a-1", "a-2", "a-3", "a-4", "b"]


def test_the_lines_of_a_split_row_come_all_or_none(tmp_path: Path) -> None:
    rows = ["a-2|Another.", f"a|{LONG}", f"b|{LONG}", "b|Another.", "b-4|Yes.", "b-3|No."]
    rows += [f"c|Word{'.' * 50}", "d|Good.", f"d|{LONG}"]
    path = write(tmp_path, "\n".join(rows))
    read = read_lines(path, 40, split_long=True)
    assert [line.id for line in read.lines] == ["a-2", "b-1", "b-2", "b-3", "b-4", "d"]
    assert read.problems == [
        f"{path}:2: the id a-2 already stands for another text at {path}:1",
        f"{path}:4: the id b already stands for another text at {path}:3",
        f"{path}:6: the id b-3 already stands for another text at {path}:3",
        f"{path}:7: 54 characters, more than 40; split it into sentences, one a line",
        f"{path}:9: the id d already stands for another text at {path}:8",
    ]
    assert (read.split, read.duplicates) == (1, 1)


def test_a_row_that_is_not_utf8_does_not_cost_the_rest(tmp_path: Path) -> None:
    rows = [f"Line {i}.".encode() for i in range(300)]
    rows[7] = b"caf\xe9"
    path = write(tmp_path, b"\n".join(rows))
    read = read_lines(path)
    assert len(read.lines) == 299
    assert read.problems == [f"{path}:8: not UTF-8 (byte 0xe9)"]
    for row in range(100, 103):  # now they are more than one in a hundred
        rows[row] += b"\xe9"
    with pytest.raises(InputError, match=r"text.txt:8: not UTF-8 \(byte 0xe9\); convert it, if"):
        read_lines(write(tmp_path, b"\n".join(rows)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_counted_across_blocks(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"Row {i} é" for i in range(1, 60)]
    rows[20:20] = ["", "  "]
    path = write(tmp_path, end.join(rows))
    expected = [(row, f"{path}:{i}") for i, row in enumerate(rows, start=1) if row.strip()]
    for block in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(lines_module, "_BLOCK", block)
        assert [(line.text, line.where) for line in read_lines(path).lines] == expected


def random_texts(alphabet: Sequence[str], count: int) -> Iterator[str]:
    generator = random.Random(0)
    for _ in range(count):
        yield "".join(generator.choices(alphabet, k=generator.randint(0, 9)))


def test_the_quick_answer_to_whether_a_text_is_spoken_is_the_true_one() -> None:
    alphabet = [*"aZ09 {}{}.,$'-|_\t\u2028é😀\ud800Ⅷ½٣x@", "HH", "AH0"]
    answers = []
    for text in random_texts(alphabet, 5000):
        answers.append(can_be_spoken(text))
        assert answers[-1] == is_speakable(encode(text)), repr(text)
    assert 0.1 < sum(answers) / len(answers) < 0.9


def test_the_quick_list_of_what_is_not_spoken_is_the_true_one() -> None:
    alphabet = [*map(chr, range(128)), "St.", "1,000", "2nd", "1.5"]
    for text in random_texts(alphabet, 3000):
        # A dollar at the end, where it means nothing, takes the way that holds for every text.
        slow = [character for character in unknown_characters(text + "$") if character != "$"]
        quick = [character for character in unknown_characters(text) if character != "$"]
        assert quick == slow, repr(text)


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
