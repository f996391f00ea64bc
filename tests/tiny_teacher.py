"""A Tacotron 2 that is quick to run and comes to an end, for tests of what surrounds it."""

from __future__ import annotations

import math

import torch

from lightspeech.scoring import Limits
from tacotron2 import Tacotron2, Tacotron2Config

SIZES = Tacotron2Config(
    symbols_embedding_dim=16,
    encoder_embedding_dim=16,
    encoder_n_convolutions=1,
    attention_rnn_dim=16,
    attention_dim=8,
    attention_location_n_filters=2,
    attention_location_kernel_size=5,
    decoder_rnn_dim=16,
    prenet_dim=8,
    postnet_embedding_dim=8,
    postnet_n_convolutions=2,
)

ANYTHING_GOES = Limits(**dict.fromkeys(vars(Limits())))
"""What it says is no speech, and its attention reads no text."""


def tiny_teacher(frames: int, seed: int = 0) -> Tacotron2:
    """Random weights, but every utterance ends with frame number `frames`.

    One cell of the decoder's LSTM counts: all its gates are open and it adds the same every frame,
    so that the stop gate, which listens to nothing else, opens when the cell has seen enough.
    """
    torch.manual_seed(seed)
    teacher = Tacotron2(SIZES).eval()
    step = 1.0 / frames
    with torch.no_grad():
        cell, size = teacher.decoder.decoder_rnn, SIZES.decoder_rnn_dim
        biases = (20.0, 20.0, math.atanh(step), 20.0)  # input, forget, cell, output
        for gate, bias in enumerate(biases):
            cell.weight_ih[gate * size] = 0.0
            cell.weight_hh[gate * size] = 0.0
            cell.bias_ih[gate * size] = bias
            cell.bias_hh[gate * size] = 0.0
        gate_layer = teacher.decoder.gate_layer.linear_layer
        gate_layer.weight.zero_()
        gate_layer.weight[0, 0] = 1000.0
        gate_layer.bias.fill_(-1000.0 * math.tanh(1.0 - step / 2))
    return teacher
