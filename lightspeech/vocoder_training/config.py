"""What a light vocoder is and how it is trained: named configurations, and files like them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lightspeech.errors import InputError
from lightspeech.files import read_json
from lightspeech.vocoders.light_network import LightConfig

DEFAULT_CONFIG = "light"


@dataclass(frozen=True)
class VocoderTrainingConfig:
    """How it is trained."""

    steps: int = 12000
    batch_size: int = 8
    """clips a step, all processes' together"""
    clip_frames: int = 32
    """frames of a clip (0.37 s)"""
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warmup_steps: int = 200
    weight_decay: float = 0.0
    clip_norm: float = 1000.0
    """of the whole gradient, critics' included"""
    ema_decay: float = 0.999
    spectral_weight: float = 45.0
    """of the distance between mel spectrograms"""
    pitch_weight: float = 1.0
    """of the error of the pitch, in semitones"""
    adversarial_weight: float = 1.0
    features_weight: float = 2.0
    critic_start: float = 0.1
    """share of the steps after which the critics come in"""
    critic_size: int = 8
    """channels of the critics' first layers: more hear more and cost more"""
    critic_rate: float = 0.5
    """their learning rate, as a share"""
    mels_share: float = 0.8
    """of the clips whose mel is another's than the recording's, where there are such mels"""
    held_out: int = 16
    """recordings that no step hears, for validation"""
    validate_every: int = 1000
    save_every: int = 250
    seed: int = 1234

    def __post_init__(self) -> None:
        problems = []
        for name in ("steps", "batch_size", "clip_frames", "critic_size", "held_out"):
            problems += _unless(_is_whole(self, name, 1), self, name, "a whole number above 0")
        for name in ("warmup_steps", "seed"):
            problems += _unless(_is_whole(self, name, 0), self, name, "a whole number")
        for name in ("validate_every", "save_every"):
            problems += _unless(_is_whole(self, name, 1), self, name, "a whole number above 0")
        for name in ("learning_rate", "final_learning_rate", "clip_norm"):
            problems += _unless(_is_in(self, name, 1e-12, 1e12), self, name, "a number above 0")
        for name in (
            "weight_decay",
            "spectral_weight",
            "pitch_weight",
            "adversarial_weight",
            "features_weight",
        ):
            problems += _unless(_is_in(self, name, 0, 1e12), self, name, "a number of at least 0")
        for name in ("ema_decay", "critic_start", "mels_share", "critic_rate"):
            problems += _unless(_is_in(self, name, 0, 1), self, name, "a number from 0 to 1")
        if not problems and self.ema_decay == 1:
            problems.append("ema_decay 1 would never learn: expected less")
        if problems:
            raise InputError("; ".join(problems))


@dataclass(frozen=True)
class VocoderConfig:
    """A named configuration."""

    name: str = DEFAULT_CONFIG
    network: LightConfig = field(default_factory=LightConfig)
    training: VocoderTrainingConfig = field(default_factory=VocoderTrainingConfig)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def override(self, **given: float | None) -> VocoderConfig:
        """This configuration with other settings of the training (None: as it is)."""
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        return replace(self, training=replace(self.training, **changes))

    @staticmethod
    def from_dict(values: Any, where: str) -> VocoderConfig:
        """The inverse of `as_dict`. `where` names the source in the InputError's message."""
        if not isinstance(values, dict) or values.keys() - {"name", "network", "training"}:
            raise InputError(f"{where}: expected a JSON object with name, network and training")
        training = values.get("training", {})
        known = {f.name for f in fields(VocoderTrainingConfig)}
        if not isinstance(training, dict) or training.keys() - known:
            unknown = ", ".join(sorted(training.keys() - known)) if training else training
            raise InputError(f"{where}: no such settings of a training: {unknown}")
        try:
            return VocoderConfig(
                str(values.get("name", "custom")),
                LightConfig.from_dict(values.get("network", {}), where),
                VocoderTrainingConfig(**training),
            )
        except InputError as e:
            raise InputError(f"{where}: {e}") from e


def _unless(fine: bool, config: Any, name: str, expected: str) -> list[str]:
    return [] if fine else [f"{name} {getattr(config, name)!r}: expected {expected}"]


def _is_whole(config: Any, name: str, smallest: int) -> bool:
    value = getattr(config, name)
    return type(value) is int and value >= smallest


def _is_in(config: Any, name: str, smallest: float, largest: float) -> bool:
    value = getattr(config, name)
    return type(value) in (int, float) and smallest <= value <= largest  # not NaN


CONFIGS = {
    DEFAULT_CONFIG: VocoderConfig(),
    "quick": VocoderConfig(
        name="quick",
        training=VocoderTrainingConfig(steps=1500, validate_every=500, save_every=250),
    ),
}
"""`light`: that of the bundled vocoder, which took 8,200 of the steps. `quick`: an eighth of it."""


def load_config(name_or_path: str | Path) -> VocoderConfig:
    """A configuration by its name in CONFIGS or from a JSON file; InputError for anything else."""
    if str(name_or_path) in CONFIGS:
        return CONFIGS[str(name_or_path)]
    if not Path(name_or_path).exists():
        raise InputError(
            f"no configuration {str(name_or_path)!r}: expected one of {', '.join(CONFIGS)}, "
            "or a JSON file"
        )
    return VocoderConfig.from_dict(read_json(name_or_path, "configuration"), str(name_or_path))
