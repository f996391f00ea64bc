"""The light vocoder as ONNX nodes: log-mel spectrogram -> sound.

The inverse Fourier transform is done in products of matrices, of a quarter of the plain size. With
n the sample, k the bin and 1024 the size, cos(2 pi k n / 1024) is the same at n and at 1024 - n;
at n and at 512 - n it is the same for an even k and the opposite for an odd k; sin likewise, with
the signs exchanged. So even and odd bins, real and imaginary parts give four sums over n = 0 to
256, and all 1024 samples are sums and differences of these.
"""

from __future__ import annotations

import numpy as np

from lightspeech.audio import FFT_SIZE, N_MELS
from lightspeech.convnext import KERNEL_SIZE, Block
from lightspeech.export.graph import Graph, Value
from lightspeech.export.harmonics import Harmonics
from lightspeech.export.layers import Linear, block, layer_norm, linear, numbers
from lightspeech.vocoders.light_network import (
    BINS,
    FRAMES_AFTER,
    FRAMES_BEFORE,
    LOUDEST,
    MASKING_BINS,
    MIDDLE,
    SPREAD,
    LightConfig,
    LightNetwork,
    least_power,
)

QUARTER = FFT_SIZE // 4
HALVES = ("even", "odd")
"""of the bins"""


def vocoder_nodes(graph: Graph, mel: Value, network: LightNetwork) -> Value:
    """Adds a light vocoder to a graph: mel (T, M) -> sound (256 T,)."""
    n_frames = mel.size(0)
    with graph.scope("first"):
        x = _first(graph, mel, network)  # (T + 3, C)
    norm = network.first_norm
    x = x * graph.weight("first.scale", numbers(norm.weight)) + graph.weight(
        "first.shift", numbers(norm.bias)
    )
    for number, layer in enumerate(network.blocks):
        assert isinstance(layer, Block)
        with graph.scope(f"block.{number}"):
            x = block(graph, x, layer)
    x = layer_norm(graph, x, network.last_norm)
    with graph.scope("voiced"):
        harmonics = Harmonics(graph, x, network)
    parts = []
    for first in (0, 1):
        bins = np.arange(first, BINS, 2)
        with graph.scope(HALVES[first]):
            magnitude, cos, sin = _bins(graph, x, bins, network)
            real, imaginary, free = harmonics.spectrum(bins, magnitude)
            parts.append((real + free * cos, imaginary + free * sin))
    sums = {}
    for first, kept in enumerate(_audible(graph, parts, network.config)):
        with graph.scope(HALVES[first]):
            for wave, part in zip(("cos", "sin"), parts[first], strict=True):
                matrix = _matrix(graph, wave, np.arange(first, BINS, 2))
                sums[f"{wave} {HALVES[first]}"] = (kept * part) @ matrix
    with graph.scope("sound"):
        return _overlap(graph, sums, n_frames, network)


def _first(graph: Graph, mel: Value, network: LightNetwork) -> Value:
    """The first convolution and its normalisation, without scale and shift."""
    convolution = network.first
    assert convolution.bias is not None
    first, last = mel.rows(0, 1), mel.rows(-1, 2**62)
    x = graph.op("Concat", *[first] * FRAMES_BEFORE, mel, *[last] * FRAMES_AFTER, axis=0)
    # The mel's scale is in the weights; its middle must be the zero that surrounds the frames.
    x = (x - MIDDLE).transpose(1, 0).reshape(1, N_MELS, 1, -1)
    weight = graph.weight("weight", numbers(convolution.weight)[:, :, None] / SPREAD)
    bias = graph.weight("bias", numbers(convolution.bias))
    side = KERNEL_SIZE // 2
    x = graph.op("Conv", x, weight, bias, pads=[0, side, 0, side])  # (1, C, 1, T + 3)
    x = x.reshape(network.config.size, -1).transpose(1, 0)
    return layer_norm(graph, x, network.first_norm)


def _bins(
    graph: Graph, x: Value, bins: np.ndarray, network: LightNetwork
) -> tuple[Value, Value, Value]:
    """Of some bins the magnitude, and cosine and sine of what follows no pitch: (T + 3, bins)."""
    layer = Linear.of(network.spectrum).after_norm(network.last_norm)
    magnitude = graph.op("Exp", linear(graph, "magnitude", x, layer.columns(bins)))
    phase = linear(graph, "phase", x, layer.columns(BINS + bins))
    return graph.op("Min", magnitude, LOUDEST), graph.op("Cos", phase), graph.op("Sin", phase)


def _audible(graph: Graph, parts: list[tuple[Value, Value]], config: LightConfig) -> list[Value]:
    """`light_network.audible` of even and odd bins: (T + 3, bins) of each.

    Beside bin k stand the bins k - 4 to k + 4: five of its own half, and four of the other.
    """
    power = [real * real + imaginary * imaginary for real, imaginary in parts]
    least = numbers(least_power(config))

    def loudest(half: int, bins: int, side: int) -> Value:
        rows = graph.op("Unsqueeze", power[half], np.array([0], np.int64))  # (1, T + 3, bins)
        pooled = graph.op("MaxPool", rows, kernel_shape=[bins], pads=[side, side])
        return graph.op("Squeeze", pooled, np.array([0], np.int64))

    found = []
    for half in (0, 1):
        own = loudest(half, MASKING_BINS + 1, MASKING_BINS // 2)
        others = loudest(1 - half, MASKING_BINS, MASKING_BINS // 2 - half)
        near = graph.op("Max", own, others) * config.masked**2
        limit = graph.op("Max", near, graph.weight(f"softest.{HALVES[half]}", least[half::2]))
        found.append(graph.op("Clip", 2.0 * power[half] / limit - 1.0, 0.0, 1.0))
    return found


def _matrix(graph: Graph, wave: str, bins: np.ndarray) -> Value:
    """(bins, 257): what the real (`cos`) or imaginary (`sin`) parts add to the samples 0 to 256.

    It is made of one turn of the circle, in whole steps, which are exact. ONNX Runtime does that
    once, when it loads the graph: the matrix need not be in the file.
    """
    circle = np.cos(2 * np.pi / FFT_SIZE * np.arange(FFT_SIZE))
    samples = graph.op("Range", 0, QUARTER + 1, 1)
    turns = graph.op("Range", int(bins[0]), BINS, 2).reshape(-1, 1) * samples
    ahead = QUARTER if wave == "sin" else 0  # cos(a + pi / 2) = -sin(a)
    steps = graph.op("Mod", turns + ahead, FFT_SIZE)
    # Bins 0 and 512 stand for themselves, all others for their mirror images too.
    weight = np.where(bins % (FFT_SIZE // 2), 2.0, 1.0) / FFT_SIZE
    # Phases are those of the middle of the window, sample 512, where odd bins have turned half.
    weight = weight * np.where(bins % 2, -1.0, 1.0)
    weights = graph.weight("weight", weight[:, None])
    return graph.shared("circle", circle).take(steps) * weights


def _overlap(graph: Graph, sums: dict[str, Value], n_frames: Value, network: LightNetwork) -> Value:
    """The four sums -> windowed frames, added where they overlap: (256 T,).

    Of a frame's quarters the first and third have sample n at n, and the second and fourth at
    256 - n: these are turned around when they have been added.
    """
    window = numbers(network.window)
    rising = graph.weight("rising", window[: QUARTER + 1])
    high = graph.weight("high", window[QUARTER : 2 * QUARTER + 1][::-1])
    even_sum = sums["cos even"] + sums["sin odd"]
    even_difference = sums["cos even"] - sums["sin odd"]
    odd_sum = sums["cos odd"] + sums["sin even"]
    odd_difference = sums["cos odd"] - sums["sin even"]

    def quarter(number: int, samples: Value, weight: Value) -> Value:
        start = 3 - number  # frames after the one whose last quarter is heard at that time
        return (samples * weight).rows(start, n_frames + start)

    forward = quarter(0, even_sum + odd_sum, rising) + quarter(
        2, even_difference - odd_difference, high
    )
    backward = quarter(1, even_sum - odd_sum, high) + quarter(
        3, even_difference + odd_difference, rising
    )
    forward = forward.rows(0, QUARTER, axis=1)
    backward = backward.rows(QUARTER, 0, axis=1, step=-1)
    return (forward + backward).reshape(-1)
