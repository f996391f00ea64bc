"""The audio facts, mel spectrograms, and the reading and writing of sound files.

The facts are those of NVIDIA's Tacotron 2 and WaveGlow: a magnitude spectrogram of a Hann window of
1,024 samples every 256, through 80 triangular filters on Slaney's mel scale, and the natural
logarithm of what comes out, held above 1e-5. Everything else in the package derives from here.
"""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightspeech.errors import InputError
from lightspeech.files import atomic_path, is_full_disk

SAMPLE_RATE = 22050
"""samples a second"""
FFT_SIZE = 1024
"""samples of the FFT and of its Hann window"""
HOP_LENGTH = 256
"""samples from one frame to the next (11.61 ms)"""
FRAME_SECONDS = HOP_LENGTH / SAMPLE_RATE
"""seconds from one frame to the next"""
N_MELS = 80
"""mel bins, M"""
MEL_FMIN = 0.0
"""lower edge of the lowest mel filter, Hz"""
MEL_FMAX = 8000.0
"""upper edge of the highest mel filter, Hz"""
LOG_FLOOR = 1e-5
"""mel magnitudes below this are raised to it before the logarithm"""
SILENCE = 1e-4
"""a signal that never exceeds this (-80 dB of full scale) counts as silent"""
LONGEST_WAV = (2**32 - 1 - 36) // 2
"""samples of 16 bits that a WAV file can hold: 27 hours"""

_BLOCK = 1 << 18  # samples of a signal that are worked on at a time: 2 MB in double precision

AUDIO_FACTS: dict[str, int | float | str] = {
    "sample_rate": SAMPLE_RATE,
    "fft_size": FFT_SIZE,
    "window": "hann",
    "window_length": FFT_SIZE,
    "hop_length": HOP_LENGTH,
    "n_mels": N_MELS,
    "mel_fmin": MEL_FMIN,
    "mel_fmax": MEL_FMAX,
    "mel_scale": "slaney",
    "spectrum": "magnitude",
    "log": "natural",
    "log_floor": LOG_FLOOR,
}
"""What a mel is, in JSON's types; stored with every label store, checkpoint and export.

Padding is left out on purpose: it touches only the outermost two frames, and HiFi-GAN, whose mels
differ from Tacotron 2's in nothing else, is used with them everywhere."""


def check_audio_facts(found: Any, where: str) -> None:
    """Refuses audio facts that differ from AUDIO_FACTS.

    Args:
        found: what a store, checkpoint or vocoder declares (a dict like AUDIO_FACTS).
        where: names the source in the message.

    Raises:
        InputError: names every field that differs, with both values.
    """
    if not isinstance(found, dict):
        raise InputError(f"{where} declares no audio facts: expected an object with {AUDIO_FACTS}")
    problems = differing_facts(found, AUDIO_FACTS)
    if problems:
        listed = "; ".join(
            f"{name} is {ours}, expected {theirs}" for name, ours, theirs in problems
        )
        raise InputError(
            f"{where} was made for other audio: {listed}; "
            "use one that was made with this project's audio facts"
        )


def differing_facts(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """(name, found, expected) of each audio fact that differs, with words for what is not there."""
    problems = [
        (name, found.get(name, "missing"), value)
        for name, value in expected.items()
        if not _same_fact(found.get(name), value)
    ]
    surplus = sorted(found.keys() - expected.keys(), key=str)
    return problems + [(name, found[name], "no such field") for name in surplus]


def _same_fact(found: Any, expected: float | str) -> bool:
    if isinstance(expected, str) or isinstance(found, bool) or not isinstance(found, int | float):
        return bool(found == expected) and not isinstance(found, bool)
    return math.isclose(found, expected, rel_tol=1e-6)


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
    padded = _reflect(wav.float(), FFT_SIZE // 2)  # (..., S + 1024)
    spectrum = torch.stft(
        padded,
        FFT_SIZE,
        HOP_LENGTH,
        window=hann_window(wav.device),
        center=False,
        return_complex=True,
    )  # (..., 513, T)
    mel = mel_filters(wav.device) @ spectrum.abs()  # (..., M, T)
    return mel.clamp(min=LOG_FLOOR).log().transpose(-1, -2).contiguous()


def _reflect(wav: Tensor, width: int) -> Tensor:
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
    if wav.numel() == 0:
        raise InputError(f"cannot write {path}: the signal holds no samples")
    if wav.numel() > LONGEST_WAV:
        raise InputError(
            f"cannot write {path}: a WAV file holds {LONGEST_WAV:,} samples at most, the signal "
            f"has {wav.numel():,}; divide it"
        )
    broken, peak = 0, 0.0
    for block in _blocks(wav):
        broken += np.count_nonzero(~np.isfinite(block))
        peak = max(peak, float(np.abs(block).max()))
    if broken:
        raise InputError(
            f"cannot write {path}: {broken} of {wav.numel()} "
            "samples are NaN or infinite; the model or vocoder that made them is at fault"
        )
    if peak <= SILENCE:
        raise InputError(
            f"cannot write {path}: the signal is silent (peak {peak:g}); "
            "the model or vocoder that made it is at fault"
        )
    scale = 32767 / max(1.0, peak)
    try:
        with (
            atomic_path(path) as temporary,
            open(temporary, "wb") as raw,
            wave.open(raw, "wb") as file,
        ):
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.setnframes(wav.numel())
            for block in _blocks(wav):
                file.writeframesraw(np.rint(block * scale).astype("<i2").tobytes())
    except OSError as e:
        if is_full_disk(e):
            raise  # the command line knows what to say of a full disk
        raise InputError(
            f"cannot write {path}: {e.strerror or e}; give a path in a folder that exists and "
            "may be written to"
        ) from e


def _blocks(wav: Tensor) -> Iterator[np.ndarray]:
    """The samples in double precision, a few seconds at a time."""
    for block in wav.split(_BLOCK):
        yield block.double().cpu().numpy()
