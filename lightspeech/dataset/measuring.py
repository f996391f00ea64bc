"""One sound file: read, measured, judged by itself, and cleaned.

A sound counts as clipped where three or more samples in a row lie exactly at the highest or the
lowest value of the file, or beyond 0.999 of full scale: a wave that was cut off has a flat top,
however it was scaled later, and a sound one nearly never has.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, SAMPLE_RATE, SILENCE, read_wav
from lightspeech.dataset.checks import Limits, above
from lightspeech.dataset.clean import SPEECH_DECIBELS, clean, moments, trim

CLIPPED_RUN = 3
"""samples in a row at the same extreme that count as clipped"""
FULL_SCALE = 0.999
"""samples from here on count as clipped, where they come in such runs"""
QUIETEST_PEAK = 0.05
"""of a file whose runs at its own extremes count; below it 16 bits make runs by themselves"""
MP3_SLACK = 3 * 1152
"""samples by which the length that an MP3 claims may be wrong: three of its frames"""

_LENGTH_UNKNOWN = 1 << 48  # samples; libsndfile says 2^63 - 1 of a FLAC that came out of a pipe


@dataclass(frozen=True)
class Sound:
    """What was measured of a sound file that could be read."""

    rate: int
    """samples a second of the file"""
    channels: int
    seconds_read: float
    """of the whole file"""
    samples: int
    """at 22,050 Hz, after the silence at its ends was cut"""
    gain: float
    """dB by which it was made louder"""
    clipped: float
    """share of its samples that are clipped"""
    offset: float
    """mean of its samples, of full scale"""
    pause: float
    """s of the longest pause inside"""
    speech_to_noise: float
    """dB"""
    digest: str
    """SHA-256 of its samples, as they are read at 22,050 Hz: the same for WAV and FLAC"""

    @property
    def seconds(self) -> float:
        """after the silence at its ends was cut"""
        return self.samples / SAMPLE_RATE


class UnfitSoundError(Exception):
    """A sound file is at fault: `reason` is one of REASONS, the message says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def measure(path: Path, limits: Limits) -> tuple[Sound, Tensor]:
    """Reads a sound file, judges it and cleans it.

    Returns:
        what was measured, and the cleaned signal: (S,) float32 at 22,050 Hz.

    Raises:
        UnfitSoundError: it cannot be read, or is beyond a limit.
    """
    with _without_decoder_messages():
        samples, rate = _read(path, limits)
    if not np.isfinite(samples).all():
        count = samples.size - int(np.isfinite(samples).sum())
        raise UnfitSoundError("not_finite", f"{count:,} of {samples.size:,} samples")
    quietest = max(limits.min_peak or 0.0, SILENCE)
    if (peak := float(np.abs(samples).max())) <= quietest:
        raise UnfitSoundError("silent", f"its peak is {peak:.1g} of full scale")
    try:
        with _without_decoder_messages():
            wav = read_wav(path)
    except (ValueError, RuntimeError, OSError, MemoryError) as e:  # InputError is a ValueError
        raise UnfitSoundError("unreadable", _told(e, path)) from e
    if float(wav.abs().max()) <= quietest:
        raise UnfitSoundError("silent", "its channels cancel each other out")
    clipped = clipped_share(samples)
    if above(clipped, limits.max_clipped):
        raise UnfitSoundError("clipped", f"{100 * clipped:.2f}% of the samples")
    offset = float(np.abs(samples.mean(axis=0, dtype=np.float64)).max())
    if above(offset, limits.max_offset):
        raise UnfitSoundError("offset", f"the mean of the samples is {offset:.3f} of full scale")
    cleaned = clean(wav)
    seconds = len(cleaned) / SAMPLE_RATE
    if limits.min_seconds is not None and seconds < limits.min_seconds:
        raise UnfitSoundError("too_short", f"{seconds:.2f} s, less than {limits.min_seconds:g}")
    if above(seconds, limits.max_seconds):
        raise UnfitSoundError("too_long", f"{seconds:.1f} s, more than {limits.max_seconds:g}")
    loudness = moments(cleaned)
    pause = longest_pause(loudness)
    if above(pause, limits.max_pause):
        raise UnfitSoundError("long_pause", f"{pause:.1f} s, more than {limits.max_pause:g}")
    clearness = speech_to_noise(loudness)
    if limits.min_speech_to_noise is not None and clearness < limits.min_speech_to_noise:
        raise UnfitSoundError(
            "noisy", f"speech is {clearness:.0f} dB above the noise, less than "
            f"{limits.min_speech_to_noise:g}"
        )  # fmt: skip
    gain = float(cleaned.abs().max() / trim(wav).abs().max())
    sound = Sound(
        rate=rate,
        channels=samples.shape[1],
        seconds_read=round(len(samples) / rate, 4),
        samples=len(cleaned),
        gain=round(20 * math.log10(gain), 2),
        clipped=round(clipped, 6),
        offset=round(offset, 6),
        pause=round(pause, 2),
        speech_to_noise=round(clearness, 1),
        digest=hashlib.sha256(wav.numpy().tobytes()).hexdigest(),
    )
    return sound, cleaned


def _read(path: Path, limits: Limits) -> tuple[np.ndarray, int]:
    """(S, channels) float32 as the file has them, and its rate."""
    import soundfile

    if not path.is_file():  # a pipe would be waited for
        raise UnfitSoundError("unreadable", "it is not a file")
    if path.stat().st_size == 0:
        raise UnfitSoundError("empty_sound", "the file holds no bytes")
    try:
        with soundfile.SoundFile(path) as file:
            claimed, rate, kind = file.frames, file.samplerate, file.format
            if claimed > _LENGTH_UNKNOWN:
                raise UnfitSoundError(
                    "unreadable", "it does not say how long it is; convert it to another file"
                )
            # A day of sound need not be read; a sound may be much longer than what remains of it.
            if limits.max_seconds is not None and claimed > (60 + 4 * limits.max_seconds) * rate:
                raise UnfitSoundError(
                    "too_long", f"{claimed / rate:,.0f} s, more than {limits.max_seconds:g}"
                )
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError, MemoryError) as e:
        raise UnfitSoundError("unreadable", _told(e, path)) from e
    slack = MP3_SLACK if kind == "MP3" else 0
    if len(samples) + slack < claimed:
        raise UnfitSoundError("truncated", f"{len(samples):,} of {claimed:,} samples are there")
    missing = missing_wav_bytes(path)
    if missing:
        raise UnfitSoundError("truncated", f"the last {missing:,} bytes are missing")
    if len(samples) == 0:
        raise UnfitSoundError("empty_sound", "the file holds no samples")
    return samples, rate


def _told(error: BaseException, path: Path) -> str:
    """What an error says, in one line and without the file's name, which the report has."""
    said = str(error).replace(repr(str(path)), "it").replace(str(path), "it")
    return " ".join(said.split())


def missing_wav_bytes(path: Path) -> int:
    """By how many bytes a WAV file falls short of what its header claims; 0 for other files.

    libsndfile reads what is there and says nothing. Programs that write to a pipe leave a length of
    0 or nearly 4 GB, which claims nothing.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                unknown = length >= 0x7FFFF000  # also what some programs take for "very long"
                return 0 if unknown else max(0, file.tell() + length - size)
            file.seek(length + length % 2, os.SEEK_CUR)
    return 0


@contextmanager
def _without_decoder_messages() -> Iterator[None]:
    """The MP3 decoder writes its notes to standard error, over the progress bar."""
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def clipped_share(samples: np.ndarray) -> float:
    """(S, channels) -> the share of the samples that is clipped, in the worst channel."""
    return max(_clipped_share(channel) for channel in samples.T)


def _clipped_share(channel: np.ndarray) -> float:
    low, high = float(channel.min()), float(channel.max())
    tops = [channel >= FULL_SCALE, channel <= -FULL_SCALE]
    if high >= QUIETEST_PEAK:
        tops.append(channel == high)
    if low <= -QUIETEST_PEAK:
        tops.append(channel == low)
    clipped = np.zeros(len(channel), bool)
    for top in tops:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], top, [False]])))
        for first, last in edges.reshape(-1, 2):
            if last - first >= CLIPPED_RUN:
                clipped[first:last] = True
    return float(clipped.mean())


def longest_pause(loudness: Tensor) -> float:
    """Moments (`clean.moments`) of a trimmed signal -> s of the longest pause inside."""
    speech = torch.nonzero(loudness >= loudness.max() * 10 ** (-SPEECH_DECIBELS / 20))[:, 0]
    between = speech.diff() - 1
    return float(between.max()) * FRAME_SECONDS if len(between) else 0.0


def speech_to_noise(loudness: Tensor) -> float:
    """Moments -> dB from the loudest twentieth of them down to the quietest; 120 at most."""
    quiet, loud = np.quantile(loudness.numpy(), [0.05, 0.95])
    return min(120.0, 20 * math.log10(loud / max(quiet, loud * 1e-6)))
