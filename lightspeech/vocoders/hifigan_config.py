"""What the `config.json` beside a HiFi-GAN generator says of its layers and of its mels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightspeech.audio import AUDIO_FACTS
from lightspeech.errors import InputError
from lightspeech.files import read_json

CONFIG_FILE = "config.json"
"""the name that it has beside every published generator"""


@dataclass(frozen=True)
class HifiGanConfig:
    """Sizes of the generator and facts about its audio, under their published names.

    The limits are far above every published generator's, and low enough that no configuration can
    exhaust the memory before the weights have been compared with it.

    Raises:
        InputError: names every field that is out of range, or that does not fit another.
    """

    resblock: str
    """"1": residual blocks of pairs of convolutions (V1, V2); "2": of single ones (V3)"""
    upsample_rates: tuple[int, ...]
    """factor of each upsampling stage"""
    upsample_kernel_sizes: tuple[int, ...]
    """taps of its transposed convolution, in samples at its output"""
    upsample_initial_channel: int
    """channels before the first stage; each stage halves them"""
    resblock_kernel_sizes: tuple[int, ...]
    """taps of each residual block of a stage (odd)"""
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    """dilations within each of them, one for each convolution, or pair of convolutions"""
    num_mels: int
    """mel bins, M"""
    n_fft: int
    """samples of the FFT under the mels"""
    hop_size: int
    """samples a frame: the product of the upsampling rates"""
    win_size: int
    """samples of the window under the mels"""
    sampling_rate: int
    """Hz"""
    fmin: float
    """lower edge of the lowest mel filter, Hz"""
    fmax: float | None
    """upper edge of the highest mel filter, Hz; None is half the sampling rate"""

    def __post_init__(self) -> None:
        _require(_problems(vars(self)), "HiFi-GAN configuration")

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], where: str = "HiFi-GAN configuration"
    ) -> HifiGanConfig:
        """Takes its fields from `values` and ignores others, which only training needs.

        Raises InputError, which begins with `where` and names every problem.
        """
        names = [f.name for f in fields(cls)]
        given = {name: _tuples(values[name]) for name in names if name in values}
        missing = [name for name in names if name not in given]
        problems = [f"no {', '.join(missing)}"] if missing else []
        _require(problems + _problems(given), where)
        return cls(**given)

    @classmethod
    def from_json(cls, path: str | Path) -> HifiGanConfig:
        """Reads a `config.json`.

        Raises:
            InputError: there is none, it is no JSON object, or a field is missing or does not fit.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(
                f"no {path}: expected the configuration that the generator was trained with "
                "beside it; the published ones lie in the same folder as their generators "
                "(linked from github.com/jik876/hifi-gan)"
            )
        advice = f"use the {CONFIG_FILE} that was published with the generator"
        try:
            values = read_json(path, "HiFi-GAN configuration")
        except InputError as e:
            raise InputError(f"{e}; {advice}") from e
        if not isinstance(values, dict):
            raise InputError(
                f"{path} holds no JSON object, expected one with upsample_rates, sampling_rate and "
                f"so on; {advice}"
            )
        return cls.from_dict(values, str(path))

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.upsample_rates)

    @property
    def audio_facts(self) -> dict[str, Any]:
        """The mels that it takes, in the terms of lightspeech.audio.AUDIO_FACTS.

        What no configuration says is the same for every HiFi-GAN, and as in ours: a Hann window,
        Slaney's mel scale, magnitudes, and the natural logarithm of what is at least 1e-5.
        """
        return AUDIO_FACTS | {
            "sample_rate": self.sampling_rate,
            "fft_size": self.n_fft,
            "window_length": self.win_size,
            "hop_length": self.hop_size,
            "n_mels": self.num_mels,
            "mel_fmin": float(self.fmin),
            "mel_fmax": self.sampling_rate / 2 if self.fmax is None else float(self.fmax),
        }


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _wholes(value: Any, least: int, most: int) -> bool:
    if not isinstance(value, tuple) or not 1 <= len(value) <= _MOST_LAYERS:
        return False
    return all(_whole(item, least, most) for item in value)


def _hertz(value: Any) -> bool:
    return _whole(value, 0, _MOST_SAMPLES) or (
        isinstance(value, float) and 0 <= value <= _MOST_SAMPLES  # not NaN
    )


_MOST_LAYERS = 8
_MOST_SAMPLES = 1 << 20
_MOST_CHANNELS = 4096
_MOST_TAPS = 128

_Check = Callable[[Any], bool]
_RULES: dict[str, tuple[_Check, str]] = {
    "resblock": (lambda v: isinstance(v, str) and v in ("1", "2"), 'the text "1" or "2"'),
    **{
        name: (
            lambda v: _wholes(v, 1, _MOST_TAPS),
            f"1 to {_MOST_LAYERS} sizes of 1 to {_MOST_TAPS}",
        )
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes")
    },
    "resblock_dilation_sizes": (
        lambda v: (
            isinstance(v, tuple)
            and 1 <= len(v) <= _MOST_LAYERS
            and all(_wholes(sizes, 1, _MOST_TAPS) for sizes in v)
        ),
        f"1 to {_MOST_LAYERS} lists of 1 to {_MOST_LAYERS} sizes of 1 to {_MOST_TAPS}",
    ),
    **{
        name: (lambda v: _whole(v, 1, _MOST_CHANNELS), f"a whole number, 1 to {_MOST_CHANNELS}")
        for name in ("upsample_initial_channel", "num_mels")
    },
    **{
        name: (lambda v: _whole(v, 1, _MOST_SAMPLES), f"a whole number, 1 to {_MOST_SAMPLES}")
        for name in ("n_fft", "hop_size", "win_size", "sampling_rate")
    },
    "fmin": (_hertz, "a frequency in Hz"),
    "fmax": (lambda v: v is None or _hertz(v), "a frequency in Hz, or null"),
}


def _problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields that are there; those that are not are skipped."""
    problems = [
        f"{name} must be {expected}, not {_shown(values[name])}"
        for name, (fits, expected) in _RULES.items()
        if name in values and not fits(values[name])
    ]
    if problems or values.keys() < _RULES.keys():
        return problems
    rates, kernels = values["upsample_rates"], values["upsample_kernel_sizes"]
    if len(rates) != len(kernels):
        problems.append(f"{len(kernels)} upsample_kernel_sizes for {len(rates)} upsample_rates")
    problems += [
        f"an upsampling kernel of {kernel} does not fit a rate of {rate}: it must be at least as "
        "large, and larger by an even number"
        for rate, kernel in zip(rates, kernels, strict=False)
        if kernel < rate or (kernel - rate) % 2
    ]
    if math.prod(rates) != values["hop_size"]:
        problems.append(
            f"hop_size is {values['hop_size']}, but the upsample_rates multiply to "
            f"{math.prod(rates)}"
        )
    if values["upsample_initial_channel"] % 2 ** len(rates):
        problems.append(
            f"upsample_initial_channel {values['upsample_initial_channel']} cannot be halved "
            f"{len(rates)} times"
        )
    blocks, dilations = values["resblock_kernel_sizes"], values["resblock_dilation_sizes"]
    if len(blocks) != len(dilations):
        problems.append(
            f"{len(dilations)} resblock_dilation_sizes for {len(blocks)} resblock_kernel_sizes"
        )
    if any(kernel % 2 == 0 for kernel in blocks):
        problems.append(f"resblock_kernel_sizes must be odd, not {_shown(blocks)}")
    return problems


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require(problems: list[str], where: str) -> None:
    if problems:
        raise InputError(
            f"{where}: {'; '.join(problems)}; use the {CONFIG_FILE} that was published with the "
            "generator"
        )
