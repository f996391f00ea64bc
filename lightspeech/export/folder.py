"""The folder of an exported voice, as `lightspeech.runtime` takes it.

| file | what it is |
|---|---|
| `voice.onnx` | tokens, pace -> wav, durations; with its card inside it needs no other file |
| `mel.onnx` | tokens, pace -> mel, durations; its weights are those in voice.onnx |
| `vocoder.onnx` | mel -> wav; its weights are those in voice.onnx |
| `voice.json` | the card: symbols, audio, licence, checksums |
| `README.md` | the same for people |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.export.card import KIND, METADATA_KEY, Origin, make_card
from lightspeech.export.graphs import mel_graph, vocoder_graph, voice_graph
from lightspeech.export.readme import readme
from lightspeech.export.shared_weights import aligned, pointing_into
from lightspeech.files import make_folder, read_json, remove_leftovers, write_bytes
from lightspeech.model import LightSpeech
from lightspeech.vocoders.light_network import LightNetwork

__all__ = ["CARD", "KIND", "VOICE", "voice_files", "write_files"]

VOICE, MEL, VOCODER = "voice.onnx", "mel.onnx", "vocoder.onnx"
CARD = "voice.json"
README = "README.md"


def voice_files(
    student: LightSpeech, network: LightNetwork, origin: Origin, precision: str = "float32"
) -> dict[str, bytes]:
    """The files of the folder, by name, the card first."""
    card = make_card(origin, student, network, precision)
    metadata = {METADATA_KEY: json.dumps(card, ensure_ascii=False)}
    voice = aligned(voice_graph(student, network, precision).model(metadata))
    graphs = {
        VOICE: voice,
        MEL: pointing_into(mel_graph(student, precision).model(), voice, VOICE),
        VOCODER: pointing_into(vocoder_graph(network, precision).model(), voice, VOICE),
    }
    card["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in graphs.items()
    }
    return {CARD: as_json(card), **graphs, README: readme(card).encode()}


def write_files(folder: Path, files: Mapping[str, bytes], card: str, kind: str) -> None:
    """Writes each file whole or not at all, in that order.

    Args:
        card: which of the files says what the folder is. It comes first: where the others were not
            all written, its checksums tell.
        kind: what the card must say in a folder that is not empty.

    Raises:
        InputError: the folder is somebody else's, or cannot be written to.
    """
    _refuse_foreign_folder(folder, set(files), card, kind)
    make_folder(folder)
    remove_leftovers(folder)
    for name, content in files.items():
        write_bytes(folder / name, content)


def as_json(content: Any) -> bytes:
    """As `write_json` writes it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_foreign_folder(folder: Path, names: set[str], card: str, kind: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder with --out")
    there = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    if not there:
        return
    try:
        found = read_json(folder / card, "card of an exported voice") if card in there else None
    except InputError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise InputError(
            f"{folder} is not empty (it holds {there[0]}), and no exported voice of this format: "
            "give another folder with --out"
        )
    if foreign := [name for name in there if name not in names]:
        raise InputError(
            f"{folder} holds {foreign[0]} beside an exported voice: "
            "move it away, or give another folder with --out"
        )
