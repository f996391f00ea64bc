"""Reads a checkpoint file without running anything in it; says what is wrong where it cannot."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tacotron2.config import AUDIO_FACTS
from tacotron2.errors import CheckpointError

FORMAT = "tacotron2"
VERSION = 1
"""Format and version of the JSON beside our safetensors."""

_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number, pickled

# Harmless things that training checkpoints hold besides tensors: a learning rate that was a NumPy
# number. Under the names that pickles from before and after NumPy 2 give them.
_ALLOWED: list[tuple[Callable[..., Any], str] | Callable[..., Any]] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)),
]

# What PyTorch's reader raises for files that are cut short or altered.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    BufferError,
    MemoryError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint file holds."""

    path: Path
    sha256: str
    content: Any
    """a state dict, or a dict with one among its entries"""
    audio_facts: dict[str, int | float | str]
    """from the JSON beside safetensors; else the published model's"""


def read_checkpoint_file(path: str | Path, hint: str) -> CheckpointFile:
    """Reads a file of any supported format, told by its content, not by its name.

    Raises CheckpointError for anything else; `hint` ends the messages that ask for another file.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a file; {hint}")
    try:
        with open(path, "rb") as file:
            start = file.read(512)
        digest = _sha256(path)
    except FileNotFoundError as e:
        raise CheckpointError(f"no file {path}; {hint}") from e
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror or e}") from e
    if not start:
        raise CheckpointError(f"{path} is empty; {hint}")
    if start[8:9] == b"{" and start[6:8] == b"\0\0":  # length of a JSON header, and the header
        facts = _read_description(path, digest)
        try:
            return CheckpointFile(path, digest, load_file(path), facts)
        except (SafetensorError, *_DAMAGE) as e:
            raise CheckpointError(_damaged(path, e)) from e
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(f"{path} {_guess(start)}; {hint}")
    return CheckpointFile(path, digest, _read_torch(path, start, hint), dict(AUDIO_FACTS))


def _read_torch(path: Path, start: bytes, hint: str) -> Any:
    if start.startswith(b"PK"):
        names = _names_in_zip(path)
        if "data.pkl" not in names:
            raise CheckpointError(f"{path} is a zip archive without a checkpoint in it; {hint}")
        if "constants.pkl" in names:
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint; {hint}")
    elif not start.startswith(_LEGACY_START):
        raise CheckpointError(f"{path} is a pickle that PyTorch did not write; {hint}")
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            # Of unusual pickle protocols and of its own deprecated classes; users can mend neither.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        asked = re.search(r"GLOBAL ([\w.]+)", str(e))
        if asked is None:
            raise CheckpointError(_damaged(path, e)) from e
        raise CheckpointError(_refusal(path, asked[1])) from e
    except _DAMAGE as e:
        raise CheckpointError(_damaged(path, e)) from e


def _names_in_zip(path: Path) -> set[str]:
    """The names of the files in an archive, without their folders."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.rpartition("/")[2] for name in archive.namelist()}
    except _DAMAGE as e:
        raise CheckpointError(_damaged(path, e)) from e


def _refusal(path: Path, asked: str) -> str:
    """The message for a pickle that asks for something beyond tensors and plain values."""
    if asked.startswith("glow.") or "WaveGlow" in asked:
        return (
            f"{path} is a whole pickled WaveGlow (a vocoder), not a Tacotron 2 checkpoint; "
            "expected one such as NVIDIA's tacotron2_statedict.pt"
        )
    return (
        f"{path} asks to run code while it is read ({asked}), which is refused; expected a file "
        "with nothing but weights: where it was made, save them alone with "
        "torch.save({'state_dict': model.state_dict()}, FILE)"
    )


def _damaged(path: Path, error: BaseException) -> str:
    # PyTorch answers a pickle that makes no sense with advice on how to run it; that helps nobody.
    advice = isinstance(error, pickle.UnpicklingError)
    reason = "the pickle in it makes no sense" if advice else str(error).strip()
    reason = (reason.splitlines() or [type(error).__name__])[0][:120]
    return (
        f"{path} is cut short or damaged ({reason}); "
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


def _read_description(path: Path, digest: str) -> dict[str, int | float | str]:
    """Checks a safetensors file against the JSON beside it, if any; returns its audio facts."""
    beside = description_path(path)
    if not beside.exists():
        return dict(AUDIO_FACTS)
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{beside} is not readable JSON ({e}); restore it") from e
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(
            f"{beside} does not describe a Tacotron 2 checkpoint (its format is not {FORMAT!r}); "
            "restore the one that tacotron2.convert wrote"
        )
    if description.get("version") != VERSION:
        raise CheckpointError(
            f"{beside} has version {description.get('version')!r}, expected {VERSION}; "
            "convert the original checkpoint again with python -m tacotron2.convert"
        )
    if description.get("sha256") != digest:
        raise CheckpointError(
            f"{path} is not the file that {beside.name} describes: its SHA-256 is {digest}, "
            f"expected {description.get('sha256')}; restore both files"
        )
    facts = description.get("audio")
    if not isinstance(facts, dict) or facts.keys() != AUDIO_FACTS.keys():
        raise CheckpointError(f"{beside}: expected audio facts {', '.join(AUDIO_FACTS)}")
    return facts


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
