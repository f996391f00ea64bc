"""How far a training is: a bar with rate and remaining time, and a line for each validation."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

STEPS_TO_TIME = 20
"""steps after which the time that the rest takes is told"""


class TrainingProgress:
    """Shows the lines of the history, on standard error, as they come."""

    def __init__(self, step: int, steps: int) -> None:
        self.first_step, self.steps = step, steps
        self.began = time.monotonic()
        self.bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            # a log file needs a line now and then, not ten a second
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def show(self, line: dict[str, Any], best_loss: float | None, skipped: int) -> None:
        """Moves on to the step of `line`."""
        shown = {"loss": _text(line["loss"])}
        if best_loss is not None:
            shown["best validation"] = _text(best_loss)
        if skipped:
            shown["skipped"] = str(skipped)
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if "validation" in line:
            values = ", ".join(f"{key} {_text(value)}" for key, value in line["validation"].items())
            self._say(f"step {line['step']}: validation {values}")
        taken, remaining = line["step"] - self.first_step, self.steps - line["step"]
        if taken == STEPS_TO_TIME and remaining:
            pace = (time.monotonic() - self.began) / taken
            about = format_time(pace * remaining)
            self._say(f"{pace:.2f} s a step: about {about} for the remaining {remaining:,} steps")

    def _say(self, text: str) -> None:
        self.bar.write(text, sys.stderr)


def format_time(seconds: float) -> str:
    """45 -> '45 s'; 272 -> '4 min 32 s'; 4000 -> '1 h 7 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _text(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
