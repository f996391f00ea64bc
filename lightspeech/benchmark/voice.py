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
from lightspeech.benchmark.floors import light_multiply_adds, speaking_multiply_adds
from lightspeech.benchmark.memory import Memory
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import TEXT, Settings
from lightspeech.benchmark.student import plain_student, two_students
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.checkpoint import load_voice
from lightspeech.config import CONFIGS
from lightspeech.errors import InputError
from lightspeech.export.card import PRECISIONS, Origin
from lightspeech.model import LightSpeech
from lightspeech.synthesis import PRETRAINED
from lightspeech.text import encode_sentence
from lightspeech.vocoders.light import PRETRAINED as LIGHT
from lightspeech.vocoders.light import load_light
from lightspeech.vocoders.light_network import LightNetwork

Run = Callable[[], object]


def bench_voice(settings: Settings) -> Findings:
    """The bundled voice, exported, with one thread and with all that the machine has.

    Without the packages that an export needs there is a note instead.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        return Findings([], ("voice: not measured; it needs pip install -e '.[export,runtime]'",))
    student, facts = load_voice(PRETRAINED)
    published, _ = two_students(CONFIGS["lightspeech"].model)
    vocoder = load_light(LIGHT)
    rows: list[Row] = []
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = {}
        for name, layers in (("bundled", student), ("published", published.eval())):
            for precision in PRECISIONS:
                out = Path(folder) / name / precision
                sizes[name, precision] = _export(out, layers, vocoder.network, facts, precision)
        for precision in PRECISIONS:
            whole, voice = sizes["bundled", precision]
            notes.append(
                f"files of the exported voice, {precision}: {whole / 1e6:.1f} MB, "
                f"voice.onnx {voice / 1e6:.1f} MB"
            )
        for threads in sorted({settings.threads, os.cpu_count() or 1}):
            args = (threads, settings.repeats)
            rows += _student("student", Path(folder) / "bundled", student, *args)
            rows += _student(
                "student of the published layers", Path(folder) / "published", published, *args
            )
            rows += _vocoder(Path(folder) / "bundled", student, vocoder.network, *args)
            for precision in PRECISIONS:
                size = sizes["bundled", precision][1]
                rows += _texts(Path(folder) / "bundled" / precision, precision, size, *args)
    return Findings(rows, tuple(notes))


def _export(
    out: Path,
    student: LightSpeech,
    network: LightNetwork,
    facts: dict[str, Any],
    precision: str,
) -> tuple[int, int]:
    """Writes a voice; the bytes of all its files, and of the one that is all of it."""
    from lightspeech.export.folder import CARD, KIND, VOICE, voice_files, write_files

    files = voice_files(student, network, Origin("benchmark", "", facts, {}), precision)
    write_files(out, files, CARD, KIND)
    return sum(len(content) for content in files.values()), len(files[VOICE])


def session(path: Path, threads: int) -> Any:
    """One graph of an export, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its idle threads would take the cores from the side that is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


@torch.inference_mode()
def _student(
    name: str, exports: Path, student: LightSpeech, threads: int, repeats: int
) -> list[Row]:
    """One sentence, ids to mel: exported in each precision and in PyTorch, beside nn.GRU."""
    ids = encode_sentence(TEXT)
    tokens, lengths = torch.tensor([ids]), torch.tensor([len(ids)])
    inputs = {"tokens": np.array(ids, np.int64), "pace": np.array(1, np.float32)}
    sides = _exported(exports, "mel.onnx", inputs, threads)
    sides["PyTorch"] = partial(student.infer, tokens, lengths)
    sides["nn.GRU"] = partial(plain_student(student).infer, tokens, lengths)
    frames = student.infer(tokens, lengths).mel.shape[1]
    multiply_adds = speaking_multiply_adds(student.config, len(set(ids)), len(ids), frames)
    return _rows(name, sides, frames, multiply_adds, threads, repeats)


@torch.inference_mode()
def _vocoder(
    exports: Path, student: LightSpeech, network: LightNetwork, threads: int, repeats: int
) -> list[Row]:
    """The same sentence, mel to samples: exported in each precision, beside PyTorch."""
    ids = encode_sentence(TEXT)
    mel = student.infer(torch.tensor([ids]), torch.tensor([len(ids)])).mel
    sides = _exported(exports, "vocoder.onnx", {"mel": mel[0].numpy()}, threads)
    sides["PyTorch"] = partial(network, mel)
    frames = mel.shape[1]
    multiply_adds = light_multiply_adds(network.config) * frames * FRAME_SECONDS
    return _rows("light vocoder", sides, frames, multiply_adds, threads, repeats)


def _exported(exports: Path, name: str, inputs: dict[str, Any], threads: int) -> dict[str, Run]:
    """A graph in each precision, ready to run."""
    return {
        f"ONNX Runtime, {precision}": partial(
            session(exports / precision / name, threads).run, None, inputs
        )
        for precision in PRECISIONS
    }


def _rows(
    name: str,
    sides: dict[str, Run],
    frames: int,
    multiply_adds: float,
    threads: int,
    repeats: int,
) -> list[Row]:
    """A row for each of the sides but the last, beside which the others stand."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rate = product_rate()
        times = dict(zip(sides, best_times([*sides.values()], 5 * repeats), strict=True))
        rate = max(rate, product_rate())
    finally:
        torch.set_num_threads(before)
    beside, its_time = times.popitem()
    speech = frames * FRAME_SECONDS
    return [
        Row(
            "voice",
            f"{name}, {speech:.1f} s of speech, {_threads(threads)}, {side}",
            seconds,
            beside=beside,
            ratio=its_time / seconds,
            speech_seconds=speech,
            multiply_adds=multiply_adds,
            # the rate is that of products in single precision
            floor_seconds=None if "int8" in side else multiply_adds / rate,
        )
        for side, seconds in times.items()
    ]


def _texts(out: Path, precision: str, size: int, threads: int, repeats: int) -> list[Row]:
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
    with_what = f"{_threads(threads)}, {precision}"
    rows = [
        Row(
            "voice",
            f"text to sound, {name}, {text['speech_seconds']:.1f} s, {with_what}",
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
        f"program to first sound of a word, {with_what}",
        found["first_sound_seconds"],
        memory=memory,
        model_bytes=size,
    )
    return [*rows, start]


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
