"""What the benchmark compares is the same work; its arithmetic is right."""

from __future__ import annotations

import time

import pytest
import torch

from lightspeech import benchmark
from lightspeech.benchmark import Row, best_times, table, training_batch, training_floor


def test_the_two_students_say_the_same() -> None:
    ours, plain = benchmark.two_students()
    assert type(plain.decoder) is not type(ours.decoder)
    batch = training_batch(2, 5, 23, 512)
    outputs = [
        student(batch.tokens, batch.token_lengths, batch.durations) for student in (ours, plain)
    ]
    torch.testing.assert_close(outputs[0].mel, outputs[1].mel, rtol=1e-5, atol=1e-6)


def test_the_batch_is_full() -> None:
    batch = training_batch(3, 7, 40, 16)
    assert batch.durations.sum(1).tolist() == batch.frames.tolist() == [40, 40, 40]
    assert batch.mel.shape == (3, 40, 80)


def test_sides_take_turns_and_the_first_turn_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    def side(name: str, durations: list[float]) -> None:
        calls.append(name)
        clock[0] += durations[calls.count(name) - 1]

    best = best_times([lambda: side("a", [1, 9, 7]), lambda: side("b", [9, 3, 5])], 2)
    assert best == [7, 3]
    assert calls == list("ababab")


def test_the_floor_grows_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "best_times", lambda sides, repeats: [2.0])
    # One product of 1,024 x 1,024 x 1,024 takes "2 seconds": 2^30 operations a second.
    small = training_floor(training_batch(1, 10, 50, 512), 512)
    # By hand: weights at token rate (encoder, projection, duration predictor, memory, decoder's
    # inputs) and at frame rate, forward and twice backward, 2 operations each.
    tokens = 2 * 768 * (256 + 256) + 512 * (512 + 512 + 512) + 2 * 384 * 512
    frames = 2 * 384 * 128 + 256 * 80
    assert small == pytest.approx(6 * (tokens * 10 + frames * 50) / 2**30)


def test_the_table() -> None:
    text = table([Row("a thing", 0.0123, "another", 2.5, 321.0), Row("alone", 1.0)])
    first, second = text.splitlines()[1:]
    assert first.split() == ["a", "thing", "12.3", "ms", "321", "2.50", "another"]
    assert second.split() == ["alone", "1000.0", "ms"]
