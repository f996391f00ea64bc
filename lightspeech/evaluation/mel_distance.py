"""How far two mels of one text are apart, after dynamic time warping has brought them together."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

CEPSTRA = 24
"""c1 to c24 are compared; c0, the level, is left out"""


def mel_cepstra(mel: np.ndarray) -> np.ndarray:
    """A mel (T, M), natural log of magnitudes -> (T, 24), its cepstra c1 to c24.

    They are such that ln magnitude = c0 + c1 cos(w) + c2 cos(2 w) + ..., where w goes from 0 to pi
    over the mel bins.
    """
    bins = mel.shape[1]
    orders = np.arange(1, CEPSTRA + 1)
    cosines = np.cos(np.pi * np.outer(np.arange(bins) + 0.5, orders) / bins)  # (M, 24)
    cepstra: np.ndarray = mel.astype(np.float64) @ cosines * (2 / bins)
    return cepstra


def warp(one: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Which frames of two mels (T, M) and (T', M) belong together, and how far these are apart.

    Dynamic time warping of the cepstra: the path from both beginnings to both ends, each step one
    frame further in one mel or in both, whose distances have the smallest sum.

    Returns:
        path (P, 2): of each step the frame in `one` and the frame in `other`, in order; and the
        mel-cepstral distances (P,) in decibels, 10 / ln 10 * sqrt(2 * sum over c1 to c24 of the
        squared difference) (Kubichek 1993, "Mel-cepstral distance measure for objective speech
        quality assessment").
    """
    from librosa.sequence import dtw

    ours, theirs = mel_cepstra(one.numpy()), mel_cepstra(other.numpy())
    _, backwards = dtw(ours.T, theirs.T, metric="euclidean")
    path: np.ndarray = backwards[::-1]
    distances = np.linalg.norm(ours[path[:, 0]] - theirs[path[:, 1]], axis=1)
    return path, 10 / math.log(10) * math.sqrt(2) * distances


def mel_cepstral_distortion(one: Tensor, other: Tensor) -> float:
    """How far two mels (T, M) and (T', M) are apart, in decibels, after dynamic time warping.

    The mean of the distances of `warp` over the steps of its path: the root mean square of the
    distance between the two smoothed log spectra, their level left out. The cepstra are of this
    project's mels, so that it compares only with others that are.
    """
    return float(warp(one, other)[1].mean())
