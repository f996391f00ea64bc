"""The files that Piper takes (github.com/OHF-Voice/piper1-gpl, `pip install piper-tts`).

`voice.onnx` has the inputs and the output of Piper's own voices, `voice.onnx.json` the settings.
Length scale is the inverse of our pace; the two scales of noise do nothing, as there is none.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lightspeech.audio import HOP_LENGTH, SAMPLE_RATE
from lightspeech.export.card import METADATA_KEY, Origin, make_card
from lightspeech.export.folder import as_json
from lightspeech.export.graph import Graph
from lightspeech.export.graphs import voice_nodes
from lightspeech.export.piper_text import N_IDS, id_table, tokens_of_piper
from lightspeech.model import LightSpeech
from lightspeech.vocoders.light_network import LightNetwork

VOICE, SETTINGS, README = "voice.onnx", "voice.onnx.json", "README.md"
KIND = "LightSpeech export for Piper"


def piper_graph(student: LightSpeech, network: LightNetwork, precision: str) -> Graph:
    """input (1, P), input_lengths (1,), scales (3,) -> output (1, 1, 256 T)."""
    graph = Graph("LightSpeech voice for Piper", precision)
    ids = graph.input("input", np.int64, ("batch_size", "phonemes"))
    n_ids = graph.input("input_lengths", np.int64, ("batch_size",))
    scales = graph.input("scales", np.float32, (3,))
    with graph.scope("text"):
        tokens = tokens_of_piper(graph, ids.reshape(-1).rows(0, n_ids))
        pace = graph.op(
            "Reciprocal", scales.take(graph.constant(1))
        )  # noise scale, length scale, noise's width
    wav, _ = voice_nodes(graph, tokens, pace, student, network)
    graph.output("output", wav.reshape(1, 1, -1), np.float32, ("batch_size", 1, "time"))
    return graph


def piper_files(
    student: LightSpeech, network: LightNetwork, origin: Origin, precision: str = "float32"
) -> dict[str, bytes]:
    """The files of the folder, by name, the settings first."""
    card = make_card(origin, student, network, precision) | {"kind": KIND}
    metadata = {METADATA_KEY: json.dumps(card, ensure_ascii=False)}
    voice = piper_graph(student, network, precision).model(metadata).SerializeToString()
    return {
        SETTINGS: as_json(_settings(card)),
        VOICE: voice,
        README: _README.format(**card).encode(),
    }


def _settings(card: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": KIND,
        "audio": {"sample_rate": SAMPLE_RATE, "quality": "medium"},
        "espeak": {"voice": "en-us"},  # must be there, and is not used with text
        "language": {
            "code": "en_US",
            "family": "en",
            "region": "US",
            "name_native": "English",
            "name_english": "English",
            "country_english": "United States",
        },
        "dataset": card["name"],
        "inference": {"noise_scale": 0.0, "length_scale": 1.0, "noise_w": 0.0},
        "phoneme_type": "text",
        "phoneme_map": {},
        "phoneme_id_map": id_table(),
        "num_symbols": N_IDS,
        "num_speakers": 1,
        "speaker_id_map": {},
        "hop_length": HOP_LENGTH,
        "piper_version": "1.0.0",
        "lightspeech": {key: card[key] for key in ("name", "licence", "voice", "vocoder")},
    }


_README = """\
# {name}: a voice by LightSpeech, for Piper

    pip install piper-tts
    python -m piper -m voice.onnx -f hello.wav "Hello there."

`--length-scale` is the inverse of LightSpeech's pace, from 0.1 to 10; `--noise-scale` and
`--noise-w-scale` do nothing.

**What this way of speaking lacks.** Piper feeds the text letter by letter, so LightSpeech's text
normalisation is left out: digits are read one by one, abbreviations as they are written, `$`, `^`
and `_` not at all. A line is spoken as one sentence: give Piper a sentence a line. With
`--no-normalize` it is as loud as LightSpeech's own.

Licence: {licence}.
"""
