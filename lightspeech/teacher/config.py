"""Every choice about a teacher's training: documented, checked, frozen, stored as JSON."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json
from tacotron2 import Tacotron2Config

_CHOICES = {"decay": ("cosine", "exponential"), "guide": ("path", "diagonal")}


@dataclass(frozen=True)
class TeacherTrainingConfig:
    """How a teacher is trained; weights are of terms that are means over frames."""

    steps: int = 100_000
    """optimiser steps in all"""
    frames_per_step: int = 32_000
    """frames in a batch, padding included, over all processes (11.6 ms each)"""
    utterances_per_step: int = 256
    """utterances in a batch, at most"""
    longest_frames: int = 1_000
    """utterances with more frames are left out"""
    short_steps: int = 0
    """steps over which the longest utterances come in: at first none above `short_frames`"""
    short_frames: int = 300
    """see `short_steps`"""
    learning_rate: float = 1e-3
    """highest learning rate of Adam"""
    final_learning_rate: float = 1e-5
    """learning rate of the last step"""
    warmup_steps: int = 100
    """steps of linear rise at the start"""
    decay: str = "cosine"
    """how the rate falls after that: cosine or exponential"""
    decay_start: int = 0
    """step at which it begins to fall"""
    weight_decay: float = 1e-6
    """of Adam"""
    clip_norm: float = 1.0
    """gradients are scaled down to this norm"""
    ema_decay: float = 0.999
    """of the average of the weights over the steps, which becomes the teacher"""
    encoder_dropout: float = 0.5
    """share of the outputs of the encoder's convolutions that is dropped"""
    postnet_dropout: float = 0.5
    """share of the outputs of the post-net's that is dropped"""
    prenet_dropout: float = 0.5
    """share of the pre-net's outputs that is dropped"""
    frame_dropout: float = 0.0
    """share of the frames that the pre-net does not hear, and has to say without"""
    led_frame_dropout: float = 0.0
    """the same while the attention is led, when only the text is left to say them from"""
    mel_weight: float = 1.0
    """of the squared error after the post-net"""
    mel_before_postnet_weight: float = 1.0
    """of the squared error before it"""
    mel_absolute_weight: float = 1.0
    """of the absolute error after it"""
    gate_weight: float = 1.0
    """of the gate's cross-entropy"""
    gate_end_weight: float = 10.0
    """ordinary frames that the last one counts for, in the gate's"""
    guide: str = "path"
    """what guides the attention: path, where a recording says which symbol, as an aligner finds it
    first; or diagonal, as if everybody spoke at a constant rate"""
    guide_weight: float = 0.5
    """of the guided attention, at first"""
    guide_hold: int = 400
    """steps for which it stays so"""
    guide_half_life: int = 300
    """steps in which it then halves"""
    guide_floor: float = 0.1
    """what it falls to"""
    guide_width: float = 0.3
    """how far from the diagonal the attention may look, as a share of the text"""
    lead_hold: int = 300
    """steps for which the attention is led along the path altogether (with `guide` path)"""
    lead_end: int = 800
    """step from which it looks where it will; in between the lead is let go bit by bit"""
    order_weight: float = 0.05
    """of the attention that does not read every symbol in order"""
    validation_share: float = 0.005
    """utterances held out"""
    validate_every: int = 500
    """steps between validations"""
    spoken: int = 32
    """held-out utterances that it speaks freely at each of them, at most"""
    save_every: int = 100
    """steps between saves"""
    seed: int = 0
    """of the initial weights, the split, the order and drop-out"""

    def __post_init__(self) -> None:
        problems = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _CHOICES:
                if value not in _CHOICES[f.name]:
                    expected = ", ".join(_CHOICES[f.name])
                    problems.append(f"{f.name} must be one of {expected}, not {value!r}")
            elif f.type == "int":
                low = 0 if f.name in _MAY_BE_ZERO else 1
                if isinstance(value, bool) or not isinstance(value, int) or value < low:
                    problems.append(
                        f"{f.name} must be a whole number of at least {low}, not {value!r}"
                    )
            elif (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= sys.float_info.max  # false of a NaN, too
            ):
                problems.append(f"{f.name} must be a number of at least 0, not {value!r}")
            elif f.name in _BELOW_ONE and value >= 1:
                problems.append(f"{f.name} must be below 1, not {value!r}")
            elif f.name in _ABOVE_ZERO and value == 0:
                problems.append(f"{f.name} must be above 0")
        if not problems and self.longest_frames > self.frames_per_step:
            problems.append(
                f"longest_frames ({self.longest_frames}) must not exceed frames_per_step "
                f"({self.frames_per_step})"
            )
        if problems:
            raise InputError("teacher training configuration: " + "; ".join(problems))

    def learning_rate_at(self, step: int) -> float:
        """The rate at `step` (0-based)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        start = max(self.warmup_steps, self.decay_start)
        progress = min(max((step - start) / max(self.steps - 1 - start, 1), 0.0), 1.0)
        if self.decay == "cosine":
            fall = self.learning_rate - self.final_learning_rate
            return self.final_learning_rate + fall * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (self.final_learning_rate / self.learning_rate) ** progress

    def guide_at(self, step: int) -> float:
        """The weight of the guided attention at `step`."""
        halvings = max(step - self.guide_hold, 0) / self.guide_half_life
        return max(self.guide_weight * 0.5**halvings, self.guide_floor)

    def lead_at(self, step: int) -> float:
        """The share of its look in which the attention is led at `step`."""
        if self.guide != "path" or step >= self.lead_end:
            return 0.0
        return min(1.0, (self.lead_end - step) / max(self.lead_end - self.lead_hold, 1))

    def frame_dropout_at(self, led: float) -> float:
        """The share of the frames that the pre-net does not hear while the attention is so led."""
        return led * self.led_frame_dropout + (1 - led) * self.frame_dropout

    def longest_at(self, step: int) -> float:
        """Frames of the longest utterance that takes part in `step`."""
        if step >= self.short_steps:
            return math.inf
        rise = (self.longest_frames - self.short_frames) * step / self.short_steps
        return self.short_frames + rise


_MAY_BE_ZERO = (
    "short_steps",
    "warmup_steps",
    "decay_start",
    "guide_hold",
    "lead_hold",
    "lead_end",
    "seed",
    "spoken",
)
_BELOW_ONE = (
    "ema_decay",
    "encoder_dropout",
    "postnet_dropout",
    "prenet_dropout",
    "frame_dropout",
    "led_frame_dropout",
    "validation_share",
)
_ABOVE_ZERO = ("learning_rate", "final_learning_rate", "clip_norm", "guide_width")


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher's layers and its training."""

    name: str = "published"
    model: Tacotron2Config = field(default_factory=Tacotron2Config)
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Any, where: str) -> TeacherConfig:
        """The inverse of `as_dict`; InputError names what does not fit."""
        if not isinstance(values, dict):
            raise InputError(f"{where} holds no teacher configuration: expected a JSON object")
        unknown = sorted(values.keys() - {"name", "model", "training"})
        parts: dict[str, Any] = {}
        for part, kind in (("model", Tacotron2Config), ("training", TeacherTrainingConfig)):
            given = values.get(part, {})
            if not isinstance(given, dict):
                raise InputError(f"{where}: {part} must be an object, not {given!r}")
            unknown += sorted(f"{part}.{n}" for n in given.keys() - {f.name for f in fields(kind)})
            parts[part] = given
        if unknown:
            raise InputError(f"{where} has unknown settings: {', '.join(unknown)}")
        try:
            return TeacherConfig(
                name=str(values.get("name", Path(where).stem)),
                model=Tacotron2Config(**parts["model"]),
                training=TeacherTrainingConfig(**parts["training"]),
            )
        except ValueError as e:
            raise InputError(f"{where}: {e}") from e

    def override(self, **training: Any) -> TeacherConfig:
        """The same with those settings of its training that are not None replaced.

        A new learning rate keeps the shape of the schedule: the last one changes in proportion.
        """
        given = {name: value for name, value in training.items() if value is not None}
        if "learning_rate" in given and "final_learning_rate" not in given:
            ratio = given["learning_rate"] / self.training.learning_rate
            given["final_learning_rate"] = self.training.final_learning_rate * ratio
        return replace(self, training=replace(self.training, **given))

    def differences(self, other: TeacherConfig) -> list[str]:
        """`name: ours, not theirs` for each setting that differs."""
        found = []
        for part in ("model", "training"):
            ours, theirs = asdict(getattr(self, part)), asdict(getattr(other, part))
            found += [
                f"{part}.{name} {ours[name]!r}, not {theirs[name]!r}"
                for name in ours
                if ours[name] != theirs[name]
            ]
        return found


SMALL = Tacotron2Config(
    symbols_embedding_dim=256,
    encoder_embedding_dim=256,
    attention_rnn_dim=256,
    attention_dim=64,
    prenet_dim=192,
    decoder_rnn_dim=384,
    postnet_embedding_dim=256,
)
"""4.9 M parameters: what a few CPU cores train in an evening, and label with fast."""

CONFIGS = {
    "published": TeacherConfig(),
    "small": TeacherConfig(
        "small",
        SMALL,
        # The attention is led throughout while half of what was said goes unheard, so that every
        # frame has to follow from the text. The guide alone teaches it to read, and what it learns
        # so holds when it speaks freely; let go while reading along, it only learnt to listen.
        TeacherTrainingConfig(
            steps=5_000,
            frames_per_step=16_000,
            utterances_per_step=128,
            short_steps=10_000,
            short_frames=400,
            encoder_dropout=0.1,
            postnet_dropout=0.1,
            led_frame_dropout=0.5,
            guide_floor=0.5,
            lead_hold=1_000_000,
            lead_end=1_000_000,
            order_weight=0.3,
            validate_every=500,
            save_every=50,
            spoken=24,
        ),
    ),
}


def load_teacher_config(name: str) -> TeacherConfig:
    """A configuration of CONFIGS, or one from a JSON file (what it leaves out is `published`'s)."""
    if name in CONFIGS:
        return CONFIGS[name]
    if not name.endswith(".json"):
        raise InputError(
            f"no configuration {name!r}: expected {', '.join(CONFIGS)}, or a .json file"
        )
    return TeacherConfig.from_dict(read_json(name, "teacher configuration"), name)
