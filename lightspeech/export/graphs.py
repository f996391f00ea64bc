"""The three graphs of an exported voice: ids to mel, mel to sound, and both in one.

`precision` is one of `card.PRECISIONS`.
"""

from __future__ import annotations

import numpy as np

from lightspeech.audio import HOP_LENGTH, N_MELS
from lightspeech.export.graph import Graph, Value
from lightspeech.export.student_graph import student_nodes
from lightspeech.export.vocoder_graph import vocoder_nodes
from lightspeech.model import LightSpeech
from lightspeech.vocoders.light_network import LightNetwork

SAMPLES = f"{HOP_LENGTH} T"
"""what the number of samples is called"""


def mel_graph(student: LightSpeech, precision: str = "float32") -> Graph:
    """tokens (N,), pace () -> mel (T, M), durations (N,)."""
    graph = Graph("LightSpeech student", precision)
    mel, durations = student_nodes(graph, *_text_inputs(graph), student)
    graph.output("mel", mel, np.float32, ("T", N_MELS))
    graph.output("durations", durations, np.int64, ("N",))
    return graph


def vocoder_graph(network: LightNetwork, precision: str = "float32") -> Graph:
    """mel (T, M) -> wav (256 T,)."""
    graph = Graph("LightSpeech vocoder", precision)
    mel = graph.input("mel", np.float32, ("T", N_MELS))
    graph.output("wav", vocoder_nodes(graph, mel, network), np.float32, (SAMPLES,))
    return graph


def voice_graph(student: LightSpeech, network: LightNetwork, precision: str = "float32") -> Graph:
    """tokens (N,), pace () -> wav (256 T,), durations (N,)."""
    graph = Graph("LightSpeech voice", precision)
    wav, durations = voice_nodes(graph, *_text_inputs(graph), student, network)
    graph.output("wav", wav, np.float32, (SAMPLES,))
    graph.output("durations", durations, np.int64, ("N",))
    return graph


def voice_nodes(
    graph: Graph, tokens: Value, pace: Value, student: LightSpeech, network: LightNetwork
) -> tuple[Value, Value]:
    """Adds a whole voice to a graph; the sound (256 T,) and the durations (N,)."""
    mel, durations = student_nodes(graph, tokens, pace, student)
    return vocoder_nodes(graph, mel, network), durations


def _text_inputs(graph: Graph) -> tuple[Value, Value]:
    return graph.input("tokens", np.int64, ("N",)), graph.input("pace", np.float32, ())
