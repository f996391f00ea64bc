"""What a light vocoder is and how it is trained: named configurations, and files like them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightspeech.settings import Configuration, check, number, whole
from lightspeech.vocoders.light_network import LightConfig

DEFAULT_CONFIG = "light"


@dataclass(frozen=True)
class VocoderTrainingConfig:
    """How it is trained."""

    steps: int = whole(12000)
    """optimiser steps in all"""
    batch_size: int = whole(8)
    """clips a step, all processes' together"""
    clip_frames: int = whole(32)
    """frames of a clip (0.37 s)"""
    learning_rate: float = number(1e-3, above=0)
    """highest learning rate of Adam"""
    final_learning_rate: float = number(2e-5, above=0)
    """learning rate of the last step, after a cosine decay"""
    warmup_steps: int = whole(200, least=0)
    """steps of linear rise at the start"""
    weight_decay: float = number(0.0)
    """of Adam"""
    clip_norm: float = number(1000.0, above=0)
    """largest norm of the whole gradient, critics' included"""
    ema_decay: float = number(0.999, below=1)
    """of the average of the weights over the steps, which becomes the vocoder"""
    spectral_weight: float = number(45.0)
    """of the distance between mel spectrograms"""
    pitch_weight: float = number(1.0)
    """of the error of the pitch, in semitones"""
    adversarial_weight: float = number(1.0)
    """of passing for a recording with the critics"""
    features_weight: float = number(2.0)
    """of the difference from the recording in the critics' inner features"""
    critic_start: float = number(0.1, most=1)
    """share of the steps after which the critics come in"""
    critic_size: int = whole(8)
    """channels of the critics' first layers: more hear more and cost more"""
    critic_rate: float = number(0.5)
    """their share of the learning rate"""
    mels_share: float = number(0.8, most=1)
    """of the clips whose mel is another's than the recording's, where there are such mels"""
    held_out: int = whole(16)
    """recordings that no step hears, for validation"""
    validate_every: int = whole(1000)
    """steps between validations"""
    save_every: int = whole(250)
    """steps between checkpoints"""
    seed: int = whole(1234, least=0)
    """of weights, split and clips"""

    def __post_init__(self) -> None:
        check(self, "vocoder training configuration")


@dataclass(frozen=True)
class VocoderConfig(Configuration):
    """A light vocoder's layers and its training."""

    name: str = DEFAULT_CONFIG
    network: LightConfig = field(default_factory=LightConfig)
    training: VocoderTrainingConfig = field(default_factory=VocoderTrainingConfig)


CONFIGS = {
    DEFAULT_CONFIG: VocoderConfig(),
    "quick": VocoderConfig(
        name="quick",
        training=VocoderTrainingConfig(steps=1500, validate_every=500, save_every=250),
    ),
}
"""`light`: that of the bundled vocoder, which took 23,000 steps. `quick`: an eighth of it."""
