"""What a voice's spectrum envelope is imposed on: pulses at the pitch, and noise.

Griffin-Lim that starts from random phases finds phases that fit each other only locally: voices
sound hollow. Starting from the phases of a pulse train that follows the pitch, all harmonics agree
over the whole utterance from the outset.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import FFT_SIZE, HOP_LENGTH, SAMPLE_RATE

_EDGE = FFT_SIZE // HOP_LENGTH - 1  # blocks by which overlapping frames exceed their number
_HIGHEST_HARMONIC = 9500.0  # Hz; beyond the mel filters, so that harmonics come and go unheard
_PITCH_WITHOUT_VOICE = 150.0  # Hz; of no consequence
_NOISE_BLOCKS = 64  # blocks of 256 samples that are drawn together


class Excitation:
    """The excitation of one utterance, made piece by piece.

    A piece holds the samples under the windows of frames `start` to `stop`: n + 3 blocks of 256
    for n frames. The pieces of one utterance fit: where they overlap they are equal. Between
    pieces only the pitch contour is kept, 21 bytes a frame.
    """

    def __init__(self, pitch: np.ndarray, seed: int) -> None:
        """`pitch`: (T,) Hz, 0 where unvoiced; `seed`: any integer, draws the noise."""
        n_frames = len(pitch)
        voiced = pitch > 0
        # Two frames more at either end: the blocks reach 512 samples beyond the outermost centres.
        frames = np.arange(-2, n_frames + 2)
        if voiced.any():
            known = np.log(pitch[voiced])
            self._pitch = np.exp(np.interp(frames, np.flatnonzero(voiced), known))
        else:
            self._pitch = np.full(n_frames + 4, _PITCH_WITHOUT_VOICE)
        steps = 0.5 * (self._pitch[1:] + self._pitch[:-1]) * HOP_LENGTH / SAMPLE_RATE
        self._cycles = np.concatenate([[0.0], np.cumsum(steps)]) % 1.0  # at the frames' centres
        self._voiced = np.pad(voiced, 2)
        # Voicing fades over three frames; a window spans four.
        nearby = np.pad(voiced.astype(np.float64), 1, mode="edge")
        share = np.convolve(nearby, np.full(3, 1 / 3), mode="valid")
        self._share = torch.from_numpy(share).float()
        self._seed = seed % 2**64

    def voiced_share(self, start: int, stop: int) -> Tensor:
        """(n,) float32 in [0, 1]: how much of each frame's surroundings is voiced."""
        return self._share[start:stop]

    def noise(self, start: int, stop: int) -> Tensor:
        """(n + 3, 256) float32: white noise of unit power, a matter of position and seed alone."""
        first, last = start, stop + _EDGE
        runs = range(first // _NOISE_BLOCKS, (last - 1) // _NOISE_BLOCKS + 1)
        drawn = np.concatenate(
            [
                np.random.default_rng((self._seed, run)).standard_normal(
                    (_NOISE_BLOCKS, HOP_LENGTH), dtype=np.float32
                )
                for run in runs
            ]
        )
        skipped = runs[0] * _NOISE_BLOCKS
        return torch.from_numpy(drawn[first - skipped : last - skipped])

    def pulses(self, start: int, stop: int) -> Tensor:
        """(n + 3, 256) float32: harmonics of the pitch in cosine phase, power near 1 if voiced."""
        first, last = start, stop + _EDGE  # block j leads from frame j - 2 to the next
        along = np.arange(HOP_LENGTH) / HOP_LENGTH

        def between(values: np.ndarray) -> np.ndarray:
            ends = values[first : last + 1, None].astype(np.float32)
            return ends[:-1] + (ends[1:] - ends[:-1]) * along.astype(np.float32)

        pitch = between(self._pitch)  # (n + 3, 256)
        # The integral of a pitch that changes linearly from frame to frame, in double precision:
        # the highest harmonic turns a hundred times as often.
        here, rise = self._pitch[first:last, None], np.diff(self._pitch[first : last + 1])[:, None]
        seconds = HOP_LENGTH / SAMPLE_RATE * along
        cycles = self._cycles[first:last, None] + (here + 0.5 * rise * along) * seconds
        cycles -= np.rint(cycles)  # the nearest pulse is at 0
        # 2 cos(x) + 2 cos(2 x) + ... + 2 cos(n x) in closed form (Dirichlet's kernel, less 1):
        # sin((n + 1/2) x) / sin(x / 2) - 1. Angles of a turn at the most are enough for the sines.
        n_harmonics = np.floor(np.float32(_HIGHEST_HARMONIC) / pitch)
        turns = (n_harmonics + 0.5) * cycles
        turns -= np.rint(turns)
        sine = np.sin(np.pi * cycles.astype(np.float32))
        at_pulse = np.abs(sine) < 1e-6
        kernel = np.sin(2 * np.pi * turns.astype(np.float32)) / np.where(at_pulse, 1.0, sine)
        total = np.where(at_pulse, 2 * n_harmonics, kernel - 1)
        return torch.from_numpy(total * np.sqrt(pitch / SAMPLE_RATE) * between(self._voiced))
