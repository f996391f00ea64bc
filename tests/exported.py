"""Small random voices, and their exports, for the tests of lightspeech.export."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from lightspeech.config import ModelConfig
from lightspeech.export.card import Origin
from lightspeech.model import LightSpeech
from lightspeech.vocoders.light_network import LightConfig, LightNetwork

STUDENTS = {
    "published": ModelConfig(
        embedding_size=20, encoder_size=24, duration_size=16, decoder_size=32
    ),
    "refined": ModelConfig(
        embedding_size=20, encoder_size=24, duration_size=16, decoder_size=32,
        refiner_blocks=3, refiner_size=24, refiner_hidden=40,
    ),
}  # fmt: skip
ORIGIN = Origin(
    name="tiny",
    licence="BSD-3-Clause",
    voice={
        "config": {"name": "tiny"},
        "step": 7,
        "sha256": "ab" * 32,
        "teacher": {"name": "somebody", "sha256": "cd" * 32},
    },
    vocoder={"name": "a vocoder", "sha256": "ef" * 32, "path": "/home/somebody/vocoder"},
)


def shake(module: torch.nn.Module, seed: int) -> None:
    """Random scales and shifts where training begins with ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def random_student(config: ModelConfig, seed: int = 0) -> LightSpeech:
    """A student whose tokens take 1 to some 12 frames."""
    torch.manual_seed(seed)
    student = LightSpeech(config).eval()
    shake(student, seed)
    with torch.no_grad():
        student.embedding.weight.mul_(3.0)
        student.duration_predictor[2].weight.mul_(60.0)
        student.duration_predictor[2].bias.fill_(0.0)
    return student


def random_network(config: LightConfig | None = None, seed: int = 0) -> LightNetwork:
    """A vocoder whose phases go around several times and whose loudest bins are held."""
    torch.manual_seed(seed)
    network = LightNetwork(
        config or LightConfig(16, 24, 2, softest=0.1, softest_highest=0.3)
    ).eval()
    shake(network, seed)
    with torch.no_grad():
        network.spectrum.weight.mul_(8.0)
        network.harmonics.weight.mul_(8.0)
        network.pitch.weight.mul_(0.1)  # of a trained one it does not jump either
    return network


def random_tokens(count: int, seed: int = 0) -> np.ndarray:
    """(count,) symbol ids."""
    return np.random.default_rng(seed).integers(0, 148, count)


@torch.inference_mode()
def spoken_in_torch(
    student: LightSpeech, tokens: np.ndarray, pace: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The mel (T, M) and durations (N,)."""
    output = student.infer(torch.tensor(tokens)[None], torch.tensor([len(tokens)]), pace)
    return output.mel[0].numpy(), output.durations[0].numpy()


@torch.inference_mode()
def vocoded_in_torch(network: LightNetwork, mel: np.ndarray) -> tuple[np.ndarray, float]:
    """(T, M) -> (256 T,), in double precision, and how far any sample may be from it.

    That is 1e-3 of the loudest one: small differences of the pitch add up over time, and high
    harmonics multiply them.
    """
    exact = copy.deepcopy(network).double()(torch.tensor(mel).double()[None])[0].numpy()
    return exact, 1e-3 * float(np.abs(exact).max())


def text_inputs(tokens: np.ndarray, pace: float = 1.0) -> dict[str, Any]:
    """What the graphs take."""
    return {"tokens": np.asarray(tokens, np.int64), "pace": np.array(pace, np.float32)}
