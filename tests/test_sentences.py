"""Splitting of long text: a table, and what must hold for any text."""

from __future__ import annotations

import random

import pytest

from lightspeech.errors import InputError
from lightspeech.text import encode, is_speakable, normalize, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", "Two!", "Three?", "Four;", "five."],
        ["What?!", "No... yes -- maybe."],
        ["Dr. Smith and Mr. J. E. Sparrow met Prof. Moriarty.", "They spoke."],
        ["She was in Washington, D.C. with Gen. Lee.", "He was not."],
        ["See e.g. the list, i.e. this one, vs. that of vol. 2, no. 5, pp. 3-4.", "Done."],
        ["He came at 5 p.m. on Jan. 3 by train.", "It was late."],
        ["It ended at 5 p.m.", "The rest slept."],
        ["Acme Inc. bought Bolt Co. Ltd. in May.", "Why?"],
        ["He asked, and I said no.", "Yes, I did."],
        ["Pi is 3.14159, roughly.", "See example.com for v1.2.3 of it."],
        ["It costs $3.50.", "4 eggs cost more."],
        ["Well... I think so.", "Then...", "Nothing happened… at all."],
        ["“Stop!”", "“Why?”", "'No.'", "He left (at last.)", "Good."],
        ['"Stop!" he cried.', '"Really?" asked the man.'],
        ["1. Mix the flour.", "2. Add water.", "In 1999.", "It rained."],
        ["So am I.", "He likes vitamin C.", "The J. C. Penney shop is shut."],
        ["Great!", "😀 Bye."],
        ["Great! 😀"],
        ["Look {AH0 B AW1 T} here.", "Then go."],
        ["你好。", "我是谁？", "再见"],
        ["No stop at all"],
    ],
)
def test_sentences_end_where_a_reader_would_pause(sentences: list[str]) -> None:
    text = " ".join(sentences)
    assert split_sentences(text) == sentences
    assert split_sentences(text.replace(" ", "\n")) == sentences  # hard-wrapped, as in a book


def test_text_without_capitals_splits_by_its_marks() -> None:
    assert split_sentences("hello there. how are you? well... fine; e.g. so") == [
        "hello there.",
        "how are you?",
        "well... fine;",
        "e.g. so",
    ]


def test_blank_lines_separate_paragraphs() -> None:
    assert split_sentences("Chapter one\r\n\r\nIt was\r\ndark\n \n\nEnd\u2029More") == [
        "Chapter one",
        "It was dark",
        "End",
        "More",
    ]


def test_punctuation_goes_with_its_neighbour() -> None:
    assert split_sentences("* * *\n\nOne.\n\n***\n\nTwo.\n\n...") == ["* * * One. ***", "Two. ..."]


@pytest.mark.parametrize("text", ["", " \n\n ", "?! ... ;", "😀\n\n😀", "!" * 5000])
def test_nothing_speakable_gives_nothing(text: str) -> None:
    assert split_sentences(text) == []


def test_long_sentences_are_cut_at_clauses_first() -> None:
    text = "When the long rain ended, the men who had waited went out: all of them — even him."
    assert split_sentences(text, 50) == [
        "When the long rain ended,",
        "the men who had waited went out:",
        "all of them — even him.",
    ]
    # A dash without spaces is a place to cut, and no space is put in where it is not cut.
    joined = "the old house by the river—empty for years—was sold"
    assert split_sentences(joined, 30) == [
        "the old house by the river—",
        "empty for years—was sold",
    ]
    assert split_sentences(joined) == [joined]


def test_then_at_spaces_into_even_pieces() -> None:
    pieces = split_sentences("word " * 100, 120)
    assert [len(piece) for piece in pieces] == [99] * 5
    assert all(set(piece.split()) == {"word"} for piece in pieces)


def test_then_anywhere() -> None:
    pieces = split_sentences("x" * 5000)
    assert [len(piece) for piece in pieces] == [200] * 25
    assert split_sentences("Go " + "y" * 30 + " on.", 12) == [
        "Go",
        "y" * 12,
        "y" * 12,
        "y" * 6,
        "on.",
    ]


def test_the_limit_counts_what_is_read() -> None:
    text = "We need 1,234,567, 2,345,678, 3,456,789 and 4,567,891 of them."
    assert len(normalize(text)) > 250
    pieces = split_sentences(text, 120)
    assert len(pieces) > 2
    assert max(len(normalize(piece)) for piece in pieces) <= 120


def test_phonemes_stay_in_one_piece() -> None:
    pieces = split_sentences("{HH AH0 L OW1} " * 20, 40)
    assert {piece.count("{") for piece in pieces} == {2}
    assert all(piece.count("{") == piece.count("}") for piece in pieces)


def test_refuses_a_limit_of_nothing() -> None:
    with pytest.raises(InputError, match="max_characters must be at least 1, not 0"):
        split_sentences("a", 0)


WORDS = [
    *("Mr.", "hello", "World", "a", "I", "e.g.", "3.14", "1999", "$5.20", "supercalifragilistic"),
    *("...", "!", "?", ";", ",", ":", "—", "x—y", "…", "“Hi.”", "'s", "，", "。", "中", "😀"),
    *("\n", "\n\n", "\u2029", "\u0301", "\ud800", "\x00", "{HH AH0}"),
]


def random_text(source: random.Random, words: list[str]) -> str:
    count = source.randrange(25)
    return "".join(source.choice(words) + source.choice(["", "", " ", "\t"]) for _ in range(count))


def unspaced(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("limit", [1, 5, 20, 60, 200])
def test_no_text_loses_or_moves_a_character(limit: int) -> None:
    source = random.Random(limit)
    for _ in range(400):
        # Stray braces change what lies between them, wherever they end up.
        text = random_text(source, [*WORDS, "{", "}"])
        pieces = split_sentences(text, limit)
        assert all(is_speakable(encode(piece)) for piece in pieces), repr(text)
        assert all(piece == " ".join(piece.split()) for piece in pieces), repr(text)
        if pieces:
            assert unspaced("".join(pieces)) == unspaced(text)
        else:
            assert not is_speakable(encode(text)), repr(text)


def test_words_and_commas_keep_to_the_limit() -> None:
    source = random.Random(7)
    words = [word for word in WORDS if is_speakable(encode(word))]
    for _ in range(400):
        text = random_text(source, words).replace("\ud800", "")
        for piece in split_sentences(text, 60):
            assert max(len(piece), len(normalize(piece))) <= 60, repr(text)
