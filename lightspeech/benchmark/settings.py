"""What a run of the benchmark was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TEXT = (
    "The exhibition, which had taken two years to prepare, was closed within a week by order of "
    "the magistrates."
)
"""the sentence that the student and the teacher read"""


@dataclass(frozen=True)
class Settings:
    """The command's options."""

    repeats: int = 9
    """calls of which the best counts"""
    threads: int = 1
    """CPU threads"""
    mel: Path | None = None
    """what the vocoders are given; None: the teacher's reading of TEXT"""
    vocoders: tuple[str, ...] = ()
    """the user's own, NAME:PATH"""
    quality: bool = False
    """whether what the vocoders say is judged too"""
