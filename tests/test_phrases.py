"""Short phrases cut from texts: theirs, unique, and always the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.phrases import ENDS, main, phrases_of
from lightspeech.errors import InputError

TEXTS = [
    f"The {thing} of the {owner}, who was {state}; it stood near the {place} - for {time} years."
    for thing in ("garden", "kettle", "lantern", "harbour")
    for owner in ("miller", "queen", "sailor", "teacher")
    for state, place, time in (("glad", "river", "two"), ("late", "chapel", "forty"))
]


def test_the_phrases_are_those_of_the_first_run() -> None:
    # Pinned: a teacher's training text can be made again only if these never change.
    assert phrases_of(TEXTS, 8, seed=0) == PINNED
    assert phrases_of(TEXTS, 3, seed=0) == PINNED[:3]
    assert phrases_of(TEXTS, 8, seed=1) != PINNED


def test_a_phrase_is_one_to_five_words_of_one_piece_of_a_text() -> None:
    phrases = phrases_of(TEXTS, 1000)
    assert len(phrases) > 15
    pieces = [" ".join(p.split()).lower() for t in TEXTS for p in re.split("[,;.-]", t)]
    for phrase in phrases:
        words = phrase.rstrip("".join(ENDS)).lower()
        assert 1 <= len(words.split()) <= 5
        assert phrase[0].isupper()
        assert any(f" {words} " in f" {piece} " for piece in pieces), phrase
    assert len({phrase.lower() for phrase in phrases}) == len(phrases)


def test_what_is_no_word_gives_no_phrase() -> None:
    assert phrases_of(["1984", "...", "", "a", "50% of 3", "naïve café"], 10) == []
    assert sorted(phrases_of(["Hello"] * 100, 100)) == sorted("Hello" + end for end in set(ENDS))


def test_the_command_prints_one_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, plain = tmp_path / "metadata.csv", tmp_path / "plain.txt"
    table.write_text("".join(f"u{n}|{text}\n" for n, text in enumerate(TEXTS[:20])))
    plain.write_text("\n".join(TEXTS[20:]) + "\n")
    main([str(table), str(plain), "--count", "8"])
    assert capsys.readouterr().out.splitlines() == PINNED


def test_too_few_texts_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("Hello\n" * 2)
    with pytest.raises(InputError, match=r"give \d+ phrases?, not 2,000; give more texts"):
        main([str(tmp_path / "plain.txt")])


PINNED = [
    "The queen.",
    "Of the teacher.",
    "Harbour of the?",
    "The lantern of the sailor.",
    "The lantern of the queen.",
    "Garden of the sailor,",
    "The garden of the miller!",
    "Of the.",
]
"""Made by the program that made the phrases of the bundled teacher's text."""
