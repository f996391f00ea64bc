"""A small writer of ONNX graphs: values that can be added and multiplied, weights by their names.

    graph = Graph("twice")
    x = graph.input("x", np.float32, ("frames",))
    graph.output("y", 2.0 * x, np.float32, ("frames",))
    model = graph.model()

Written by hand and not traced from torch, a graph computes what we want it to and in the order that
is fast in ONNX Runtime, and its tensors have the names that we give them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import lightspeech

OPSET = 20
"""of the standard operators; ONNX Runtime knows it since 1.17"""
IR_VERSION = 9
"""of the file, the one that came with that opset"""

Operand = Any
"""a Value, an array, or a number: a float stands for float32, an int for int64"""


class Value:
    """What a node gives: a name in its graph."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.graph.op("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", self, other)

    def __matmul__(self, other: Operand) -> Value:
        return self.graph.op("MatMul", self, other)

    def cast(self, dtype: type[np.generic]) -> Value:
        """The same numbers in another type."""
        return self.graph.op("Cast", self, to=element_type(dtype))

    def reshape(self, *shape: int) -> Value:
        """Another shape, with -1 for what follows from the others."""
        return self.graph.op("Reshape", self, np.array(shape, np.int64))

    def transpose(self, *axes: int) -> Value:
        """The axes in another order."""
        return self.graph.op("Transpose", self, perm=list(axes))

    def size(self, axis: int) -> Value:
        """How long an axis is, (1,) int64."""
        return self.graph.op("Shape", self, start=axis, end=axis + 1)

    def rows(self, start: Operand, stop: Operand, axis: int = 0, step: int = 1) -> Value:
        """Those from `start` to before `stop` of an axis; negative ones count from its end."""
        bounds = [x if isinstance(x, Value) else np.array([x], np.int64) for x in (start, stop)]
        where = (np.array([axis], np.int64), np.array([step], np.int64))
        return self.graph.op("Slice", self, *bounds, *where)

    def take(self, index: Value, axis: int = 0) -> Value:
        """Those that `index` names of an axis."""
        return self.graph.op("Gather", self, index, axis=axis)


class Graph:
    """Gathers nodes in the order in which they are made, which is one in which they can run.

    Args:
        name: of the graph, for people.
        precision: `float32` or `int8`, of the large products.
    """

    def __init__(self, name: str, precision: str = "float32") -> None:
        self.name, self.precision = name, precision
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._scope: list[str] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """What is made within has names that begin with this one, for profiles and viewers."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> Value:
        """An input of the graph; sizes that vary have a name."""
        self._inputs.append(helper.make_tensor_value_info(name, element_type(dtype), shape))
        return Value(self, name)

    def output(
        self, name: str, value: Value, dtype: type[np.generic], shape: Sequence[int | str]
    ) -> None:
        """Makes a value an output of the graph, under this name."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, element_type(dtype), shape))

    def weight(self, name: str, array: np.ndarray) -> Value:
        """A tensor of the model, in single precision if it is in double; once under each name."""
        return self.shared("/".join([*self._scope, name]), array)

    def shared(self, name: str, array: np.ndarray) -> Value:
        """A tensor of the model that several scopes use: `weight` with the whole name."""
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        known = self._weights.setdefault(name, np.ascontiguousarray(array))
        assert np.array_equal(known, array), f"two weights are named {name}"
        return Value(self, name)

    def constant(self, value: Operand) -> Value:
        """A number or a small array, under a name of its own."""
        if isinstance(value, (int, float)):
            value = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        name = f"constant/{value.dtype}{list(value.shape)}/{value.tobytes().hex()}"
        if len(name) > 80:
            name = f"constant/{len(self._weights)}"
        self._weights.setdefault(name, value)
        return Value(self, name)

    def op(self, kind: str, *inputs: Operand, **attributes: Any) -> Value:
        """A node with one output; None stands for an input that is left out."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, n_outputs: int, *inputs: Operand, **attributes: Any) -> list[Value]:
        """A node with several outputs."""
        name = "/".join([*self._scope, f"{kind}.{len(self._nodes)}"])
        names = ["" if x is None else self._value(x).name for x in inputs]
        outputs = [name] if n_outputs == 1 else [f"{name}.{i}" for i in range(n_outputs)]
        self._nodes.append(helper.make_node(kind, names, outputs, name=name, **attributes))
        return [Value(self, output) for output in outputs]

    def _value(self, operand: Operand) -> Value:
        return operand if isinstance(operand, Value) else self.constant(operand)

    def model(self, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The finished file's content.

        Args:
            metadata: what it is to say about itself, by key.
        """
        weights = [numpy_helper.from_array(x, name) for name, x in self._weights.items()]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, weights)
        model: onnx.ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="LightSpeech",
            producer_version=lightspeech.__version__,
        )
        for key, value in (metadata or {}).items():
            model.metadata_props.add(key=key, value=value)
        return model


def element_type(dtype: type[np.generic]) -> int:
    """ONNX's number for a type of numpy's."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
