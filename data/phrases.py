"""Short phrases out of texts, for a teacher that has to say single words too.

    python -m data.phrases metadata.csv data/corpus.txt > phrases.txt

A teacher that only ever heard whole sentences cannot say one word. Texts are cut at their
punctuation; 1 to 5 words in a row of one such piece are a phrase, which gets a capital and a mark
at its end, most often a full stop. Each text gives one phrase at most. No phrase comes twice, and
the same files in the same order give the same phrases.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterable, Sequence

from data.coverage import texts_of
from lightspeech.cli import HelpFormatter, positive_int, run
from lightspeech.errors import InputError

LENGTHS = (1, 1, 2, 2, 3, 4, 5)
"""words of a phrase, each as likely as it is often here"""
ENDS = (".", ".", ".", "?", "!", ",", "")
"""what ends a phrase, likewise"""
_PUNCTUATION = re.compile(r"[,;:.()!?\"-]+")
_PHRASE = re.compile(r"[A-Za-z' ]{2,}")


def phrases_of(texts: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """Up to `count` different phrases (but for case); fewer where the texts do not give more.

    The same texts in the same order, and the same seed, give the same phrases, and a smaller
    `count` the first of them.
    """
    rng = random.Random(seed)
    shuffled = list(texts)
    rng.shuffle(shuffled)
    phrases: list[str] = []
    seen: set[str] = set()
    for text in shuffled:
        if len(phrases) == count:
            break
        phrase = _phrase_of(text, rng, seen)
        if phrase is not None:
            seen.add(phrase.lower())
            phrases.append(phrase)
    return phrases


def _phrase_of(text: str, rng: random.Random, seen: set[str]) -> str | None:
    """The first phrase that a text gives and that is not in `seen`, which is in lower case."""
    for piece in _PUNCTUATION.split(text):
        words = piece.split()
        if not words:
            continue
        length = rng.choice(LENGTHS)
        if len(words) < length:
            continue
        start = rng.randrange(len(words) - length + 1)
        phrase = " ".join(words[start : start + length]).strip("'\"")
        if not _PHRASE.fullmatch(phrase):
            continue
        phrase = phrase[0].upper() + phrase[1:] + rng.choice(ENDS)
        if phrase.lower() not in seen:
            return phrase
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.phrases", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "texts", nargs="+", metavar="FILE", help="plain lines, or LJSpeech's id|text"
    )
    parser.add_argument("--count", metavar="N", type=positive_int, default=2000, help="phrases")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="others with another")
    options = parser.parse_args(arguments)
    texts = [text for path in options.texts for text in texts_of(path)]
    phrases = phrases_of(texts, options.count, options.seed)
    if len(phrases) < options.count:
        raise InputError(
            f"the texts give {len(phrases):,} phrases, not {options.count:,}; "
            "give more texts or a smaller --count"
        )
    print("\n".join(phrases))


if __name__ == "__main__":
    run(main)
