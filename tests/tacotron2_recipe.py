"""Draws the weights that the arrays of fixtures/tacotron2.npz were computed with."""

from __future__ import annotations

import math

import numpy as np
import torch

from tacotron2 import Tacotron2, Tacotron2Config

MINI = Tacotron2Config(
    symbols_embedding_dim=32,
    encoder_embedding_dim=32,
    attention_rnn_dim=48,
    attention_dim=16,
    attention_location_n_filters=8,
    attention_location_kernel_size=15,
    decoder_rnn_dim=64,
    prenet_dim=24,
    postnet_embedding_dim=40,
)
"""The small configuration of the reference arrays."""


def draw_weights(config: Tacotron2Config, seed: int = 1234) -> dict[str, torch.Tensor]:
    """The recipe: normal numbers, drawn in the order of the sorted names, scaled by kind."""
    with torch.device("meta"):
        shapes = {name: tuple(w.shape) for name, w in Tacotron2(config).state_dict().items()}
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        x = random.standard_normal(shape).astype(np.float32)
        if name.endswith("running_var"):
            x = np.float32(0.5) + np.abs(x)
        elif len(shape) >= 2:
            x *= np.float32(1.5 / math.sqrt(math.prod(shape[1:])))
            if "attention_layer.v." in name:
                x *= 8
        else:
            x *= 0.1
        weights[name] = torch.from_numpy(x)
    weights["decoder.gate_layer.linear_layer.bias"].fill_(-3)
    return weights


def draw_tacotron2(config: Tacotron2Config = MINI, seed: int = 1234) -> Tacotron2:
    """A model with these weights, in evaluation mode."""
    model = Tacotron2(config)
    model.load_state_dict(draw_weights(config, seed))
    return model.eval()
