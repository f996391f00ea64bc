"""Mel spectrograms from files -> a folder of wavs and plots: vocoders without a voice."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lightspeech.audio import FRAME_SECONDS, HOP_LENGTH, SAMPLE_RATE, write_wav
from lightspeech.errors import InputError
from lightspeech.evaluation.figures import STAGES, undisturbed
from lightspeech.evaluation.plots import plot_mel_and_sound
from lightspeech.files import make_folder, remove_leftovers, single_writer
from lightspeech.mel_file import doubts_about, read_mel
from lightspeech.vocoders import Vocoder, check_sound

_LONG = 60.0  # seconds of a mel whose progress is shown


@dataclass(frozen=True)
class MelResults:
    """What `vocode_files` did."""

    wavs: list[Path]
    """what was written, in the order of the files"""
    seconds: float
    """of sound"""
    seconds_spent: float
    """by the vocoder"""
    failed: list[str]
    """a sentence for each file that could not be used"""

    @property
    def times_real_time(self) -> float:
        """Seconds of sound per second of the vocoder's work."""
        return self.seconds / max(self.seconds_spent, 1e-9)

    def summary(self) -> str:
        """How much was made and how fast, and where it is."""
        mels = "1 mel" if len(self.wavs) == 1 else f"{len(self.wavs)} mels"
        return (
            f"\n{mels}, {self.seconds:.1f} s of sound. Speed, in times real time:\n"
            f"  {STAGES['vocoder']:26}{self.times_real_time:>10.3g}\n"
            f"Wavs and plots: {self.wavs[0].parent.resolve()}"
        )


def vocode_files(files: Sequence[str | Path], vocoder: Vocoder, out: Path) -> MelResults:
    """Turns each mel into OUT/STEM.VOCODER.wav and draws it beside the mel of that sound (.png).

    Files whose stems are equal get STEM, STEM-2 and so on. A file that cannot be used is reported
    on standard error, and the rest goes on.

    Raises:
        InputError: a folder that cannot be written to, or no file that could be used.
    """
    make_folder(out)
    wavs: list[Path] = []
    failed: list[str] = []
    seconds = spent = 0.0
    names: set[str] = set()
    is_warm = False
    with single_writer(out):
        remove_leftovers(out)
        for file in tqdm(
            files,
            "vocoding",
            unit=" mels",
            disable=len(files) < 2,
            # A log file needs a line now and then, not ten a second.
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        ):
            try:
                mel = read_mel(file)
                if doubt := doubts_about(mel):
                    tqdm.write(f"note: {file}: {doubt}", file=sys.stderr)
                if not is_warm:  # the first mel of a process would pay for caches and thread pools
                    _sound(vocoder, mel[:16])
                    is_warm = True
                with undisturbed():
                    started = time.perf_counter()
                    wav = _sound(vocoder, mel)
                    took = time.perf_counter() - started
                check_sound(vocoder, [mel], [wav])
                name = f"{_new_name(Path(file).stem, names)}.{vocoder.name}"
                write_wav(out / f"{name}.wav", wav)
            except InputError as e:
                failed.append(_about(file, e))
                if len(files) > 1:
                    tqdm.write(f"not vocoded: {failed[-1]}", file=sys.stderr)
                continue
            title = f"{Path(file).name} through {vocoder.title}"
            plot_mel_and_sound(out / f"{name}.png", mel, wav, title)
            wavs.append(out / f"{name}.wav")
            sound = len(wav) / SAMPLE_RATE
            seconds, spent = seconds + sound, spent + took
            tqdm.write(f"{name}.wav  {sound:.2f} s, {sound / took:.3g} x real time")
    if not wavs:
        rest = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{failed[0]}{rest}")
    return MelResults(wavs, seconds, spent, failed)


@torch.no_grad()
def _sound(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """(T, M) -> (256 T,) float32 on the CPU; the vocoder moves what it needs to its device."""
    wav, n_done = torch.empty(HOP_LENGTH * len(mel)), 0
    with tqdm(
        total=round(len(mel) * FRAME_SECONDS),
        desc="sound",
        unit=" s",
        leave=False,
        disable=len(mel) * FRAME_SECONDS < _LONG,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    ) as progress:
        for piece in vocoder.stream(mel):
            wav[n_done : n_done + len(piece)] = piece
            n_done += len(piece)
            progress.update(int(n_done / SAMPLE_RATE) - progress.n)
    assert n_done == len(wav), (vocoder.name, n_done, len(wav))
    return wav


def _new_name(stem: str, taken: set[str]) -> str:
    """`stem`, or with a number where an earlier file has that name; it is taken from now on."""
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return name


def _about(file: str | Path, error: InputError) -> str:
    """The message, with the file's name in it."""
    message = str(error)
    return message if str(file) in message else f"{file}: {message}"
