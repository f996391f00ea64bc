"""Whether text that a model is to be trained on holds sentences that are kept for judging it.

    python -m data.held_out sentences.txt            a text to be labelled or rendered
    python -m data.held_out my_voice                 a dataset folder: its metadata.csv
    python -m data.held_out texts/*.txt my_voice     several at once

Prints every sentence of data/heldout.txt that stands in one of them, with its place, and ends with
exit code 1 if there is one. Sentences are compared as they are spoken: numbers and abbreviations
spelt out, without capitals and punctuation. A sentence of five words or more is also found in the
middle of a longer line; a shorter one only where it is the whole line, since any text
may use two or three of its words in a row.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightspeech.cli import HelpFormatter, run
from lightspeech.errors import InputError
from lightspeech.text import Line, normalize, read_lines

HELD_OUT = Path(__file__).parent / "heldout.txt"
WORDS_INSIDE = 5  # held-out sentences of so many words are looked for inside longer lines too
_WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True)
class Found:
    """A held-out sentence that stands in another text."""

    sentence: str
    """as data/heldout.txt has it"""
    where: str
    """`file:row` of the line that says the same or more"""


def plain(text: str) -> str:
    """The words of a text as they are spoken, one space between, without punctuation."""
    return " ".join(_WORD.findall(normalize(text)))


def find_held_out(held_out: Iterable[str], lines: Iterable[Line]) -> list[Found]:
    """The held-out sentences that stand in `lines`, by line and then in their own order."""
    spoken = [(sentence, plain(sentence)) for sentence in held_out]
    inside = [(s, f" {words} ") for s, words in spoken if words.count(" ") >= WORDS_INSIDE - 1]
    whole = {words: s for s, words in spoken if words.count(" ") < WORDS_INSIDE - 1}
    found = []
    for line in lines:
        words = plain(line.text)
        if words in whole:
            found.append(Found(whole[words], line.where))
        padded = f" {words} "
        found += [Found(s, line.where) for s, sought in inside if sought in padded]
    return found


def _table_of(name: str) -> str:
    """The file to read: the table of a dataset folder, or the file itself."""
    if not Path(name).is_dir():
        return name
    table = Path(name) / "metadata.csv"
    if not table.is_file():
        raise InputError(f"no metadata.csv in the folder {name}; give a dataset folder or a file")
    return str(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.held_out", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="text file, id|text table or dataset folder"
    )
    options = parser.parse_args(arguments)

    held_out = [line.text for line in read_lines(HELD_OUT, max_characters=None).lines]
    found, n_lines = [], 0
    for name in options.files:
        read = read_lines(_table_of(name), max_characters=None)
        for problem in read.problems:
            print(f"not looked at: {problem}", file=sys.stderr)
        n_lines += len(read.lines)
        found += find_held_out(held_out, read.lines)

    for one in found:
        print(f"{one.where}: {one.sentence}")
    if found:
        count = len({one.sentence for one in found})
        print(f"{count:,} of {len(held_out):,} held-out sentences stand in {n_lines:,} lines")
        print("take those lines out before training, or scores on held-out text mean nothing")
        sys.exit(1)
    print(f"none of {len(held_out):,} held-out sentences stands in {n_lines:,} lines")


if __name__ == "__main__":
    run(main)
