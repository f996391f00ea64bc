"""PyTorch's two file formats -> dictionaries and tensors, without running what is in them.

The zip format (PyTorch 1.6 and newer) is an archive with the pickle in `data.pkl` and each
storage's bytes in `data/KEY`; its checksums are verified. The legacy format is a row of pickles
(magic number, protocol, machine, content, keys of the storages) and then each storage's bytes.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeload.pickled import PickledObject, Reference, read_pickle

LEGACY_STARTS = tuple(b"\x80%c\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." % p for p in (2, 3))
"""PyTorch's magic number, pickled with either protocol: how a legacy file begins"""

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}

# Names that checkpoints hold beside modules: tensors, and harmless values such as a learning rate
# that was a NumPy number, under the names of before and after NumPy 2.
_PLAIN = frozenset(
    {
        *_STORAGES,
        *(f"torch.{name}" for name in ("Size", "device", "float32", "float16", "float64")),
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "collections.OrderedDict",
        "__builtin__.set",
        "builtins.set",
        "_codecs.encode",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
# What modules hold beside layers; the second is how PyTorch 1.0 named its library of kernels.
_BESIDE_MODULES = (
    "torch.nn.utils.weight_norm.WeightNorm",
    "torch.nn.backends.thnn._get_thnn_function_backend",
)
_MAX_AXES = 8
_MAX_NAME = 500
_MAX_ENTRIES = 100_000


class Unsupported(Exception):  # noqa: N818 - says what the file is, not that it is damaged
    """A sound file of another sort; the message completes a sentence that begins with its path."""


class _Names:
    """Names that a checkpoint may hold; classes of some modules among them."""

    def __init__(self, modules: frozenset[str]) -> None:
        self.modules = modules

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in _PLAIN or (bool(self.modules) and self._is_of_a_module(name))

    def _is_of_a_module(self, name: str) -> bool:
        if name in _BESIDE_MODULES:
            return True
        module, _, rest = name.rpartition(".")
        layers = ("torch.nn.modules.", "torch.nn.parallel.")
        return (module in self.modules or module.startswith(layers)) and rest[:1].isupper()


def read_torch_file(path: Path, modules: frozenset[str]) -> Any:
    """What a file of torch.save holds.

    Args:
        modules: modules whose pickled classes become `PickledObject`s, and with them torch.nn's.

    Raises:
        Unsupported: it is sound, but something else than a checkpoint.
        Refused: it asks for anything but tensors, plain values and those classes.
        ValueError, RuntimeError, zipfile.BadZipFile and many more: it is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(len(LEGACY_STARTS[0]))
    if start.startswith(b"PK"):
        return _read_zip(path, _Names(modules))
    if start not in LEGACY_STARTS:
        raise Unsupported("is a pickle that PyTorch did not write")
    return _read_legacy(path, _Names(modules))


def _read_zip(path: Path, allowed: Container[str]) -> Any:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if not pickles:
            raise Unsupported("is a zip archive without a checkpoint in it")
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise Unsupported("is a TorchScript program, not a checkpoint")
        prefix = pickles[0][: -len("data.pkl")]

        def read(name: str) -> bytes:
            try:
                entry = archive.getinfo(prefix + name)
            except KeyError as e:
                raise ValueError(f"no {name} in it") from e
            # PyTorch compresses nothing; so an entry has one length, less than the file's.
            stored = entry.compress_type == zipfile.ZIP_STORED
            if not stored or entry.compress_size != entry.file_size or entry.file_size > size:
                raise ValueError(f"{name} in it is compressed")
            return archive.read(entry)

        if prefix + "byteorder" in names and read("byteorder") != b"little":
            raise Unsupported("was written on a big-endian machine")

        def load(key: str, dtype: torch.dtype, count: int) -> Tensor:
            content = read(f"data/{key}")
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"data/{key} in it has {len(content)} bytes")
            return _as_tensor(bytearray(content), dtype)

        # The pickle comes last: what it refers to has been checked to be an archive of PyTorch's.
        storages = _Storages(load, size)
        return read_pickle(read("data.pkl"), allowed, storages.find, _CALLS)


def _read_legacy(path: Path, allowed: Container[str]) -> Any:
    with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as file:
        awaited: dict[str, Tensor] = {}

        def load(key: str, dtype: torch.dtype, count: int) -> Tensor:
            awaited[key] = torch.empty(count, dtype=dtype)  # its bytes follow after the pickles
            return awaited[key]

        def plain(_: Any) -> Any:
            raise ValueError("a tensor where none can be")

        _, protocol, machine = (
            read_pickle(file, (), plain, {})  # type: ignore[arg-type]
            for _ in range(3)
        )
        if protocol != 1001 or not isinstance(machine, dict):
            raise ValueError(f"its protocol is {protocol!r}")
        if not machine.get("little_endian", True):
            raise Unsupported("was written on a big-endian machine")
        storages = _Storages(load, file.size())
        content = read_pickle(file, allowed, storages.find, _CALLS)  # type: ignore[arg-type]
        keys = read_pickle(file, (), plain, {})  # type: ignore[arg-type]
        # PyTorch writes them in order, which reveals two that have been exchanged.
        if not isinstance(keys, list) or keys != sorted(awaited):
            raise ValueError("its list of tensors is another")
        for key in keys:
            target = awaited[key]
            (count,) = struct.unpack("<q", file.read(8))
            size = count * target.itemsize
            if count != target.numel() or size > file.size() - file.tell():
                raise ValueError(f"tensor {key} has another length")
            if count:
                target.copy_(_as_tensor(bytearray(file.read(size)), target.dtype))
        return content


def _as_tensor(content: bytearray, dtype: torch.dtype) -> Tensor:
    if not content:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool:  # any byte but 0 and 1 would be undefined behaviour
        return torch.frombuffer(content, dtype=torch.uint8) != 0
    return torch.frombuffer(content, dtype=dtype)


class _Storages:
    """The flat tensors that a pickle refers to, each loaded once; `room` bytes of them at most."""

    def __init__(self, load: Callable[[str, torch.dtype, int], Tensor], room: int) -> None:
        self.load = load
        self.room = room
        self.known: dict[str, Tensor] = {}

    def find(self, identity: Any) -> Any:
        """The storage, or the class, that stands for a persistent identity."""
        if not isinstance(identity, tuple) or not identity:
            raise TypeError("an identity that is no tuple")
        if identity[0] == "module" and len(identity) == 4:
            # A legacy file has the source code of its classes: (class, file, source). Unread.
            if not isinstance(identity[1], Reference):
                raise TypeError("a module that is no class")
            return identity[1]
        if identity[0] != "storage" or len(identity) not in (5, 6):
            raise ValueError("an identity of an unknown sort")
        _, kind, key, _, count, *view = identity
        if not isinstance(kind, Reference) or kind.name not in _STORAGES:
            raise TypeError("a storage of an unknown type")
        if not isinstance(key, str) or not _is_count(count):
            raise TypeError("a storage without a key and a length")
        dtype = _STORAGES[kind.name]
        if key not in self.known:
            self.room -= count * dtype.itemsize
            if self.room < 0:
                raise ValueError("its tensors are longer than the file")
            self.known[key] = self.load(key, dtype, count)
        storage = self.known[key]
        if storage.dtype != dtype or storage.numel() != count:
            raise ValueError(f"tensor {key} has two lengths")
        if view and view[0] is not None:  # files from before PyTorch 0.4 name parts of storages
            _, offset, length = view[0]
            return _strided(storage, offset, (length,), (1,))
        return storage


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _strided(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; it never has more elements than the storage."""
    if not isinstance(storage, Tensor) or storage.dim() != 1:
        raise TypeError("a tensor of no storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise TypeError("a tensor without a shape")
    if len(size) > _MAX_AXES or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError("a tensor of an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= storage.numel() or count > storage.numel()):
        raise ValueError("a tensor beyond its storage")
    # A part of a storage does not begin where its memory does, from which as_strided counts.
    start = storage.storage_offset() + offset if count else 0
    return torch.as_strided(storage, size, stride, start)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError("a parameter of no tensor")
    return tensor


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sizes, tuple | list) or len(sizes) > _MAX_AXES:
        raise TypeError("a size that is none")
    return tuple(sizes)


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
}


def weights_of(module: PickledObject) -> dict[str, Tensor]:
    """The state dict of a pickled torch.nn.Module, read off its parameters, buffers and children.

    Raises ValueError or TypeError where it is not one.
    """
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    entries = 0  # bounded, as are the names: parts of a pickle can be referred to over and over
    waiting: list[tuple[str, Any]] = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if part is None:
            continue
        if not isinstance(part, PickledObject) or id(part) in seen:
            raise TypeError(f"{prefix} in it is no module of its own")
        seen.add(id(part))
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, value in part.state.get(kind, {}).items():
                entries += 1
                if not isinstance(name, str) or len(prefix) + len(name) > _MAX_NAME:
                    raise ValueError("names of parts that are no names")
                if entries > _MAX_ENTRIES:
                    raise ValueError(f"more than {_MAX_ENTRIES} parts")
                if kind == "_modules":
                    waiting.append((f"{prefix}{name}.", value))
                elif isinstance(value, Tensor):
                    weights[f"{prefix}{name}"] = value
    return weights
