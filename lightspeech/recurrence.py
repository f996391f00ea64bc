"""The steps of a GRU compiled to machine code, for speaking on a CPU: one utterance, one direction.

A step needs the whole recurrent weight, (3H, H), once. With H = 128 these are 197 kB, which stay in
a core's second-level cache (32 bytes a cycle), so that reading them is what a step must take; the
loops below are little slower, where some ten operations of a framework a step take several times as
long. The weight is read as nn.GRU stores it: a row for each gate and channel, which is one dot
product with the state.

numba, which librosa needs too, compiles the loops: in seconds the first time, then they are kept
in __pycache__ beside this file or in the user's cache folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {
    # Sums may be taken in any order and products fused into them, which SIMD needs. Not-a-numbers
    # and infinities stay what they are.
    "fastmath": {"reassoc", "contract", "nsz"},
    "error_model": "numpy",  # no check for division by zero: there is none, and it prevents SIMD
    "nogil": True,
}
SIGNATURE = "void(f4[:,::1], i8[::1], f4[:,::1], f4[::1], f4[:,::1], i8, b1)"

# tanh(x) = x P(x^2) / Q(x^2) to 7e-9 where |x| < 8, and 1 - tanh(8) is 2e-7. Least maximum of the
# relative error; in single precision rounding leaves 3e-7.
LIMIT = np.float32(8)
P0, P1, P2, P3, P4 = np.array(
    [0.999999994, 0.134445089, 0.003571611, 2.18948773e-05, 1.52307227e-08], np.float32
)
Q0, Q1, Q2, Q3, Q4 = np.array(
    [1.0, 0.467778362, 0.0261644922, 0.00034113133, 8.52256987e-07], np.float32
)
HALF = np.float32(0.5)


@njit(**OPTIONS)
def tanh(x: np.float32) -> np.float32:
    x = min(max(x, -LIMIT), LIMIT)
    y = x * x
    p = P0 + y * (P1 + y * (P2 + y * (P3 + y * P4)))
    q = Q0 + y * (Q1 + y * (Q2 + y * (Q3 + y * Q4)))
    return x * p / q


@njit(**OPTIONS)
def sigmoid(x: np.float32) -> np.float32:
    return HALF + HALF * tanh(HALF * x)


def gru_steps(
    projected: NDArray[np.float32],
    source: NDArray[np.int64],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    outputs: NDArray[np.float32],
    length: int,
    backwards: bool,
) -> None:
    """Writes one direction's half of the outputs: zeros after the first `length` steps.

    Args:
        projected: (N, 3H) W_i x + b_i of the gates (r, z, n).
        source: (T,) the row of `projected` that each step reads.
        weight: (3H, H) W_h of the same.
        bias: (3H,) b_h.
        outputs: (T, 2H), forward direction first.
        length: steps, at most T.
        backwards: whether this is the reverse direction.
    """
    hidden_size = weight.shape[1]
    first = hidden_size if backwards else 0
    state = np.zeros(hidden_size, np.float32)
    gates = np.empty(3 * hidden_size, np.float32)
    for step in range(length):
        time = length - 1 - step if backwards else step
        x = projected[source[time]]
        for i in range(3 * hidden_size):
            total = np.float32(0)
            for j in range(hidden_size):
                total += weight[i, j] * state[j]
            gates[i] = total + bias[i]
        for i in range(hidden_size):
            r = sigmoid(x[i] + gates[i])
            z = sigmoid(x[hidden_size + i] + gates[hidden_size + i])
            n = tanh(x[2 * hidden_size + i] + r * gates[2 * hidden_size + i])
            state[i] = n + z * (state[i] - n)
        for i in range(hidden_size):
            outputs[time, first + i] = state[i]
    for time in range(length, len(outputs)):
        for i in range(hidden_size):
            outputs[time, first + i] = 0


def compile_steps() -> Callable[..., None] | None:
    """`gru_steps` as machine code; None where numba is told to compile nothing."""
    if config.DISABLE_JIT:
        return None
    try:
        compiled: Callable[..., None] = njit(SIGNATURE, cache=True, **OPTIONS)(gru_steps)
    except (OSError, RuntimeError):  # nowhere to keep it: then every process compiles it anew
        compiled = njit(SIGNATURE, **OPTIONS)(gru_steps)
    return compiled
