"""The light vocoder: its inverse Fourier transform, what a frame depends on, and its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightspeech.audio import AUDIO_FACTS, FFT_SIZE, FRAME_SECONDS, HOP_LENGTH, SAMPLE_RATE
from lightspeech.checkpoint import encode_file
from lightspeech.errors import InputError
from lightspeech.parts import count_parameters
from lightspeech.vocoders import load_vocoder
from lightspeech.vocoders.light import (
    CARD,
    FILE,
    LightVocoder,
    default_file,
    load_light,
    save_light,
)
from lightspeech.vocoders.light_network import (
    BINS,
    LOUDEST,
    MASKING_BINS,
    Anchor,
    LightConfig,
    LightNetwork,
    audible,
    nearest_harmonics,
    turns,
)

TINY = LightConfig(size=8, hidden_size=12, blocks=2)
TEACHER = "ab" * 32
ROUNDING = 1e-3
"""A last bit of the pitch, over a hundred frames and in the hundredth harmonic."""


def tiny_network(seed: int = 0) -> LightNetwork:
    torch.manual_seed(seed)
    return LightNetwork(TINY)


def save_tiny(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_light(folder, tiny_network(), {"name": "tiny", "step": 3, "teachers": [TEACHER]})
    return folder / FILE


def some_mel(frames: int) -> torch.Tensor:
    return torch.randn(frames, 80, generator=torch.Generator().manual_seed(frames)) * 2 - 5


# --- the network


def test_the_default_network_is_small_enough_to_be_bundled() -> None:
    assert count_parameters(LightNetwork()) == 1_454_405
    assert 4 * count_parameters(LightNetwork()) < 6_000_000


def test_the_spectra_of_a_signal_give_the_signal_back() -> None:
    wav = torch.rand(2, 9 * HOP_LENGTH, generator=torch.Generator().manual_seed(1)) - 0.5
    padded = F.pad(wav, (FFT_SIZE // 2 + HOP_LENGTH, FFT_SIZE // 2 + HOP_LENGTH))
    spectra = torch.stft(
        padded,
        FFT_SIZE,
        HOP_LENGTH,
        window=torch.hann_window(FFT_SIZE),
        center=False,
        return_complex=True,
    ).transpose(1, 2)  # frames -1 to T + 1
    spectra = spectra * (-1) ** torch.arange(BINS)  # from the window's start to its middle
    made = LightNetwork(TINY).sound(spectra.real, spectra.imag)
    assert torch.allclose(made, wav, atol=1e-6)


@torch.no_grad()
def test_bins_are_held_before_they_overflow() -> None:
    network = tiny_network()
    for layer in (network.spectrum, network.harmonics):
        layer.bias.fill_(1000.0)
    wav = network(some_mel(5)[None])
    assert wav.abs().max() <= 4 * LOUDEST * FFT_SIZE


@torch.no_grad()
def test_what_is_soft_or_masked_is_silent() -> None:
    network, mel = tiny_network().train(), some_mel(40)[None]
    network.config = replace(TINY, softest=0.4, softest_highest=0.8, masked=0.6)
    loud = network.spectra(mel)
    network.config = replace(TINY, softest=0.0, softest_highest=0.0, masked=0.0)
    everything = network.eval().spectra(mel)
    assert torch.equal(everything.real, loud.real)  # not while it learns
    network.config = replace(TINY, softest=0.4, softest_highest=0.8, masked=0.6)
    gated = network.spectra(mel)
    magnitude = torch.hypot(loud.real, loud.imaginary)[0]
    softest = np.linspace(0.4, 0.8, BINS)
    kinds = set()
    for frame in range(0, 43, 3):
        for k in range(BINS):
            near = magnitude[frame, max(k - MASKING_BINS, 0) : k + MASKING_BINS + 1].max().item()
            share = magnitude[frame, k].item() / max(softest[k], 0.6 * near)
            expected = min(max(2 * share**2 - 1, 0.0), 1.0)
            kinds.add((softest[k] > 0.6 * near, expected if expected in (0, 1) else 0.5))
            for part, whole in ((gated.real, loud.real), (gated.imaginary, loud.imaginary)):
                assert part[0, frame, k].item() == pytest.approx(
                    expected * whole[0, frame, k].item(), abs=1e-4
                )
    # both limits, and what is silent, fades or is heard
    assert len(kinds) == 6


def test_silence_is_silent_without_a_limit() -> None:
    kept = audible(torch.zeros(1, 2, BINS), replace(TINY, softest=0, softest_highest=0, masked=0))
    assert kept.isfinite().all()


@torch.no_grad()
def test_what_a_frame_depends_on() -> None:
    """Its neighbours within the context; and on the pitch of all before it, which is constant."""
    network, mel = tiny_network(), some_mel(80)[None]
    network.pitch.weight.zero_()
    context, changed = network.context_frames, mel.clone()
    changed[:, 40] += 1.0
    differs = (network(changed) - network(mel)).abs().view(-1, HOP_LENGTH).amax(1) > 1e-7
    touched = differs.nonzero().flatten()
    assert 40 - context <= touched.min() < 40 < touched.max() <= 40 + context


def test_the_pitch_turns_as_often_as_its_integral_says() -> None:
    rising = torch.linspace(100, 200, 87)[None]  # Hz, over 86 steps of a frame
    turned = turns(rising)
    assert turned.dtype == torch.float64
    assert turned[0, 0] == 0
    assert turned[0, -1].item() == pytest.approx(150 * 86 * FRAME_SECONDS)
    anchored = turns(rising, Anchor(9, torch.tensor([0.25], dtype=torch.float64)))
    assert anchored[0, 10] == 0.25
    assert torch.allclose(anchored - anchored[:, :1], turned)


def test_harmonics_of_a_pitch_are_where_they_belong() -> None:
    """A steady pitch with a flat envelope is a train of pulses: all multiples of it, no more."""
    pitch = torch.full((1, 90), 210.0)
    low, high, low_weight, high_weight = nearest_harmonics(pitch, turns(pitch))
    real = low_weight * low.cos() + high_weight * high.cos()
    imaginary = low_weight * low.sin() + high_weight * high.sin()
    wav = LightNetwork(TINY).sound(real, imaginary)[0, 2048 : 2048 + 16384]
    power = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs().square()
    hertz = torch.arange(len(power)) * (SAMPLE_RATE / len(wav))
    away = (hertz / 210 - (hertz / 210).round()).abs() * 210
    on_harmonics = power[(away < 5) & (hertz > 105)].sum()
    assert on_harmonics > 0.99 * power.sum()
    peak = wav.abs().max()
    assert peak > 5 * wav.square().mean().sqrt()  # pulses, not a hum: the phases agree


@torch.no_grad()
def test_it_says_a_pitch_within_its_limits() -> None:
    network = tiny_network()
    for bias, expected in ((-50.0, 60.0), (50.0, 450.0)):
        network.pitch.bias.fill_(bias)
        pitch = network.spectra(some_mel(4)[None]).pitch
        assert torch.allclose(pitch, torch.full((1, 7), expected))


@torch.no_grad()
def test_items_of_a_batch_do_not_hear_each_other() -> None:
    network = tiny_network()
    mels = torch.stack((some_mel(30), some_mel(30) + 1))
    together = network(mels)
    for mel, wav in zip(mels, together, strict=True):
        assert torch.allclose(network(mel[None])[0], wav, atol=ROUNDING)


# --- the vocoder


@pytest.mark.parametrize("frames", [1, 2, 50, 107])
@pytest.mark.parametrize("chunk_frames", [1, 30, 64])
def test_pieces_add_up_to_the_whole(frames: int, chunk_frames: int) -> None:
    whole = LightVocoder(tiny_network(), chunk_frames=1000)(some_mel(frames))
    pieces = list(LightVocoder(tiny_network(), chunk_frames=chunk_frames).stream(some_mel(frames)))
    assert [len(piece) for piece in pieces[:-1]] == [256 * chunk_frames] * (len(pieces) - 1)
    assert whole.shape == (256 * frames,)
    assert torch.allclose(torch.cat(pieces), whole, atol=ROUNDING)


def test_no_chunk_is_no_chunk() -> None:
    with pytest.raises(InputError, match="at least 1 frame"):
        LightVocoder(tiny_network(), chunk_frames=0)


# --- files


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)
    for given in (path, tmp_path):
        vocoder = load_light(given)
        assert vocoder.title == "light (tiny)"
        assert vocoder.facts["step"] == 3
        assert torch.equal(vocoder(some_mel(9)), LightVocoder(tiny_network())(some_mel(9)))
    assert load_vocoder(f"light:{tmp_path}").spec == f"light:{path}"
    assert '"weights": "vocoder.safetensors"' in (tmp_path / CARD).read_text()


def test_the_only_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    assert default_file(tmp_path) is None
    with pytest.raises(InputError, match=r"no light vocoder in the folder .*train_vocoder"):
        load_light(tmp_path)
    save_tiny(tmp_path).rename(tmp_path / "slt.safetensors")
    assert default_file(tmp_path) == tmp_path / "slt.safetensors"
    (tmp_path / "other.safetensors").touch()
    assert default_file(tmp_path) is None


def facts_of(**changes: Any) -> dict[str, Any]:
    network = {"size": 8, "hidden_size": 12, "blocks": 2}
    facts = {"format": 1, "kind": "light vocoder", "network": network, "audio": AUDIO_FACTS}
    return {**facts, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "voice"}, "is of the kind 'voice', expected a light vocoder"),
        ({"format": 7}, "has format 7"),
        ({"audio": {**AUDIO_FACTS, "hop_length": 200}}, "hop_length is 200, expected 256"),
        ({"network": {"size": 8, "hidden_size": 12, "blocks": 3}}, "blocks.2.* is missing"),
        ({"network": {"size": 9, "hidden_size": 12, "blocks": 2}}, "does not fit its own config"),
        ({"network": {"size": 10**9}}, "size must be a whole number, 1 to 4096, not 10000"),
        ({"network": {"size": True}}, "size must be a whole number, 1 to 4096, not True"),
        ({"network": {"softest": 2}}, "softest must be a number from 0 to 1, not 2"),
        ({"network": {"softest": float("nan")}}, "softest must be a number from 0 to 1, not nan"),
        ({"network": {"width": 8}}, "has unknown settings: width"),
        ({"network": None}, "expected a JSON object, not None"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / FILE
    path.write_bytes(encode_file(facts_of(**changes), tiny_network().state_dict()))
    with pytest.raises(InputError, match=message) as caught:
        load_light(path)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-5], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(InputError, match=FILE):
            load_light(path)
    weights = tiny_network().state_dict()
    weights["spectrum.bias"][3] = float("nan")
    path.write_bytes(encode_file(facts_of(), weights))
    with pytest.raises(InputError, match="not finite"):
        load_light(path)
