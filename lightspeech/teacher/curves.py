"""What a teacher's training looks like: its attention when it speaks, curves, TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightspeech.dashboard import Dashboard
from lightspeech.files import atomic_path
from lightspeech.run_folder import read_history
from lightspeech.teacher.validation import FreeRun
from lightspeech.text import decode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6
"""utterances whose attention is drawn"""
CURVES = (
    ("loss a frame, reading along", ("mel", "mel_absolute", "gate")),
    ("attention, reading along", ("guide", "order")),
    ("share, speaking freely", ("stopped", "usable", "coverage", "focus")),
)


class TeacherCurves:
    """Draws RUN/attention.png and RUN/curves.png after each validation, and feeds TensorBoard."""

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self._folder = folder
        self._dashboard = Dashboard(folder, step) if tensorboard else None

    def log(self, line: dict[str, Any]) -> None:
        """A line of the history."""
        if "validation" in line:
            save_figure(draw_curves(read_history(self._folder)), self._folder / "curves.png")
        if self._dashboard:
            self._dashboard.log(line)

    def show(self, step: int, runs: Sequence[FreeRun]) -> None:
        """What was spoken freely at a validation."""
        if not runs:
            return
        shown = sorted(runs, key=lambda run: run.spoken.frames)
        shown = [
            shown[i] for i in np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(int)
        ]
        figure = draw_attention(shown, f"step {step:,}: the attention, speaking freely")
        save_figure(figure, self._folder / "attention.png")
        if self._dashboard:
            figure = draw_attention(shown, f"step {step:,}")
            self._dashboard.logger.experiment.add_figure("validation/attention", figure, step)

    def close(self) -> None:
        """Flushes TensorBoard's files."""
        if self._dashboard:
            self._dashboard.close()


def draw_attention(runs: Sequence[FreeRun], title: str) -> Figure:
    """The attention (T, N) and the mel of each utterance, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(runs), 6), layout="constrained")
    axes = figure.subplots(2, len(runs), squeeze=False)
    for (above, below), run in zip(axes.T, runs, strict=True):
        attention = run.spoken.attention.cpu().numpy()
        text = "".join(decode(run.spoken.request.tokens.tolist()))
        above.imshow(attention.T, origin="lower", aspect="auto", interpolation="nearest", vmin=0)
        above.set_title(
            f"{text[:28]}{'...' if len(text) > 28 else ''}\n"
            f"{'stopped' if run.spoken.stopped else 'cut off'}, "
            f"coverage {run.scores.coverage:.2f}, {run.scores.backward_jumps} jumps",
            fontsize=8,
        )
        below.imshow(run.spoken.mel.cpu().numpy().T, origin="lower", aspect="auto", cmap="magma")
        below.set_xlabel("frame")
    axes[0][0].set_ylabel("symbol")
    axes[1][0].set_ylabel("mel bin")
    figure.suptitle(title, fontsize=10)
    return figure


def draw_curves(history: Sequence[dict[str, Any]]) -> Figure:
    """The figures of all validations of a run."""
    from matplotlib.figure import Figure

    lines = [line for line in history if "validation" in line]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for ax, (title, names) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        for name in names:
            points = [(line["step"], line["validation"].get(name)) for line in lines]
            points = [(step, value) for step, value in points if value is not None]
            ax.plot(*zip(*points, strict=True) if points else ([], []), marker=".", label=name)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step")
        ax.legend(fontsize=8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
