"""The vocoders that are compared, each by a name from which another process can build it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightspeech.benchmark.published import HIFIGAN_SIZES, untrained_hifigan, untrained_waveglow
from lightspeech.benchmark.textbook import TextbookGriffinLim
from lightspeech.errors import InputError
from lightspeech.vocoders import Vocoder, hifigan, light, load_vocoder
from waveglow import load


@dataclass(frozen=True)
class Effort:
    """How much a vocoder is given to do, so that all of them together take about a minute."""

    timed_seconds: float
    """of mel in each call that is timed, at most"""
    budget: float
    """seconds after which no further call is timed"""
    memory_seconds: float
    """of mel while its memory is watched"""


QUICK = Effort(timed_seconds=10, budget=60, memory_seconds=60)
NEURAL = Effort(timed_seconds=5, budget=5, memory_seconds=20)
SLOW = Effort(timed_seconds=1, budget=1, memory_seconds=3)


@dataclass(frozen=True)
class Contender:
    """A vocoder that is measured."""

    spec: str
    """what find_contender knows it by, in any process"""
    title: str
    build: Callable[[], Vocoder]
    effort: Effort
    trained: bool = True
    """whether what it says is worth judging"""


_TITLES = {"hifigan": "HiFi-GAN", "light": "light vocoder", "waveglow": "WaveGlow"}
_EFFORTS = {"hifigan": NEURAL, "light": QUICK, "waveglow": SLOW}
_OF_NO_WEIGHTS = [
    Contender("griffin-lim", "Griffin-Lim", lambda: load_vocoder("griffin-lim"), QUICK),
    Contender("librosa", TextbookGriffinLim.name, TextbookGriffinLim, QUICK),
]
_UNTRAINED = [
    *(
        Contender(
            f"random:{size}",
            f"HiFi-GAN {size} (random weights)",
            partial(untrained_hifigan, size),
            NEURAL,
            trained=False,
        )
        for size in HIFIGAN_SIZES
    ),
    Contender(
        "random:waveglow", "WaveGlow (random weights)", untrained_waveglow, SLOW, trained=False
    ),
]


def lineup(own: Sequence[str]) -> list[list[Contender]]:
    """All contenders; those in one list are to take turns.

    Args:
        own: the user's, NAME:PATH; those in the folders `pretrained` come to them. Where one of
            them is a WaveGlow, the one with random weights, which is slow, is left out.

    Raises:
        InputError: one of them names no neural vocoder.
    """
    users = [find_contender(spec) for spec in dict.fromkeys([*own, *at_hand()])]
    slow = any(contender.effort is SLOW for contender in users)
    untrained = [c for c in _UNTRAINED if not (slow and c.effort is SLOW)]
    return [_OF_NO_WEIGHTS, *([contender] for contender in [*untrained, *users])]


def at_hand() -> list[str]:
    """NAME:PATH of the checkpoints in the folders `pretrained`."""
    generator, bundled = hifigan.default_checkpoint(), light.default_file()
    return [
        *([f"light:{bundled}"] if bundled else []),
        *([f"hifigan:{generator}"] if generator else []),
        *(f"waveglow:{path}" for path in load.checkpoints()),
    ]


def find_contender(spec: str) -> Contender:
    """A contender by its spec: one of ours, or NAME:PATH of a user's neural vocoder.

    Raises:
        InputError: neither.
    """
    for contender in [*_OF_NO_WEIGHTS, *_UNTRAINED]:
        if contender.spec == spec:
            return contender
    name, _, path = spec.partition(":")
    if name not in _TITLES or not path:
        raise InputError(f"--vocoder {spec}: expected light:PATH, hifigan:PATH or waveglow:PATH")
    title = f"{_TITLES[name]} ({Path(path).stem})"
    return Contender(spec, title, partial(load_vocoder, spec), _EFFORTS[name])
