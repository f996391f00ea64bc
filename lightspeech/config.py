"""Every choice about the student and its training: documented, checked, frozen, stored as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightspeech.errors import InputError
from lightspeech.settings import Configuration, check, number, whole

LARGEST_LAYER = 16384
"""Widest layer that is believed: a wrong file must not ask for terabytes."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the student's layers (DESIGN: 1,867,089 parameters with these defaults)."""

    n_symbols: int = whole(149, most=LARGEST_LAYER)
    """rows of the embedding: the teacher's 148 symbols and one spare; row 0 is padding"""
    embedding_size: int = whole(256, most=LARGEST_LAYER)
    """width of a symbol's vector"""
    encoder_size: int = whole(512, most=LARGEST_LAYER)
    """width of the encoder's output, both directions together (even)"""
    duration_size: int = whole(512, most=LARGEST_LAYER)
    """hidden width of the duration predictor"""
    decoder_size: int = whole(256, most=LARGEST_LAYER)
    """width of the decoder's output, both directions together (even)"""
    n_mels: int = whole(80, most=LARGEST_LAYER)
    """mel bins"""
    refiner_blocks: int = whole(0, least=0, most=64)
    """convolution blocks between the decoder and the mel; 0: none, as published"""
    refiner_size: int = whole(192, most=LARGEST_LAYER)
    """their width"""
    refiner_hidden: int = whole(384, most=LARGEST_LAYER)
    """their hidden width"""

    def __post_init__(self) -> None:
        check(self, "model configuration")
        for name in ("encoder_size", "decoder_size"):
            if getattr(self, name) % 2:
                raise InputError(
                    f"model configuration: {name} must be even (two directions), "
                    f"not {getattr(self, name)}"
                )


@dataclass(frozen=True)
class TrainingConfig:
    """How the student is trained. The defaults are the published recipe."""

    steps: int = whole(20000)
    """optimiser steps in all"""
    batch_size: int = whole(64)
    """utterances a step"""
    learning_rate: float = number(1e-3, above=0)
    """Adam's learning rate after warm-up"""
    warmup_steps: int = whole(0, least=0)
    """steps over which the learning rate rises linearly from zero"""
    final_learning_rate: float = number(1e-3)
    """where a cosine decay over all the steps ends; equal to learning_rate: no decay"""
    weight_decay: float = number(1e-6)
    """Adam's L2 weight decay"""
    clip_norm: float = number(1.0, above=0)
    """largest norm of the gradient"""
    mel_squared_weight: float = number(1.0)
    """weight of the mel's mean squared error"""
    mel_absolute_weight: float = number(0.0)
    """weight of the mel's mean absolute error"""
    duration_weight: float = number(1.0)
    """weight of the durations' mean absolute error, in frames a token"""
    memory_weight: float = number(1.0)
    """weight of the mean absolute error between encoder projection and teacher's memory"""
    adversarial_weight: float = number(0.0)
    """weight of passing for the teacher with a critic of mel patches; 0: there is no critic"""
    features_weight: float = number(0.0)
    """weight of the difference between student and teacher in the critic's inner features"""
    critic_rate: float = number(0.1)
    """the critic's share of the learning rate"""
    adversarial_start: float = number(0.0, below=1)
    """share of the steps that come before the critic begins to learn and is listened to"""
    ema_decay: float = number(0.0, below=1)
    """what is kept, at each step, of the average of the weights (such as 0.999), which then is what
    is validated and becomes the voice; 0: no average"""
    validation_share: float = number(0.05, above=0, below=1)
    """share of the store's utterances held out for validation, at least one"""
    validate_every: int = whole(250)
    """steps between validations"""
    patience: int = whole(0, least=0)
    """validations without a better one after which training stops; 0: it never does"""
    save_every: int = whole(250)
    """steps between checkpoints"""
    seed: int = whole(1234, least=0)
    """seed of the initial weights, of the split and of the order of the batches"""

    def __post_init__(self) -> None:
        check(self, "training configuration")
        if not self.mel_squared_weight + self.mel_absolute_weight > 0:
            problem = "one of mel_squared_weight and mel_absolute_weight must be above 0"
        elif self.adversarial_weight == 0 < self.features_weight:
            problem = "features_weight must be 0 without a critic (adversarial_weight)"
        elif self.adversarial_weight > 0 and self.patience:
            problem = (
                "patience must be 0 with a critic, which may be asked when nothing else gets better"
            )
        else:
            return
        raise InputError(f"training configuration: {problem}")


@dataclass(frozen=True)
class Config(Configuration):
    """A named configuration: the student and its training."""

    name: str = "lightspeech"
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


_HQ = ModelConfig(encoder_size=384, duration_size=128, refiner_blocks=3)

DEFAULT_CONFIG = "lightspeech-hq"
"""by its name in CONFIGS"""

CONFIGS = {
    "lightspeech-hq": Config(
        name="lightspeech-hq",
        model=_HQ,
        training=TrainingConfig(
            steps=10000,
            batch_size=16,
            learning_rate=2e-3,
            warmup_steps=200,
            final_learning_rate=2e-5,
            mel_absolute_weight=1.0,
            adversarial_weight=0.5,
            features_weight=5.0,
            critic_rate=0.3,
            adversarial_start=0.4,
            ema_decay=0.998,
            validation_share=0.02,
            validate_every=500,
            save_every=250,
        ),
    ),
    "lightspeech": Config(),
    "quick": Config(
        name="quick",
        training=TrainingConfig(
            steps=800,
            batch_size=16,
            learning_rate=3e-3,
            warmup_steps=50,
            final_learning_rate=1e-4,
            mel_absolute_weight=1.0,
            validate_every=100,
            save_every=100,
        ),
    ),
}
"""`lightspeech-hq`: what docs/student_quality.md found best, and the bundled voice was made with.
`lightspeech`: the published recipe and layers. `quick`: these layers in minutes (make demo)."""
