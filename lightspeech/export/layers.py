"""The layers that the student and the light vocoder share, as ONNX nodes.

Frames are rows: (T, C), one utterance and no batch. What only scales or shifts is folded into the
next product, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from lightspeech.convnext import KERNEL_SIZE, Block
from lightspeech.export.graph import Graph, Value


def numbers(tensor: Tensor) -> np.ndarray:
    """A weight in double precision."""
    return tensor.detach().cpu().double().numpy()


LARGEST = 64
"""Magnitude of a weight of 8 bits. Up to 127 would fit, but processors without an instruction for
such products add two of them in 16 bits, where they must not overflow."""


@dataclass(frozen=True)
class Linear:
    """x (T, I) -> x @ weight + bias (T, O)."""

    weight: np.ndarray
    """(I, O), double precision; transposed to what nn.Linear has"""
    bias: np.ndarray
    """(O,)"""

    @staticmethod
    def of(layer: nn.Linear) -> Linear:
        weight = numbers(layer.weight).T
        bias = np.zeros(weight.shape[1]) if layer.bias is None else numbers(layer.bias)
        return Linear(weight, bias)

    def after(self, first: Linear) -> Linear:
        """The layer that does what `first` and then this one do."""
        return Linear(first.weight @ self.weight, first.bias @ self.weight + self.bias)

    def after_norm(self, norm: nn.LayerNorm) -> Linear:
        """This layer with the scale and shift that a normalisation before it ends with."""
        scale, shift = numbers(norm.weight), numbers(norm.bias)
        return self.after(Linear(np.diag(scale), shift))

    def scaled(self, scale: np.ndarray) -> Linear:
        """This layer with each of its outputs multiplied by a number."""
        return Linear(self.weight * scale, self.bias * scale)

    def columns(self, index: slice | np.ndarray) -> Linear:
        """Some of its outputs."""
        return Linear(self.weight[:, index], self.bias[index])

    @staticmethod
    def side_by_side(*layers: Linear) -> Linear:
        """One layer that gives what several give, one after the other."""
        return Linear(
            np.concatenate([layer.weight for layer in layers], 1),
            np.concatenate([layer.bias for layer in layers]),
        )


def linear(graph: Graph, name: str, x: Value, layer: Linear, *, may_round: bool = False) -> Value:
    """x (T, I) -> (T, O).

    Args:
        may_round: in a graph of the precision int8, whether the product is one of whole numbers.
    """
    if may_round and graph.precision == "int8":
        return _rounded(graph, name, x, layer)
    weight = graph.weight(f"{name}.weight", layer.weight)
    if not layer.bias.any():
        return x @ weight
    return graph.op("Gemm", x, weight, graph.weight(f"{name}.bias", layer.bias))


def _rounded(graph: Graph, name: str, x: Value, layer: Linear) -> Value:
    """The same with weights of 8 bits, with a scale an output, and inputs of 8 bits, with one."""
    scale = np.abs(layer.weight).max(0) / LARGEST
    scale[scale == 0.0] = 1.0
    weight = graph.weight(f"{name}.weight", np.rint(layer.weight / scale).astype(np.int8))
    small, small_scale, zero = graph.ops("DynamicQuantizeLinear", 3, x)
    product = graph.op("MatMulInteger", small, weight, zero).cast(np.float32)
    # ONNX Runtime makes one node of all this if it stands in this order.
    product = product * (small_scale * graph.weight(f"{name}.scale", scale))
    return product + graph.weight(f"{name}.bias", layer.bias)


def layer_norm(graph: Graph, x: Value, norm: nn.LayerNorm) -> Value:
    """x (T, C) to mean 0 and variance 1 a row; its scale and shift belong to the next layer."""
    ones = np.ones(norm.normalized_shape, np.float32)
    return graph.op("LayerNormalization", x, ones, axis=-1, epsilon=norm.eps)


def block(graph: Graph, x: Value, layer: Block) -> Value:
    """A ConvNeXt block, x (T, C) -> (T, C)."""
    channels = layer.along_time.weight.shape[0]
    kernel = graph.weight("along_time.weight", numbers(layer.along_time.weight))  # (C, 1, 1, 7)
    assert layer.along_time.bias is not None
    bias = graph.weight("along_time.bias", numbers(layer.along_time.bias))
    side = KERNEL_SIZE // 2
    # In two dimensions it is three times as fast as in one, in ONNX Runtime too; and it takes these
    # changes of layout into its own, where they have four axes.
    heard = x.reshape(1, 1, -1, channels).transpose(0, 3, 1, 2)  # (1, C, 1, T)
    heard = graph.op("Conv", heard, kernel, bias, group=channels, pads=[0, side, 0, side])
    heard = heard.transpose(0, 2, 3, 1).reshape(-1, channels)  # (T, C)
    near = layer_norm(graph, heard, layer.norm)
    expand = Linear.of(layer.expand).after_norm(layer.norm)
    hidden = graph.op("Gelu", linear(graph, "expand", near, expand, may_round=True))
    contract = Linear.of(layer.contract).scaled(numbers(layer.scale))
    return x + linear(graph, "contract", hidden, contract, may_round=True)
