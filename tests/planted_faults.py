"""Good renditions spoilt in the ways in which a Tacotron spoils them, for tests of the scores.

A fault cuts, splices or lengthens a real rendition: frames of mel and rows of attention go
together, and what is invented has the noise and blur of what is real.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightspeech.alignment import durations_from_attention
from lightspeech.renditions import Rendition
from lightspeech.text import SYMBOLS

Fault = Callable[[Rendition, list[int], np.random.Generator], Rendition]
"""A good rendition, its tokens and randomness -> a bad one. ValueError: the text is too short."""


def words(tokens: list[int]) -> list[tuple[int, int]]:
    """(first token, one after the last) of every word."""
    spelt = "".join(SYMBOLS[token] for token in tokens)
    return [match.span() for match in re.finditer(r"[A-Za-z']+", spelt)]


def starts(rendition: Rendition) -> list[int]:
    """The frame at which each token starts, and one after the last frame."""
    durations = durations_from_attention(rendition.attention)
    return [0, *itertools.accumulate(durations.tolist())]


def spliced(rendition: Rendition, *spans: tuple[int, int]) -> Rendition:
    """The given spans of frames, one after another."""
    frames = torch.cat([torch.arange(first, last) for first, last in spans])
    return replace(rendition, mel=rendition.mel[frames], attention=rendition.attention[frames])


def skip(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """One to three words in a row are not said; four letters at least, or nobody would notice."""
    found, at = words(tokens), starts(rendition)
    choices = [
        (found[i][0], found[i + n][0])
        for n in (1, 2, 3)
        for i in range(len(found) - n)
        if found[i + n - 1][1] - found[i][0] >= 4
    ]
    first, last = choices[int(rng.integers(_some(choices)))]
    return spliced(rendition, (0, at[first]), (at[last], at[-1]))


def repeat(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """A phrase of one to four words is said twice."""
    found, at = words(tokens), starts(rendition)
    choices = [
        (found[i][0], found[i + n - 1][1])
        for n in (1, 2, 3, 4)
        for i in range(len(found) - n + 1)
        if found[i + n - 1][1] - found[i][0] >= 5
    ]
    first, last = choices[int(rng.integers(_some(choices)))]
    return spliced(rendition, (0, at[last]), (at[first], at[-1]))


def early_stop(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """The gate fires before the last one to five words."""
    found, at = words(tokens), starts(rendition)
    missing = int(rng.integers(1, min(6, _some(found[1:]) + 1)))
    return spliced(rendition, (0, at[found[-missing][0]]))


def babble(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """After the text comes more speech, 0.7 to 3 s; the attention stays at the end or is lost."""
    extra = int(rng.integers(60, 260))
    T, N = rendition.attention.shape
    picked = torch.from_numpy(rng.integers(T // 4, 3 * T // 4, size=extra).copy())
    if rng.random() < 0.5:  # at the end: what the last frames look at, in any order
        near = torch.from_numpy(rng.integers(max(0, T - 6), T, size=extra).copy())
        looked = rendition.attention[near]
    else:  # lost: spread over many tokens
        looked = torch.from_numpy(rng.dirichlet(np.full(N, 0.3), size=extra)).float()
    return _followed_by(rendition, rendition.mel[picked.sort().values], looked)


def never_stops(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """As babbling, until it is cut off."""
    babbling = babble(rendition, tokens, rng)
    return replace(babbling, stopped=False)


def stuck(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """The attention stays on one token for 0.8 to 2.3 s; then the reading goes on."""
    T = len(rendition.mel)
    at = int(rng.integers(T // 5, 4 * T // 5))
    extra = int(rng.integers(70, 200))
    span = (max(0, at - 1), at + 1)
    held = [span] * (extra // 2)
    stuck = spliced(rendition, (0, at), *held, (at, T))
    noise = torch.from_numpy(rng.normal(0, 0.1, stuck.mel.shape)).float()
    return replace(stuck, mel=stuck.mel + noise)


def silence(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """Reads on and says nothing: from the start, or from some moment for more than a second."""
    T = len(rendition.mel)
    mel = rendition.mel.clone()
    hush = torch.from_numpy(rng.normal(-9.5, 0.7, mel.shape)).float()
    if rng.random() < 0.5 or T < 160:
        mel = hush
    else:
        first = int(rng.integers(20, T - 130))
        mel[first : first + 110] = hush[first : first + 110]
    return replace(rendition, mel=mel)


def blow_up(rendition: Rendition, tokens: list[int], rng: np.random.Generator) -> Rendition:
    """From some moment the mel grows, in some bins, beyond what any sound has."""
    T = len(rendition.mel)
    first = int(rng.integers(T // 4, T - 10))
    mel = rendition.mel.clone()
    bins = slice(int(rng.integers(0, 60)), 80)
    mel[first:, bins] += torch.linspace(0, 12, T - first)[:, None]
    return replace(rendition, mel=mel)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (skip, repeat, early_stop, babble, never_stops, stuck, silence, blow_up)
}


def _followed_by(rendition: Rendition, mel: Tensor, attention: Tensor) -> Rendition:
    return replace(
        rendition,
        mel=torch.cat((rendition.mel, mel)),
        attention=torch.cat((rendition.attention, attention)),
    )


def _some(choices: list[tuple[int, int]]) -> int:
    if not choices:
        raise ValueError("the text is too short for this fault")
    return len(choices)
