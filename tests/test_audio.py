"""lightspeech.audio against SciPy's transform, librosa's filters and soundfile's reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from librosa.filters import mel as slaney_filters

from lightspeech.audio import (
    AUDIO_FACTS,
    LONGEST_WAV,
    SAMPLE_RATE,
    check_audio_facts,
    mel_filters,
    mel_spectrogram,
    read_wav,
    write_wav,
)
from lightspeech.errors import InputError
from tests.allocations import Allocations


def sine(hz: float, seconds: float, rate: int = SAMPLE_RATE, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, n_samples)


def naive_mel(wav: np.ndarray) -> np.ndarray:
    """(S,) -> (T, 80) in float64: one frame at a time, reflected by numpy."""
    padded = np.pad(wav, 512, mode="reflect")
    filters = slaney_filters(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    window = scipy.signal.get_window("hann", 1024)
    frames = [
        filters @ np.abs(np.fft.rfft(window * padded[first : first + 1024]))
        for first in range(0, len(padded) - 1023, 256)
    ]
    return np.log(np.maximum(np.array(frames), 1e-5))


# --- mel spectrograms


@pytest.mark.parametrize("n_samples", [1, 2, 3, 100, 511, 512, 513, 514, 1024, 1279, 1280, 5000])
def test_mel_equals_a_naive_one(n_samples: int) -> None:
    wav = noise(n_samples)
    mel = mel_spectrogram(torch.from_numpy(wav).float())
    assert mel.shape == (n_samples // 256 + 1, 80)
    np.testing.assert_allclose(mel.numpy(), naive_mel(wav), atol=2e-3)


def test_mel_of_a_batch_is_that_of_its_rows() -> None:
    wavs = torch.from_numpy(np.stack([noise(3000, 1), noise(3000, 2)])).float()
    batch = mel_spectrogram(wavs)
    assert batch.shape == (2, 12, 80)
    for row, wav in zip(batch, wavs, strict=True):
        torch.testing.assert_close(row, mel_spectrogram(wav))


@pytest.mark.parametrize("name", ["LJ001-0002", "LJ001-0008"])
def test_mel_equals_the_reference(shared: Path, name: str) -> None:
    expected = np.load(shared / "golden" / "mel.npz")[name].T  # stored channels first
    mel = mel_spectrogram(read_wav(shared / "data" / "ljspeech_wavs" / f"{name}.wav")).numpy()
    assert mel.shape == expected.shape
    assert np.abs(mel - expected).max() <= 1e-4 * np.abs(expected).max()


def test_silence_lies_on_the_floor() -> None:
    mel = mel_spectrogram(torch.zeros(1000))
    torch.testing.assert_close(mel, torch.full((4, 80), float(np.log(1e-5))))


def test_mel_is_differentiable_after_filters_were_made_in_inference_mode() -> None:
    mel_filters.cache_clear()
    with torch.inference_mode():
        mel_filters(torch.device("cpu"))
    wav = torch.from_numpy(noise(2000)).float().requires_grad_()
    mel_spectrogram(wav).sum().backward()
    assert wav.grad is not None
    assert wav.grad.isfinite().all()


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.full((600,), 1.5), r"expected samples in \[-1, 1\], got a peak of 1.5"),
        (torch.full((600,), float("nan")), "got a peak of nan"),
        (torch.zeros(0), "expected at least one sample"),
        (torch.zeros(2, 0), "expected at least one sample"),
        (torch.zeros(1, 1, 600), r"shape \(S,\) or \(B, S\), got torch.float32 of shape"),
        (torch.zeros(600, dtype=torch.int16), "expected a floating-point signal .* torch.int16"),
    ],
)
def test_mel_refuses(wav: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mel_spectrogram(wav)


# --- audio facts


def test_audio_facts_survive_json() -> None:
    check_audio_facts(json.loads(json.dumps(AUDIO_FACTS)), "a store")


def test_audio_facts_name_each_difference() -> None:
    found = {**AUDIO_FACTS, "sample_rate": 24000, "mel_fmax": 11025.0, "preemphasis": 0.97}
    del found["log"]
    with pytest.raises(InputError) as caught:
        check_audio_facts(found, "the store old/")
    message = str(caught.value)
    for part in (
        "the store old/",
        "sample_rate is 24000, expected 22050",
        "mel_fmax is 11025.0, expected 8000.0",
        "log is missing, expected natural",
        "preemphasis is 0.97, expected no such field",
    ):
        assert part in message
    assert "hop_length is" not in message


@pytest.mark.parametrize("found", [None, [], "22050"])
def test_audio_facts_must_be_an_object(found: object) -> None:
    with pytest.raises(InputError, match="store declares no audio facts"):
        check_audio_facts(found, "store")


def test_true_is_not_a_number() -> None:
    with pytest.raises(InputError, match="hop_length is True, expected 256"):
        check_audio_facts({**AUDIO_FACTS, "hop_length": True}, "store")


# --- reading


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_reading_resamples(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", sine(1000, 1.0, rate), rate)
    wav = read_wav(tmp_path / "a.wav")
    assert wav.dtype == torch.float32
    assert wav.shape == (SAMPLE_RATE,)
    inner = slice(1000, -1000)
    np.testing.assert_allclose(wav.numpy()[inner], sine(1000, 1.0)[inner], atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 0.01),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 1e-6),
        ("wav", "DOUBLE", 1e-6),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.05),
        ("mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_reading_formats(tmp_path: Path, kind: str, subtype: str, tolerance: float) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, sine(440, 0.5), SAMPLE_RATE, subtype=subtype)
    wav = read_wav(path).numpy()
    expected = sine(440, 0.5)[1000:10000]
    np.testing.assert_allclose(wav[1000:10000], expected, atol=tolerance)


def test_reading_averages_channels(tmp_path: Path) -> None:
    left, right = noise(2000, 1), noise(2000, 2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_reading_scales_what_exceeds_full_scale(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 4 * noise(2000), SAMPLE_RATE, subtype="FLOAT")
    wav = read_wav(tmp_path / "a.wav").numpy()
    assert np.abs(wav).max() == 1.0
    np.testing.assert_allclose(wav, noise(2000) / np.abs(noise(2000)).max(), atol=1e-6)


def test_reading_refuses(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", np.zeros(10), 1)
    for name, message in {
        "absent.wav": "no sound file at .*absent.wav",
        ".": "no sound file at",
        "text.wav": "cannot read .*text.wav as sound .*expected a WAV, FLAC, Ogg or MP3 file",
        "empty.wav": "cannot read .*empty.wav as sound",
        "none.wav": "none.wav holds no samples",
        "nan.wav": "nan.wav holds samples that are not finite",
        "slow.wav": "claims a sample rate of 1 Hz",
    }.items():
        with pytest.raises(InputError, match=message):
            read_wav(tmp_path / name)


# --- writing


def test_writing_is_16_bit_pcm_and_reads_back(tmp_path: Path) -> None:
    wav = noise(3000)
    write_wav(tmp_path / "a.wav", torch.from_numpy(wav))
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 22050)
    assert (info.channels, info.frames) == (1, 3000)
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], wav, atol=1e-4)


def test_writing_scales_what_exceeds_full_scale(tmp_path: Path) -> None:
    wav = sine(440, 0.1, amplitude=3.0)
    write_wav(tmp_path / "a.wav", torch.from_numpy(wav), sample_rate=16000)
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 16000
    np.testing.assert_allclose(found, wav / np.abs(wav).max() * 32767, atol=1)


def test_full_scale_of_both_signs_does_not_wrap(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.tensor([1.0, -1.0, 0.5]))
    found = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    assert found.tolist() == [32767, -32767, 16384]


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.tensor([0.1, float("nan"), 0.2]), "1 of 3 samples are NaN or infinite"),
        (torch.tensor([0.1, float("inf")]), "1 of 2 samples are NaN or infinite"),
        (torch.zeros(0), "holds no samples"),
        (torch.full((500,), 5e-5), "the signal is silent .peak 5e-05"),
        (torch.zeros(2, 500), r"expected a floating-point signal of shape \(S,\)"),
        (torch.ones(500, dtype=torch.int16), "got torch.int16"),
    ],
)
def test_writing_refuses_and_leaves_the_old_file(
    tmp_path: Path, wav: torch.Tensor, message: str
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"what was there")
    with pytest.raises(InputError, match=message):
        write_wav(path, wav)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_signal_is_written_block_by_block(tmp_path: Path) -> None:
    samples = 1_000_000
    wav = torch.linspace(-1.25, 1.25, samples)
    with Allocations() as allocations:
        write_wav(tmp_path / "a.wav", wav)
    assert 0 < allocations.largest < 4 * samples
    found = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    np.testing.assert_allclose(found, wav.numpy() / 1.25 * 32767, atol=0.51)


def test_faults_are_counted_over_all_blocks(tmp_path: Path) -> None:
    wav = torch.zeros(1_000_000)
    wav[[5, 300_000, 999_999]] = float("nan")
    with pytest.raises(InputError, match="3 of 1000000 samples are NaN or infinite"):
        write_wav(tmp_path / "a.wav", wav)
    wav[:] = 0
    wav[-1] = 0.5
    write_wav(tmp_path / "a.wav", wav)  # not silent
    assert soundfile.info(tmp_path / "a.wav").frames == 1_000_000


def test_more_than_a_wav_can_hold(tmp_path: Path) -> None:
    wav = torch.ones(1).expand(LONGEST_WAV + 1)
    with pytest.raises(InputError, match=r"holds 2,147,483,629 samples at most.*divide it"):
        write_wav(tmp_path / "a.wav", wav)
    assert not list(tmp_path.iterdir())


def test_writing_into_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot write .*absent.*No such file.*folder that exists"
    ):
        write_wav(tmp_path / "absent" / "a.wav", torch.from_numpy(noise(10)))
