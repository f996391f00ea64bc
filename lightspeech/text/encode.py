"""Text to the teacher's symbol ids, and back to symbols for plots and timings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lightspeech.errors import InputError
from lightspeech.text.normalize import normalize
from lightspeech.text.symbols import FIRST_SPOKEN_ID, SYMBOL_IDS, SYMBOLS

_PLAINLY_SPOKEN = re.compile(r"[^{A-Za-z0-9]*[A-Za-z0-9]")


def encode(text: str) -> list[int]:
    """The teacher's ids for a text, each in 0..147; the text is normalised here.

    `{HH AH0 L OW1}` gives ARPAbet phonemes; the text around braces is normalised piece by piece.
    What has no symbol is dropped, as in the published code: `unknown_characters` names it. An
    underscore is id 0, the padding symbol, so a length never follows from counting zeros. Never
    raises; a text without any symbol gives an empty list.
    """
    ids: list[int] = []
    for part, is_arpabet in brace_parts(text):
        symbols = ["@" + name for name in part.split()] if is_arpabet else normalize(part)
        ids.extend(SYMBOL_IDS[symbol] for symbol in symbols if symbol in SYMBOL_IDS)
    return ids


def encode_sentence(sentence: str) -> list[int]:
    """`encode`, with a full stop after a sentence that ends in a letter or phoneme.

    Teachers and students hear in the mark that the end has come. Without one, a lone letter or word
    was swallowed, or repeated for seconds.
    """
    ids = encode(sentence)
    if ids and ids[-1] >= FIRST_SPOKEN_ID:
        ids.append(SYMBOL_IDS["."])
    return ids


def brace_parts(text: str) -> Iterator[tuple[str, bool]]:
    """Splits at `{...}`: yields (what lies outside, False) and (what lies inside, True) in turn.

    Braces need at least one character between them. A line break counts as a space here; in the
    published code it hid braces before it and swallowed all the text after them.
    """
    text = text.replace("\n", " ")
    position = 0
    while (start := text.find("{", position)) >= 0:
        end = text.find("}", start + 2)
        if end < 0:
            break
        yield text[position:start], False
        yield text[start + 1 : end], True
        position = end + 1
    yield text[position:], False


def decode(ids: Iterable[int]) -> list[str]:
    """The symbol of each id, an ARPAbet phoneme with its leading `@`.

    Raises InputError for an id outside the table.
    """
    symbols = []
    for symbol_id in ids:
        if not 0 <= symbol_id < len(SYMBOLS):
            raise InputError(
                f"symbol id {int(symbol_id)}: expected 0 to {len(SYMBOLS) - 1}, "
                "as lightspeech.text.encode gives them"
            )
        symbols.append(SYMBOLS[symbol_id])
    return symbols


def is_speakable(ids: Iterable[int]) -> bool:
    """Whether there is anything to say: at least one letter or ARPAbet phoneme."""
    return any(symbol_id >= FIRST_SPOKEN_ID for symbol_id in ids)


def can_be_spoken(text: str) -> bool:
    """`is_speakable(encode(text))`, without encoding most texts.

    A letter or digit of ASCII outside braces is always heard: no step of `normalize` takes a letter
    out, and every number becomes words.
    """
    return _PLAINLY_SPOKEN.match(text) is not None or is_speakable(encode(text))
