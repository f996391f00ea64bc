"""Plots of judged voices: a teacher's attention on many texts, mels and pitch of several voices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, LOG_FLOOR
from lightspeech.files import atomic_path
from lightspeech.vocoders.pitch import HIGHEST_PITCH

_DPI = 100
_COLUMNS = 3
_PANEL_INCHES = (5.0, 3.2)
_TITLE_CHARACTERS = 64  # that fit above a panel
_INCHES_A_SECOND = 2.2
_WIDTHS = (7.0, 30.0)  # inches of a comparison
_PITCH = "#36e0ff"
_GREY = "#60606a"
_LOG_RANGE = (math.log(LOG_FLOOR), 2.0)  # one colour scale for all mels, so that they compare


@dataclass(frozen=True, eq=False)
class Panel:
    """An attention to plot."""

    title: str
    """the text"""
    note: str
    """a line about it"""
    attention: Tensor
    """(T, N) weights on the CPU"""


def plot_attentions(path: str | Path, panels: Sequence[Panel], title: str) -> None:
    """Writes a PNG with a grid of attentions, seconds to the right and symbols upwards.

    Args:
        path: the file, written whole or not at all.
        panels: at least one.
        title: one line above it all.
    """
    rows = -(-len(panels) // _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    width, height = _PANEL_INCHES
    figure = _figure(columns * width, rows * height + 0.4, title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        frames, tokens = panel.attention.shape
        ax.imshow(
            panel.attention.float().numpy().T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            interpolation="nearest",
            extent=(0, frames * FRAME_SECONDS, -0.5, tokens - 0.5),
            vmin=0,
            vmax=1,
        )
        title_lines = f"{_shortened(panel.title)}\n{_shortened(panel.note)}"
        ax.set_title(title_lines, fontsize=7, loc="left", parse_math=False)
        ax.tick_params(labelsize=7)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _save(figure, path)


def plot_mels(
    path: str | Path,
    mels: Sequence[tuple[str, Tensor]],
    title: str,
    pitches: Sequence[np.ndarray] | None = None,
) -> None:
    """Writes a PNG of mels one above the other, on one scale of time, of colours and of pitch.

    Args:
        path: the file, written whole or not at all.
        mels: whose it is, and the mel (T, M) on the CPU; at least one.
        title: the text.
        pitches: of each mel the pitch (T,) in Hz, 0 where unvoiced, drawn over it; None: of none.
    """
    seconds = max(len(mel) for _, mel in mels) * FRAME_SECONDS
    width = min(max(seconds * _INCHES_A_SECOND + 0.9, _WIDTHS[0]), _WIDTHS[1])
    figure = _figure(width, 2.3 * len(mels) + 0.5, _shortened(title, int(width * 11)))
    axes = figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0]
    for i, (ax, (who, mel)) in enumerate(zip(axes, mels, strict=True)):
        _draw_mel(ax, who, mel)
        if pitches is not None:
            _draw_pitch(ax, pitches[i])
    axes[-1].set_xlim(0, seconds)
    axes[-1].set_xlabel("seconds", fontsize=8)
    _save(figure, path)


def _draw_mel(ax: Axes, who: str, mel: Tensor) -> None:
    ax.imshow(
        mel.float().numpy().T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, len(mel) * FRAME_SECONDS, 0, mel.shape[1]),
        vmin=_LOG_RANGE[0],
        vmax=_LOG_RANGE[1],
    )
    ax.set_ylabel(f"{who}: mel bin", fontsize=8)
    ax.tick_params(labelsize=7)


def _draw_pitch(ax: Axes, pitch: np.ndarray) -> None:
    """A pitch contour over a mel, with an axis of its own on the right."""
    over = ax.twinx()
    times = (np.arange(len(pitch)) + 0.5) * FRAME_SECONDS
    over.plot(times, np.where(pitch > 0, pitch, np.nan), color=_PITCH, linewidth=1.3)
    over.set_ylim(0, HIGHEST_PITCH)
    over.set_ylabel("pitch, Hz", fontsize=8, color=_GREY)
    over.tick_params(labelsize=7)


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure with a canvas of its own: pyplot's global state would keep it in memory."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Texts may be in any script, of which the font knows a few; the rest become boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(temporary, format="png", dpi=_DPI)


def _shortened(text: str, most: int = _TITLE_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
