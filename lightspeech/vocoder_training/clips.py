"""Recordings -> batches of clips: a mel, and the sound that a vocoder is to make of it.

Which clips a step hears is a pure function of the seed and the step, so that a training that goes
on needs to know nothing but its step.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import (
    FFT_SIZE,
    HOP_LENGTH,
    N_MELS,
    SAMPLE_RATE,
    log_mel,
    mel_spectrogram,
    read_wav,
    reflected,
)
from lightspeech.errors import InputError
from lightspeech.forced import find_recordings
from lightspeech.mel_file import read_mel
from lightspeech.ranks import Ranks
from lightspeech.vocoder_training.config import VocoderTrainingConfig
from lightspeech.vocoders.pitch import track_pitch

_MARGIN = FFT_SIZE // 2
_PITCH_CONTEXT = 24  # frames around a clip that help to find its pitch


@dataclass(frozen=True)
class Recording:
    """A sound file, and perhaps a mel that another made of the same words at the same pace."""

    id: str
    path: Path
    frames: int
    """whole frames of 256 samples at 22,050 Hz"""
    mel: Path | None = None
    """(80, T) .npy, as `lightspeech.mel_file.write_mel` writes it"""


@dataclass(frozen=True)
class ClipBatch:
    """A process's share of the clips of a step. B clips of T frames."""

    mel: Tensor
    """(B, T, M) float32, natural log"""
    wav: Tensor
    """(B, 256 T) float32"""
    pitch: Tensor
    """(B, T) float32, Hz; 0 where there is no voice"""
    turned: Tensor
    """(B,) float64, 0 to 1: how far the pitch has turned at the start, drawn at random"""
    all_clips: int
    """how many clips the step has, all processes' together"""

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch on `device`."""
        return ClipBatch(
            self.mel.to(device),
            self.wav.to(device),
            self.pitch.to(device),
            self.turned.to(device),
            self.all_clips,
        )


def find_pairs(wavs: Sequence[Path], mels: Path | None) -> tuple[list[Recording], list[str]]:
    """The recordings in folders, in the order of their names, with the mels that belong to them.

    Args:
        mels: a folder with ID.npy for some or all recordings ID.wav (.flac, .mp3); None: no mels.

    Returns:
        the recordings, and a sentence for each file that cannot be used.

    Raises:
        InputError: no such folder, no usable recording, or mels of none of them.
    """
    import soundfile

    found: list[Recording] = []
    problems: list[str] = []
    for folder in wavs:
        for id, path in find_recordings(folder).items():
            try:
                info = soundfile.info(path)
                frames = int(info.frames * SAMPLE_RATE / info.samplerate) // HOP_LENGTH
            except (soundfile.LibsndfileError, OSError, ZeroDivisionError) as e:
                problems.append(f"{path} cannot be read as sound ({e})")
                continue
            mel = None
            if mels is not None and (mels / f"{id}.npy").is_file():
                mel = mels / f"{id}.npy"
            found.append(Recording(id, path, frames, mel))
    if not found:
        raise InputError(
            f"no recordings in {', '.join(map(str, wavs))}: expected .wav, .flac or .mp3 files"
            + (f"; {problems[0]}" if problems else "")
        )
    if mels is not None and not any(recording.mel for recording in found):
        raise InputError(
            f"no mel in {mels} belongs to any of the {len(found):,} recordings: expected "
            f"{found[0].id}.npy for {found[0].path.name}"
        )
    return sorted(found, key=lambda recording: recording.id), problems


def digest_of(recordings: Sequence[Recording]) -> str:
    """SHA-256 of what tells one set of pairs from another: names, lengths, and who has a mel."""
    listed = "\n".join(f"{r.id} {r.frames} {r.mel is not None}" for r in recordings)
    return hashlib.sha256(listed.encode()).hexdigest()


def split(
    recordings: Sequence[Recording], held_out: int, seed: int
) -> tuple[list[Recording], list[Recording]]:
    """(those to learn from, `held_out` others or, of few, a tenth); which follows from the ids."""

    def draw(recording: Recording) -> str:
        return hashlib.sha256(f"{seed}/{recording.id}".encode()).hexdigest()

    order = sorted(recordings, key=draw)
    count = min(held_out, max(1, len(order) // 10))
    return sorted(order[count:], key=lambda r: r.id), order[:count]


def training_clips(
    recordings: Sequence[Recording],
    settings: VocoderTrainingConfig,
    first_step: int = 0,
    ranks: Ranks | None = None,
) -> Iterator[ClipBatch]:
    """This process's share of each batch, from that of `first_step` (0-based) on, without end.

    Every frame of all recordings is as likely as any other. Recordings that are shorter than a clip
    must have been left out.
    """
    ranks = ranks or Ranks()
    ends = list(accumulate(recording.frames for recording in recordings))
    step = first_step
    while True:
        generator = random.Random(f"{settings.seed}/{step}")
        clips = []
        for number in range(settings.batch_size):
            recording = recordings[bisect.bisect(ends, generator.randrange(ends[-1]))]
            start = generator.randrange(recording.frames - settings.clip_frames + 1)
            own = generator.random() >= settings.mels_share
            at_start = torch.tensor(generator.random(), dtype=torch.float64)
            if number % ranks.count == ranks.rank:
                clips.append((*_clip(recording, start, settings.clip_frames, own), at_start))
        mels, wavs, pitches, turned = (torch.stack(parts) for parts in zip(*clips, strict=True))
        yield ClipBatch(mels, wavs, pitches, turned, settings.batch_size)
        step += 1


def whole(recording: Recording) -> tuple[Tensor, Tensor]:
    """The mel (T, M) and the sound (256 T,) of all of a recording; another's mel, if it has one."""
    wav = read_wav(recording.path)
    mel = mel_spectrogram(wav) if recording.mel is None else read_mel(recording.mel).float()
    frames = min(len(mel), len(wav) // HOP_LENGTH)
    return mel[:frames], wav[: frames * HOP_LENGTH]


def _clip(
    recording: Recording, start: int, frames: int, own: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames [start, start + frames) of a recording, its own mel or another's: mel, sound, pitch.

    The pitch is read off the mel, with what is around the clip.
    """
    if own or recording.mel is None:
        first = max(0, start - _PITCH_CONTEXT)
        last = min(recording.frames, start + frames + _PITCH_CONTEXT)
        around = _read(
            recording, first * HOP_LENGTH - _MARGIN, (last - first) * HOP_LENGTH + FFT_SIZE
        )
        mel = log_mel(around)[: last - first]
        wav = around[_MARGIN : len(around) - _MARGIN]
    else:
        mapped = np.load(recording.mel, mmap_mode="r", allow_pickle=False)  # (M, T)
        if mapped.ndim != 2 or mapped.shape[0] != N_MELS or mapped.shape[1] < frames:
            raise InputError(
                f"{recording.mel} is {mapped.shape}: expected ({N_MELS}, T) as its sound"
            )
        start = min(start, mapped.shape[1] - frames)
        first = max(0, start - _PITCH_CONTEXT)
        last = min(mapped.shape[1], start + frames + _PITCH_CONTEXT)
        mel = torch.from_numpy(mapped[:, first:last].astype(np.float32).T.copy())
        wav = _read(recording, first * HOP_LENGTH, (last - first) * HOP_LENGTH)
    pitch = torch.from_numpy(track_pitch(mel)).float()
    inner = slice(start - first, start - first + frames)
    samples = slice(inner.start * HOP_LENGTH, inner.stop * HOP_LENGTH)
    return mel[inner], wav[samples], pitch[inner]


def _read(recording: Recording, first: int, count: int) -> Tensor:
    """`count` samples from `first` on; beyond the ends the signal is reflected."""
    import soundfile

    path = recording.path
    before = max(0, -first)
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate == SAMPLE_RATE and file.channels == 1:
                file.seek(max(first, 0))
                wav = torch.from_numpy(file.read(count - before, dtype="float32"))
            else:
                wav = read_wav(path)[max(first, 0) : first + count]
    except (soundfile.LibsndfileError, OSError) as e:
        raise InputError(f"cannot read {path} as sound ({e})") from e
    after = count - before - len(wav)
    if after > 0 or before > 0:
        if len(wav) <= 1:
            raise InputError(f"{path} is shorter than it was: start another run")
        width = max(before, after)
        wav = reflected(wav, width)
        wav = wav[width - before : len(wav) - width + after]
    return wav.clamp(-1.0, 1.0)
