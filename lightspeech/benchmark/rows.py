"""What a measurement says, the table of several, and the record of a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import lightspeech
from lightspeech.benchmark.memory import Memory
from lightspeech.evaluation.quality import Dnsmos

RECORD_VERSION = 2
"""of the JSON; 1 was a bare list of rows"""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    part: str
    """of the benchmark"""
    what: str
    seconds: float
    """best time of ours"""
    beside: str = ""
    """what it is compared with, if anything"""
    ratio: float | None = None
    """how many times faster than that"""
    speech_seconds: float | None = None
    """seconds of speech that came out in `seconds`, where speech comes out"""
    multiply_adds: float | None = None
    """of the layers, for all that was done in `seconds`"""
    floor_seconds: float | None = None
    """what those would take at the rate of one large product"""
    first_seconds: float | None = None
    """until the first sound was there"""
    memory: Memory | None = None
    """of a process with nothing else in it"""
    model_bytes: int | None = None
    """of the file that has all the weights"""
    quality: Dnsmos | None = None
    """of what came out, where its weights are trained ones"""

    @property
    def times_real_time(self) -> float | None:
        """speech_seconds / seconds"""
        return None if self.speech_seconds is None else self.speech_seconds / self.seconds

    @property
    def multiply_adds_a_second(self) -> float | None:
        """of speech"""
        if self.multiply_adds is None or self.speech_seconds is None:
            return None
        return self.multiply_adds / self.speech_seconds

    @property
    def floor_share(self) -> float | None:
        """floor_seconds / seconds"""
        return None if self.floor_seconds is None else self.floor_seconds / self.seconds


@dataclass(frozen=True)
class Findings:
    """What one part of the benchmark measured."""

    rows: list[Row]
    notes: tuple[str, ...] = ()
    """what a reader of the rows should know"""


_DERIVED = ("times_real_time", "multiply_adds_a_second", "floor_share")
_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("best", lambda row: _milliseconds(row.seconds)),
    ("x real time", lambda row: _speed(row.times_real_time)),
    ("work", lambda row: _giga(row.multiply_adds_a_second)),
    ("floor", lambda row: "" if row.floor_share is None else f"{row.floor_share:.0%}"),
    ("first sound", lambda row: _milliseconds(row.first_seconds)),
    ("file", lambda row: "" if row.model_bytes is None else f"{row.model_bytes / 1e6:.1f} MB"),
    ("peak memory", lambda row: "" if row.memory is None else _megabytes(row.memory.peak_bytes)),
    (
        "vocoding",
        lambda row: (
            ""
            if row.memory is None or row.memory.added_bytes is None
            else _megabytes(row.memory.added_bytes)
        ),
    ),
    ("of", lambda row: "" if row.memory is None else f"{row.memory.speech_seconds:.0f} s"),
    (
        "DNSMOS",
        lambda row: (
            "" if row.quality is None else f"{row.quality.p808:.2f} / {row.quality.overall:.2f}"
        ),
    ),
)
_LEGEND = {
    "work": "work: multiply-adds for a second of speech",
    "floor": "floor: share of the time that the multiply-adds alone would take, "
    "at the rate of one large product",
    "first sound": "first sound: when the first sentence is there",
    "peak memory": "peak memory: of a process with this alone, PyTorch included where it is used",
    "vocoding": "vocoding: what of it a long mel added",
    "DNSMOS": "DNSMOS: P.808 / overall, 1 to 5",
}


def table(rows: Sequence[Row]) -> str:
    """The rows side by side, ratios first; columns in which no row has anything are left out."""
    columns = []
    for heading, cell in _COLUMNS:
        cells = [cell(row) for row in rows]
        if any(cells):
            columns.append([heading, *cells])
    lines = [""] + [row.what for row in rows]
    width = max(44, *(len(line) for line in lines))
    lines = [f"{line:{width}}" for line in lines]
    ratios = ["" if row.ratio is None else f"{row.ratio:.2f}  {row.beside}" for row in rows]
    if any(ratios):
        ratios = ["times as fast as", *ratios]
        width = max(len(ratio) for ratio in ratios)
        lines = [f"{line}  {ratio:{width}}" for line, ratio in zip(lines, ratios, strict=True)]
    for column in columns:
        width = max(len(cell) for cell in column)
        lines = [f"{line}  {cell:>{width}}" for line, cell in zip(lines, column, strict=True)]
    legend = [_LEGEND[column[0]] for column in columns if column[0] in _LEGEND]
    return "\n".join(line.rstrip() for line in [*lines, *legend])


def record(rows: Sequence[Row], notes: Sequence[str]) -> dict[str, Any]:
    """What --json writes: the rows' fields by their names, and what they were measured with."""
    return {
        "version": RECORD_VERSION,
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "lightspeech": lightspeech.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": processor_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
        },
        "threads": torch.get_num_threads(),
        "notes": list(notes),
        "rows": [asdict(row) | {name: getattr(row, name) for name in _DERIVED} for row in rows],
    }


def processor_name() -> str:
    """As the system names it; its architecture where it does not."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():  # Linux, where platform.processor() knows no more than the architecture
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _speed(times_real_time: float | None) -> str:
    if times_real_time is None:
        return ""
    # Three digits are more than such a measurement is good for.
    digits = 0 if times_real_time >= 20 else 1 if times_real_time >= 2 else 2
    return f"{times_real_time:.{digits}f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def _giga(count: float | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.1f} G" if count >= 1e8 else f"{count / 1e6:.0f} M"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
