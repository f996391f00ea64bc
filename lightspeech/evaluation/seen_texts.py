"""Whether texts to judge a voice by are among those that it learned from, as far as that is known.

A voice says which store it learned from by its digest, not where that is. It is looked for where
`train.py` and `make demo` have it: `store` in the current folder, and beside the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.evaluation.quality import plain_words
from lightspeech.store import LabelStore
from lightspeech.text import Line, normalize

WORDS_INSIDE = 5
"""a text of so many words is found inside longer ones too; any text may use fewer in a row"""

_STORE = "store"


def training_store(voice: dict[str, Any], file: Path) -> LabelStore | None:
    """The store that a voice learned from, or None if it is not at hand.

    Args:
        voice: its facts (`load_voice`).
        file: its weights.
    """
    known = voice.get("store")
    digest = known.get("digest") if isinstance(known, dict) else None
    run = file.resolve().parent
    for folder in (Path(_STORE), run / _STORE, run.parent / _STORE):
        if not folder.is_dir():
            continue
        try:
            store = LabelStore.open(folder)
        except InputError:  # another program's, or damaged: not what the voice learned from
            continue
        if digest and store.digest == digest:
            return store
    return None


def texts_of(store: LabelStore) -> list[str]:
    """The texts of all its labels, read without the mels."""
    return [reader.texts[row] for _, reader, rows in store.shards() for row in rows]


def among(lines: Sequence[Line], texts: Iterable[str]) -> list[Line]:
    """The lines that are said by one of `texts`.

    Texts are compared as they are spoken: numbers and abbreviations spelt out, without capitals and
    punctuation. A line of WORDS_INSIDE words or more is also found inside a longer text.
    """
    spoken = [(line, plain_words(normalize(line.text))) for line in lines]
    seen: set[str] = set()
    for text in texts:
        words = plain_words(normalize(text))
        seen.add(words)
        padded = f" {words} "
        seen.update(
            said for _, said in spoken
            if said.count(" ") >= WORDS_INSIDE - 1 and f" {said} " in padded
        )  # fmt: skip
    return [line for line, said in spoken if said and said in seen]
