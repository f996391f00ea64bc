"""Mel spectrograms, and the reading and writing of sound files.

The facts that they follow, and which this module hands on, are those of `lightspeech.audio_facts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightspeech.audio_facts import (
    AUDIO_FACTS,
    FFT_SIZE,
    FRAME_SECONDS,
    HOP_LENGTH,
    LOG_FLOOR,
    MEL_FMAX,
    MEL_FMIN,
    N_MELS,
    SAMPLE_RATE,
    SILENCE,
    check_audio_facts,
    differing_facts,
)
from lightspeech.errors import InputError
from lightspeech.wav_file import LONGEST_WAV, write_blocks

__all__ = [
    "AUDIO_FACTS",
    "FFT_SIZE",
    "FRAME_SECONDS",
    "HOP_LENGTH",
    "LOG_FLOOR",
    "LONGEST_WAV",
    "MEL_FMAX",
    "MEL_FMIN",
    "N_MELS",
    "SAMPLE_RATE",
    "SILENCE",
    "check_audio_facts",
    "differing_facts",
    "hann_window",
    "log_mel",
    "mel_filters",
    "mel_spectrogram",
    "read_wav",
    "reflected",
    "write_wav",
]

_BLOCK = 1 << 18  # samples of a signal that are worked on at a time: 2 MB in double precision


@lru_cache(maxsize=8)
def mel_filters(device: torch.device | str = "cpu") -> Tensor:
    """The mel filter bank, (M, FFT_SIZE / 2 + 1) float32: each filter a triangle of unit area."""
    from librosa.filters import mel  # here: it takes a second that most imports need not spend

    filters = mel(sr=SAMPLE_RATE, n_fft=FFT_SIZE, n_mels=N_MELS, fmin=MEL_FMIN, fmax=MEL_FMAX)
    # A cached tensor made in inference mode could never be used in training afterwards.
    with torch.inference_mode(False):
        return torch.from_numpy(filters).to(device)


@lru_cache(maxsize=8)
def hann_window(device: torch.device | str = "cpu") -> Tensor:
    """The periodic Hann window, (FFT_SIZE,) float32."""
    with torch.inference_mode(False):
        return torch.hann_window(FFT_SIZE, device=device)


def mel_spectrogram(wav: Tensor) -> Tensor:
    """The mel spectrogram on which the teacher was trained.

    Frame t is centred on sample 256 t; beyond its ends the signal is reflected, as often as a
    signal shorter than half a window needs.

    Args:
        wav: (S,) or (B, S) floating point in [-1, 1] at 22,050 Hz, S >= 1.

    Returns:
        (T, M) or (B, T, M) float32, natural log of magnitudes, T = S // 256 + 1.

    Raises:
        InputError: another shape or type, no samples, values that are not finite or beyond [-1, 1].
    """
    if wav.ndim not in (1, 2) or not wav.is_floating_point():
        raise InputError(
            "expected a floating-point signal of shape (S,) or (B, S), "
            f"got {wav.dtype} of shape {tuple(wav.shape)}"
        )
    if wav.numel() == 0:
        raise InputError(f"expected at least one sample, got a signal of shape {tuple(wav.shape)}")
    peak = wav.detach().abs().amax().item()
    if not peak <= 1.0:  # also true of NaN
        raise InputError(
            f"expected samples in [-1, 1], got a peak of {peak:g}; "
            "divide integer samples by their full scale, or the signal by its peak"
        )
    return log_mel(reflected(wav.float(), FFT_SIZE // 2))  # of (..., S + 1024)


def log_mel(wav: Tensor) -> Tensor:
    """`mel_spectrogram` of a signal that nothing is added to at its ends.

    Args:
        wav: (..., S) float32, S >= 1024.

    Returns:
        (..., T, M) float32, T = (S - 1024) // 256 + 1; frame t is centred on sample 256 t + 512.
    """
    spectrum = torch.stft(
        wav,
        FFT_SIZE,
        HOP_LENGTH,
        window=hann_window(wav.device),
        center=False,
        return_complex=True,
    )  # (..., 513, T)
    mel = mel_filters(wav.device) @ spectrum.abs()  # (..., M, T)
    return mel.clamp(min=LOG_FLOOR).log().transpose(-1, -2).contiguous()


def reflected(wav: Tensor, width: int) -> Tensor:
    """Extends (..., S) by `width` samples at both ends, mirrored about its end samples."""
    n_samples = wav.shape[-1]
    if n_samples > width:
        return F.pad(wav.unsqueeze(-2), (width, width), mode="reflect").squeeze(-2)
    # F.pad mirrors once only; a shorter signal is mirrored again and again, like numpy.pad's.
    period = max(2 * (n_samples - 1), 1)
    index = torch.arange(-width, n_samples + width, device=wav.device) % period
    return wav[..., torch.minimum(index, period - index) if n_samples > 1 else index * 0]


def read_wav(path: str | Path) -> Tensor:
    """Reads a sound file of any kind that libsndfile knows: WAV, FLAC, Ogg, MP3 and more.

    Channels are averaged and any sample rate is resampled. A signal whose peak is then above full
    scale (float files, overshoot of the resampling) is scaled down to it.

    Returns:
        (S,) float32 in [-1, 1] at 22,050 Hz, on the CPU.

    Raises:
        InputError: the file is missing, is not sound, or holds no or broken samples.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no sound file at {path}")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (S, channels)
    except (soundfile.LibsndfileError, OSError) as e:
        raise InputError(
            f"cannot read {path} as sound ({e}); expected a WAV, FLAC, Ogg or MP3 file"
        ) from e
    if samples.shape[0] == 0:
        raise InputError(f"{path} holds no samples")
    if not np.isfinite(samples).all():
        raise InputError(f"{path} holds samples that are not finite (NaN or infinity)")
    if not 1000 <= rate <= 768000:
        raise InputError(f"{path} claims a sample rate of {rate} Hz; expected 1,000 to 768,000 Hz")
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        import librosa

        mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
        if mono.size == 0:
            raise InputError(f"{path} is too short: less than one sample at {SAMPLE_RATE} Hz")
    mono /= max(1.0, float(np.abs(mono).max()))
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def write_wav(path: str | Path, wav: Tensor, sample_rate: int = SAMPLE_RATE) -> None:
    """Writes a mono WAV of 16-bit PCM, whole or not at all.

    A peak above full scale would wrap or crackle: the whole signal is scaled down to full scale
    then, and never otherwise. It is read block by block, so that a long one is not copied.

    Args:
        path: the file; its folder must exist.
        wav: (S,) floating point, full scale is 1.
        sample_rate: Hz.

    Raises:
        InputError: another shape, no samples, more than LONGEST_WAV, NaN or infinity, silence
            (nothing above 1e-4), or a file that cannot be written.
    """
    path = Path(path)
    wav = torch.as_tensor(wav).detach()
    if wav.ndim != 1 or not wav.is_floating_point():
        raise InputError(
            f"cannot write {path}: expected a floating-point signal of shape (S,), "
            f"got {wav.dtype} of shape {tuple(wav.shape)}"
        )
    write_blocks(path, wav.numel(), lambda: _blocks(wav), sample_rate)


def _blocks(wav: Tensor) -> Iterator[np.ndarray]:
    """The samples in double precision, a few seconds at a time."""
    for block in wav.split(_BLOCK):
        yield block.double().cpu().numpy()
