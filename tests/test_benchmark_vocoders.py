"""Who is compared with whom, floors counted by hand and by PyTorch, and what the rows say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightspeech.audio import FRAME_SECONDS, mel_filters
from lightspeech.benchmark import contenders, vocoders
from lightspeech.benchmark.contenders import NEURAL, QUICK, SLOW, Contender, find_contender, lineup
from lightspeech.benchmark.floors import (
    hifigan_multiply_adds,
    training_multiply_adds,
    vocoder_multiply_adds,
    waveglow_multiply_adds,
)
from lightspeech.benchmark.memory import Memory
from lightspeech.benchmark.published import HIFIGAN_SIZES
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.textbook import TextbookGriffinLim
from lightspeech.benchmark.training import training_batch
from lightspeech.benchmark.vocoders import bench_vocoders, the_mel, time_in_turn
from lightspeech.errors import InputError
from lightspeech.evaluation.quality import Dnsmos
from lightspeech.mel_file import write_mel
from lightspeech.vocoders import Vocoder, load_vocoder
from lightspeech.vocoders.hifigan_generator import Generator
from waveglow import WaveGlow, WaveGlowConfig


class Clockwork(Vocoder):
    """Takes so many seconds a frame of a clock that the test holds."""

    def __init__(self, name: str, clock: list[float], a_frame: float) -> None:
        self.name, self.clock, self.a_frame = name, clock, a_frame
        self.lengths: list[int] = []

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        self.lengths.append(len(mel))
        self.clock[0] += self.a_frame * len(mel)
        yield torch.zeros(256 * len(mel))


def a_mel(frames: int) -> Tensor:
    return torch.randn(frames, 80, generator=torch.Generator().manual_seed(0)) - 5


# Floors


def test_the_training_step_by_hand() -> None:
    # Weights at token rate (encoder, projection, duration predictor, memory, decoder's inputs) and
    # at frame rate, forward and twice backward.
    tokens = 2 * 768 * (256 + 256) + 512 * (512 + 512 + 512) + 2 * 384 * 512
    frames = 2 * 384 * 128 + 256 * 80
    found = training_multiply_adds(training_batch(1, 10, 50, 512), 512)
    assert found == 3 * (tokens * 10 + frames * 50)


def test_a_tiny_waveglow_by_hand() -> None:
    config = WaveGlowConfig(
        n_mel_channels=3, n_flows=2, n_group=4, n_early_every=1, n_early_size=2, n_layers=2,
        n_channels=6, kernel_size=3, upsample_kernel=16, upsample_stride=8,
    )  # fmt: skip
    upsampling = 3 * 3 * 16
    # Conditioning, dilated convolutions, the one residual connection.
    layers = (3 * 4) * 24 + 2 * 3 * 6 * 12 + 6 * 6
    # The 1 x 1 convolution, start, and two skip connections, each one matrix with the end.
    first = 4 * 4 + 2 * 6 + 2 * 6 * 4 + layers  # all four samples of a group
    second = 2 * 2 + 1 * 6 + 2 * 6 * 2 + layers  # two have left
    a_frame = upsampling + 2 * (first + second)  # 8 samples are two groups
    assert waveglow_multiply_adds(config) == pytest.approx(a_frame / FRAME_SECONDS)


@pytest.mark.parametrize("resblock", ["1", "2"])
def test_a_tiny_hifigan_by_hand_and_by_pytorch(resblock: str) -> None:
    config = replace(
        HIFIGAN_SIZES["V3"],
        resblock=resblock,
        upsample_rates=(4, 2),
        upsample_kernel_sizes=(8, 4),
        upsample_initial_channel=12,
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 2, 4), (1,)),
        hop_size=8,
    )
    paired = 2 if resblock == "1" else 1
    taps = paired * (3 * 3 + 1 * 5)  # of all residual blocks of a stage
    by_hand = 80 * 7 * 12  # a position a frame
    by_hand += 8 * 12 * 6 + 4 * taps * 6 * 6  # upsampling at that rate; then four positions
    by_hand += 4 * 4 * 6 * 3 + 8 * taps * 3 * 3  # at four; then eight
    by_hand += 8 * 7 * 3
    assert hifigan_multiply_adds(config) == pytest.approx(by_hand / FRAME_SECONDS)

    generator = Generator(config)
    counts = []
    for frames in (20, 30):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            generator(a_mel(frames)[None])
        counts.append(counter.get_total_flops() / 2)
    assert (counts[1] - counts[0]) / 10 == by_hand


def test_the_waveglow_floor_is_pytorchs_but_for_what_is_one_matrix() -> None:
    config = WaveGlowConfig(n_flows=3, n_early_every=2, n_layers=2, n_channels=16)
    torch.manual_seed(0)
    model = WaveGlow(config)
    counts = []
    for frames in (10, 20):  # the training direction has every layer as published
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(a_mel(frames)[None], torch.zeros(1, 256 * frames))
        counts.append(counter.get_total_flops() / 2)
    apart = counts[1] - counts[0]  # of 10 frames
    for n in (8, 8, 6):
        # Two skip connections of 16 x 16 and the end, of which the floor has 2 x 16 x n together.
        apart -= 10 * 32 * (2 * 16 * 16 + 16 * n - 2 * 16 * n)
    assert apart / 10 == pytest.approx(waveglow_multiply_adds(config) * FRAME_SECONDS)


# The vocoders and their order


def test_the_lineup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "at_hand", lambda: [])
    groups = [[c.spec for c in group] for group in lineup([])]
    assert groups == [
        ["griffin-lim", "librosa"], ["random:V1"], ["random:V2"], ["random:V3"],
        ["random:waveglow"],
    ]  # fmt: skip
    own = lineup(["hifigan:a/g_0100.pt", "hifigan:a/g_0100.pt"])
    assert [c.title for group in own[5:] for c in group] == ["HiFi-GAN (g_0100)"]
    assert [c.trained for group in own for c in group] == [True, True, *4 * [False], True]


def test_a_waveglow_of_the_users_stands_for_the_random_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "at_hand", lambda: ["waveglow:w.pt"])
    specs = [c.spec for group in lineup(["hifigan:h"]) for c in group]
    assert specs[5:] == ["hifigan:h", "waveglow:w.pt"]
    assert "random:waveglow" not in specs
    assert find_contender("waveglow:w.pt").effort is SLOW


@pytest.mark.parametrize("spec", ["auto", "hifigan", "hifigan:", "tin:can"])
def test_no_such_contender(spec: str) -> None:
    with pytest.raises(
        InputError, match=rf"--vocoder {spec}: expected light:PATH, hifigan:PATH or"
    ):
        find_contender(spec)


def test_every_published_size_can_be_built_and_has_a_floor() -> None:
    for size in ("V1", "V2", "V3"):
        contender = find_contender(f"random:{size}")
        assert contender.title == f"HiFi-GAN {size} (random weights)"
        floor = vocoder_multiply_adds(contender.build())
        assert floor is not None
        assert floor > 1e9
    assert vocoder_multiply_adds(load_vocoder("griffin-lim")) is None


def test_librosas_griffin_lim_is_librosas() -> None:
    vocoder = TextbookGriffinLim()
    mel = a_mel(12)
    wav = vocoder(mel)
    assert wav.shape == (12 * 256,)
    np.testing.assert_array_equal(wav, vocoder(mel))
    magnitude = np.maximum(np.linalg.pinv(mel_filters().numpy()) @ np.exp(mel.numpy().T), 0)
    expected = librosa.griffinlim(magnitude, n_iter=60, hop_length=256, momentum=0, random_state=0)
    assert not wav[len(expected) :].any()
    np.testing.assert_allclose(wav[: len(expected)], expected, atol=1e-2 * np.abs(expected).max())


# Measuring


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(vocoders, "product_rate", lambda: 1e9)
    return now


def test_two_that_take_turns(clock: list[float]) -> None:
    quick, slow = Clockwork("quick", clock, 0.001), Clockwork("slow", clock, 0.004)
    group = [Contender(name, name, lambda: quick, QUICK) for name in ("quick", "slow")]
    rows = time_in_turn(group, [quick, slow], a_mel(100), repeats=3)
    assert quick.lengths == slow.lengths == [8, 100, 100, 100]
    assert [row.seconds for row in rows] == pytest.approx([0.1, 0.4])
    assert rows[0].ratio == pytest.approx(4)
    assert rows[0].beside == "slow"
    assert rows[1].ratio is None
    assert rows[1].times_real_time == pytest.approx(100 * 256 / 22050 / 0.4)
    assert rows[0].what == "quick, 1.2 s of speech"


def test_a_slow_one_is_spared_and_has_a_floor(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocoders, "vocoder_multiply_adds", lambda vocoder: 2e9)
    slow = Clockwork("slow", clock, 0.1)
    effort = replace(NEURAL, timed_seconds=1, budget=1)
    (row,) = time_in_turn([Contender("slow", "slow", lambda: slow, effort)], [slow], a_mel(200), 9)
    assert slow.lengths == [8, 86]  # 86 frames are a second, nearly
    assert row.multiply_adds == pytest.approx(2e9 * 86 * FRAME_SECONDS)
    # At 1e9 a second those take 2 x 86 frames' seconds, and it took 86 x 0.1.
    assert row.floor_share == pytest.approx(2 * FRAME_SECONDS / 0.1)


def test_the_floor_is_at_the_better_of_two_rates(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocoders, "vocoder_multiply_adds", lambda vocoder: 2e9)
    slow = Clockwork("slow", clock, 0.1)
    for rates in ((1e9, 4e9), (4e9, 1e9)):
        monkeypatch.setattr(vocoders, "product_rate", iter(rates).__next__)
        contender = Contender("slow", "slow", lambda: slow, NEURAL)
        (row,) = time_in_turn([contender], [slow], a_mel(86), 1)
        assert row.floor_seconds == pytest.approx(0.5 * 86 * FRAME_SECONDS)


def plant_vocoders(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> list[tuple[str, int]]:
    """Three contenders of clockwork; returns whose memory was asked for, on how many frames."""

    def contender(name: str, trained: bool) -> Contender:
        return Contender(name, name, lambda: Clockwork(name, clock, 0.01), NEURAL, trained)

    groups = [[contender("a", True), contender("b", True)], [contender("c", False)]]
    monkeypatch.setattr(vocoders, "lineup", lambda own: groups)
    asked = []

    def memory_of(spec: str, mel: Tensor, n_frames: int, threads: int) -> Memory:
        asked.append((spec, n_frames))
        return Memory(ord(spec), 1, 20.0)

    monkeypatch.setattr(vocoders, "memory_of", memory_of)
    return asked


def test_every_contender_has_its_row(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], tmp_path: Path
) -> None:
    asked = plant_vocoders(monkeypatch, clock)
    write_mel(tmp_path / "mel.npy", a_mel(1000))
    monkeypatch.setattr(vocoders, "require_extras", lambda: None)
    monkeypatch.setattr(vocoders, "dnsmos", lambda wav: Dnsmos(len(wav) / 256, 3.0))
    found = bench_vocoders(Settings(mel=tmp_path / "mel.npy", quality=True, repeats=1))
    assert [row.memory.peak_bytes for row in found.rows if row.memory] == [97, 98, 99]
    assert sorted(asked) == [(name, round(20 / FRAME_SECONDS)) for name in "abc"]
    # Judged on the same ten seconds, if there is anything to judge.
    ten = round(10 / FRAME_SECONDS)
    assert [row.quality for row in found.rows] == [Dnsmos(ten, 3.0), Dnsmos(ten, 3.0), None]
    assert [row.ratio for row in found.rows] == [pytest.approx(1), None, None]
    assert found.notes == ("mel of the vocoders: mel.npy, the first 10.0 s of 11.6 s",)


def test_without_the_judge_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], tmp_path: Path
) -> None:
    plant_vocoders(monkeypatch, clock)
    write_mel(tmp_path / "mel.npy", a_mel(20))

    def missing() -> None:
        raise InputError("the package speechmos is not installed")

    monkeypatch.setattr(vocoders, "require_extras", missing)
    found = bench_vocoders(Settings(mel=tmp_path / "mel.npy", quality=True, repeats=1))
    assert [row.quality for row in found.rows] == [None, None, None]
    assert found.notes[1] == "not judged: the package speechmos is not installed"


def test_the_mel_is_the_teachers_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    mel = a_mel(30)
    monkeypatch.setattr(vocoders, "teachers_mel", lambda: mel)
    found, origin = the_mel(Settings())
    assert torch.equal(found, mel)
    assert origin == "the teacher's reading of a sentence, 0.3 s"
