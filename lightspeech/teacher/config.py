"""Every choice about a teacher's training: documented, checked, frozen, stored as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightspeech.errors import InputError
from lightspeech.settings import Configuration, check, choice, number, whole
from tacotron2 import Tacotron2Config


@dataclass(frozen=True)
class TeacherTrainingConfig:
    """How a teacher is trained; weights are of terms that are means over frames."""

    steps: int = whole(100_000)
    """optimiser steps in all"""
    frames_per_step: int = whole(32_000)
    """frames in a batch, padding included, over all processes (11.6 ms each)"""
    utterances_per_step: int = whole(256)
    """utterances in a batch, at most"""
    longest_frames: int = whole(1_000)
    """utterances with more frames are left out"""
    short_steps: int = whole(0, least=0)
    """steps over which the longest utterances come in: at first none above `short_frames`"""
    short_frames: int = whole(300)
    """see `short_steps`"""
    learning_rate: float = number(1e-3, above=0)
    """highest learning rate of Adam"""
    final_learning_rate: float = number(1e-5, above=0)
    """learning rate of the last step"""
    warmup_steps: int = whole(100, least=0)
    """steps of linear rise at the start"""
    decay: str = choice("cosine", "exponential")
    """how the rate falls after that: cosine or exponential"""
    decay_start: int = whole(0, least=0)
    """step at which it begins to fall"""
    weight_decay: float = number(1e-6)
    """of Adam"""
    clip_norm: float = number(1.0, above=0)
    """gradients are scaled down to this norm"""
    ema_decay: float = number(0.999, below=1)
    """of the average of the weights over the steps, which becomes the teacher"""
    encoder_dropout: float = number(0.5, below=1)
    """share of the outputs of the encoder's convolutions that is dropped"""
    postnet_dropout: float = number(0.5, below=1)
    """share of the outputs of the post-net's that is dropped"""
    prenet_dropout: float = number(0.5, below=1)
    """share of the pre-net's outputs that is dropped"""
    frame_dropout: float = number(0.0, below=1)
    """share of the frames that the pre-net does not hear, and has to say without"""
    led_frame_dropout: float = number(0.0, below=1)
    """the same while the attention is led, when only the text is left to say them from"""
    mel_weight: float = number(1.0)
    """of the squared error after the post-net"""
    mel_before_postnet_weight: float = number(1.0)
    """of the squared error before it"""
    mel_absolute_weight: float = number(1.0)
    """of the absolute error after it"""
    gate_weight: float = number(1.0)
    """of the gate's cross-entropy"""
    gate_end_weight: float = number(10.0)
    """ordinary frames that the last one counts for, in the gate's"""
    guide: str = choice("path", "diagonal")
    """what guides the attention: path, where a recording says which symbol, as an aligner finds it
    first; or diagonal, as if everybody spoke at a constant rate"""
    guide_weight: float = number(0.5)
    """of the guided attention, at first"""
    guide_hold: int = whole(400, least=0)
    """steps for which it stays so"""
    guide_half_life: int = whole(300)
    """steps in which it then halves"""
    guide_floor: float = number(0.1)
    """what it falls to"""
    guide_width: float = number(0.3, above=0)
    """how far from the diagonal the attention may look, as a share of the text"""
    lead_hold: int = whole(300, least=0)
    """steps for which the attention is led along the path altogether (with `guide` path)"""
    lead_end: int = whole(800, least=0)
    """step from which it looks where it will; in between the lead is let go bit by bit"""
    order_weight: float = number(0.05)
    """of the attention that does not read every symbol in order"""
    validation_share: float = number(0.005, below=1)
    """utterances held out"""
    validate_every: int = whole(500)
    """steps between validations"""
    spoken: int = whole(32, least=0)
    """held-out utterances that it speaks freely at each of them, at most"""
    save_every: int = whole(100)
    """steps between saves"""
    seed: int = whole(0, least=0)
    """of the initial weights, the split, the order and drop-out"""

    def __post_init__(self) -> None:
        check(self, "teacher training configuration")
        if self.longest_frames > self.frames_per_step:
            raise InputError(
                f"teacher training configuration: longest_frames ({self.longest_frames}) must not "
                f"exceed frames_per_step ({self.frames_per_step})"
            )

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


@dataclass(frozen=True)
class TeacherConfig(Configuration):
    """A teacher's layers and its training."""

    name: str = "published"
    model: Tacotron2Config = field(default_factory=Tacotron2Config)
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)


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
