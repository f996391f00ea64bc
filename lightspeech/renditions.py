"""One rendition of a text: its seed, and whether it is good enough to learn from.

Attention now and then skips, repeats or never comes to an end. The default limits are those under
which the bundled teacher's renditions are sound; `LabellingSettings` documents each.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightspeech.alignment import ALIGNMENTS, durations_from_attention, score_alignment
from lightspeech.errors import InputError
from lightspeech.shard import Label
from lightspeech.text import Line

if TYPE_CHECKING:
    from tacotron2 import TeacherOutput


@dataclass(frozen=True)
class LabellingSettings:
    """How texts become labels, and which renditions are good enough."""

    seed: int = 1234
    """seed of all renditions"""
    prenet_dropout: float = 0.5
    """share of the pre-net's outputs that is dropped, as the teacher was trained"""
    gate_threshold: float = 0.5
    """probability of the end at which the teacher stops"""
    max_frames: int = 2000
    """longest utterance, in frames of 11.6 ms; short texts have a lower limit, see `frame_limit`"""
    alignment: str = "monotonic"
    """how attention becomes durations: `monotonic` path, or the published `count` of frames"""
    tries: int = 3
    """renditions to draw before a text is rejected"""
    batch_size: int = 64
    """utterances that the teacher speaks at once"""
    min_coverage: float = 0.85
    """least share of the tokens that some frame attends to most"""
    max_backward_jumps: int = 3
    """most frames at which the attention goes back by more than one token"""
    min_frames_per_token: float = 2.0
    """fastest plausible speech: 43 tokens a second"""
    max_frames_per_token: float = 12.0
    """slowest plausible speech, after 100 frames that any text may take: 7 tokens a second"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a whole number of at least {least}, not {getattr(self, name)!r}"
            for name, least in (
                ("seed", 0),
                ("max_frames", 1),
                ("tries", 1),
                ("batch_size", 1),
                ("max_backward_jumps", 0),
            )
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least
        ]
        if not 0 <= self.prenet_dropout < 1:
            problems.append(f"prenet_dropout must be 0 or more, below 1, not {self.prenet_dropout}")
        if not 0 < self.gate_threshold < 1:
            problems.append(f"gate_threshold must be between 0 and 1, not {self.gate_threshold}")
        if self.alignment not in ALIGNMENTS:
            problems.append(f"alignment must be one of {', '.join(ALIGNMENTS)}: {self.alignment!r}")
        if not 0 <= self.min_coverage <= 1:
            problems.append(f"min_coverage must be from 0 to 1, not {self.min_coverage}")
        if not 0 <= self.min_frames_per_token < self.max_frames_per_token:
            problems.append("min_frames_per_token must be below max_frames_per_token")
        if problems:
            raise InputError("labelling settings: " + "; ".join(problems))

    def identity(self) -> dict[str, Any]:
        """The settings that change what a label is; a store holds labels of one kind only.

        Those that only decide which renditions are kept may differ from run to run.
        """
        names = ("seed", "prenet_dropout", "gate_threshold", "max_frames", "alignment")
        return {name: getattr(self, name) for name in names}

    def frame_limit(self, tokens: int) -> int:
        """Frames after which a text of so many tokens is taken to babble."""
        return min(self.max_frames, 100 + int(self.max_frames_per_token * tokens))


@dataclass(frozen=True)
class Failure:
    """A rendition that is no label."""

    reason: str
    scores: dict[str, float]


def utterance_seed(seed: int, id: str, tries: int) -> int:
    """The seed of one try of one utterance: the same on every machine, for every order of texts."""
    digest = hashlib.sha256(f"{seed}/{tries}/{id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def judge(
    line: Line,
    tokens: list[int],
    seed: int,
    output: TeacherOutput,
    row: int,
    settings: LabellingSettings,
) -> Label | Failure:
    """Row `row` of the teacher's output as a label, or why it is none.

    Args:
        line, tokens: what the teacher was given to speak (N tokens).
        seed: the seed with which it did.
        output: of a batch.
    """
    N, T = len(tokens), int(output.frames[row])
    # The limit is the utterance's own, not the batch's, so that the batch does not decide.
    if not bool(output.stopped[row]) or settings.frame_limit(N) < T:
        return Failure("did not stop", {"frames": float(T)})
    mel = output.mel[row, :T].float().cpu()  # (T, M)
    memory = output.memory[row, :N].float().cpu()  # (N, E)
    attention = output.attention[row, :T, :N].float().cpu()  # (T, N)
    if not (_fits_float16(mel) and _fits_float16(memory) and attention.isfinite().all()):
        return Failure("values that are not finite", {})
    durations = durations_from_attention(attention, settings.alignment)
    alignment = score_alignment(attention, durations).as_dict()
    scores = {name: float(value) for name, value in alignment.items()}
    scores["frames_per_token"] = T / N
    reason = _fault(scores, settings)
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
        seed=seed,
    )


def _fault(scores: dict[str, float], settings: LabellingSettings) -> str | None:
    """What is wrong with a rendition that came to an end, or None."""
    if scores["coverage"] < settings.min_coverage:
        return f"coverage below {settings.min_coverage:g}"
    if scores["backward_jumps"] > settings.max_backward_jumps:
        return f"more than {settings.max_backward_jumps} backward jumps"
    if scores["frames_per_token"] < settings.min_frames_per_token:
        return f"fewer than {settings.min_frames_per_token:g} frames a token"
    return None


def _fits_float16(values: Tensor) -> bool:
    """Whether the store's 16-bit floats can hold the values (and they are numbers at all)."""
    return bool(values.half().isfinite().all())
