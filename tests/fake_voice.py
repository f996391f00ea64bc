"""A fake exported voice: a graph of a few nodes that is quick to make and easy to predict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from lightspeech.audio_facts import AUDIO_FACTS, HOP_LENGTH
from lightspeech.text import SYMBOLS

FRAMES = 3
"""of each symbol, at the pace 1"""

CARD: dict[str, Any] = {
    "format": 1,
    "kind": "LightSpeech export",
    "name": "fake",
    "precision": "float32",
    "language": "en",
    "licence": "none",
    "symbols": list(SYMBOLS),
    "audio": AUDIO_FACTS,
    "pace": {"min": 0.1, "max": 10, "default": 1.0},
    "sentence_silence": 0.2,
}


def graph(
    *, loudness: float = 1 / 300, samples_per_frame: int = HOP_LENGTH, n_outputs: int = 2
) -> onnx.ModelProto:
    """tokens (N,), pace () -> wav (256 T,), durations (N,).

    Each symbol lasts FRAMES / pace frames, rounded, and at least one; its samples are all
    `loudness` times its id, plus half that.
    """
    node = helper.make_node

    def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.array(value, dtype), name)

    nodes = [
        node("Div", ["frames", "pace"], ["exact"]),
        node("Round", ["exact"], ["rounded"]),
        node("Max", ["rounded", "one"], ["at_least_one"]),
        node("Cast", ["at_least_one"], ["duration"], to=TensorProto.INT64),
        node("Shape", ["tokens"], ["n_tokens"]),
        node("Expand", ["duration", "n_tokens"], ["durations"]),
        node("Cast", ["tokens"], ["ids"], to=TensorProto.FLOAT),
        node("Add", ["ids", "half"], ["shifted"]),
        node("Mul", ["shifted", "loudness"], ["levels"]),
        node("Unsqueeze", ["levels", "last_axis"], ["column"]),
        node("Mul", ["duration", "hop"], ["samples"]),
        node("Reshape", ["samples", "one_axis"], ["n_samples"]),
        node("Concat", ["n_tokens", "n_samples"], ["shape"], axis=0),
        node("Expand", ["column", "shape"], ["table"]),
        node("Reshape", ["table", "one_axis"], ["wav"]),
    ]
    constants = [
        constant("frames", FRAMES, np.float32),
        constant("one", 1, np.float32),
        constant("half", 0.5, np.float32),
        constant("loudness", loudness, np.float32),
        constant("hop", samples_per_frame, np.int64),
        constant("last_axis", [1], np.int64),
        constant("one_axis", [-1], np.int64),
    ]
    outputs = [
        helper.make_tensor_value_info("wav", TensorProto.FLOAT, ["S"]),
        helper.make_tensor_value_info("durations", TensorProto.INT64, ["N"]),
    ]
    made = helper.make_graph(
        nodes,
        "fake voice",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("pace", TensorProto.FLOAT, []),
        ],
        outputs[:n_outputs],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected_wav(ids: Sequence[int], frames: int = FRAMES) -> np.ndarray:
    """What the graph makes of one sentence."""
    levels = ((np.array(ids, np.float32) + 0.5) * np.float32(1 / 300)).astype(np.float32)
    return levels.repeat(frames * HOP_LENGTH)


def with_card(model: onnx.ModelProto, card: dict[str, Any] | None = None) -> bytes:
    """The content of a voice.onnx."""
    helper.set_model_props(model, {"lightspeech": json.dumps(CARD if card is None else card)})
    return bytes(model.SerializeToString())


def save_fake_voice(
    folder: Path, content: bytes | None = None, card: dict[str, Any] | None = None
) -> Path:
    """Writes a folder as `python -m lightspeech.export` does."""
    folder.mkdir(parents=True, exist_ok=True)
    card = CARD if card is None else card
    content = with_card(graph(), card) if content is None else content
    (folder / "voice.onnx").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "voice.json").write_text(json.dumps({**card, "files": {"voice.onnx": entry}}))
    return folder
