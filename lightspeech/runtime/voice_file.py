"""An exported voice on disk: a folder, or its voice.onnx alone -> the graph and its card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json
from lightspeech.runtime.card import Card, read_card
from lightspeech.runtime.onnx_file import read_properties

VOICE, CARD = "voice.onnx", "voice.json"
PROPERTY = "lightspeech"
"""under which voice.onnx holds its card"""
LARGEST = 2**31 - 1
"""bytes of an ONNX file"""


def read_voice(path: str | Path) -> tuple[bytes, Card]:
    """The ONNX graph of a voice, and its card.

    Args:
        path: what `python -m lightspeech.export` wrote: the folder, whose voice.json then holds for
            the card and the checksum, or the file voice.onnx, under any name.

    Raises:
        InputError: nothing there, something else, damaged, or not for this version.
    """
    path = Path(path)
    file = _find(path)
    try:
        content = file.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read {file}: {e.strerror or e}") from e
    if path.is_dir() and (path / CARD).exists():
        facts = read_json(path / CARD, "card of an exported voice")
        card = read_card(facts, str(path / CARD))
        _check_content(content, facts, file)
        read_properties(content, str(file))
        return content, card
    return content, read_card(_inner_facts(content, file), str(file))


def _find(path: Path) -> Path:
    wanted = f"give the folder that python -m lightspeech.export wrote, or its {VOICE}"
    if not path.exists():
        raise InputError(f"no voice at {path}: {wanted}")
    file = path / VOICE if path.is_dir() else path
    if file.suffix == ".safetensors" or (not file.exists() and any(path.glob("*.safetensors"))):
        raise InputError(
            f"{path} is a voice that needs PyTorch: export it first, with "
            f"python -m lightspeech.export {path} --out voice"
        )
    if not file.is_file():
        raise InputError(f"no {VOICE} in {path}: {wanted}")
    if file.stat().st_size > LARGEST:
        raise InputError(f"{file} is too large for an ONNX file: {wanted}")
    return file


def _check_content(content: bytes, facts: dict[str, Any], file: Path) -> None:
    files = facts.get("files")
    entry = files.get(VOICE) if isinstance(files, dict) else None
    digest = entry.get("sha256") if isinstance(entry, dict) else None
    if digest is None:
        raise InputError(f"{file.with_name(CARD)} is damaged: it has no checksum of {VOICE}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(
            f"{file} is damaged, or not of this {CARD}: its checksum does not match; "
            "copy it again, or export it again"
        )


def _inner_facts(content: bytes, file: Path) -> Any:
    """The card within an ONNX file."""
    found = read_properties(content, str(file)).get(PROPERTY)
    if found is None:
        raise InputError(
            f"{file} is an ONNX file, but no voice for this runtime (Piper's are for Piper): "
            "make one with python -m lightspeech.export"
        )
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{file} is damaged: its card cannot be read ({e})") from e
