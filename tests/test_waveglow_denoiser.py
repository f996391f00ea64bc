"""The denoiser against NVIDIA's (fixtures/waveglow.npz), a plain one in NumPy, and itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.test_waveglow import random_model
from tests.waveglow_recipe import draw_waveglow
from waveglow import Denoiser


@lru_cache(maxsize=1)
def tiny() -> Denoiser:
    """For 3 mel bins and 12 samples a frame: its silence of 1,056 samples, 4 pieces of work."""
    return Denoiser(random_model())


def test_matches_the_reference(fixtures: Path) -> None:
    with np.load(fixtures / "waveglow.npz") as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays if "/denoise/" in name}
        wav = torch.from_numpy(arrays["small/audio"])
    denoiser = Denoiser(draw_waveglow())
    bias = golden["small/denoise/bias_spec"][0, :, 0]
    assert (denoiser.bias_spectrum - bias).abs().max() < 1e-4 * bias.abs().max()
    clean = denoiser(wav, golden["small/denoise/strength"].item())
    expected = golden["small/denoise/audio"]
    assert clean.shape == expected.shape
    assert (clean - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_hum_is_that_of_the_whole_silence() -> None:
    model = random_model()
    silence = model.infer(torch.zeros(1, 88, 3), 0.0)[0].double().numpy()
    frame = np.pad(silence, 512, mode="reflect")[:1024] * np.hanning(1025)[:-1]
    expected = torch.from_numpy(np.abs(np.fft.rfft(frame)))
    assert (tiny().bias_spectrum - expected).abs().max() < 1e-5 * expected.max()


def plain_denoise(wav: np.ndarray, strength: float) -> np.ndarray:
    """(S,), by NumPy, the whole signal at once, in double precision."""
    after = 512 + -len(wav) % 256
    mode = "reflect" if len(wav) > 1 else "edge"
    padded = np.pad(wav.astype(np.float64), (512, after), mode=mode)
    window = np.hanning(1025)[:-1]
    starts = range(0, len(padded) - 1023, 256)
    bias = tiny().bias_spectrum.double().numpy()
    total, weight = np.zeros(len(padded)), np.zeros(len(padded))
    for start in starts:
        spectrum = np.fft.rfft(padded[start : start + 1024] * window)
        left = np.maximum(np.abs(spectrum) - strength * bias, 0)
        frame = np.fft.irfft(left * np.exp(1j * np.angle(spectrum)))
        total[start : start + 1024] += frame * window
        weight[start : start + 1024] += window**2
    return (total[512:] / weight[512:].clip(1e-6))[: len(wav)]


LENGTHS = (1, 2, 255, 256, 300, 511, 512, 513, 600, 768, 769, 1023, 1024, 1025, 5000)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_any_length_at_once_and_in_pieces(length: int, strength: float) -> None:
    wav = torch.from_numpy(np.random.default_rng(length).standard_normal((2, length))).float()
    clean = tiny()(wav, strength)
    assert clean.shape == wav.shape
    for ours, one in zip(clean, wav, strict=True):
        expected = torch.from_numpy(plain_denoise(one.numpy(), strength))
        assert (ours - expected).abs().max() < 1e-5
    if strength == 0:
        assert (clean - wav).abs().max() < 1e-5
    for size in (1, 7, 100, 513, 1000):
        pieces = list(tiny().stream(wav.split(size, 1), strength))
        assert (torch.cat(pieces, 1) - clean).abs().max() < 1e-6


def test_the_hum_goes_and_the_rest_stays() -> None:
    """A hum of the model's own spectrum vanishes; a tone far above it is hardly touched."""
    model = random_model()
    hum = model.infer(torch.zeros(1, 2000, 3), 0.0)
    clean = tiny()(hum, 1.5)
    assert clean[:, 2000:-2000].square().mean() < 0.05 * hum[:, 2000:-2000].square().mean()
    loud = 100 * torch.sin(0.3 * torch.arange(24_000))[None]
    difference = tiny()(loud, 0.1) - loud
    assert difference.abs().max() < 0.01 * loud.abs().max()


def test_memory_is_bounded() -> None:
    """What comes in is given out soon, however long the signal and however large a piece."""
    held = 0

    def endless() -> Iterator[Tensor]:
        nonlocal held
        for _ in range(50):
            held += 3000
            yield torch.zeros(1, 3000)

    for clean in tiny().stream(endless()):
        held -= clean.shape[1]
        assert held <= 3000 + 1024 + 512
    assert held == 0
    assert max(p.shape[1] for p in tiny().stream([torch.zeros(1, 500_000)])) < 70_000


def test_nothing_and_empty_pieces() -> None:
    assert list(tiny().stream([])) == []
    assert list(tiny().stream([torch.zeros(1, 0)])) == []
    wav = torch.randn(1, 1500)
    pieces = [wav[:, :0], wav[:, :700], wav[:, :0], wav[:, 700:], wav[:, :0]]
    assert torch.equal(torch.cat(list(tiny().stream(pieces)), 1), tiny()(wav))


def test_gradients_and_precision_of_the_input_do_not_matter() -> None:
    wav = torch.randn(1, 1500, dtype=torch.float64, requires_grad=True)
    clean = tiny()(wav)
    assert clean.dtype == torch.float32
    assert not clean.requires_grad


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.zeros(100), r"samples \(B, S\), got torch.float32 \(100,\)"),
        (torch.zeros(1, 100, dtype=torch.int16), "floating-point samples .* got torch.int16"),
        (torch.zeros(1, 0), r"at least one sample, got \(1, 0\)"),
        (torch.tensor([[0.0, float("nan")]]), "1 of 2 samples are NaN or infinite"),
    ],
)
def test_bad_samples(wav: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(wav)


def test_pieces_of_other_batches() -> None:
    with pytest.raises(ValueError, match=r"expected floating-point samples \(2, S\), got .*\(1, 9"):
        list(tiny().stream([torch.zeros(2, 900), torch.zeros(1, 900)]))


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_bad_strengths(strength: float) -> None:
    with pytest.raises(ValueError, match="strength must be a number of at least 0, not"):
        tiny().stream([torch.zeros(1, 2000)], strength)


@pytest.mark.requires_cuda
def test_cuda_gives_the_same() -> None:
    wav = torch.randn(1, 3000)
    clean = Denoiser(random_model().cuda())(wav.cuda())
    assert clean.is_cuda
    assert (clean.cpu() - tiny()(wav)).abs().max() < 1e-4
