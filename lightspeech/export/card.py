"""What an exported voice says about itself: voice.json, and the same within voice.onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightspeech.audio import AUDIO_FACTS
from lightspeech.checkpoint import code_version
from lightspeech.joins import SENTENCE_SILENCE
from lightspeech.model import MAX_PACE, MIN_PACE
from lightspeech.parts import count_parameters
from lightspeech.text import SYMBOLS

FORMAT_VERSION = 1
KIND = "LightSpeech export"
METADATA_KEY = "lightspeech"
"""under which voice.onnx holds its card"""
PRECISIONS = ("float32", "int8")
"""of the weights and products"""
NO_LICENCE = "not stated"


@dataclass(frozen=True)
class Origin:
    """What is known of a voice and its vocoder, for the card."""

    name: str
    """of the voice, for people"""
    licence: str
    """under which the exported voice may be passed on"""
    voice: Mapping[str, Any]
    """the facts of `load_voice`, with the `sha256` of its file"""
    vocoder: Mapping[str, Any]
    """`name` and `sha256`"""


def make_card(
    origin: Origin, student: nn.Module, vocoder: nn.Module, precision: str
) -> dict[str, Any]:
    """The content of voice.json, but for the list of files."""
    voice = origin.voice
    teacher = voice.get("teacher") or {}
    return {
        "format": FORMAT_VERSION,
        "kind": KIND,
        "name": origin.name,
        "precision": precision,
        "language": "en",
        "licence": origin.licence,
        "symbols": list(SYMBOLS),
        "audio": AUDIO_FACTS,
        "pace": {"min": MIN_PACE, "max": MAX_PACE, "default": 1.0},
        "sentence_silence": SENTENCE_SILENCE,
        "parameters": {
            "student": count_parameters(student),
            "vocoder": count_parameters(vocoder),
        },
        "voice": {
            "configuration": (voice.get("config") or {}).get("name"),
            "step": voice.get("step"),
            "sha256": voice.get("sha256"),
            "teacher": {key: teacher.get(key) for key in ("name", "sha256")},
        },
        "vocoder": {key: origin.vocoder.get(key) for key in ("name", "sha256")},
        "code_version": code_version(),
    }
