"""What an exported voice says about itself: voice.json, and the same within voice.onnx."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightspeech.audio_facts import check_audio_facts
from lightspeech.errors import InputError
from lightspeech.joins import LONGEST_SILENCE
from lightspeech.text import SYMBOLS

FORMAT = 1
KIND = "LightSpeech export"
LANGUAGE = "en"


@dataclass(frozen=True)
class Card:
    """What speaking with a voice needs to know."""

    facts: dict[str, Any]
    """the whole card: name, licence, symbols, audio, where it comes from"""
    slowest: float
    """the least `pace`"""
    fastest: float
    """the greatest `pace`"""
    pace: float
    """if nothing else is asked for"""
    sentence_silence: float
    """seconds between two sentences, if nothing else is asked for"""

    @property
    def name(self) -> str:
        """The voice's, for people."""
        return str(self.facts.get("name", "unnamed"))


def read_card(facts: Any, where: str) -> Card:
    """The card of a voice that this version can speak with.

    Args:
        facts: what stands in `where`, the file that the messages name.

    Raises:
        InputError: another kind or format, made for other audio, symbols or another language, or
            numbers that make no sense.
    """
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise InputError(
            f"{where} does not describe an exported voice; make one with python -m "
            "lightspeech.export"
        )
    version = facts.get("format")
    if version != FORMAT:
        is_newer = isinstance(version, int) and version > FORMAT
        mend = "install a newer lightspeech" if is_newer else "export it again"
        raise InputError(
            f"{where} has format {version!r}, and this version reads format {FORMAT}: {mend}"
        )
    check_audio_facts(facts.get("audio"), where)
    _check_symbols(facts.get("symbols"), where)
    if facts.get("language") != LANGUAGE:
        raise InputError(
            f"{where} speaks the language {facts.get('language')!r}, and this version reads "
            f"{LANGUAGE!r} only: use the version that it was exported with"
        )
    pace = facts.get("pace")
    limits = pace if isinstance(pace, dict) else {}
    values = [limits.get("min"), limits.get("default"), limits.get("max")]
    slowest, usual, fastest = (_number(value, "pace", where) for value in values)
    silence = _number(facts.get("sentence_silence"), "sentence_silence", where)
    if not 0 < slowest <= usual <= fastest or not 0 <= silence <= LONGEST_SILENCE:
        raise InputError(
            f"{where} is damaged: its pace is {pace!r}, its sentence_silence {silence:g}"
        )
    return Card(facts, slowest, fastest, usual, silence)


def _check_symbols(symbols: Any, where: str) -> None:
    # Further ones may follow; no text of this version becomes their ids.
    if not isinstance(symbols, list) or symbols[: len(SYMBOLS)] != list(SYMBOLS):
        count = len(symbols) if isinstance(symbols, list) else "no"
        raise InputError(
            f"{where} was made for {count} symbols that are not this version's {len(SYMBOLS)}: "
            "use the version that it was exported with"
        )


def _number(value: Any, name: str, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise InputError(f"{where} is damaged: its {name} has {value!r} where a number must be")
    return float(value)
