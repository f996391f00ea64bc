"""The inverse direction, piece by piece and without computing anything twice.

A convolution needs its input on both sides. Giving each piece of an utterance enough context for
the whole network (3,060 positions of 8 samples to either side for the published sizes) would mean
computing the context again for every piece. Instead each layer keeps the last columns of its input
and runs as many positions behind the layer before it as it looks ahead. The output then lags behind
the input by the reach of the whole network, the work is that of one pass over the utterance
whatever the size of the pieces, and what is kept does not grow with the utterance.

With the published sizes a position of 8 samples takes 75 million multiply-adds (81 as published;
NetworkStream says why), and on one CPU thread they run at 90 % of the speed of one large matrix
product. Tried and no faster: convolutions unfolded into one product, weights laid out for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from waveglow.invertible import InvertibleConvolution
from waveglow.wavenet import CouplingNetwork, Layer, weights_of


class Columns:
    """A signal (B, C, L) that grows at its end and is forgotten from its start."""

    def __init__(
        self, batch: Tensor, n_channels: int, padding: int = 0, dtype: torch.dtype | None = None
    ) -> None:
        """`batch`: any tensor of the batch size, on the device; `padding`: zeros before position
        0."""
        self._kept = batch.new_zeros((batch.shape[0], n_channels, padding), dtype=dtype)
        self._first = -padding

    @property
    def last(self) -> int:
        """The position after the last one."""
        return self._first + self._kept.shape[2]

    def extend(self, length: int, padding: int = 0) -> Tensor:
        """Appends columns (B, C, length), for the caller to write to, and after them zeros."""
        B, C, n_kept = self._kept.shape
        grown = self._kept.new_empty(B, C, n_kept + length + padding)
        grown[:, :, :n_kept] = self._kept
        grown[:, :, n_kept + length :] = 0
        self._kept = grown
        return grown[:, :, n_kept : n_kept + length]

    def between(self, first: int, last: int) -> Tensor:
        """(B, C, last - first)"""
        assert self._first <= first <= last <= self.last
        return self._kept[:, :, first - self._first : last - self._first]

    def forget(self, before: int) -> None:
        """Gives back the memory of the columns before this position."""
        if before > self._first:
            self._kept = self._kept[:, :, before - self._first :].clone()
            self._first = before


class NetworkStream:
    """A coupling network at work on the `length` positions of an utterance."""

    def __init__(self, network: CouplingNetwork, batch: Tensor, length: int) -> None:
        """`batch`: any tensor of the audio's batch size, device and precision."""
        self._length = length
        self._dtype = network.working_dtype
        self._start, self._start_bias = weights_of(network.start)
        self._layers = [network.layer(i).to(self._dtype) for i in range(len(network.dilations))]
        # Nothing non-linear stands between the skip connections and `end`: they are multiplied
        # out, which leaves a few rows of the C that each skip connection has.
        end, end_bias = weights_of(network.end)
        end = end[:, :, 0]
        self._skips = [end @ layer.skip[:, :, 0].to(end) for layer in self._layers]
        biases = torch.stack([layer.skip_bias for layer in self._layers])
        self._skip_bias = end_bias + end @ biases.to(end).sum(0)
        self._inputs = [
            Columns(batch, network.n_channels, layer.padding, self._dtype) for layer in self._layers
        ]
        self._done = [0] * len(self._layers)
        self._outputs = Columns(batch, len(end))

    def advance(self, audio: Tensor, spectrum: Columns, end: int) -> Tensor:
        """Takes the next positions of the audio (B, n_half, n), gives the next of the output.

        `end` is where the audio would end by now if it went on for ever; growing beyond `length`,
        it lets the layers, which lag behind, come to their ends. The output (B, 2 n_half, m) is
        offset and log-scale.
        """
        if audio.shape[2]:
            matrix = _for_all(self._start[:, :, 0], audio)
            started = torch.baddbmm(self._start_bias[:, None], matrix, audio)  # (B, C, n)
            self._grow(0, audio.shape[2]).copy_(started)
        before = self._done[-1]
        for i, layer in enumerate(self._layers):
            end -= layer.padding
            first, last = self._done[i], min(max(end, 0), self._length)
            if first == last:
                continue
            self._done[i] = last
            inputs = self._inputs[i]
            gates = _gates(
                layer,
                inputs.between(first - layer.padding, last + layer.padding),
                spectrum.between(first, last),
            )
            passed = _gated(gates.to(audio.dtype))  # (B, C, m)
            if i == 0:
                fresh = self._outputs.extend(last - first)
                fresh.copy_(self._skip_bias[:, None].expand_as(fresh))
            self._outputs.between(first, last).baddbmm_(_for_all(self._skips[i], audio), passed)
            if len(layer.residual):
                fresh = self._grow(i + 1, last - first)
                torch.add(inputs.between(first, last), layer.residual_bias[:, None], out=fresh)
                residual = _for_all(layer.residual[:, :, 0], audio)
                fresh.baddbmm_(residual, passed.to(self._dtype))
            inputs.forget(last - layer.padding)
        outputs = self._outputs.between(before, self._done[-1])
        self._outputs.forget(self._done[-1])
        return outputs

    def _grow(self, i: int, n: int) -> Tensor:
        """Room for the next `n` columns of a layer's input, which ends in zeros."""
        ends = self._inputs[i].last + n == self._length
        return self._inputs[i].extend(n, self._layers[i].padding if ends else 0)


class FlowStream:
    """A step of the flow, inverted: the coupling, then the convolution."""

    def __init__(
        self,
        network: CouplingNetwork,
        convolution: InvertibleConvolution,
        batch: Tensor,
        length: int,
    ) -> None:
        """`batch`: any tensor of the audio's batch size, device and precision."""
        self._network = NetworkStream(network, batch, length)
        self._inverse = convolution.inverse()
        self._audio = Columns(batch, len(self._inverse))
        self.done = 0
        """the position up to which the flow's output has been given"""

    def advance(self, audio: Tensor, spectrum: Columns, end: int) -> Tensor:
        """Takes the next positions of the audio (B, C, n), gives the next of the output
        (B, C, m); `end` as in NetworkStream."""
        n_half = audio.shape[1] // 2
        self._audio.extend(audio.shape[2]).copy_(audio)
        offset, log_scale = self._network.advance(audio[:, :n_half], spectrum, end).chunk(2, 1)
        first, self.done = self.done, self.done + offset.shape[2]
        x = self._audio.between(first, self.done).clone()
        x[:, n_half:].sub_(offset).mul_(log_scale.neg().exp_())
        self._audio.forget(self.done)
        return torch.bmm(_for_all(self._inverse, x), x)


def _gates(layer: Layer, seen: Tensor, spectrum: Tensor) -> Tensor:
    """Inputs (B, C, m and the padding), mel (B, M n_group, m) -> (B, 2C, m)."""
    convolve = convolve_by_products if seen.is_cuda else F.conv1d
    gates = convolve(seen, layer.weight, layer.bias, dilation=layer.dilation)
    return gates.baddbmm_(_for_all(layer.condition[:, :, 0], spectrum), spectrum)


def _gated(gates: Tensor) -> Tensor:
    """(B, 2C, m) -> tanh(first half) sigmoid(second half), (B, C, m), in place."""
    signal, gate = gates.chunk(2, 1)
    # tanh(x) = 2 sigmoid(2 x) - 1 is several times faster than tanh on a CPU.
    return signal.mul_(2).sigmoid_().mul_(2).sub_(1).mul_(gate.sigmoid_())


def convolve_by_products(x: Tensor, weight: Tensor, bias: Tensor, *, dilation: int) -> Tensor:
    """A convolution (B, C, n + reach) -> (B, D, n) as a matrix product for each tap.

    cuDNN's convolutions round float32 to TF32's 10 bits unless a global switch forbids it; the
    products of cuBLAS do so only where `torch.set_float32_matmul_precision` asks for it. On CPUs
    the convolution is as exact and 3 % faster.
    """
    n_taps = weight.shape[2]
    n = x.shape[2] - dilation * (n_taps - 1)
    result = bias[:, None].expand(x.shape[0], -1, n)
    for tap in range(n_taps):
        seen = x[:, :, tap * dilation : tap * dilation + n]
        result = torch.baddbmm(result, _for_all(weight[:, :, tap], x), seen)
    return result


def _for_all(matrix: Tensor, batch: Tensor) -> Tensor:
    """The matrix for each item of a batch, without copies."""
    return matrix.expand(batch.shape[0], -1, -1)
