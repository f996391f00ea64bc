"""One rendition of a text: its seed, and whether it is good enough to learn from.

Attention now and then skips, repeats or never comes to an end; `lightspeech.scoring` says how that
is noticed, and with which limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightspeech.alignment import ALIGNMENTS, durations_from_attention, score_alignment
from lightspeech.calibration import WIDE, UsualLength
from lightspeech.errors import InputError
from lightspeech.scoring import SCORES, Limits, Score, fault, score_mel
from lightspeech.settings import check, choice, number, whole
from lightspeech.shard import Label
from lightspeech.text import Line

__all__ = [
    "MODES",
    "SCORES",
    "TARGETS",
    "Failure",
    "LabellingSettings",
    "Rendition",
    "Score",
    "judge",
    "most_typical",
    "utterance_seed",
]

MODES = ("inference", "forced")
"""The teacher speaks by itself, or along with recordings."""
TARGETS = ("recording", "teacher")
"""In forced mode, whose mels are the labels'."""


@dataclass(frozen=True, eq=False)
class Rendition:
    """One reading of a text of N tokens, in T frames; all tensors float32 on the CPU."""

    mel: Tensor
    """(T, M) log-mel, the target"""
    attention: Tensor
    """(T, N); the rows sum to 1"""
    memory: Tensor
    """(N, E) the teacher's encoder output"""
    stopped: bool
    """the teacher said that this was the end; False: it was cut off"""
    seed: int
    """of the pre-net's drop-out"""


@dataclass(frozen=True)
class LabellingSettings:
    """How texts become labels, and which renditions are good enough."""

    seed: int = whole(1234, least=0)
    """seed of all renditions"""
    mode: str = choice(*MODES)
    """`inference`: the teacher speaks by itself; `forced`: along with recordings"""
    targets: str = choice(*TARGETS)
    """in forced mode: the mels of the `recording`s, or what the `teacher` makes of them"""
    prenet_dropout: float = number(0.5, below=1)
    """share of the pre-net's outputs that is dropped while the teacher speaks; 0.5 as published"""
    gate_threshold: float = number(0.5, above=0, below=1)
    """probability of the end at which the teacher stops"""
    max_frames: int = whole(2000)
    """longest utterance, in frames of 11.6 ms; short texts have a lower limit, see `frame_limit`"""
    max_frames_per_token: float = number(12.0, above=0)
    """slowest plausible speech, after 100 frames that any text may take: 7 tokens a second"""
    alignment: str = choice(*ALIGNMENTS)
    """how attention becomes durations: `monotonic` path, or the published `count` of frames"""
    pick: int = whole(1)
    """sound renditions to draw of each text, of which the most typical is kept"""
    tries: int = whole(3)
    """renditions of a text that may fail before it is given up"""
    batch_size: int = whole(64)
    """utterances that the teacher speaks at once, and labels that are written at once"""
    limits: Limits = field(default_factory=Limits)
    """which scores are sound"""

    def __post_init__(self) -> None:
        check(self, "labelling settings")
        if self.pick > 1 and self.mode == "forced":
            problem = "pick must be 1 in forced mode: a recording is one rendition"
        elif self.pick > 1 and self.prenet_dropout == 0:
            problem = "pick must be 1 where prenet_dropout is 0: all renditions are the same"
        else:
            return
        raise InputError(f"labelling settings: {problem}")

    def identity(self) -> dict[str, Any]:
        """The settings that change what a label is; a store holds labels of one kind only.

        Those that only decide which renditions are kept may differ from run to run.
        """
        names = ["mode", "max_frames", "alignment"]
        # A forced rendition draws nothing, and ends where its recording does.
        free = ["seed", "prenet_dropout", "gate_threshold", "pick"]
        names += ["targets"] if self.mode == "forced" else free
        return {name: getattr(self, name) for name in names}

    @property
    def chances(self) -> int:
        """Renditions of a text that may fail; one where every other would be the same."""
        return 1 if self.mode == "forced" or self.prenet_dropout == 0 else self.tries

    def frame_limit(self, tokens: int) -> int:
        """Frames after which a text of so many tokens is taken to babble."""
        return min(self.max_frames, 100 + int(self.max_frames_per_token * tokens))


@dataclass(frozen=True)
class Failure:
    """A rendition that is no label."""

    reason: str
    scores: dict[str, float]
    """as those of a label; empty where there are values that are not finite"""


def utterance_seed(seed: int, id: str, tries: int) -> int:
    """The seed of one try of one utterance: the same on every machine, for every order of texts."""
    digest = hashlib.sha256(f"{seed}/{tries}/{id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def judge(
    line: Line,
    tokens: Sequence[int],
    rendition: Rendition,
    settings: LabellingSettings,
    usual: UsualLength = WIDE,
    draw: int = 1,
) -> Label | Failure:
    """A rendition as a label, or why it is none.

    Args:
        line, tokens: what the teacher was given to speak (N tokens).
        rendition: how it did.
        usual: how long it usually speaks.
        draw: which rendition of the text this is, from 1.
    """
    mel, memory, attention = rendition.mel, rendition.memory, rendition.attention
    if not (_fits_float16(mel) and _fits_float16(memory) and attention.isfinite().all()):
        return Failure("values that are not finite", {})
    N, T = len(tokens), len(mel)
    durations = durations_from_attention(attention, settings.alignment)
    alignment = score_alignment(attention, durations).as_dict()
    scores = {
        **{name: float(value) for name, value in alignment.items()},
        **score_mel(mel),
        "frames_per_token": T / N,
        "length_deviation": usual.deviation(T, N),
        "draw": float(draw),
    }
    assert scores.keys() == SCORES.keys()
    reason = fault(scores, settings.limits) if rendition.stopped else "did not stop"
    if reason is not None:
        return Failure(reason, scores)
    return Label(
        id=line.id,
        text=line.text,
        tokens=torch.tensor(tokens),
        durations=torch.from_numpy(durations),
        mel=mel,
        memory=memory,
        scores=scores,
        seed=rendition.seed,
    )


def sound_length(rendition: Rendition, settings: LabellingSettings) -> tuple[int, int] | None:
    """(T, N) of a rendition that is sound but for its length, for `calibration.fit_length`; None of
    one that is not."""
    T, N = rendition.attention.shape
    anyhow = replace(settings.limits, max_length_deviation=None)
    line = Line("", "", "")
    result = judge(line, [0] * N, rendition, replace(settings, limits=anyhow))
    return (T, N) if isinstance(result, Label) else None


def most_typical(labels: Sequence[Label]) -> Label:
    """The rendition of a text that is nearest to the others' middle.

    The middle is the median duration of each token over all renditions; near is the mean, over the
    tokens, of the absolute difference of log(1 + frames). Of equally near ones, as two always are,
    the first counts.
    """
    logs = np.log1p([label.durations.numpy() for label in labels])  # (K, N)
    distances = np.abs(logs - np.median(logs, axis=0)).mean(axis=1)  # (K,)
    return labels[int(distances.round(9).argmin())]


def _fits_float16(values: Tensor) -> bool:
    """Whether the store's 16-bit floats can hold the values (and they are numbers at all)."""
    return bool(values.half().isfinite().all())
