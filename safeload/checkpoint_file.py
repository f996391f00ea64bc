"""Reads a checkpoint file of any supported format; says in one line what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from safeload.errors import CheckpointError
from safeload.pickled import Refused
from safeload.torch_file import Unsupported, read_torch_file

# What reading a file that is cut short or altered ends in.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    BufferError,
    MemoryError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Kind:
    """The sort of model that a file is loaded for."""

    name: str
    """as in `a WaveGlow checkpoint`"""
    example: str
    """a file that would do, for messages: `NVIDIA's waveglow_256channels.pt`"""
    marks: re.Pattern[str]
    """matches the beginning of some parameter's name of every such model, and of no other's"""
    audio_facts: Mapping[str, int | float | str] = field(default_factory=dict)
    """of the published model's mels"""
    format: str = ""
    """in the JSON beside our safetensors; empty: such a JSON is not read"""
    version: int = 1
    """of that JSON"""
    converter: str = ""
    """the command that writes it"""
    modules: frozenset[str] = frozenset()
    """modules whose pickled classes, with torch.nn's, are read as data"""
    hint: str = ""
    """ends the messages that ask for another file; if empty: `expected ... such as EXAMPLE`"""

    @property
    def advice(self) -> str:
        return self.hint or f"expected a {self.name} checkpoint such as {self.example}"


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint file holds."""

    path: Path
    sha256: str
    content: Any
    """dictionaries, lists, tensors, numbers, texts and `PickledObject`s"""
    audio_facts: dict[str, int | float | str]
    """from the JSON beside safetensors; else the published model's"""
    description: dict[str, Any] | None
    """that JSON"""
    kind: Kind


def read_checkpoint_file(path: str | Path, kind: Kind) -> CheckpointFile:
    """Reads a file of any supported format, told by its content, not by its name.

    Nothing in it is executed, and no more memory is taken than the file is long.

    Raises CheckpointError for anything else; its message asks for a checkpoint of the `kind`.
    """
    path = Path(path)
    start, digest, other = b"", "", ""
    try:
        if path.is_dir():
            other = "folder"
        elif path.exists() and not path.is_file():  # opening it could wait, or never come to an end
            other = "pipe or a device"
        else:
            with open(path, "rb") as file:
                start = file.read(512)
            digest = _sha256(path)
    except FileNotFoundError as e:
        raise CheckpointError(f"no file {path}; {kind.advice}") from e
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror or e}") from e
    except ValueError as e:  # a NUL in the path
        raise CheckpointError(f"no file {str(path)!r}; {kind.advice}") from e
    if other:
        raise CheckpointError(f"{path} is a {other}, not a file; {kind.advice}")
    if not start:
        raise CheckpointError(f"{path} is empty; {kind.advice}")
    description = None
    try:
        if start[8:9] == b"{" and start[6:8] == b"\0\0":  # length of a JSON header, and the header
            description = _read_description(path, digest, kind)
            content = load_file(path)
            if description is not None:
                _check_audio_facts(path, description)
        elif start.startswith((b"PK\x03\x04", b"\x80")):
            content = read_torch_file(path, kind.modules)
        else:
            raise CheckpointError(f"{path} {_guess(start)}; {kind.advice}")
    except CheckpointError:
        raise
    except Unsupported as e:
        raise CheckpointError(f"{path} {e}; {kind.advice}") from e
    except Refused as e:
        raise CheckpointError(_refusal(path, e.name, kind)) from e
    except (SafetensorError, *_DAMAGE) as e:
        raise CheckpointError(_damaged(path, e)) from e
    facts = dict(kind.audio_facts if description is None else description["audio"])
    return CheckpointFile(path, digest, content, facts, description, kind)


def _refusal(path: Path, asked: str, kind: Kind) -> str:
    """The message for a pickle that asks for something beyond what checkpoints hold."""
    asked = asked if asked.isprintable() and len(asked) <= 80 else ascii(asked[:80])
    if asked.startswith("glow.") and "glow" not in kind.modules:
        return (
            f"{path} is a whole pickled WaveGlow (a vocoder), not a {kind.name} checkpoint; "
            f"{kind.advice}"
        )
    return (
        f"{path} asks to run code while it is read ({asked}), which is refused; expected a file "
        "with nothing but weights: where it was made, save them alone with "
        "torch.save({'state_dict': model.state_dict()}, FILE)"
    )


def _damaged(path: Path, error: BaseException) -> str:
    reason = (str(error).strip().splitlines() or [""])[0][:120]
    reason = reason if reason.isprintable() else ascii(reason)
    if isinstance(error, KeyError):
        reason = f"nothing under {reason}"
    return (
        f"{path} is cut short or damaged ({reason or type(error).__name__}); "
        "copy or download it again and compare its size with the original's"
    )


def _guess(start: bytes) -> str:
    """What a file that is no checkpoint of any format looks like."""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself (run git lfs pull)"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a checkpoint (a download that asked for a login, perhaps)"
    if b"\0" not in start:
        words = start[:24].decode("utf-8", "replace")
        return f"is a text file, not a checkpoint (it starts with {words!r})"
    return "is neither a PyTorch nor a safetensors file"


def description_path(weights: Path) -> Path:
    """Where the JSON that describes a safetensors file is."""
    return weights.with_suffix(".json")


def _read_description(path: Path, digest: str, kind: Kind) -> dict[str, Any] | None:
    """The JSON beside a safetensors file, if any, checked against the file."""
    beside = description_path(path)
    if not kind.format or not beside.exists():
        return None
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{beside} is not readable JSON ({e}); restore it") from e
    found = description.get("format") if isinstance(description, dict) else None
    if not isinstance(description, dict) or found != kind.format:
        with safe_open(path, "pt") as file:
            names = [name.removeprefix("module.") for name in list(file.keys())]
        if not any(kind.marks.match(name) for name in names):
            return None  # both are another model's; which, its weights will tell
        shown = ascii(found[:40]) if isinstance(found, str) else "missing"
        raise CheckpointError(
            f"{beside} does not describe a {kind.name} checkpoint (its format is {shown}, not "
            f"{kind.format!r}); restore the one that {kind.converter} wrote, or give another file"
        )
    if description.get("version") != kind.version:
        raise CheckpointError(
            f"{beside} has version {description.get('version')!r}, expected {kind.version}; "
            f"convert the original checkpoint again with {kind.converter}"
        )
    if description.get("sha256") != digest:
        raise CheckpointError(
            f"{path} is not the file that {beside.name} describes: its SHA-256 is {digest}, "
            f"expected {description.get('sha256')}; restore both files"
        )
    facts = description.get("audio")
    if not isinstance(facts, dict) or facts.keys() != kind.audio_facts.keys():
        raise CheckpointError(f"{beside}: expected audio facts {', '.join(kind.audio_facts)}")
    return description


def _check_audio_facts(path: Path, description: dict[str, Any]) -> None:
    """The JSON's must be those that the weights were written with, if these say."""
    with safe_open(path, "pt") as file:
        written = json.loads((file.metadata() or {}).get("audio", "null"))
    if written is not None and written != description["audio"]:
        different = [n for n, fact in description["audio"].items() if fact != written.get(n)]
        raise CheckpointError(
            f"{description_path(path)} gives other audio facts than {path.name} was written with: "
            + ", ".join(
                f"{n} {description['audio'][n]!r} for {written.get(n)!r}" for n in different
            )
            + "; restore it"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
