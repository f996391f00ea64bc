"""Text in, the teacher's symbol ids out.

    file or stdin -> lines    lines.py      one utterance a line, or LJSpeech's id|text tables
    long text -> sentences    sentences.py
    text -> plain words       normalize.py  numbers, abbreviations, ASCII
    words -> ids              encode.py     with the frozen table of symbols.py
    what was left unsaid      unknown.py

Nothing here needs PyTorch.
"""

from lightspeech.text.encode import can_be_spoken, decode, encode, encode_sentence, is_speakable
from lightspeech.text.lines import SOUND_SUFFIXES, Line, LinesRead, read_lines
from lightspeech.text.normalize import normalize
from lightspeech.text.sentences import split_sentences
from lightspeech.text.symbols import SYMBOLS, SYMBOLS_DIGEST
from lightspeech.text.unknown import UnknownCharacters, describe_character, unknown_characters

__all__ = [
    "SOUND_SUFFIXES",
    "SYMBOLS",
    "SYMBOLS_DIGEST",
    "Line",
    "LinesRead",
    "UnknownCharacters",
    "can_be_spoken",
    "decode",
    "describe_character",
    "encode",
    "encode_sentence",
    "is_speakable",
    "normalize",
    "read_lines",
    "split_sentences",
    "unknown_characters",
]
