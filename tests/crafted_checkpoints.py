"""Files in PyTorch's two formats around a pickle of one's own, and models to take them for."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from safeload import CheckpointError, Kind, find_state_dict, read_checkpoint_file

FACTS: dict[str, int | float | str] = {"sample_rate": 16000, "n_mels": 4}
PLAIN = Kind("Toy", "toy.pt", re.compile(r"toy\."))
MODULES = Kind(
    "Toy",
    "toy.pt",
    re.compile(r"toy\."),
    audio_facts=FACTS,
    format="toy",
    converter="python -m toy.convert",
    modules=frozenset({"glow"}),
)


def refused(path: Path, message: str, kind: Kind = MODULES) -> None:
    """Reading the file ends in one line that has its path and matches `message`."""
    with pytest.raises(CheckpointError, match=message) as caught:
        find_state_dict(read_checkpoint_file(path, kind))
    assert "\n" not in str(caught.value)
    assert str(path.with_suffix("")) in str(caught.value)


MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def zipped(
    path: Path,
    program: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A file in the zip format whose pickle is `program`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


def legacy(
    path: Path,
    program: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    itemsize: int = 4,
    little_endian: bool = True,
) -> Path:
    """A file in the legacy format whose pickle is `program`."""
    file = io.BytesIO()
    for value in (MAGIC, 1001, {**SYSTEM, "little_endian": little_endian}):
        pickle.dump(value, file, protocol=2)
    file.write(program)
    keys = sorted(storages or {})
    pickle.dump(keys, file, protocol=2)
    for key in keys:
        content = (storages or {})[key]
        file.write(struct.pack("<q", len(content) // itemsize) + content)
    path.write_bytes(file.getvalue())
    return path


FORMATS = {"zip": zipped, "legacy": legacy}


def text(value: str) -> bytes:
    """Opcodes that push a text."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """Opcodes that push a whole number of up to 255 bytes."""
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def name(module: str, of: str) -> bytes:
    """Opcodes that push a class or a function."""
    return b"c" + module.encode() + b"\n" + of.encode() + b"\n"


def numbers(*values: int) -> bytes:
    """Opcodes that push a tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """Opcodes that push the storage of a key, as the zip format names it."""
    identity = text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count)
    return b"(" + identity + b"tQ"


def legacy_storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """Opcodes that push the storage of a key, as the legacy format names it."""
    identity = text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count)
    return b"(" + identity + b"NtQ"


def tensor(stored: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Opcodes that push a view of a storage."""
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + stored
        + number(offset)
        + numbers(*size)
        + numbers(*stride)
        + b"\x89"
        + name("collections", "OrderedDict")
        + b")RtR"
    )


def program(*opcodes: bytes) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + b"".join(opcodes) + b"."
