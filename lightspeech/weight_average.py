"""The average of a module's weights over the steps of its training (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average; young ones forget faster, so that it has no bias."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begins with the module's weights.

        Args:
            decay: what is kept of the average at each step, below 1; at 0 nothing is averaged.
        """
        self.decay, self.steps = decay, 0
        self.values = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if value.is_floating_point() and decay > 0
        }
        """name -> average, of parameters and of batch norm's statistics; empty where decay is 0"""

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights after a step."""
        if not self.values:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        state = module.state_dict()
        names = list(self.values)
        torch._foreach_lerp_([self.values[n] for n in names], [state[n] for n in names], share)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module has the average's weights while the block runs, and its own afterwards."""
        if not self.values:
            yield
            return
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(own | self.values)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """name -> average, for saving beside `steps`."""
        return self.values

    def restore(self, values: dict[str, Tensor], steps: int) -> None:
        """Goes to where a saved average stood."""
        for name, value in self.values.items():
            value.copy_(values[name])
        self.steps = steps

    def to(self, device: torch.device) -> None:
        """Moves the average to where the module is."""
        self.values = {name: value.to(device) for name, value in self.values.items()}
