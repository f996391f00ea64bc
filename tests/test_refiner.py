"""The refiner: positions against a loop, what a frame can see, and padding that it cannot."""

from __future__ import annotations

import math

import torch

from lightspeech.config import ModelConfig
from lightspeech.convnext import KERNEL_SIZE
from lightspeech.length_regulator import token_of_frame, valid_positions
from lightspeech.model import LightSpeech
from lightspeech.refiner import Refiner, positions

DURATIONS = torch.tensor([[2, 0, 3, 1], [4, 1, 0, 0]])


def test_positions_are_those_of_a_loop() -> None:
    source, frames = token_of_frame(DURATIONS)
    found = positions(DURATIONS, source)
    for durations, count, rows in zip(DURATIONS.tolist(), frames.tolist(), found, strict=True):
        expected = [
            [(k + 0.5) / d, math.log(k + 1), math.log(d - k), math.log(d)]
            for d in durations
            for k in range(d)
        ]
        torch.testing.assert_close(rows[:count], torch.tensor(expected))
    assert found.isfinite().all()


def refine(refiner: Refiner, decoded: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    source, frames = token_of_frame(durations)
    padded = ~valid_positions(frames, source.shape[1]).unsqueeze(2)
    generator = torch.Generator().manual_seed(1)
    memory = torch.randn(*durations.shape, 6, generator=generator).double()
    refined = refiner(decoded[:, : source.shape[1]], memory, durations, source, padded)
    return refined.masked_fill(padded, 0.0)


def test_a_frame_sees_its_neighbourhood_and_no_more() -> None:
    torch.manual_seed(0)
    blocks = 2
    refiner = Refiner(5, 6, 8, 10, blocks).double()
    durations = torch.tensor([[10, 10, 10]])
    decoded = torch.randn(1, 30, 5).double()
    changed = decoded.clone()
    changed[0, 14] += 1
    moved = (refine(refiner, changed, durations) - refine(refiner, decoded, durations)).abs()
    reach = blocks * (KERNEL_SIZE // 2)
    touched = (moved[0].amax(1) > 0).nonzero()[:, 0].tolist()
    assert touched == list(range(14 - reach, 14 + reach + 1))


def test_what_is_beyond_an_items_frames_is_never_heard() -> None:
    torch.manual_seed(0)
    refiner = Refiner(5, 6, 8, 10, 3).double()
    decoded = torch.randn(2, 6, 5).double()
    together = refine(refiner, decoded, DURATIONS)
    loud = decoded.clone()
    loud[1, 5:] = 1e6
    assert torch.equal(refine(refiner, loud, DURATIONS), together)


def test_frames_of_a_token_differ_by_their_place() -> None:
    torch.manual_seed(0)
    refiner = Refiner(5, 6, 8, 10, 1).double()
    constant = torch.ones(1, 8, 5).double()
    refined = refine(refiner, constant, torch.tensor([[8]]))
    # the fourth and fifth frame have the same neighbours but for their places
    assert (refined[0, 3] - refined[0, 4]).abs().max() > 1e-3


def test_in_mixed_precision_a_student_speaks_in_single_precision() -> None:
    torch.manual_seed(0)
    student = LightSpeech(
        ModelConfig(encoder_size=16, duration_size=8, decoder_size=16, refiner_blocks=2)
    )
    tokens = torch.randint(1, 149, (2, 7))
    durations = torch.randint(1, 5, (2, 7))
    lengths = torch.tensor([7, 5])
    full = student(tokens, lengths, durations).mel
    with torch.autocast("cpu", torch.bfloat16):
        mixed = student(tokens, lengths, durations).mel
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, mixed.bfloat16().float())  # the last layer rounds nothing
    difference = (mixed - full).abs().max()
    assert 0 < difference < 0.02 * full.abs().max()
