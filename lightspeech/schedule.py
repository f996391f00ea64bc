"""The learning rate over a training, of a student and of a light vocoder alike."""

from __future__ import annotations

import math
from typing import Protocol


class Schedule(Protocol):
    """The settings of a training that decide its learning rate."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def final_learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...


def learning_rate(settings: Schedule, step: int) -> float:
    """The rate at `step` (0-based): a linear rise, then half a cosine down to the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    decay_steps = max(settings.steps - 1 - settings.warmup_steps, 1)
    progress = min((step - settings.warmup_steps) / decay_steps, 1.0)
    fall = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + fall * (1 + math.cos(math.pi * progress)) / 2
