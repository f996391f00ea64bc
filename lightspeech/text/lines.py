"""Text files for labelling and synthesis: one utterance a line, or LJSpeech's tables.

A file in which most rows hold a `|` is a table, `id|text` or `id|text|normalised text`; an id that
is the path of a sound file, as in published file lists, is cut to the file's name. Any other file
holds an utterance a line. The id of such a line is made from its text, so that no edit of the file
ever gives a line another one's id.

A row that repeats an earlier one, id and text, is dropped. The same text under another id of a
table stays: a recording or another file may go by that id.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from lightspeech.errors import InputError
from lightspeech.text.encode import can_be_spoken
from lightspeech.text.sentences import split_sentences

SOUND_SUFFIXES = (".wav", ".flac", ".mp3")
"""How the files that an id may name end, the preferred one first."""

_ID = re.compile(r"\w[\w.-]{0,99}")
_ID_HEADINGS = {"id", "utt_id", "name", "file", "filename", "file_name", "path", "wav", "audio"}
_TEXT_HEADINGS = {"text", "raw_text", "transcript", "transcription", "sentence", "utterance"}
_TABBED = re.compile(r"\S*\d\S*\t\s*\S")  # an id or a number, then a tab, then more
_UNDECODED = re.compile("[\udc80-\udcff]")  # what Python makes of bytes that are not UTF-8
_MOST_UNDECODED = 0.01  # of the rows; beyond it the file is in another encoding
_BLOCK = 1 << 20  # bytes of a file that are taken apart at a time


@dataclass(frozen=True, slots=True)  # slots: a corpus may have millions
class Line:
    """One utterance to be spoken."""

    id: str
    """stable name: letters, digits, `.`, `_` and `-`, fit for a file name"""
    text: str
    """as written, with white space collapsed"""
    where: str
    """`file:row`, for messages"""


@dataclass(frozen=True)
class LinesRead:
    """What text files hold."""

    lines: list[Line]
    """the usable lines in the order of the files, each id once"""
    problems: list[str]
    """one sentence for each row that was left out, beginning with `file:row`"""
    duplicates: int
    """rows left out because an earlier one says the same under the same id"""
    split: int = 0
    """rows that were too long and became several lines"""


def read_lines(
    paths: str | Path | Sequence[str | Path],
    max_characters: int | None = 1000,
    *,
    split_long: bool = False,
) -> LinesRead:
    """Reads one text file or several, as if they were one; `-` is standard input.

    Args:
        paths: UTF-8 files, with or without a byte-order mark. Empty lines are skipped.
        max_characters: rows of a longer text are left out and reported; None takes any length.
        split_long: rows of a longer text are split at the ends of sentences instead, as
            `split_sentences` does it with that limit. The row ID becomes the lines ID-1, ID-2 and
            so on, with the row's `where`; the same text and limit always give the same lines.

    Raises:
        InputError: a file is missing, empty, binary, not UTF-8, a table without `|`, or has no
            usable row.
    """
    reader = _Reader(max_characters, split_long)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        reader.add_file(str(path))
    return LinesRead(
        lines=list(reader.lines.values()),
        problems=reader.problems,
        duplicates=reader.duplicates,
        split=reader.n_split,
    )


class _Reader:
    """Gathers the lines of one file after the other."""

    def __init__(self, max_characters: int | None, split_long: bool) -> None:
        self._max_characters = max_characters
        self._split_long = split_long
        self.lines: dict[str, Line] = {}
        self.problems: list[str] = []
        self.duplicates = 0
        self._whole: dict[str, Line] = {}  # rows that were split, before they were

    @property
    def n_split(self) -> int:
        return len(self._whole)

    def add_file(self, path: str) -> None:
        name = "standard input" if path == "-" else path
        content = content_of(path, name)
        n_filled, is_table = _survey(content, name, path)
        n_seen, n_problems = 0, len(self.problems)
        for number, row in rows_of(content):
            if not row or row.isspace():
                continue
            n_seen += 1
            where = f"{name}:{number}"
            try:
                refuse_undecoded(row)
                row_id, text = columns_of(row, n_seen == 1) if is_table else _plain(row)
                self._add_row(Line(row_id, text, where))
            except InputError as e:
                self.problems.append(f"{where}: {e}")
        if len(self.problems) - n_problems == n_filled:
            raise InputError(
                f"{name}: none of its {n_filled:,} rows can be used; "
                f"the first: {self.problems[n_problems]}"
            )

    def _add_row(self, line: Line) -> None:
        """Takes in a row, in one line or several; InputError, without the place, says why not."""
        known = self.lines.get(line.id) or self._whole.get(line.id)
        if known is not None:
            _refuse_another_text(line, known)
            self.duplicates += 1
        elif self._max_characters is None or len(line.text) <= self._max_characters:
            if not can_be_spoken(line.text):
                raise InputError("nothing in it can be spoken")
            self.lines[line.id] = line
        else:
            pieces = self._pieces(line, self._max_characters)
            for piece in pieces:
                _refuse_another_text(piece, self.lines.get(piece.id, piece))
            for piece in pieces:
                self.lines.setdefault(piece.id, piece)
            self._whole[line.id] = line

    def _pieces(self, line: Line, limit: int) -> list[Line]:
        """A line of more than `limit` characters as lines of fewer."""
        texts = split_sentences(line.text, limit) if self._split_long else [line.text]
        if not texts:
            raise InputError("nothing in it can be spoken")
        if max(map(len, texts)) > limit:
            raise InputError(
                f"{len(line.text):,} characters, more than {limit:,}; "
                "split it into sentences, one a line"
            )
        return [Line(f"{line.id}-{i}", text, line.where) for i, text in enumerate(texts, start=1)]


def _refuse_another_text(line: Line, known: Line) -> None:
    if known.text != line.text:
        raise InputError(f"the id {line.id} already stands for another text at {known.where}")


def content_of(path: str, name: str) -> bytes:
    """The content of a text file, without its byte-order mark."""
    if path == "-" and sys.stdin is None:
        raise InputError("standard input is closed; give a text file with a sentence a line")
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except FileNotFoundError as e:
        raise InputError(
            f"no text file at {path}; give one with a sentence a line, or - for standard input"
        ) from e
    except IsADirectoryError as e:
        raise InputError(f"{path} is a folder; give a text file with a sentence a line") from e
    except OSError as e:
        raise InputError(f"cannot read the text file {path}: {e.strerror or e}") from e
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} is UTF-16, expected UTF-8; {_conversion('UTF-16', path)}")
    if b"\0" in content:
        raise InputError(f"{name} is not a text file (it holds NUL bytes); expected UTF-8 text")
    return content.removeprefix(codecs.BOM_UTF8)


def rows_of(content: bytes) -> Iterator[tuple[int, str]]:
    """The number of each row, from 1, and the row; a few at a time, as the whole may be large.

    Bytes that are not UTF-8 become lone surrogates, which no UTF-8 text can hold.
    """
    number = start = 0
    while start < len(content):
        end = content.find(b"\n", start + _BLOCK) + 1 or len(content)
        text = content[start:end].decode("utf-8", "surrogateescape")
        # Only these end a row, so that its number is an editor's; str.splitlines knows more.
        rows = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
        yield from enumerate(rows, start=number + 1)
        number += len(rows)
        start = end


def _survey(content: bytes, name: str, path: str) -> tuple[int, bool]:
    """The number of rows that hold anything, and whether they are a table's."""
    n_filled = n_bars = n_tabs = n_undecoded = 0
    undecoded = ""  # the first such row
    for number, row in rows_of(content):
        if not row or row.isspace():
            continue
        n_filled += 1
        n_bars += "|" in row
        n_tabs += "\t" in row and _TABBED.match(row) is not None
        if not row.isascii() and (found := _UNDECODED.search(row)):
            n_undecoded += 1
            undecoded = undecoded or f"{name}:{number}: {_undecoded(found[0])}"
    if not n_filled:
        raise InputError(f"{name} is empty; expected one sentence a line, or id|text tables")
    if n_undecoded > _MOST_UNDECODED * n_filled:
        raise InputError(f"{undecoded}; {_conversion('LATIN1', path)}")
    is_table = 2 * n_bars > n_filled
    if not is_table and 2 * n_tabs > n_filled:
        source = _source(path)
        raise InputError(
            f"{name} has columns with tabs between; expected id|text or a sentence a line; "
            f"convert it with: tr '\\t' '|' < '{source}' > '{source}.table'"
        )
    return n_filled, is_table


def _undecoded(character: str) -> str:
    return f"not UTF-8 (byte 0x{ord(character) - 0xDC00:02x})"


def _source(path: str) -> str:
    return "FILE" if path == "-" else path


def _conversion(encoding: str, path: str) -> str:
    source = _source(path)
    return (
        f"convert it, if it is {encoding}, with: "
        f"iconv -f {encoding} -t UTF-8 '{source}' > '{source}.utf8'"
    )


def refuse_undecoded(row: str) -> None:
    if not row.isascii() and (found := _UNDECODED.search(row)):
        raise InputError(_undecoded(found[0]))


def _plain(row: str) -> tuple[str, str]:
    """A plain row's id and text."""
    text = " ".join(row.split())
    return "l" + hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12], text


def columns_of(row: str, is_first: bool) -> tuple[str, str]:
    """The id and text of a table's row."""
    columns = [" ".join(column.split()) for column in row.split("|")]
    if len(columns) > 3 and not columns[-1]:
        columns.pop()  # a bar after the last column
    if len(columns) not in (2, 3):
        found = f"{len(columns)} column" + ("s" if len(columns) > 1 else "")
        raise InputError(f"{found}, expected id|text or id|text|normalised text")
    line_id, *texts = columns
    if is_first and line_id.lower() in _ID_HEADINGS and texts[0].lower() in _TEXT_HEADINGS:
        raise InputError("the heading of the columns, not an utterance")
    if line_id.lower().endswith(SOUND_SUFFIXES):
        line_id = PureWindowsPath(line_id).stem  # knows both / and \
    if not _ID.fullmatch(line_id):
        raise InputError(
            f"the id {line_id[:40]!r}; expected 1 to 100 letters, digits, '.', '_' or '-'"
        )
    if texts[-1].isdigit() and not texts[0].isdigit():
        raise InputError(
            f"the third column is {texts[-1]}; expected the normalised text, "
            "so take a column of speaker numbers out"
        )
    return line_id, texts[-1] or texts[0]
