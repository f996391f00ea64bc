"""Pitch, read off a mel spectrogram.

The mel filters are some 37 Hz apart up to 1 kHz and 100 Hz at 2.6 kHz: finer than the harmonics of
most voices there, so that the harmonics show as ripples along a frame. The ripples of each frame
are correlated with those that a train of harmonics of each candidate pitch would leave, and the
best smooth path through the correlations, with a state for "unvoiced", is the pitch contour.

Against pYIN on nine LJSpeech recordings: 87 to 93% of the frames agree on voicing; of those that
both call voiced at most 1.3% differ by more than 10%, the others by 0.5 to 0.9% in the median.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import FFT_SIZE, MEL_FMAX, N_MELS, SAMPLE_RATE, mel_filters

LOWEST_PITCH = 65.0
"""Hz"""
HIGHEST_PITCH = 420.0
"""Hz"""
PITCH_STEP = 1.015
"""ratio of neighbouring candidates (a quarter of a semitone)"""
_N_CANDIDATES = int(np.log(HIGHEST_PITCH / LOWEST_PITCH) / np.log(PITCH_STEP)) + 1  # C
_PIECE = 4096  # frames scored at a time, for the sake of memory
_RIPPLE_WIDTH = 3.0  # mel bins; wider structure than this is the spectral envelope
_RIPPLE_CUTOFF = 2500.0  # Hz; above it the mel filters blur the harmonics together
_MAX_STEPS = 5  # candidates by which the pitch may move from one frame to the next
_MOVE_COST = 0.02  # for each of them
_UNVOICED_SCORE = 0.45  # the correlation that a voiced frame has to beat
_SWITCH_COST = 0.6  # for going from voiced to unvoiced or back


def track_pitch(mel: Tensor) -> np.ndarray:
    """The fundamental frequency of each frame.

    Args:
        mel: (T, M) natural log magnitudes, T >= 1.

    Returns:
        (T,) float64, Hz; 0 where the frame is unvoiced.
    """
    scores = _score_candidates(mel)  # (T, C)
    path = _best_path(scores)  # (T,)
    frames = np.arange(len(path))
    # A parabola through the best candidate and its neighbours gives the pitch between candidates.
    inner = np.clip(path, 1, scores.shape[1] - 2)
    below, peak, above = (scores[frames, inner + shift].astype(np.float64) for shift in (-1, 0, 1))
    curvature = np.minimum(below - 2 * peak + above, -1e-6)
    offset = np.clip(0.5 * (below - above) / curvature, -0.5, 0.5)
    return np.where(path < 0, 0.0, LOWEST_PITCH * PITCH_STEP ** (inner + offset))


def _score_candidates(mel: Tensor) -> np.ndarray:
    """(T, M) -> (T, C): correlation of ripples with each candidate's, less in quiet frames."""
    level = 0.5 * mel[:, :50].exp().square().mean(1).clamp(min=1e-12).log()  # (T,)
    loud_frames = torch.sigmoid(1.5 * (level - level.max() + 4.5))
    scores = np.empty((len(mel), _N_CANDIDATES), dtype=np.float32)
    for first in range(0, len(mel), _PIECE):
        piece = slice(first, first + _PIECE)
        scores[piece] = (_correlate(mel[piece]) * loud_frames[piece, None]).cpu().numpy()
    return scores


def _correlate(mel: Tensor) -> Tensor:
    """(T, M) -> (T, C) in [-1, 1]"""
    detrend, low_bins, ripples = _candidate_ripples(mel.device)
    found = mel.clamp(min=-9.0) @ detrend.T  # (T, M)
    # Bins far below the frame's loudest hold the noise floor, not the voice.
    loud_bins = ((mel - mel.amax(dim=1, keepdim=True) + 7) / 3).clamp(0, 1)
    weights = low_bins * loud_bins  # (T, M)
    cross = (found * weights) @ ripples.T  # (T, C)
    norms = (weights @ ripples.square().T) * (weights * found.square()).sum(1, keepdim=True)
    return cross / norms.clamp(min=1e-9).sqrt()


def _best_path(scores: np.ndarray) -> np.ndarray:
    """Viterbi's algorithm: (T, C) -> (T,) index of the candidate, -1 for unvoiced."""
    n_frames, n_candidates = scores.shape
    moves = np.arange(-_MAX_STEPS, _MAX_STEPS + 1)
    sources = np.arange(n_candidates)[:, None] + moves  # (C, moves); reaches beyond both ends
    cost = _MOVE_COST * np.abs(moves, dtype=np.float32)
    # Index C stands for "unvoiced" in the back pointers.
    origin = np.empty((n_frames, n_candidates + 1), dtype=np.int16)
    padded = np.full(n_candidates + 2 * _MAX_STEPS, -np.inf, dtype=np.float32)
    reachable = np.lib.stride_tricks.sliding_window_view(padded, len(moves))  # (C, moves)
    total = scores[0].copy()
    unvoiced = _UNVOICED_SCORE
    candidates = np.arange(n_candidates)
    for t in range(1, n_frames):
        padded[_MAX_STEPS:-_MAX_STEPS] = total
        arrived = reachable - cost
        choice = arrived.argmax(axis=1)
        best = arrived[candidates, choice]
        onset = unvoiced - _SWITCH_COST
        origin[t, :-1] = np.where(best >= onset, sources[candidates, choice], n_candidates)
        loudest = int(total.argmax())
        offset = float(total[loudest]) - _SWITCH_COST
        origin[t, -1] = loudest if offset > unvoiced else n_candidates
        total = np.maximum(best, onset) + scores[t]
        unvoiced = max(unvoiced, offset) + _UNVOICED_SCORE
        # Only differences count; without this, an hour of speech would exhaust float32.
        total -= unvoiced
        unvoiced = 0.0
    path = np.empty(n_frames, dtype=np.int64)
    path[-1] = total.argmax() if total.max() > unvoiced else n_candidates
    for t in range(n_frames - 1, 0, -1):
        path[t - 1] = origin[t, path[t]]
    return np.where(path == n_candidates, -1, path)


@lru_cache(maxsize=4)
def _candidate_ripples(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Detrending matrix (M, M), weights of the bins (M,), ripples of the candidates (C, M)."""
    import librosa

    pitches = LOWEST_PITCH * PITCH_STEP ** np.arange(_N_CANDIDATES)
    harmonics = np.arange(1, int(MEL_FMAX / LOWEST_PITCH) + 1)
    hz = SAMPLE_RATE / FFT_SIZE * np.arange(FFT_SIZE // 2 + 1)
    spectra = np.zeros((_N_CANDIDATES, len(hz)))
    for harmonic in harmonics:
        away = (hz - harmonic * pitches[:, None]) * FFT_SIZE / SAMPLE_RATE  # in FFT bins
        spectra += _hann_lobe(away)
    mels = spectra @ mel_filters().double().numpy().T  # (C, M)

    bins = np.arange(N_MELS)
    smooth = np.exp(-0.5 * ((bins[:, None] - bins) / _RIPPLE_WIDTH) ** 2)
    detrend = np.eye(N_MELS) - smooth / smooth.sum(axis=1, keepdims=True)
    ripples = np.log(mels + 1e-3) @ detrend.T
    centres = librosa.mel_frequencies(N_MELS + 2, fmin=0.0, fmax=MEL_FMAX)[1:-1]
    low_bins = 1 / (1 + (centres / _RIPPLE_CUTOFF) ** 4)
    with torch.inference_mode(False):
        detrend_t, low_t, ripples_t = (
            torch.from_numpy(a).float().to(device) for a in (detrend, low_bins, ripples)
        )
    return detrend_t, low_t, ripples_t


def _hann_lobe(away: np.ndarray) -> np.ndarray:
    """Main lobe of the Hann window's spectrum, 1 at the centre, 0 from two bins away."""
    away = np.abs(away)
    # sinc(x) / (1 - x^2), whose limit at 1 is a half
    at_one = np.abs(away - 1) < 1e-6
    lobe = np.where(at_one, 0.5, np.sinc(away) / np.where(at_one, 1, 1 - away**2))
    return np.where(away < 2, lobe, 0.0)
