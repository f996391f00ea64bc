"""English text as the teacher was trained to read it.

These are the steps of the published Tacotron 2's `english_cleaners`, in their order: to ASCII,
lower case, numbers to words, abbreviations to words, white space to single spaces. Its oddities
(`£7` becomes `psseven`, a `$2.5 million` loan `two dollars, five cents million`) are kept: the
teacher's weights were trained with them, and the tests hold them to reference output. Where the
published code raises an exception (a number of 40 digits, `$,5`), this one reads on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from unidecode import unidecode

# Applied one after another, each over the whole text, because that decides "st.co." (saintco.).
_ABBREVIATIONS = tuple(
    (re.compile(rf"\b{short}\."), words)
    for short, words in (
        ("mrs", "misess"),
        ("mr", "mister"),
        ("dr", "doctor"),
        ("st", "saint"),
        ("co", "company"),
        ("jr", "junior"),
        ("maj", "major"),
        ("gen", "general"),
        ("drs", "doctors"),
        ("rev", "reverend"),
        ("lt", "lieutenant"),
        ("hon", "honorable"),
        ("sgt", "sergeant"),
        ("capt", "captain"),
        ("esq", "esquire"),
        ("ltd", "limited"),
        ("col", "colonel"),
        ("ft", "fort"),
    )
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_WITH_COMMAS = re.compile(r"[0-9][0-9,]+[0-9]")
_DOLLARS = re.compile(r"\$([0-9.,]*[0-9])")
# The look-behinds change no match; without them a long run of digits costs its length squared.
_DECIMAL = re.compile(r"(?<![0-9])([0-9]+)\.([0-9]+)")
_ORDINAL = re.compile(r"(?<![0-9])([0-9]+)(st|nd|rd|th)")
_CARDINAL = re.compile(r"[0-9]+")
_WHITESPACE = re.compile(r"\s+")

_SPELLING = threading.Lock()  # inflect's engine keeps notes on the number that it is at
_MOST_DIGITS = 36  # inflect has names for numbers below 10^36


def normalize(text: str) -> str:
    """What the teacher reads for `text`: lower-case ASCII, numbers and abbreviations in words.

    Never raises; white space at the ends becomes one space and stays. Braces are ordinary
    characters here; `encode` takes out their ARPAbet before it normalises what is around them.
    """
    text = to_ascii(text).lower()
    text = _WITH_COMMAS.sub(lambda match: match[0].replace(",", ""), text)
    text = _DOLLARS.sub(lambda match: _dollars(match[1]), text)
    text = _DECIMAL.sub(r"\1 point \2", text)
    text = _ORDINAL.sub(lambda match: _ordinal(match[1], match[2]), text)
    text = _CARDINAL.sub(lambda match: _cardinal(match[0]), text)
    for abbreviation, words in _ABBREVIATIONS:
        text = abbreviation.sub(words, text)
    return _WHITESPACE.sub(" ", text)


def to_ascii(text: str) -> str:
    """Unidecode's ASCII for `text`; a character for which it has none vanishes."""
    return unidecode(_SURROGATE.sub("", text))  # unidecode warns of surrogates, then drops them


def _dollars(amount: str) -> str:
    whole, *rest = amount.split(".")
    if len(rest) > 1 or "," in amount:  # not an amount that anybody writes: leave its digits be
        return f"{amount} dollars"
    counts = ((whole.lstrip("0"), "dollar"), ("".join(rest).lstrip("0"), "cent"))
    parts = [f"{count} {unit if count == '1' else unit + 's'}" for count, unit in counts if count]
    return ", ".join(parts) or "zero dollars"


def _ordinal(digits: str, suffix: str) -> str:
    if len(digits) > _MOST_DIGITS:
        return f"{_digit_by_digit(digits[:-1])} {_short_ordinal(digits[-1] + suffix)}"
    return _short_ordinal(digits + suffix)


@lru_cache(maxsize=4096)
def _short_ordinal(ordinal: str) -> str:
    return _words(ordinal)


def _cardinal(digits: str) -> str:
    digits = digits.lstrip("0") or "0"
    return _digit_by_digit(digits) if len(digits) > _MOST_DIGITS else _short_cardinal(digits)


@lru_cache(maxsize=4096)
def _short_cardinal(digits: str) -> str:
    number = int(digits)
    if not 1000 < number < 3000:
        return _words(number, andword="")
    # Read as a year.
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return "two thousand " + _words(number % 100)
    if number % 100 == 0:
        return _words(number // 100) + " hundred"
    return _words(number, andword="", zero="oh", group=2).replace(", ", " ")


def _digit_by_digit(digits: str) -> str:
    return " ".join(map(_cardinal, digits))


def _words(number: int | str, **how: Any) -> str:
    with _SPELLING:
        return str(_number_speller().number_to_words(number, **how))


@cache
def _number_speller() -> Any:
    with _types_unchecked():
        import inflect  # here, because many texts have no number

    return inflect.engine()


@contextmanager
def _types_unchecked() -> Iterator[None]:
    """Spares inflect's import the two seconds and more in which typeguard rewrites its methods, so
    that they check the types of their arguments; `python -O` leaves that out likewise."""
    try:
        typeguard: Any = import_module("typeguard")
    except ImportError:  # an inflect that does without it
        yield
        return
    typechecked, typeguard.typechecked = typeguard.typechecked, lambda target: target
    try:
        yield
    finally:
        typeguard.typechecked = typechecked
