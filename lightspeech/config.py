"""Every choice about the student and its training: documented, checked, frozen, stored as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json

LARGEST_NUMBER = 1e300
"""Larger settings count as infinite: they are typing errors, and no float32 holds them."""
LARGEST_LAYER = 16384
"""Widest layer that is believed: a wrong file must not ask for terabytes."""


def _require(problems: list[str], where: str) -> None:
    if problems:
        raise InputError(f"{where}: " + "; ".join(problems))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the student's layers (DESIGN: 1,867,089 parameters with these defaults)."""

    n_symbols: int = 149
    """rows of the embedding: the teacher's 148 symbols and one spare; row 0 is padding"""
    embedding_size: int = 256
    """width of a symbol's vector"""
    encoder_size: int = 512
    """width of the encoder's output, both directions together (even)"""
    duration_size: int = 512
    """hidden width of the duration predictor"""
    decoder_size: int = 256
    """width of the decoder's output, both directions together (even)"""
    n_mels: int = 80
    """mel bins"""
    refiner_blocks: int = 0
    """convolution blocks between the decoder and the mel, up to 64; 0: none, as published"""
    refiner_size: int = 192
    """their width"""
    refiner_hidden: int = 384
    """their hidden width"""

    def __post_init__(self) -> None:
        limits = {f.name: (1, LARGEST_LAYER) for f in fields(self)} | {"refiner_blocks": (0, 64)}
        problems = [
            f"{name} must be a whole number, {least} to {most}, not {getattr(self, name)!r}"
            for name, (least, most) in limits.items()
            if not _is_whole(getattr(self, name)) or not least <= getattr(self, name) <= most
        ]
        problems += [
            f"{name} must be even (two directions), not {getattr(self, name)}"
            for name in ("encoder_size", "decoder_size")
            if _is_whole(getattr(self, name)) and getattr(self, name) % 2
        ]
        _require(problems, "model configuration")


@dataclass(frozen=True)
class TrainingConfig:
    """How the student is trained. The defaults are the published recipe."""

    steps: int = 20000
    """optimiser steps in all"""
    batch_size: int = 64
    """utterances a step"""
    learning_rate: float = 1e-3
    """Adam's learning rate after warm-up"""
    warmup_steps: int = 0
    """steps over which the learning rate rises linearly from zero"""
    final_learning_rate: float = 1e-3
    """where a cosine decay over all the steps ends; equal to learning_rate: no decay"""
    weight_decay: float = 1e-6
    """Adam's L2 weight decay"""
    clip_norm: float = 1.0
    """largest norm of the gradient"""
    mel_squared_weight: float = 1.0
    """weight of the mel's mean squared error"""
    mel_absolute_weight: float = 0.0
    """weight of the mel's mean absolute error"""
    duration_weight: float = 1.0
    """weight of the durations' mean absolute error, in frames a token"""
    memory_weight: float = 1.0
    """weight of the mean absolute error between encoder projection and teacher's memory"""
    adversarial_weight: float = 0.0
    """weight of passing for the teacher with a critic of mel patches; 0: there is no critic"""
    features_weight: float = 0.0
    """weight of the difference between student and teacher in the critic's inner features"""
    critic_rate: float = 0.1
    """the critic's share of the learning rate"""
    adversarial_start: float = 0.0
    """share of the steps that come before the critic begins to learn and is listened to"""
    ema_decay: float = 0.0
    """what is kept, at each step, of the average of the weights (such as 0.999), which then is what
    is validated and becomes the voice; 0: no average"""
    validation_share: float = 0.05
    """share of the store's utterances held out for validation, at least one"""
    validate_every: int = 250
    """steps between validations"""
    patience: int = 0
    """validations without a better one after which training stops; 0: it never does"""
    save_every: int = 250
    """steps between checkpoints"""
    seed: int = 1234
    """seed of the initial weights, of the split and of the order of the batches"""

    def __post_init__(self) -> None:
        problems = []
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not _is_whole(value) or not least <= value < 2**63:
                problems.append(f"{name} must be a whole number of at least {least}, not {value!r}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _WHOLE:
                continue
            if not isinstance(value, float) and not _is_whole(value):
                problems.append(f"{f.name} must be a number, not {value!r}")
            elif f.name in ("learning_rate", "clip_norm") and not 0 < value < LARGEST_NUMBER:
                problems.append(f"{f.name} must be above 0 and finite, not {value!r}")
            elif f.name in ("ema_decay", "adversarial_start") and not 0 <= value < 1:
                problems.append(f"{f.name} must be at least 0 and below 1, not {value!r}")
            elif f.name == "validation_share" and not 0 < value < 1:
                problems.append(f"{f.name} must be above 0 and below 1, not {value!r}")
            elif not 0 <= value < LARGEST_NUMBER:
                problems.append(f"{f.name} must be at least 0 and finite, not {value!r}")
        if not problems and not self.mel_squared_weight + self.mel_absolute_weight > 0:
            problems.append("one of mel_squared_weight and mel_absolute_weight must be above 0")
        if not problems and self.adversarial_weight == 0 < self.features_weight:
            problems.append("features_weight must be 0 without a critic (adversarial_weight)")
        if not problems and self.adversarial_weight > 0 and self.patience:
            problems.append(
                "patience must be 0 with a critic, which may be asked when nothing else gets better"
            )
        _require(problems, "training configuration")


_WHOLE = {
    "steps": 1,
    "batch_size": 1,
    "warmup_steps": 0,
    "validate_every": 1,
    "patience": 0,
    "save_every": 1,
    "seed": 0,
}
"""the fields of TrainingConfig that count things, with the smallest value of each"""


@dataclass(frozen=True)
class Config:
    """A named configuration: the student and its training."""

    name: str = "lightspeech"
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def override(
        self,
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        seed: int | None = None,
    ) -> Config:
        """This configuration with what the command line gives (None: as it is).

        A new learning rate moves the one at which the decay ends in proportion, so the shape of
        the schedule stays.
        """
        changes: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "seed": seed}
        if learning_rate is not None:
            training = self.training
            ratio = training.final_learning_rate / training.learning_rate
            changes["learning_rate"] = learning_rate
            changes["final_learning_rate"] = learning_rate * ratio
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, training=replace(self.training, **given))

    def differences(self, other: Config) -> list[str]:
        """`field: mine, not theirs` for every field in which two configurations differ."""
        return [
            f"{part}.{name}: {value!r}, not {getattr(getattr(other, part), name)!r}"
            for part in ("model", "training")
            for name, value in vars(getattr(self, part)).items()
            if value != getattr(getattr(other, part), name)
        ]

    @staticmethod
    def from_dict(values: Any, where: str) -> Config:
        """The inverse of `as_dict`. `where` names the source in the InputError's message."""
        if not isinstance(values, dict):
            raise InputError(f"{where}: expected a JSON object with name, model and training")
        problems = [
            f"unknown field {key!r}" for key in values.keys() - {"name", "model", "training"}
        ]
        parts = {"model": ModelConfig, "training": TrainingConfig}
        for key, cls in parts.items():
            given = values.get(key, {})
            if not isinstance(given, dict):
                problems.append(f"{key} must be an object")
                continue
            known = {f.name for f in fields(cls)}
            problems += [f"unknown field {key}.{name}" for name in given.keys() - known]
        _require(sorted(problems), where)
        try:
            return Config(
                name=str(values.get("name", "custom")),
                model=ModelConfig(**values.get("model", {})),
                training=TrainingConfig(**values.get("training", {})),
            )
        except InputError as e:
            raise InputError(f"{where}: {e}") from e


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


def load_config(name_or_path: str | Path, model: ModelConfig | None = None) -> Config:
    """A configuration by its name in CONFIGS or from a JSON file.

    Args:
        model: layers that are given already; then the configuration says how to train them. One by
            its name, and a file without a `model`, takes them.

    Raises:
        InputError: no such configuration, values that make no sense, or a file whose `model` is
            another than the one given.
    """
    if str(name_or_path) in CONFIGS:
        named = CONFIGS[str(name_or_path)]
        return named if model is None else replace(named, model=model)
    if not Path(name_or_path).exists():
        raise InputError(
            f"no configuration {str(name_or_path)!r}: expected one of {', '.join(CONFIGS)}, "
            "or a JSON file"
        )
    values = read_json(name_or_path, "configuration")
    if model is not None and isinstance(values, dict):
        values = {"model": asdict(model), **values}
    config = Config.from_dict(values, str(name_or_path))
    if model is not None and config.model != model:
        differences = config.differences(replace(config, model=model))
        raise InputError(
            f"{name_or_path} has other layers than the voice ({'; '.join(differences)}): take out "
            "its model, and the voice's is kept"
        )
    return config
