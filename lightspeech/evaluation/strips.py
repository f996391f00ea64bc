"""A sentence on the listening page: spectrograms, durations over the symbols, attention.

Everything is in percent of the width of a strip, so that it fits any screen; the pictures are PNGs
with a palette, a pixel a frame, which the browser stretches.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from PIL import Image

from lightspeech.alignment import score_alignment
from lightspeech.audio import FRAME_SECONDS, LOG_FLOOR
from lightspeech.evaluation.plots import attention_path, shown_symbol
from lightspeech.speech import Piece, Speech

_LOUDEST = 2.0  # log magnitude that is drawn brightest; one scale for all, so that colours compare
_COLOURS = 64  # of a picture: fewer compress better, and the eye does not miss the others
# Width of a second of speech, in rem: symbols stay legible, and one word does not fill a screen.
_LEAST_REM, _MOST_REM = 8.5, 30.0


@dataclass(frozen=True)
class Beside:
    """A further voice that speaks a text beside the student and its teacher."""

    key: str
    """`beside-1` and so on: what the page's script and style know it by"""
    name: str
    """for people"""
    speech: Speech
    suffix: str = ""
    """what tells its files from others'; if empty, the key"""

    def stem(self, name: str) -> str:
        """The name of its files, for a text whose files are called `name`."""
        return f"{name}.{self.suffix or self.key}"


def render_strip(
    student: Speech, teacher: Speech | None, index: int, beside: Sequence[Beside] = ()
) -> str:
    """Sentence `index` as HTML: one axis of seconds for all voices, so that they compare."""
    ours = student.pieces[index]
    theirs = teacher.pieces[index] if teacher is not None else None
    others = [voice.speech.pieces[index] for voice in beside]
    frames = max(piece.frames for piece in (ours, theirs, *others) if piece is not None)
    parts = [_axis(frames * FRAME_SECONDS)]
    for voice, piece in zip(beside, others, strict=True):
        parts.append(_mel_track(voice.key, voice.speech, piece, frames, voice.name))
        parts.append(_symbol_row(voice.key, piece, frames))
    parts.append(_mel_track("student", student, ours, frames))
    parts.append(_symbol_row("student", ours, frames))
    caption = ""
    if teacher is not None and theirs is not None:
        parts.append(_links(ours, theirs, frames))
        parts.append(_symbol_row("teacher", theirs, frames))
        parts.append(_mel_track("teacher", teacher, theirs, frames))
        if theirs.attention is not None:
            parts.append(_attention_track(theirs, frames))
            scores = score_alignment(theirs.attention, theirs.durations)
            caption = (
                f'<p class="caption">Teacher\u2019s attention: focus {scores.focus_rate:.2f}, '
                f"coverage {100 * scores.coverage:.0f}%, "
                f"monotonic in {100 * scores.monotonicity:.0f}% of its steps, "
                f"longest stay on one symbol {scores.longest_stay} frames.</p>"
            )
    title = f"<h4>{escape(ours.text)}</h4>" if len(student.pieces) > 1 else ""
    seconds = frames * FRAME_SECONDS
    least, most = _LEAST_REM * seconds, max(_MOST_REM * seconds, 22.0)
    width = f"min-width:{least:.1f}rem;max-width:{most:.1f}rem"
    return (
        f'<div class="sentence">{title}<div class="scroll" tabindex="0" role="group" '
        f'aria-label="Spectrograms and durations"><div class="strip" style="{width}">'
        f"{''.join(parts)}</div></div>{caption}</div>"
    )


def _axis(seconds: float) -> str:
    step = 0.5 if seconds < 8 else 1.0
    marks = "".join(
        f'<span style="left:{100 * at / seconds:.2f}%">{at:g} s</span>'
        for at in np.arange(0, seconds - 0.2, step).tolist()
    )
    return f'<div class="axis" aria-hidden="true">{marks}</div>'


def _mel_track(who: str, speech: Speech, piece: Piece, frames: int, name: str = "") -> str:
    mel = speech.mel[piece.mel_rows].numpy()  # (T, M)
    quietest = np.log(LOG_FLOOR)
    picture = _picture((mel.T - quietest) / (_LOUDEST - quietest))
    alt = f"Mel spectrogram of the {name or who}, {piece.frames * FRAME_SECONDS:.2f} seconds"
    return _track(who, piece, frames, "mel", picture, alt, name or who.capitalize())


def _attention_track(piece: Piece, frames: int) -> str:
    assert piece.attention is not None
    attention = piece.attention.numpy()  # (T, N)
    n_frames, n_tokens = attention.shape
    tokens = attention_path(piece.durations.numpy())
    line = "".join(
        f"{'M0' if t == 0 else f'H{t}V'}{' ' if t == 0 else ''}{n_tokens - tokens[t] - 0.5:g}"
        for t in range(n_frames)
        if t == 0 or tokens[t] != tokens[t - 1]
    )
    path = (
        f'<svg viewBox="0 0 {n_frames} {n_tokens}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{line}H{n_frames}"/></svg>'
    )
    alt = f"Teacher's attention to {n_tokens} symbols over {n_frames} frames, with its path"
    return _track(
        "teacher", piece, frames, "attention", _picture(attention.T), alt, "Attention", path
    )


def _track(
    who: str,
    piece: Piece,
    frames: int,
    kind: str,
    picture: str,
    alt: str,
    tag: str,
    overlay: str = "",
) -> str:
    return (
        f'<div class="track {kind} of-{who}" data-start="{piece.start * FRAME_SECONDS:.4f}" '
        f'data-length="{piece.frames * FRAME_SECONDS:.4f}" '
        f'style="width:{100 * piece.frames / frames:.3f}%">'
        f'<img src="{picture}" alt="{escape(alt)}">{overlay}'
        f'<span class="tag" aria-hidden="true">{escape(tag)}</span>'
        '<span class="cursor"></span></div>'
    )


def _symbol_row(who: str, piece: Piece, frames: int) -> str:
    """The symbols, each as wide as its duration."""
    cells, position = [], 0
    for symbol, length in zip(piece.symbols, piece.durations.tolist(), strict=True):
        place = f"left:{100 * position / frames:.2f}%;width:{100 * length / frames:.2f}%"
        title = escape(
            f"{shown_symbol(symbol)} {length} frames, {1000 * length * FRAME_SECONDS:.0f} ms"
        )
        gap = ' class="gap"' if symbol == " " else ""
        shown = escape(symbol) if length else ""
        cells.append(f'<b{gap} style="{place}" title="{title}">{shown}</b>')
        position += length
    seconds = " ".join(f"{length * FRAME_SECONDS:.4g}" for length in piece.durations.tolist())
    return (
        f'<div class="symbols of-{who}" aria-hidden="true" data-seconds="{seconds}" '
        f'data-start="{piece.start * FRAME_SECONDS:.4f}">{"".join(cells)}</div>'
    )


def _links(ours: Piece, theirs: Piece, frames: int) -> str:
    """Curves between the two voices' boundaries, stronger between words."""
    symbols: list[str] = []
    words: list[str] = []
    above = np.cumsum(ours.durations.numpy())
    below = np.cumsum(theirs.durations.numpy())
    for i, (x, y) in enumerate(zip(above.tolist(), below.tolist(), strict=True)):
        x, y = round(1000 * x / frames, 1), round(1000 * y / frames, 1)
        curve = f"M{x:g} 0C{x:g} 12 {y:g} 12 {y:g} 24"
        at_word = ours.symbols[i] == " " or ours.symbols[i + 1 : i + 2] in ([" "], [])
        (words if at_word else symbols).append(curve)
    return (
        '<svg class="links" viewBox="0 0 1000 24" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{"".join(symbols)}"/><path class="words" d="{"".join(words)}"/></svg>'
    )


def _picture(values: np.ndarray) -> str:
    """(rows, columns) in 0 to 1, row 0 at the bottom -> a PNG with a palette, as a data URI."""
    levels = np.clip(values * _COLOURS, 0, _COLOURS - 1).astype(np.uint8)[::-1]
    image = Image.fromarray(np.ascontiguousarray(levels), mode="P")
    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, _COLOURS))[:, :3]
    image.putpalette((255 * colours).astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return data_uri("image/png", stream.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as the address of a picture or a sound."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
