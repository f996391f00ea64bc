"""What vocoders can be told."""

from __future__ import annotations

from dataclasses import dataclass

from lightspeech.errors import InputError

SIGMA = 0.6
"""WaveGlow's, where nothing else is asked for"""
DENOISE = 0.1
"""likewise"""
PRECISIONS = ("float32", "bfloat16", "float16")

_LARGEST_SIGMA = 2.0
_LARGEST_DENOISE = 10.0


@dataclass(frozen=True)
class VocoderOptions:
    """Settings; None leaves one to the vocoder, a value is refused by vocoders that lack it."""

    sigma: float | None = None
    """WaveGlow: standard deviation of the noise that it starts from, 0 to 2; if None, 0.6"""
    denoise: float | None = None
    """WaveGlow: how much of its own hum is taken off, 0 (none) to 10; if None, 0.1"""
    precision: str | None = None
    """WaveGlow: one of PRECISIONS, in which its convolutions are computed; if None, float32"""
    seed: int = 0
    """of the noise that WaveGlow and Griffin-Lim start from; the same one gives the same sound"""

    def __post_init__(self) -> None:
        problems = []
        for name, value, largest in (
            ("sigma", self.sigma, _LARGEST_SIGMA),
            ("denoise", self.denoise, _LARGEST_DENOISE),
        ):
            if value is not None and not 0 <= value <= largest:  # NaN is refused too
                problems.append(f"{name} {value:g}: expected 0 to {largest:g}")
        if self.precision is not None and self.precision not in PRECISIONS:
            problems.append(
                f"precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}"
            )
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed {self.seed}: expected 0 to 2^63 - 1")
        if problems:
            raise InputError("; ".join(problems))

    @property
    def of_waveglow(self) -> list[str]:
        """The names of the settings that were given and that only WaveGlow has."""
        names = ("sigma", "denoise", "precision")
        return [name for name in names if getattr(self, name) is not None]
