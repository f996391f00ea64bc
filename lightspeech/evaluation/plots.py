"""Plots of spoken text: mel spectrograms over their symbols, attention beside its monotonic path.

Figures are built as objects and never through pyplot, whose global state would leak memory and is
not safe in threads.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, HOP_LENGTH, LOG_FLOOR, mel_spectrogram
from lightspeech.files import atomic_path
from lightspeech.speech import Piece, Speech

MOST_PIECES = 3
"""sentences of one text that are plotted; the title says how many were left out"""

MOST_FRAMES = 2584
"""frames of a mel from a file that are plotted: 30 s"""

_DPI = 100
_INCHES_A_SECOND = 2.8
_WIDTHS = (7.0, 30.0)  # inches
_MARGIN = 0.9  # inches left and right of the axes
_LABEL_POINTS = 4.4  # width of a character of a symbol's label
_BOUNDARY = "#ffffff"
_LOG_RANGE = (math.log(LOG_FLOOR), 2.0)  # one colour scale for all mels, so that they compare
_PATH = "#36e0ff"
_GREY = "#80808a"  # 3.9 to 1 against white, 4.4 to 1 against the dark pages
_PAGE_DPI = 120
_MOST_ROWS = 24  # symbols that fit beside an attention, one a line
_PAGE_INCHES = (4.2, 9.6)  # widths of a figure on a page, by the length of what it shows
_PAGE_INCHES_A_SECOND = 1.9


def shown_symbol(symbol: str) -> str:
    """A symbol as it is printed on plots and pages: a space would be invisible."""
    return "\u2423" if symbol == " " else symbol


def attention_path(durations: np.ndarray) -> np.ndarray:
    """(N,) frames per token -> (T,) the token that is spoken in each frame."""
    return np.repeat(np.arange(len(durations)), durations)


def plot_speech(path: str | Path, student: Speech, teacher: Speech | None, title: str) -> None:
    """Writes a PNG: the student's mel over its symbols; the teacher's, and its attention, below.

    Args:
        path: the file, written whole or not at all.
        student, teacher: the same text, spoken by both; the teacher may be None.
        title: one line above it all.
    """
    figure = draw_speech(student, teacher, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def draw_speech(student: Speech, teacher: Speech | None, title: str) -> Figure:
    """The figure of `plot_speech`, with a canvas of its own."""
    count = min(len(student.pieces), MOST_PIECES)
    rows: list[tuple[str, Speech, Piece]] = []
    for i in range(count):
        rows.append(("student", student, student.pieces[i]))
        if teacher is not None:
            rows.append(("teacher", teacher, teacher.pieces[i]))
            if teacher.pieces[i].attention is not None:
                rows.append(("attention", teacher, teacher.pieces[i]))
    longest = max(piece.frames for _, _, piece in rows) * FRAME_SECONDS
    width = min(max(longest * _INCHES_A_SECOND + _MARGIN, _WIDTHS[0]), _WIDTHS[1])
    heights = [2.9 if kind == "attention" else 1.9 for kind, _, _ in rows]

    figure = Figure(figsize=(width, sum(heights) + 0.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left_out = len(student.pieces) - count
    note = f"  (and {left_out} more sentences)" if left_out else ""
    figure.suptitle(_shortened(title, int(width * 11)) + note, fontsize=10, parse_math=False)
    axes = figure.subplots(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (kind, speech, piece) in zip(axes, rows, strict=True):
        if kind == "attention":
            _draw_attention(ax, piece, longest)
        else:
            _draw_mel(ax, speech, piece, longest, kind, width)
    return figure


def plot_mel_and_sound(path: str | Path, mel: Tensor, wav: Tensor, title: str) -> None:
    """Writes a PNG: a mel, below it that of the sound that a vocoder made of it, and the sound.

    Args:
        path: the file, written whole or not at all.
        mel: (T, M); of a long one only the beginning is drawn.
        wav: (256 T,) on the CPU.
        title: one line above it all.
    """
    figure = draw_mel_and_sound(mel, wav, title)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Files may be named in any script, of which the font knows a few; the rest become boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(temporary, format="png", dpi=_DPI)


def draw_mel_and_sound(mel: Tensor, wav: Tensor, title: str) -> Figure:
    """The figure of `plot_mel_and_sound`, with a canvas of its own."""
    # Line breaks, and what is no text at all: names of files may be any bytes.
    title = "".join(character if character.isprintable() else "?" for character in title)
    count = min(len(mel), MOST_FRAMES)
    if count < len(mel):
        whole, part = len(mel) * FRAME_SECONDS, count * FRAME_SECONDS
        title = f"{title}  (the first {part:.0f} of {whole:.0f} s)"
    wav = wav[: count * HOP_LENGTH]
    peak = max(1.0, float(wav.abs().amax()))
    heard = mel_spectrogram(wav / peak)[:count] + math.log(peak)
    seconds = count * FRAME_SECONDS
    width = min(max(seconds * _INCHES_A_SECOND + _MARGIN, _WIDTHS[0]), _WIDTHS[1])
    figure = Figure(figsize=(width, 6.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_shortened(title, int(width * 11)), fontsize=10, parse_math=False)
    given_ax, heard_ax, wav_ax = figure.subplots(3, 1, sharex=True, height_ratios=[2, 2, 1])
    _draw_spectrogram(given_ax, mel[:count].float().numpy(), "mel as given: bin")
    _draw_spectrogram(heard_ax, heard.numpy(), "mel of the sound: bin")
    # Fewer points than samples, and no peak lost: the extremes of each stretch.
    stretch = max(1, len(wav) // int(width * _DPI))
    parts = wav[: len(wav) // stretch * stretch].view(-1, stretch)
    times = np.arange(len(parts)) * stretch * FRAME_SECONDS / HOP_LENGTH
    wav_ax.fill_between(times, parts.amin(1).numpy(), parts.amax(1).numpy(), linewidth=0.5)
    wav_ax.set_xlim(0, seconds)
    wav_ax.set_ylabel("sound", fontsize=8)
    wav_ax.set_xlabel("seconds", fontsize=8)
    wav_ax.tick_params(labelsize=7)
    return figure


def draw_label(
    symbols: list[str], durations: Tensor, mel: Tensor, attention: Tensor | None
) -> Figure:
    """A figure of what the teacher said about a text, for pages that are light or dark.

    The attention with the path of the durations over it, where there is one, and below it the mel,
    a line at every boundary between symbols and the symbols where they fit. It has no background,
    and letters in a grey that can be read on white and on black.

    Args:
        symbols: the N symbols that were spoken.
        durations: (N,) frames a symbol; their sum is T.
        mel: (T, M).
        attention: (T, N) or None.
    """
    piece = Piece("", symbols, durations, 0, attention)
    seconds = len(mel) * FRAME_SECONDS
    width = min(max(seconds * _PAGE_INCHES_A_SECOND + _MARGIN, _PAGE_INCHES[0]), _PAGE_INCHES[1])
    heights = [2.3, 1.7] if attention is not None else [1.7]
    figure = Figure(figsize=(width, sum(heights) + 0.3), dpi=_PAGE_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if attention is not None:
        _draw_attention(axes[0], piece, seconds)
        axes[0].get_legend().remove()  # the page says what the line is
        axes[0].set_xlabel("")
        axes[0].patches[0].set_linewidth(0.7)  # so that it does not hide what it follows
        if len(symbols) <= _MOST_ROWS:  # else the words stand there
            axes[0].set_yticks(
                range(len(symbols)), list(map(shown_symbol, symbols)), fontsize=7, parse_math=False
            )
    _draw_spectrogram(axes[-1], mel.float().numpy(), "mel bin")
    ends = np.cumsum(durations.numpy()) * FRAME_SECONDS
    axes[-1].vlines(ends[:-1], 0, mel.shape[1], color=_BOUNDARY, linewidth=0.5, alpha=0.6)
    _draw_symbols(axes[-1], piece, ends, seconds, width)
    axes[-1].set_xlim(0, seconds)
    axes[-1].xaxis.tick_top()
    axes[-1].tick_params(axis="x", labelsize=7, pad=1, length=2, labeltop=attention is None)
    step = 0.5 if seconds < 8 else 1.0 if seconds < 20 else 2.0
    for ax in axes:
        _frame(ax, seconds)
        ax.set_xticks(np.arange(0, seconds + 1e-9, step))
    figure.patch.set_alpha(0)
    for ax in axes:
        ax.tick_params(colors=_GREY)
    for text in figure.findobj(Text):
        text.set_color(_GREY)
    return figure


def _draw_spectrogram(ax: Axes, mel: np.ndarray, label: str) -> None:
    """A mel (T, M) over seconds, in the colours that all mels share."""
    ax.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, len(mel) * FRAME_SECONDS, 0, mel.shape[1]),
        vmin=_LOG_RANGE[0],
        vmax=_LOG_RANGE[1],
    )
    ax.set_ylabel(label, fontsize=8)
    ax.tick_params(axis="y", labelsize=7)


def _draw_mel(
    ax: Axes, speech: Speech, piece: Piece, longest: float, who: str, inches: float
) -> None:
    """The mel over time, with a line at every boundary between symbols and the symbols below."""
    mel = speech.mel[piece.mel_rows].numpy()  # (T, M)
    seconds = len(mel) * FRAME_SECONDS
    _draw_spectrogram(ax, mel, f"{who}: mel bin")
    ax.set_xlim(0, longest)
    # Seconds above, symbols below.
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", labelsize=7, pad=1, length=2)
    ends = np.cumsum(piece.durations.numpy()) * FRAME_SECONDS
    ax.vlines(ends[:-1], 0, mel.shape[1], color=_BOUNDARY, linewidth=0.5, alpha=0.6)
    _draw_symbols(ax, piece, ends, longest, inches)
    _frame(ax, seconds)


def _draw_symbols(ax: Axes, piece: Piece, ends: np.ndarray, longest: float, inches: float) -> None:
    """Writes each symbol under the middle of its span, a step lower where the last is too near."""
    starts = np.concatenate(([0.0], ends[:-1]))
    points_a_second = (inches - _MARGIN) * 72 / longest
    room = [-np.inf] * 3  # where the last label on each level ends, in points
    for symbol, start, end in zip(piece.symbols, starts, ends, strict=True):
        if end == start:
            continue
        middle = (start + end) / 2 * points_a_second
        width = _LABEL_POINTS * len(symbol)
        if symbol == " " and (end - start) * points_a_second < width:
            continue  # the words around a short space matter more
        levels = [level for level, used in enumerate(room) if used <= middle - width / 2]
        level = levels[0] if levels else int(np.argmin(room))
        room[level] = middle + width / 2
        ax.annotate(
            shown_symbol(symbol),
            ((start + end) / 2, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -2 - 7 * level),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
            family="DejaVu Sans Mono",
            parse_math=False,
        )


def _draw_attention(ax: Axes, piece: Piece, longest: float) -> None:
    """The teacher's attention, tokens upwards, and the path that the durations follow."""
    assert piece.attention is not None
    attention = piece.attention.numpy()  # (T, N)
    n_frames, n_tokens = attention.shape
    seconds = n_frames * FRAME_SECONDS
    ax.imshow(
        attention.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0, seconds, -0.5, n_tokens - 0.5),
        vmin=0,
        vmax=1,
    )
    ax.stairs(
        attention_path(piece.durations.numpy()),
        np.arange(n_frames + 1) * FRAME_SECONDS,
        baseline=None,
        color=_PATH,
        linewidth=1.0,
        label="path that gives the durations",
    )
    ax.legend(loc="upper left", fontsize=7, framealpha=0.85)
    ax.set_xlim(0, longest)
    ax.set_xlabel("seconds", fontsize=8)
    ax.set_ylabel("teacher's attention", fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    middles, words = _words(piece.symbols)
    # The axis is some 170 points high: labels of 6 points would overlap beyond 24 words.
    step = -(-len(words) // 24)
    ax.set_yticks(middles[::step], words[::step], fontsize=6, parse_math=False)
    ax.tick_params(axis="y", length=0)
    _frame(ax, seconds)


def _frame(ax: Axes, seconds: float) -> None:
    """Ticks only where there is sound, and no box around what may be shorter than its neighbour."""
    ax.set_xticks(np.arange(0, seconds + 1e-9, 0.5))
    for spine in ax.spines.values():
        spine.set_visible(False)


def _words(symbols: list[str]) -> tuple[list[float], list[str]]:
    """The words of a sentence, and the number of the symbol in the middle of each."""
    middles, words, first = [], [], 0
    for i, symbol in enumerate([*symbols, " "]):
        if symbol != " ":
            continue
        if i > first:
            middles.append((first + i - 1) / 2)
            words.append("".join(symbols[first:i]))
        first = i + 1
    return middles, words


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
