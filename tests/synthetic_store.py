"""A label store of a few made-up utterances that a tiny student can learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lightspeech.audio import N_MELS
from lightspeech.config import Config, ModelConfig, TrainingConfig
from lightspeech.manifest import StoreIdentity
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter

MEMORY_SIZE = 12
IDENTITY = StoreIdentity("synthetic", "a" * 64, MEMORY_SIZE, {"seed": 1})


def make_label(number: int, n_tokens: int) -> Label:
    """Each symbol has its own duration, mel frame and memory, so all of it can be learned."""
    random = torch.Generator().manual_seed(number)
    tokens = torch.randint(1, 7, (n_tokens,), generator=random)
    durations = 1 + tokens % 4
    bins = torch.arange(N_MELS)
    mel = -5 + torch.sin(tokens[:, None] + bins / 20).repeat_interleave(durations, 0)
    memory = torch.cos(tokens[:, None] * (1 + torch.arange(MEMORY_SIZE)) / 9)
    return Label(
        f"u{number:03d}", f"text {number}", tokens, durations, mel, memory, {"focus_rate": 1.0}
    )


def make_store(path: Path, utterances: int = 12, teacher: str = "a" * 64) -> LabelStore:
    """A store of `utterances` of 4 to 15 tokens in shards of five."""
    identity = replace(IDENTITY, teacher_sha256=teacher)
    labels = [make_label(number, 4 + 7 * number % 12) for number in range(utterances)]
    with StoreWriter.open(path, identity) as writer:
        for start in range(0, utterances, 5):
            writer.append(labels[start : start + 5])
    return LabelStore.open(path)


def tiny_config(**training: int | float) -> Config:
    """A student of a few thousand parameters; 20 steps of 4 utterances unless said otherwise."""
    settings: dict[str, int | float] = {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-3,
        "warmup_steps": 3,
        "validation_share": 0.2,
        "validate_every": 5,
        "save_every": 4,
    }
    return Config(
        name="tiny",
        model=ModelConfig(embedding_size=8, encoder_size=16, duration_size=8, decoder_size=8),
        training=TrainingConfig(**{**settings, **training}),  # type: ignore[arg-type]
    )
