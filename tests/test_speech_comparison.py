"""What is planted in a student's mel, pitch and durations comes out of the comparison."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightspeech.audio import SAMPLE_RATE, mel_spectrogram
from lightspeech.evaluation.mel_distance import mel_cepstra, mel_cepstral_distortion, warp
from lightspeech.evaluation.speech_comparison import (
    compare,
    mels_at_durations,
    pitch_difference,
    speech_frames,
    variance_ratio,
)
from lightspeech.model import LightSpeech
from lightspeech.speech import Reading, Speech, join_readings
from lightspeech.synthesis import Synthesizer
from lightspeech.vocoders.pitch import track_pitch
from tests.test_synthesis import Loud, tiny_student

TEXT = "A small boat went by. Nobody saw it."


def random_mel(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(frames, 80, generator=torch.Generator().manual_seed(seed)) - 4


def harmonics(pitch: np.ndarray) -> Tensor:
    """(S,) a buzz whose pitch (S,) is given in Hz; silent where that is 0."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = sum(np.cos(k * phase) / k for k in range(1, 25))
    return torch.from_numpy(0.1 * sound * (pitch > 0)).float()


def said(mels: list[Tensor], durations: list[list[int]]) -> Speech:
    """Sentences of the letter a, as a voice would have spoken them."""
    readings = [
        Reading("a" * len(spans), ["a"] * len(spans), mel, torch.tensor(spans))
        for mel, spans in zip(mels, durations, strict=True)
    ]
    wavs = [torch.zeros(256 * len(mel)) for mel in mels]
    return join_readings(readings, wavs, 17, {"text": 0.0, "mel": 0.0, "vocoder": 0.0})


@pytest.fixture(scope="module")
def model() -> LightSpeech:
    return tiny_student().eval()


# Warping


def test_the_path_is_the_cheapest_one() -> None:
    one, other = random_mel(5, 1), random_mel(4, 2)
    cost = np.linalg.norm(
        mel_cepstra(one.numpy())[:, None] - mel_cepstra(other.numpy())[None], axis=2
    )

    def paths(i: int, j: int) -> list[list[tuple[int, int]]]:
        if (i, j) == (0, 0):
            return [[(0, 0)]]
        before = [(a, b) for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(a, b) >= 0]
        return [[*path, (i, j)] for a, b in before for path in paths(a, b)]

    best = min(paths(4, 3), key=lambda path: sum(cost[step] for step in path))
    path, distances = warp(one, other)
    assert path.tolist() == [list(step) for step in best]
    scale = 10 / math.log(10) * math.sqrt(2)
    assert distances == pytest.approx([scale * cost[step] for step in best])
    assert mel_cepstral_distortion(one, other) == pytest.approx(float(distances.mean()))


def test_a_slower_reading_goes_along_with_the_faster() -> None:
    mel = random_mel(30)
    repeats = torch.arange(30) % 3 + 1
    path, distances = warp(mel.repeat_interleave(repeats, 0), mel)
    assert path[:, 1].tolist() == torch.arange(30).repeat_interleave(repeats).tolist()
    assert distances == pytest.approx(np.zeros(len(path)), abs=1e-9)


# Pitch


@pytest.mark.parametrize("semitones", [0.0, 1.0, -2.0, 4.0])
def test_a_shift_of_pitch_is_recovered(semitones: float) -> None:
    times = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    pitch = 160 + 30 * np.sin(2 * np.pi * 1.5 * times)
    contours = [
        track_pitch(mel_spectrogram(harmonics(p))) for p in (pitch * 2 ** (semitones / 12), pitch)
    ]
    path = np.stack([np.arange(len(contours[0]))] * 2, axis=1)
    found = pitch_difference(*contours, path)
    assert found["voiced_steps"] > 0.9 * len(path)
    rms = math.sqrt(found["cents_squared"] / found["voiced_steps"])
    assert rms == pytest.approx(100 * abs(semitones), abs=12)  # a candidate is 26 cents wide
    assert found["voicing_differences"] <= 0.05 * len(path)


def test_a_pause_in_the_voice_is_a_voicing_error() -> None:
    pitch = np.full(2 * SAMPLE_RATE, 150.0)
    broken = pitch.copy()
    broken[SAMPLE_RATE // 2 : SAMPLE_RATE] = 0  # a quarter of it
    contours = [track_pitch(mel_spectrogram(harmonics(p))) for p in (broken, pitch)]
    path = np.stack([np.arange(len(contours[0]))] * 2, axis=1)
    found = pitch_difference(*contours, path)
    assert found["voicing_differences"] / len(path) == pytest.approx(0.25, abs=0.04)


def test_pitch_by_hand() -> None:
    ours = np.array([100.0, 0.0, 200.0, 0.0])
    theirs = np.array([100.0, 100.0, 0.0])
    path = np.array([[0, 0], [1, 1], [2, 1], [3, 2]])
    found = pitch_difference(ours, theirs, path)
    assert found == {
        "voicing_differences": 1.0, "voiced_steps": 2.0, "cents_squared": pytest.approx(1200.0**2)
    }  # fmt: skip


# Variance


def test_a_smoothed_mel_moves_as_much_less_as_theory_says() -> None:
    mel = random_mel(20_000)  # white over time
    assert variance_ratio(mel, mel) == pytest.approx(1)
    smooth = mel.unfold(0, 4, 1).mean(2)  # the mean of four: a quarter of the variance
    assert variance_ratio(smooth, mel[3:]) == pytest.approx(1 / 4, rel=0.03)
    assert variance_ratio(0.5 * mel + 3, mel) == pytest.approx(1 / 4)
    scales = torch.linspace(0.1, 1, 80)  # a mean over bins, not of all together
    expected = float(scales.square().mean())
    assert variance_ratio(mel * scales, mel) == pytest.approx(expected)
    assert variance_ratio(mel * scales, mel * scales) == pytest.approx(1)


def test_bins_that_do_not_move_have_no_variance_ratio() -> None:
    mel = random_mel(50)
    still = mel.clone()
    still[:, :40] = -3
    assert variance_ratio(0.5 * mel, still) == pytest.approx(1 / 4)
    assert variance_ratio(mel, torch.full((50, 80), -3.0)) is None
    assert variance_ratio(mel[:1], mel[:1]) is None


def test_silence_is_no_speech() -> None:
    mel = torch.full((6, 80), -11.0)
    mel[1:4, 10] = torch.tensor([1.0, -4.9, -5.1])
    assert speech_frames(mel).tolist() == [False, True, True, False, False, False]


# Everything about a text


def test_a_voice_does_not_differ_from_itself(model: LightSpeech) -> None:
    speech = Synthesizer(model, Loud())(TEXT)
    assert len(speech.pieces) == 2
    found = compare(speech, speech, model)
    frames = float(speech.durations.sum())
    assert found["path_steps"] == found["teacher_frames"] == found["student_frames"] == frames
    assert found["tokens"] == len(speech.durations)
    for name in ("distortion", "voicing_differences", "cents_squared", "duration_error"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    # At its own durations it says what it said by itself.
    assert found["mel_error"] == pytest.approx(0, abs=1e-3)
    assert found["variance_ratio"] == pytest.approx(1, abs=1e-3)


def test_what_is_planted_is_found(model: LightSpeech) -> None:
    mels = mels_at_durations(model, said([torch.zeros(9, 80)], [[4, 2, 3]]).pieces)
    assert mels[0].shape == (9, 80)
    teacher = said([mels[0] + 0.25, random_mel(4)], [[4, 2, 3], [4]])
    student = said([random_mel(8, 1), random_mel(6, 2)], [[1, 3, 4], [6]])
    found = compare(student, teacher, model)
    assert found["duration_error"] == 3 + 1 + 1 + 2
    assert found["tokens"] == 4
    assert (found["student_frames"], found["teacher_frames"]) == (14, 13)
    second = mels_at_durations(model, teacher.pieces)[1]
    off = float((second - random_mel(4)).abs().mean(1).sum())
    assert found["mel_error"] == pytest.approx(9 * 0.25 + off, rel=1e-4)
    sides = zip((random_mel(8, 1), random_mel(6, 2)), (mels[0] + 0.25, random_mel(4)), strict=True)
    steps = [len(warp(one, other)[0]) for one, other in sides]
    assert found["path_steps"] == sum(steps)


def test_durations_of_zero_are_spoken_over(model: LightSpeech) -> None:
    pieces = said([torch.zeros(5, 80), torch.zeros(1, 80)], [[0, 5, 0], [1]]).pieces
    assert [len(mel) for mel in mels_at_durations(model, pieces)] == [5, 1]
    assert compare(*itertools.repeat(said([random_mel(1)], [[1]]), 2), model)["path_steps"] == 1
