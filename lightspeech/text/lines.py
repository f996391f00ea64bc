"""Text files for labelling and synthesis: one utterance a line, or LJSpeech's tables.

A file in which most rows hold a `|` is a table, `id|text` or `id|text|normalised text`; an id that
is the path of a wav file, as in published file lists, is cut to the file's name. Any other file
holds an utterance a line. The id of such a line is made from its text, so that no edit of the file
ever gives a line another one's id.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from lightspeech.errors import InputError
from lightspeech.text.encode import encode, is_speakable

_ID = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
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
    """What a text file holds."""

    lines: list[Line]
    """the usable lines in the order of the file, each id once"""
    problems: list[str]
    """one sentence for each row that was left out, beginning with `file:row`"""
    duplicates: int
    """rows left out because an earlier one says the same under the same id"""


def read_lines(
    paths: str | Path | Sequence[str | Path], max_characters: int | None = 1000
) -> LinesRead:
    """Reads one text file or several, as if they were one; `-` is standard input.

    Args:
        paths: UTF-8 files, with or without a byte-order mark. Empty lines are skipped.
        max_characters: rows of a longer text are left out and reported; None takes any length.

    Raises:
        InputError: a file is missing, empty, binary, not UTF-8, or has no usable row.
    """
    read = LinesRead([], [], 0)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        read = _add_file(read, str(path), max_characters)
    return read


def _add_file(before: LinesRead, path: str, max_characters: int | None) -> LinesRead:
    name = "standard input" if path == "-" else path
    rows = _read_rows(path, name)
    filled = [row for row in rows if row.strip()]
    if not filled:
        raise InputError(f"{name} is empty; expected one sentence a line, or id|text tables")
    is_table = 2 * sum("|" in row for row in filled) > len(filled)

    lines = {line.id: line for line in before.lines}
    problems: list[str] = []
    duplicates = 0
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            line = _parse(row, f"{name}:{number}", is_table, max_characters)
            known = lines.setdefault(line.id, line)
            if known.text != line.text:
                raise InputError(
                    f"the id {line.id} already stands for another text at {known.where}"
                )
        except InputError as e:
            problems.append(f"{name}:{number}: {e}")
            continue
        duplicates += known is not line
    if len(problems) == len(filled):
        raise InputError(
            f"{name}: none of its {len(filled):,} rows can be used; the first: {problems[0]}"
        )
    return LinesRead(
        list(lines.values()), before.problems + problems, before.duplicates + duplicates
    )


def _read_rows(path: str, name: str) -> list[str]:
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
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        # The codec counts from after a byte-order mark; `e.object` is what it counted in.
        row = len((e.object[: e.start] + b"x").splitlines())
        raise InputError(
            f"{name}:{row}: not UTF-8 (byte 0x{e.object[e.start]:02x}); "
            f"{_conversion('LATIN1', path)}"
        ) from e
    # Only these end a row, so that row numbers are those of an editor; str.splitlines knows more.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _conversion(encoding: str, path: str) -> str:
    source = "FILE" if path == "-" else path
    return (
        f"convert it, if it is {encoding}, with: "
        f"iconv -f {encoding} -t UTF-8 '{source}' > '{source}.utf8'"
    )


def _parse(row: str, where: str, is_table: bool, max_characters: int | None) -> Line:
    """A row's line; InputError, without the place, says why it cannot be used."""
    if is_table:
        line_id, text = _columns(row)
    else:
        text = " ".join(row.split())
        line_id = "l" + hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]
    if max_characters is not None and len(text) > max_characters:
        raise InputError(
            f"{len(text):,} characters, more than {max_characters:,}; "
            "split it into sentences, one a line"
        )
    if not is_speakable(encode(text)):
        raise InputError("nothing in it can be spoken")
    return Line(line_id, text, where)


def _columns(row: str) -> tuple[str, str]:
    columns = [" ".join(column.split()) for column in row.split("|")]
    if len(columns) not in (2, 3):
        found = f"{len(columns)} column" + ("s" if len(columns) > 1 else "")
        raise InputError(f"{found}, expected id|text or id|text|normalised text")
    line_id, *texts = columns
    if line_id.lower().endswith(".wav"):
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
