"""The teacher's symbol table: frozen, because its weights were trained with these ids.

It is the table of NVIDIA's Tacotron 2 for English: a padding symbol, punctuation, letters, and the
ARPAbet phonemes of the CMU Pronouncing Dictionary with their stress marks (0 none, 1 primary,
2 secondary), each written with a leading `@`. A symbol's id is its index.
"""

from __future__ import annotations

import hashlib
import string

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
_STRESSED = [vowel + stress for vowel in _VOWELS.split() for stress in ("", "0", "1", "2")]

PADDING = "_"
SYMBOLS: tuple[str, ...] = (
    PADDING,
    "-",
    *"!'(),.:;? ",
    *string.ascii_uppercase,
    *string.ascii_lowercase,
    *("@" + phoneme for phoneme in sorted([*_STRESSED, *_CONSONANTS.split()])),
)
"""All 148 symbols; id 0 is padding, 1 to 11 punctuation and the space, 12 to 63 letters, 64 to 147
ARPAbet."""

SYMBOL_IDS: dict[str, int] = {symbol: i for i, symbol in enumerate(SYMBOLS)}
"""Symbol -> id."""

FIRST_SPOKEN_ID = SYMBOL_IDS["A"]
"""Ids from here on are letters and phonemes: what makes a text speakable."""

SYMBOLS_DIGEST = hashlib.sha256("\n".join(SYMBOLS).encode()).hexdigest()
"""SHA-256 of the table, for files that must not be read with another one."""
