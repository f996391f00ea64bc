"""The student as ONNX nodes: symbol ids and a pace -> log-mel spectrogram and durations.

It computes what `LightSpeech.infer` computes for one utterance, with fewer multiplications:

- The encoder reads a small set of symbols, so their share of its gates is looked up in a table that
  was made beforehand: embedding and input weights are one tensor.
- Nothing stands between the encoder's projection and the layers that read it, so each of them is
  one product with it, and all are done in one.
- The decoder's input is constant over a token: its share of the gates is computed once a token.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from lightspeech.convnext import Block
from lightspeech.export.graph import Graph, Value
from lightspeech.export.layers import Linear, block, layer_norm, linear, numbers
from lightspeech.export.recurrence import gru, gru_in_order, input_gates, token_of_frame
from lightspeech.model import MAX_PACE, MIN_PACE, LightSpeech
from lightspeech.refiner import Refiner


def student_nodes(
    graph: Graph, tokens: Value, pace: Value, student: LightSpeech
) -> tuple[Value, Value]:
    """Adds a student to a graph.

    Args:
        tokens: (N,) symbol ids, int64, at least one; one beyond the table ends the run.
        pace: () float32; what is beyond the limits of `LightSpeech.infer` is held there.

    Returns:
        the mel (T, M), and the durations (N,) in frames, int64.
    """
    # Without a token this is an error, where a GRU of no steps would end the whole process.
    tokens = tokens + 0 * tokens.take(graph.constant(0))
    with graph.scope("encoder"):
        symbols, _, place, _ = graph.ops("Unique", 4, tokens)  # few: less to multiply with
        encoded = gru(graph, _symbols(graph, student).take(symbols), place, student.encoder)
    with graph.scope("memory"):
        hidden, gates, *of_token = _read_memory(graph, encoded, student)
    with graph.scope("durations"):
        durations = _durations(graph, hidden, pace, student)  # (N,)
        source = token_of_frame(graph, durations)  # (T,)
    with graph.scope("decoder"):
        frames = gru_in_order(graph, gates, durations, student.decoder)  # (T, 2H)
    output = Linear.of(student.output)
    if student.refiner is not None:
        with graph.scope("refiner"):
            frames = _refine(graph, frames, of_token[0], durations, source, student.refiner)
        output = output.after_norm(student.refiner.norm)
    with graph.scope("output"):
        return linear(graph, "mel", frames, output), durations


def _symbols(graph: Graph, student: LightSpeech) -> Value:
    """(symbols, 6H): what each symbol adds to the encoder's gates."""
    gates = input_gates(student.encoder)
    table = numbers(student.embedding.weight) @ gates.weight + gates.bias
    return graph.weight("symbols", table)


def _read_memory(graph: Graph, encoded: Value, student: LightSpeech) -> list[Value]:
    """What is read from the encoder's projection: the hidden layer of the durations (N, D), the
    decoder's gates (N, 6H) and, with a refiner, its share of a token (N, C)."""
    projection = Linear.of(student.projection)
    first = student.duration_predictor[0]
    assert isinstance(first, nn.Linear)
    hidden = linear(graph, "durations", encoded, Linear.of(first).after(projection))
    readers = [input_gates(student.decoder)]
    if student.refiner is not None:
        readers.append(Linear.of(student.refiner.of_token))
    readers = [reader.after(projection) for reader in readers]
    together = Linear.side_by_side(*readers)
    read = linear(graph, "decoder", encoded, together, may_round=True)
    sizes = np.array([len(reader.bias) for reader in readers], np.int64)
    return [hidden, *graph.ops("Split", len(readers), read, sizes, axis=1)]


def _durations(graph: Graph, hidden: Value, pace: Value, student: LightSpeech) -> Value:
    last = student.duration_predictor[2]
    assert isinstance(last, nn.Linear)
    predicted = linear(graph, "last", graph.op("Relu", hidden), Linear.of(last))  # (N, 1)
    predicted = graph.op("Relu", predicted)
    rounded = graph.op("Round", predicted.reshape(-1) / graph.op("Clip", pace, MIN_PACE, MAX_PACE))
    return graph.op("Max", rounded, 1.0).cast(np.int64)  # Round: halves to even, as in torch


def _refine(
    graph: Graph, decoded: Value, of_token: Value, durations: Value, source: Value, refiner: Refiner
) -> Value:
    """The refiner's frames (T, C), before the scale and shift of its last normalisation."""
    spans = durations.cast(np.float32)  # (N,)
    starts = graph.op("CumSum", spans, 0) - spans
    ones = graph.op("Expand", 1.0, source.size(0))
    times = graph.op("CumSum", ones, 0, exclusive=1)  # (T,)
    lengths = spans.take(source)  # (T,)
    before = times - starts.take(source)
    places = [
        (before + 0.5) / lengths,
        graph.op("Log", before + 1.0),
        graph.op("Log", lengths - before),
        graph.op("Log", lengths),
    ]
    columns = [graph.op("Unsqueeze", place, np.array([1], np.int64)) for place in places]
    where = graph.op("Concat", *columns, axis=1)  # (T, POSITIONS)
    x = linear(graph, "of_decoder", decoded, Linear.of(refiner.of_decoder), may_round=True)
    of_position = linear(graph, "of_position", where, Linear.of(refiner.of_position))
    x = x + of_token.take(source) + of_position  # (T, C)
    for number, layer in enumerate(refiner.blocks):
        assert isinstance(layer, Block)
        with graph.scope(f"block.{number}"):
            x = block(graph, x, layer)
    return layer_norm(graph, x, refiner.norm)
