"""The part voice: an exported voice without PyTorch, beside the same layers in PyTorch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightspeech.audio import FRAME_SECONDS
from lightspeech.benchmark.memory import Memory
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import TEXT, Settings
from lightspeech.benchmark.student import plain_student
from lightspeech.benchmark.timing import best_times
from lightspeech.checkpoint import load_voice
from lightspeech.errors import InputError
from lightspeech.model import LightSpeech
from lightspeech.synthesis import PRETRAINED
from lightspeech.text import encode_sentence
from lightspeech.vocoders.light import PRETRAINED as LIGHT
from lightspeech.vocoders.light import load_light

Run = Callable[[], object]


def bench_voice(settings: Settings) -> Findings:
    """The bundled voice, exported, with one thread and with all that the machine has.

    Without the packages that an export needs there is a note instead.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        return Findings([], ("voice: not measured; it needs pip install -e '.[export,runtime]'",))
    from lightspeech.export.card import Origin
    from lightspeech.export.folder import CARD, KIND, VOICE, voice_files, write_files

    student, facts = load_voice(PRETRAINED)
    vocoder = load_light(LIGHT)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "voice"
        files = voice_files(student, vocoder.network, Origin("bundled", "", facts, vocoder.source))
        write_files(out, files, CARD, KIND)
        size = len(files[VOICE])
        for threads in sorted({settings.threads, os.cpu_count() or 1}):
            rows += _layers(out, student, vocoder.network, threads, settings.repeats)
            rows += _texts(out, threads, settings.repeats, size)
    whole = sum(len(content) for content in files.values()) / 1e6
    note = f"files of the exported voice: {whole:.1f} MB, voice.onnx {size / 1e6:.1f} MB"
    return Findings(rows, (note,))


def session(path: Path, threads: int) -> Any:
    """One graph of an export, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


@torch.inference_mode()
def _layers(
    out: Path, student: LightSpeech, network: torch.nn.Module, threads: int, repeats: int
) -> list[Row]:
    """The student and the vocoder, each side in turn, on one sentence."""
    ids = encode_sentence(TEXT)
    tokens, lengths = torch.tensor([ids]), torch.tensor([len(ids)])
    mel = student.infer(tokens, lengths).mel
    inputs = {"tokens": np.array(ids, np.int64), "pace": np.array(1, np.float32)}
    plain = plain_student(student)
    graphs = {name: session(out / name, threads) for name in ("mel.onnx", "vocoder.onnx")}
    sides: dict[str, list[Run]] = {
        "student": [
            partial(graphs["mel.onnx"].run, None, inputs),
            partial(student.infer, tokens, lengths),
            partial(plain.infer, tokens, lengths),
        ],
        "light vocoder": [
            partial(graphs["vocoder.onnx"].run, None, {"mel": mel[0].numpy()}),
            partial(network, mel),
        ],
    }
    speech = mel.shape[1] * FRAME_SECONDS
    rows, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, runs in sides.items():
            onnx, ours, *others = best_times(runs, 5 * repeats)
            against, beside = (others[0], "nn.GRU") if others else (ours, "PyTorch")
            what = f"{name}, {speech:.1f} s of speech, {_threads(threads)}"
            rows.append(
                Row(
                    "voice",
                    f"{what}, ONNX Runtime",
                    onnx,
                    beside=beside,
                    ratio=against / onnx,
                    speech_seconds=speech,
                )
            )
            rows.append(
                Row(
                    "voice",
                    f"{what}, PyTorch",
                    ours,
                    beside=beside if others else "",
                    ratio=against / ours if others else None,
                    speech_seconds=speech,
                )
            )
    finally:
        torch.set_num_threads(before)
    return rows


def _texts(out: Path, threads: int, repeats: int, size: int) -> list[Row]:
    """Text to samples, in a process without PyTorch."""
    module = "lightspeech.benchmark.speaking"
    done = subprocess.run(
        [sys.executable, "-m", module, str(out), "--threads", str(threads), "--repeats",
         str(repeats)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"the exported voice could not be measured: {words[-1]}")
    found = json.loads(done.stdout)
    longest = max(text["speech_seconds"] for text in found["texts"].values())
    memory = None
    if found["peak_bytes"] is not None:
        memory = Memory(found["peak_bytes"], None, longest)
    rows = [
        Row(
            "voice",
            f"text to sound, {name}, {text['speech_seconds']:.1f} s, {_threads(threads)}",
            text["seconds"],
            speech_seconds=text["speech_seconds"],
            first_seconds=text["first_seconds"],
            memory=memory,
            model_bytes=size,
        )
        for name, text in found["texts"].items()
    ]
    start = Row(
        "voice",
        f"program to first sound of a word, {_threads(threads)}",
        found["first_sound_seconds"],
        memory=memory,
        model_bytes=size,
    )
    return [*rows, start]


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
