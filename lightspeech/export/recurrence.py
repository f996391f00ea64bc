"""A bidirectional GRU as ONNX nodes, whose inputs repeat.

ONNX Runtime's GRU multiplies the input of every step with the input weights. What our GRUs read
repeats: a sentence has some twenty different symbols, and all frames of a token read the same. So
that product is made once a symbol or token, and becomes what a node takes for its weights; what it
takes for its input is the one-hot vector that picks the step's row.

The gates stand in the order r, z, n in torch and z, r, n ("h") in ONNX.
"""

from __future__ import annotations

import numpy as np

from lightspeech.export.graph import Graph, Value
from lightspeech.export.layers import Linear, numbers
from lightspeech.gru import BidirectionalGRU

PIECES = 6
"""into which `gru_in_order` cuts its rows"""


def input_gates(layer: BidirectionalGRU) -> Linear:
    """The input's share of the gates: (T, I) -> (T, 6H), z, r, n forward and z, r, n backward.

    The state's biases are in it, except for the candidate's, which the reset gate multiplies.
    """
    size = layer.hidden_size
    parts = []
    for end in ("", "_reverse"):
        weight = numbers(getattr(layer, f"weight_ih_l0{end}"))
        hidden_bias = numbers(getattr(layer, f"bias_hh_l0{end}"))
        hidden_bias[2 * size :] = 0.0
        bias = numbers(getattr(layer, f"bias_ih_l0{end}")) + hidden_bias
        parts.append(Linear(_reordered(weight, size).T, _reordered(bias, size)))
    return Linear.side_by_side(*parts)


def gru(graph: Graph, rows: Value, source: Value, layer: BidirectionalGRU) -> Value:
    """Runs the layer, from a state of zeros, over rows that come in any order.

    Args:
        rows: (R, 6H) what `input_gates` gives for each row of the input.
        source: (T,) the row that each step reads, int64.

    Returns:
        (T, 2H), forward direction first.
    """
    weights = rows.transpose(1, 0).reshape(2, 3 * layer.hidden_size, -1)  # (2, 3H, R)
    picked = _one_hot(graph, source, rows.size(0))  # (T, 1, R)
    states, _ = _nodes(graph, picked, weights, layer, "bidirectional")  # (T, 2, 1, H)
    return states.reshape(-1, 2 * layer.hidden_size)


def gru_in_order(
    graph: Graph, rows: Value, durations: Value, layer: BidirectionalGRU, pieces: int = PIECES
) -> Value:
    """Runs the layer, from a state of zeros, over rows each of which lasts for some steps.

    The rows are cut into pieces, and each piece goes on from the state of the one before it: then a
    one-hot vector needs to tell apart only the rows of a piece. Rows are added at the end to make
    the pieces equal; they leave a state of zeros as it is, so that the backward direction begins
    after them.

    Args:
        rows: (N, 6H) what `input_gates` gives for each row of the input.
        durations: (N,) steps of each row, int64, at least 1.

    Returns:
        (T, 2H), forward direction first; T is the sum of the durations.
    """
    size = layer.hidden_size
    n_rows, n_steps = rows.size(0), graph.op("ReduceSum", durations, keepdims=1)
    n_added = graph.op("Mod", 0 - n_rows, pieces)
    keeping = np.repeat(np.array([100.0, 0.0, 0.0] * 2, np.float32), size)  # z, which keeps all
    added = graph.constant(np.tile(keeping, (pieces - 1, 1))).rows(0, n_added)
    rows = graph.op("Concat", rows, added, axis=0)
    ones = graph.op("Expand", 1, n_added)
    durations = graph.op("Concat", durations, ones, axis=0).reshape(pieces, -1)  # (P, R)
    weights = rows.reshape(pieces, -1, 6 * size).transpose(0, 2, 1)  # (P, 6H, R)
    weights = weights.reshape(2 * pieces, 3 * size, -1)
    source = token_of_frame(graph, durations.reshape(-1))  # (T',)
    n_rows = durations.size(1)
    picked = _one_hot(graph, graph.op("Mod", source, n_rows), n_rows)  # (T', 1, R)
    steps = graph.op("ReduceSum", durations, np.array([1], np.int64), keepdims=0)  # (P,)
    inputs = graph.ops("Split", pieces, picked, steps, axis=0)
    each = graph.ops("Split", 2 * pieces, weights, axis=0, num_outputs=2 * pieces)  # (1, 3H, R)
    both = []
    for direction in ("forward", "reverse"):
        order = range(pieces) if direction == "forward" else reversed(range(pieces))
        states, last = {}, None
        for i in order:
            weight = each[2 * i + (direction == "reverse")]
            states[i], last = _nodes(graph, inputs[i], weight, layer, direction, last)
        both.append(graph.op("Concat", *(states[i] for i in range(pieces)), axis=0))
    together = graph.op("Concat", *both, axis=1).reshape(-1, 2 * size)  # (T', 2H)
    return together.rows(0, n_steps)


def _one_hot(graph: Graph, source: Value, n_rows: Value) -> Value:
    """(T,) below R -> (T, 1, R)"""
    all_rows = graph.op("Range", 0, graph.op("Squeeze", n_rows), 1)
    each = graph.op("OneHot", all_rows, n_rows, np.array([0.0, 1.0], np.float32))  # (R, R)
    return graph.op("Unsqueeze", each.take(source), np.array([1], np.int64))


def _nodes(
    graph: Graph,
    inputs: Value,
    weights: Value,
    layer: BidirectionalGRU,
    direction: str,
    state: Value | None = None,
) -> list[Value]:
    """The node; its outputs (T, D, 1, H) and last state (D, 1, H)."""
    size = layer.hidden_size
    ends = {"forward": ("",), "reverse": ("_reverse",), "bidirectional": ("", "_reverse")}
    hidden, bias = [], np.zeros((len(ends[direction]), 6 * size))
    for row, end in zip(bias, ends[direction], strict=True):
        hidden.append(_reordered(numbers(getattr(layer, f"weight_hh_l0{end}")), size))
        row[-size:] = numbers(getattr(layer, f"bias_hh_l0{end}"))[-size:]
    return graph.ops(
        "GRU",
        2,
        inputs,
        weights,
        graph.weight(f"{direction}.weight", np.stack(hidden)),
        graph.weight(f"{direction}.bias", bias),
        None,
        state,
        hidden_size=size,
        direction=direction,
        linear_before_reset=1,
    )


def _reordered(gates: np.ndarray, size: int) -> np.ndarray:
    """Rows of the gates r, z, n as z, r, n."""
    r, z, n = np.split(gates, 3)
    assert len(n) == size
    return np.concatenate([z, r, n])


def token_of_frame(graph: Graph, durations: Value) -> Value:
    """(N,) frames of each token, at least 1 -> (T,) the token of each frame.

    Every token starts at a frame of its own: counting the starts up to a frame tells its token.
    """
    ends = graph.op("CumSum", durations, 0)  # (N,)
    n_frames = ends.rows(-1, 2**62)  # (1,)
    starts = ends.rows(0, -1)  # (N - 1,): of all but the first token
    none = graph.op("Expand", 0, n_frames)
    ones = graph.op("Expand", 1, starts.size(0))
    return graph.op("CumSum", graph.op("ScatterElements", none, starts, ones), 0)
