"""The voiced part of the light vocoder as ONNX nodes: harmonics of a pitch.

It computes what `LightNetwork.spectra` and `nearest_harmonics` do, with half the sines: of the two
harmonics beside a bin, the one above has turned as far as the one below and one pitch more,

    cos(high) = cos(low) cos(turned) - sin(low) sin(turned),

and `turned` is one number a frame. Distances are in units in which a bin is pi / 2, so that the
main lobe of the window's spectrum ends at pi.
"""

from __future__ import annotations

import math

import numpy as np

from lightspeech.audio import FFT_SIZE, FRAME_SECONDS, SAMPLE_RATE
from lightspeech.export.graph import Graph, Value
from lightspeech.export.layers import Linear, linear, numbers
from lightspeech.vocoders.light_network import (
    HIGHEST_PITCH,
    LOWEST_PITCH,
    LightNetwork,
)

BIN = math.pi / 2
"""of our units"""


class Harmonics:
    """What does not depend on the bin; `spectrum` gives the rest.

    Args:
        x: (T, C) the last normalisation's, without scale and shift.
    """

    def __init__(self, graph: Graph, x: Value, network: LightNetwork) -> None:
        self.graph, self.network = graph, network
        layer = Linear.of(network.harmonics).after_norm(network.last_norm)
        bands = linear(graph, "bands", x, layer)
        self.share, self.shift = graph.ops("Split", 2, bands, axis=1, num_outputs=2)
        exact = self._pitch(x)
        self.turned = self._turned(exact)  # (T, 1) radians
        pitch = exact.cast(np.float32)
        bin_hertz = SAMPLE_RATE / FFT_SIZE
        self.spacing = pitch * (BIN / bin_hertz)
        self.harmonics_a_bin = graph.op("Div", bin_hertz, pitch)
        self.cos, self.sin = graph.op("Cos", self.turned), graph.op("Sin", self.turned)

    def _pitch(self, x: Value) -> Value:
        """(T, 1) float64 Hz."""
        graph = self.graph
        layer = Linear.of(self.network.pitch).after_norm(self.network.last_norm)
        share = graph.op("Sigmoid", x.cast(np.float64) @ layer.weight + layer.bias)
        octaves = math.log(HIGHEST_PITCH / LOWEST_PITCH)
        return graph.op("Exp", share * np.array(octaves)) * np.array(LOWEST_PITCH)

    def _turned(self, pitch: Value) -> Value:
        """The pitch's integral by each frame, within one turn: (T, 1) radians.

        In double precision until whole turns are off: high harmonics multiply what is left.
        """
        graph = self.graph
        steps = pitch.rows(1, 2**62) + pitch.rows(0, -1)  # (T - 1, 1)
        none = np.zeros((1, 1), np.float64)
        steps = steps * np.array(0.5 * FRAME_SECONDS)
        turned = graph.op("CumSum", graph.op("Concat", none, steps, axis=0), 0)
        return (turned - graph.op("Floor", turned)).cast(np.float32) * (2 * math.pi)

    def spectrum(self, bins: np.ndarray, magnitude: Value) -> tuple[Value, Value, Value]:
        """The harmonics in some bins, the first of which is 0 or 1.

        Args:
            magnitude: (T, bins) of all that is there.

        Returns:
            real and imaginary parts of the harmonics, and the magnitude of the rest: (T, bins).
        """
        graph = self.graph
        between = graph.weight(
            "between", numbers(self.network.get_buffer("between_bands"))[:, bins]
        )
        voiced = magnitude * graph.op("Sigmoid", self.share @ between)
        half = voiced * 0.5  # of the raised cosine's 1 + cos
        places = bins[None].astype(np.float32)
        number = graph.op("Floor", self.harmonics_a_bin * graph.weight("bins", places))
        above = graph.weight("places", places * BIN) - number * self.spacing
        # There is no harmonic 0. Bins 0 and 1, the only ones that it could reach, are always below
        # the first one, so that it is the one below them.
        exists = np.ones_like(places)
        exists[0, 0] = 0.0
        low = (self._lobe(above) + 1.0) * graph.weight("exists", exists)
        high = self._lobe(self.spacing - above) + 1.0
        ahead = (low + high * self.cos) * half
        aside = high * self.sin * half
        phase = number * self.turned + self.shift @ between
        cos, sin = graph.op("Cos", phase), graph.op("Sin", phase)
        return ahead * cos - aside * sin, ahead * sin + aside * cos, magnitude - voiced

    def _lobe(self, distance: Value) -> Value:
        return self.graph.op("Cos", self.graph.op("Min", distance, math.pi))
