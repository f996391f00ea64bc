"""What the text corpus covers of another text: its letters, bigrams, trigrams and words.

    python -m data.coverage                          lengths and rare letters of what is in data/
    python -m data.coverage transcripts.txt          also the coverage of a reference text
    python -m data.coverage transcripts.txt --corpus mine.txt

Both texts are normalised as the teacher reads them: numbers and abbreviations spelt out, lower
case. A word is a run of letters with apostrophes inside it; everything between words counts as one
space. N-grams lie inside a word together with the space at either end, so "the" has the trigrams
" th", "the" and "he ". The tables are Markdown, as they stand in data/README.md.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightspeech.cli import HelpFormatter, run
from lightspeech.text import normalize, read_lines

DATA = Path(__file__).parent
ENOUGH = 5  # occurrences from which on a student has something to learn from
RARE_LETTERS = "jkqvxz"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclass(frozen=True)
class Coverage:
    """How much of a reference text a corpus has seen, in one unit; shares lie in [0, 1]."""

    unit: str
    types: int
    """distinct units in the reference"""
    occurrences: int
    """units in the reference, repetitions counted"""
    once: float
    """share of the occurrences whose unit the corpus holds at least once"""
    enough: float
    """share of the occurrences whose unit the corpus holds at least ENOUGH times"""
    types_once: float
    """share of the types that the corpus holds at least once"""


def words(texts: Iterable[str]) -> Counter[str]:
    """How often each word stands in the texts, which are as written."""
    return Counter(word for text in texts for word in _WORD.findall(normalize(text)))


def ngrams(word_counts: Counter[str], n: int) -> Counter[str]:
    """How often each n-gram stands in those words; for n = 1, spaces are left out."""
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        padded = word if n == 1 else f" {word} "
        for start in range(len(padded) - n + 1):
            counts[padded[start : start + n]] += count
    return counts


def compare(unit: str, corpus: Counter[str], reference: Counter[str]) -> Coverage:
    """The coverage of `reference`, which must not be empty, by `corpus`."""
    occurrences = sum(reference.values())
    once = sum(count for key, count in reference.items() if corpus[key])
    enough = sum(count for key, count in reference.items() if corpus[key] >= ENOUGH)
    types_once = sum(1 for key in reference if corpus[key])
    return Coverage(
        unit,
        len(reference),
        occurrences,
        once / occurrences,
        enough / occurrences,
        types_once / len(reference),
    )


def coverage(corpus: Iterable[str], reference: Iterable[str]) -> list[Coverage]:
    """Coverage of the reference's letters, bigrams, trigrams and words, in that order."""
    ours, theirs = words(corpus), words(reference)
    rows = [
        compare(unit, ngrams(ours, n), ngrams(theirs, n))
        for n, unit in enumerate(("letters", "bigrams", "trigrams"), start=1)
    ]
    return [*rows, compare("words", ours, theirs)]


def coverage_table(rows: Iterable[Coverage]) -> str:
    """The rows in Markdown; percentages are rounded down, so that 100% means all of it."""
    table = [
        ["unit", "in the reference", "seen once", f"seen {ENOUGH} times", "distinct, seen once"]
    ]
    for row in rows:
        shares = (row.once, row.enough, row.types_once)
        percent = [f"{int(share * 1e4) / 100:.2f}%" for share in shares]
        table.append([row.unit, f"{row.occurrences:,} ({row.types:,} distinct)", *percent])
    return _markdown(table)


def length_table(texts: dict[str, Sequence[str]], width: int = 20) -> str:
    """A histogram of the lengths in characters, one column for each named text."""
    longest = max(len(line) for lines in texts.values() for line in lines)
    table = [["characters", *texts]]
    for low in range(1, longest + 1, width):
        counts = [sum(low <= len(line) < low + width for line in t) for t in texts.values()]
        table.append([f"{low} to {low + width - 1}", *map(str, counts)])
    table.append(["sentences", *(f"{len(lines):,}" for lines in texts.values())])
    return _markdown(table)


def rare_letter_table(corpus: Iterable[str]) -> str:
    """How often each of RARE_LETTERS begins a word, stands inside one and ends one."""
    counts = words(corpus)
    table = [["letter", "first", "inside", "last"]]
    for letter in RARE_LETTERS:
        first = sum(n for word, n in counts.items() if word[0] == letter)
        inside = sum(n * word[1:-1].count(letter) for word, n in counts.items())
        last = sum(n for word, n in counts.items() if len(word) > 1 and word[-1] == letter)
        table.append([letter, *(f"{count:,}" for count in (first, inside, last))])
    return _markdown(table)


def texts_of(path: str | Path) -> list[str]:
    """The texts of a file of plain lines or of LJSpeech's `id|text` columns."""
    return [line.text for line in read_lines(path, max_characters=None).lines]


def _markdown(rows: list[list[str]]) -> str:
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *body])


def main(arguments: Sequence[str] | None = None) -> None:
    description = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m data.coverage", description=description, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "reference", nargs="?", help="text to be covered: plain lines or LJSpeech's id|text"
    )
    parser.add_argument(
        "--corpus",
        metavar="FILE",
        help="text that covers it (default: data/corpus.txt)",
    )
    options = parser.parse_args(arguments)

    path = Path(options.corpus or DATA / "corpus.txt")
    corpus, name = texts_of(path), path.name
    if options.reference is not None:
        print(coverage_table(coverage(corpus, texts_of(options.reference))), end="\n\n")
    print(length_table({name: corpus, "heldout.txt": texts_of(DATA / "heldout.txt")}), end="\n\n")
    print(rare_letter_table(corpus))


if __name__ == "__main__":
    run(main)
