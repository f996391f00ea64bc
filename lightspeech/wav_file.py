"""WAV files of 16-bit PCM, written block by block. Nothing here needs PyTorch."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from lightspeech.audio_facts import SAMPLE_RATE, SILENCE
from lightspeech.errors import InputError
from lightspeech.files import atomic_path, is_full_disk

LONGEST_WAV = (2**32 - 1 - 36) // 2
"""samples of 16 bits that a WAV file can hold: 27 hours"""


def write_blocks(
    path: str | Path,
    n_samples: int,
    blocks: Callable[[], Iterable[np.ndarray]],
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Writes a mono WAV of 16-bit PCM, whole or not at all.

    A peak above full scale would wrap or crackle: the whole signal is scaled down to full scale
    then, and never otherwise.

    Args:
        path: the file; its folder must exist.
        n_samples: of all the blocks together.
        blocks: gives the signal from its beginning, in order, each time that it is called: (s,)
            floating point, full scale is 1.
        sample_rate: Hz.

    Raises:
        InputError: no samples, more than LONGEST_WAV, NaN or infinity, silence (nothing above
            SILENCE), or a file that cannot be written.
    """
    path = Path(path)
    if n_samples == 0:
        raise InputError(f"cannot write {path}: the signal holds no samples")
    if n_samples > LONGEST_WAV:
        raise InputError(
            f"cannot write {path}: a WAV file holds {LONGEST_WAV:,} samples at most, the signal "
            f"has {n_samples:,}; divide it"
        )
    broken, peak = 0, 0.0
    for block in blocks():
        broken += np.count_nonzero(~np.isfinite(block))
        peak = max(peak, float(np.abs(block).max()))
    if broken:
        raise InputError(
            f"cannot write {path}: {broken} of {n_samples} "
            "samples are NaN or infinite; the model or vocoder that made them is at fault"
        )
    if peak <= SILENCE:
        raise InputError(
            f"cannot write {path}: the signal is silent (peak {peak:g}); "
            "the model or vocoder that made it is at fault"
        )
    try:
        with (
            atomic_path(path) as temporary,
            open(temporary, "wb") as raw,
            wave.open(raw, "wb") as file,
        ):
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.setnframes(n_samples)
            for block in blocks():
                file.writeframesraw(pcm16(block, max(1.0, peak)))
    except OSError as e:
        if is_full_disk(e):
            raise  # the command line knows what to say of a full disk
        raise InputError(
            f"cannot write {path}: {e.strerror or e}; give a path in a folder that exists and "
            "may be written to"
        ) from e


def pcm16(wav: np.ndarray, full_scale: float = 1.0) -> bytes:
    """(S,) floating point -> 16-bit little-endian samples; what is above full scale is clipped."""
    scaled = np.rint(wav.astype(np.float64) * (32767 / full_scale))
    return scaled.clip(-32768, 32767).astype("<i2").tobytes()
