"""Draws the weights that the arrays of fixtures/waveglow.npz were computed with."""

from __future__ import annotations

import math

import numpy as np
import torch

from waveglow.config import WaveGlowConfig
from waveglow.model import WaveGlow

SMALL = WaveGlowConfig(n_flows=6, n_early_every=2, n_layers=3, n_channels=32)
"""The small configuration of the reference arrays."""


def draw_weights(config: WaveGlowConfig, seed: int = 4321) -> dict[str, torch.Tensor]:
    """The recipe: normal numbers, drawn in the order of NVIDIA's sorted names, scaled by kind.

    NVIDIA's model has weight norm in all convolutions of the coupling networks but `end`; it is
    multiplied out here.
    """
    with torch.device("meta"):
        ours = {name: tuple(w.shape) for name, w in WaveGlow(config).state_dict().items()}
    shapes = {}
    for name, shape in ours.items():
        if name.startswith("WN.") and name.endswith(".weight") and ".end." not in name:
            shapes[f"{name}_g"] = (shape[0], 1, 1)
            shapes[f"{name}_v"] = shape
        else:
            shapes[name] = shape
    random = np.random.RandomState(seed)
    drawn = {}
    for name in sorted(shapes):
        shape = shapes[name]
        x = random.standard_normal(shape).astype(np.float32)
        if name.startswith("convinv"):
            rotation = np.linalg.qr(x[:, :, 0].astype(np.float64))[0]
            if np.linalg.det(rotation) < 0:
                rotation[:, 0] *= -1
            x = rotation.astype(np.float32)[:, :, None]
        elif ".end." in name:
            x *= np.float32(0.005)
        elif name.endswith("weight_g"):
            x = np.float32(0.5) + np.abs(x)
        elif len(shape) >= 2:
            x *= np.float32(1 / math.sqrt(math.prod(shape[1:])))
        else:
            x *= np.float32(0.1)
        drawn[name] = torch.from_numpy(x)
    weights = {}
    for name in ours:
        if f"{name}_g" in drawn:
            v = drawn[f"{name}_v"]
            weights[name] = drawn[f"{name}_g"] * v / v.norm(dim=(1, 2), keepdim=True)
        else:
            weights[name] = drawn[name]
    return weights


def draw_waveglow(config: WaveGlowConfig = SMALL, seed: int = 4321) -> WaveGlow:
    """A model with these weights, in evaluation mode."""
    model = WaveGlow(config)
    model.load_state_dict(draw_weights(config, seed))
    return model.eval()
