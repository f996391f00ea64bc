"""Several graphs with the same weights, of which one file holds them and the others point into it.

ONNX tensors may lie in another file ("external data"): its name, an offset and a length. The other
file here is itself a graph, in which the bytes of a tensor stand as they are. The offsets are
multiples of 64, so that a reader may map the file into memory and use the numbers where they are.
"""

from __future__ import annotations

import onnx

ALIGNMENT = 64
"""bytes: a cache line, and the largest vector register"""
SMALLEST = 1024
"""bytes: smaller tensors stand in every graph that needs them"""


def aligned(model: onnx.ModelProto) -> bytes:
    """The content of a file in which every tensor of SMALLEST bytes begins at such an offset.

    The room before a tensor is made with spaces in the doc_string of what stands before it.
    """
    for _ in range(4):  # a longer field may move those before it, as its length is written first
        content = model.SerializeToString()
        before: onnx.NodeProto | onnx.TensorProto = model.graph.node[-1]
        is_moved = False
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= SMALLEST:
                while shift := -content.index(tensor.raw_data) % ALIGNMENT:
                    if not before.doc_string:  # its tag and length are two bytes
                        shift = shift - 2 if shift > 2 else shift - 2 + ALIGNMENT
                    before.doc_string += " " * shift
                    content = model.SerializeToString()
                    is_moved = True
            before = tensor
        if not is_moved:
            return content
    raise AssertionError("the tensors cannot be aligned")


def pointing_into(model: onnx.ModelProto, content: bytes, name: str) -> bytes:
    """The content of a file whose larger tensors are those of another file.

    Args:
        model: its tensors, all of which `content` has too, lose their own numbers.
        content: of the other file, from `aligned`.
        name: of the other file, in the same folder.
    """
    for tensor in model.graph.initializer:
        length = len(tensor.raw_data)
        if length < SMALLEST:
            continue
        offset = content.index(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return bytes(model.SerializeToString())
