"""The memory that one vocoder needs, measured in a process of its own.

    python -m lightspeech.benchmark.memory griffin-lim MEL.npy --frames 5168

prints it as JSON, in bytes. The mel is repeated up to the frames asked for, and the samples are
thrown away as they come, so that memory which grows with the length shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightspeech import cli
from lightspeech.audio import FRAME_SECONDS, HOP_LENGTH
from lightspeech.benchmark.contenders import find_contender
from lightspeech.benchmark.resident import forget_peak, peak_resident
from lightspeech.errors import InputError
from lightspeech.mel_file import read_mel, write_mel

_WARM_UP_FRAMES = 8


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process with one vocoder in it."""

    peak_bytes: int
    """its largest, loading included"""
    added_bytes: int | None
    """by which vocoding went beyond what the process held with the vocoder loaded, if that is
    known"""
    speech_seconds: float
    """the length that was vocoded"""


def memory_of(spec: str, mel: Tensor, n_frames: int, threads: int = 1) -> Memory | None:
    """Measures a vocoder in a new process.

    Args:
        spec: of one of the contenders.
        mel: (T, M); repeated or cut to the frames asked for.
        n_frames: how many those are.
        threads: of that process.

    Returns:
        None on systems that do not tell (Windows).

    Raises:
        InputError: the process failed; its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mel.npy"
        write_mel(path, mel)
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "lightspeech.benchmark.memory", spec, str(path)),
                *("--frames", str(n_frames), "--threads", str(threads)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode != 0:
        words = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        reason = words[-1].removeprefix("error: ")
        raise InputError(f"the memory of {spec} could not be measured: {reason}")
    found = json.loads(finished.stdout)
    return None if found is None else Memory(**found)


def measure(spec: str, mel: Tensor) -> Memory | None:
    """Vocodes a mel (T, M) in this process, which should have done nothing else before."""
    vocoder = find_contender(spec).build()
    # Imports and tables of the first call are no part of what a length costs.
    for _ in vocoder.stream(mel[:_WARM_UP_FRAMES]):
        pass
    loading = peak_resident()
    forget_peak()
    before = peak_resident()
    samples = sum(len(piece) for piece in vocoder.stream(mel))
    assert samples == HOP_LENGTH * len(mel), f"{samples} samples of {len(mel)} frames"
    after = peak_resident()
    if loading is None or before is None or after is None:
        return None
    return Memory(max(loading, after), max(0, after - before), len(mel) * FRAME_SECONDS)


def repeated(mel: Tensor, n_frames: int) -> Tensor:
    """(T, M), T >= 1 -> (n_frames, M), the mel again and again."""
    return mel.repeat(-(-n_frames // len(mel)), 1)[:n_frames]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.benchmark.memory",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    parser.add_argument("vocoder", metavar="VOCODER", help="griffin-lim, hifigan:PATH, ...")
    parser.add_argument("mel", type=Path, metavar="MEL", help="a mel's file")
    parser.add_argument(
        "--frames", type=cli.positive_int, default=5168, metavar="N", help="86 are a second"
    )
    parser.add_argument(
        "--threads", type=cli.positive_int, default=1, metavar="N", help="CPU threads"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mel = repeated(read_mel(options.mel), options.frames)
    found = measure(options.vocoder, mel)
    print(json.dumps(None if found is None else asdict(found)))


if __name__ == "__main__":
    cli.run(main)
