"""What an ONNX file holds, looked at before ONNX Runtime runs it.

ONNX is a protobuf message, and little of it is of interest here: the metadata, and whether a tensor
lies in another file. That could be any file: ONNX Runtime looks for it in the working directory,
and older versions wherever it is. So a voice must bring all of its numbers itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightspeech.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's ways to write a field

# Message -> field number -> the message in that field: all the ways from a model to a tensor.
_MESSAGES = {
    "model": {7: "graph", 14: "property", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_KEY, _VALUE = 1, 2  # of a property


def read_properties(content: bytes, where: str) -> dict[str, bytes]:
    """The metadata of an ONNX file that needs no other file.

    Args:
        where: names the file in the messages.

    Raises:
        InputError: damaged, no ONNX file, or one with tensors in other files.
    """
    properties: dict[str, bytes] = {}
    pending = [("model", memoryview(content))]
    try:
        while pending:
            message, data = pending.pop()
            found = {}
            for number, value in _fields(data):
                found[number] = value
                inner = _MESSAGES.get(message, {}).get(number)
                if inner and isinstance(value, memoryview):
                    pending.append((inner, value))
            if message == "property":
                key, text = found.get(_KEY), found.get(_VALUE)
                if isinstance(key, memoryview) and isinstance(text, memoryview):
                    properties[bytes(key).decode()] = bytes(text)
            elif message == "tensor" and (found.get(_DATA_LOCATION) or _EXTERNAL_DATA in found):
                raise InputError(
                    f"{where} keeps numbers in another file, and a voice must bring its own: "
                    "export it again"
                )
    except InputError:
        raise
    except (ValueError, IndexError) as e:
        raise InputError(f"{where} is damaged, or no ONNX file: export it or copy it again") from e
    return properties


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field of a message; ValueError or IndexError if it is none."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if position + length > len(data):
            raise ValueError("a field that is cut off")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
