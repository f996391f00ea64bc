"""Text the way that Piper feeds it: code points through a table, with marks between.

Piper, told that its phonemes are text, looks up each code point of the text (decomposed, so that
an accent follows its letter) in the voice's table, which gives a list of ids, and puts a mark for
the beginning before them, one for the end behind them and a pad after each. The table can do what
goes character by character: small letters for capitals, ASCII for other letters, names for digits.
What depends on neighbours is done in the graph, with ids that are no symbols:

    PAD, BEGIN, END    Piper's own marks: dropped
    GONE               a character that has no symbol: dropped when white space has been collapsed,
                       as `lightspeech.text` does it
    JOINT              around a digit's name: a space if it stands between letters, else dropped

So a text that needs no more gives the same ids as `lightspeech.text.encode_sentence`.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from lightspeech.export.graph import Graph, Value
from lightspeech.text.encode import encode
from lightspeech.text.normalize import to_ascii
from lightspeech.text.symbols import FIRST_SPOKEN_ID, SYMBOL_IDS, SYMBOLS

PAD, BEGIN, END, GONE, JOINT = range(len(SYMBOLS) + 1, len(SYMBOLS) + 6)
N_IDS = JOINT + 1
"""how many ids there are"""
MARKS = {"_": PAD, "^": BEGIN, "$": END}
"""the characters that Piper names them by, which therefore cannot be spoken"""
BLOCKS = (range(0x0600), range(0x1E00, 0x2400), range(0x2500, 0x2600), range(0xFB00, 0xFB07))
"""Code points that the table has, if Unidecode knows an ASCII form of theirs: Latin, Greek,
Cyrillic, Hebrew, punctuation, signs. Piper drops others, with a warning."""
SPACE, STOP = SYMBOL_IDS[" "], SYMBOL_IDS["."]


def id_table() -> dict[str, list[int]]:
    """Piper's `phoneme_id_map`: the ids of each code point."""
    table = {mark: [number] for mark, number in MARKS.items()}
    for block in BLOCKS:
        for character in map(chr, block):
            if unicodedata.normalize("NFD", character) == character:  # Piper feeds no others
                table.setdefault(character, _ids_of(character))
    return table


def _ids_of(character: str) -> list[int]:
    ids: list[int] = []
    for part in " " if character.isspace() else to_ascii(character).lower():
        if part.isdigit():
            ids += [JOINT, *encode(part), JOINT]
        elif part.isspace():
            ids.append(SPACE)
        else:
            # An underscore is the teacher's padding, which a text can hardly mean.
            ids.append(SYMBOL_IDS.get(part, GONE) if part != "_" else GONE)
    return ids


def tokens_of_piper(graph: Graph, ids: Value) -> Value:
    """Piper's ids (P,) -> tokens (N,) as `encode_sentence` gives them; N is at least 1."""
    for mark in MARKS.values():
        ids = _drop(graph, ids, _is(graph, ids, mark))
    # White space: one, and none at the ends.
    ids = _drop(
        graph, ids, _both(graph, _is(graph, ids, SPACE), _is(graph, _before(graph, ids), SPACE))
    )
    ids = _drop(
        graph, ids, _both(graph, _is(graph, ids, SPACE), _is(graph, _after(graph, ids), SPACE))
    )
    # A joint stays after a letter and before a letter or another joint.
    is_joint = _is(graph, ids, JOINT)
    after = _after(graph, ids)
    joins = _both(
        graph,
        _is_letter(graph, _before(graph, ids)),
        graph.op("Or", _is_letter(graph, after), _is(graph, after, JOINT)),
    )
    ids = _drop(graph, ids, _both(graph, is_joint, graph.op("Not", joins)))
    ids = graph.op("Where", _is(graph, ids, JOINT), SPACE, ids)
    ids = _drop(graph, ids, _is(graph, ids, GONE))
    return _with_stop(graph, ids)


def _with_stop(graph: Graph, ids: Value) -> Value:
    """A full stop after what ends in a letter, or is empty."""
    letter = np.array([FIRST_SPOKEN_ID], np.int64)
    last = graph.op("Concat", letter, ids, axis=0).rows(-1, 2**62)  # (1,)
    n_tokens = ids.size(0) + _is_letter(graph, last).cast(np.int64)
    stopped = graph.op("Concat", ids, np.array([STOP], np.int64), axis=0)
    return stopped.rows(0, n_tokens)


def _before(graph: Graph, ids: Value) -> Value:
    """What stands before each id; a space before the first."""
    padded = graph.op("Concat", np.array([SPACE], np.int64), ids, axis=0)
    return padded.rows(0, -1)


def _after(graph: Graph, ids: Value) -> Value:
    """What stands after each id; a space after the last."""
    padded = graph.op("Concat", ids, np.array([SPACE], np.int64), axis=0)
    return padded.rows(1, 2**62)


def _is(graph: Graph, ids: Value, number: int) -> Value:
    return graph.op("Equal", ids, number)


def _is_letter(graph: Graph, ids: Value) -> Value:
    """Whether they are letters or phonemes."""
    starts = graph.op("GreaterOrEqual", ids, FIRST_SPOKEN_ID)
    return _both(graph, starts, graph.op("Less", ids, len(SYMBOLS)))


def _both(graph: Graph, one: Value, other: Value) -> Value:
    return graph.op("And", one, other)


def _drop(graph: Graph, ids: Value, dropped: Value) -> Value:
    return graph.op("Compress", ids, graph.op("Not", dropped), axis=0)
