"""What a labelling run has done so far, in numbers, in words and as a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tqdm import tqdm

from lightspeech.audio import FRAME_SECONDS


@dataclass(frozen=True)
class LabellingSummary:
    """What has happened to the texts so far."""

    texts: int = 0
    """texts given; of several ranks, this one's"""
    already_there: int = 0
    """labelled by an earlier run"""
    rejected_before: int = 0
    """rejected by an earlier run, and not tried again"""
    kept: int = 0
    """labelled by this run"""
    kept_after_retry: int = 0
    """of those kept, texts of which an earlier rendition was not good enough"""
    retried: int = 0
    """renditions drawn because an earlier one of the same text was not good enough"""
    failures: Mapping[str, int] = field(default_factory=dict)
    """renditions that were not good enough, by reason: each was drawn again, or was the last"""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """texts rejected by this run, by the reason of the last failure"""
    tokens: int = 0
    """tokens of those kept"""
    frames: int = 0
    """frames of those kept"""
    frames_spoken: int = 0
    """frames that the teacher spoke, of labels and of what is not kept"""
    tokens_to_do: int = 0
    """tokens of the texts that this run has or had to label"""
    tokens_done: int = 0
    """tokens of `tokens_to_do` whose texts are kept or rejected"""
    seconds: float = 0.0
    """wall-clock time of the teacher and of writing"""

    @property
    def to_do(self) -> int:
        """Texts that this run has or had to label."""
        return self.texts - self.already_there - self.rejected_before

    @property
    def done(self) -> int:
        """Texts of `to_do` that are kept or rejected."""
        return self.kept + sum(self.rejected.values())

    @property
    def speech_seconds(self) -> float:
        """Speech labelled by this run."""
        return self.frames * FRAME_SECONDS

    @property
    def times_real_time(self) -> float:
        """Seconds of kept speech a second."""
        return self.speech_seconds / self.seconds if self.seconds else 0.0

    def plan(self) -> str:
        """One line before the work: what there is to do and what is done."""
        parts = [f"{self.to_do:,} texts to label"]
        if self.already_there:
            parts.append(f"{self.already_there:,} labelled already")
        if self.rejected_before:
            parts.append(f"{self.rejected_before:,} rejected before (--retry-rejects tries again)")
        return ", ".join(parts)

    def headline(self) -> str:
        """One line after the work."""
        return (
            f"{self.kept:,} of {self.to_do:,} texts labelled, {self.retried:,} retries, "
            f"{sum(self.rejected.values()):,} rejected, {self.times_real_time:.1f} x real time"
        )

    def report(self) -> str:
        """A few lines after the work."""
        lines = [
            f"{self.kept:,} of {self.to_do:,} texts labelled, {self.retried:,} retries"
            + (f" ({self.kept_after_retry:,} labels thanks to them)" if self.retried else "")
        ]
        lines += [
            f"{count:,} rejected: {reason}" for reason, count in _most_frequent(self.rejected)
        ]
        lines += [
            f"{count:,} rendition{'s' if count > 1 else ''} failed: {reason}"
            for reason, count in _most_frequent(self.failures)
            if self.retried  # otherwise these are the rejected ones
        ]
        if self.kept:
            unused = 1 - self.frames / max(self.frames_spoken, self.frames)
            lines.append(
                f"{self.speech_seconds / 3600:.2f} hours of speech, "
                f"{self.frames / self.tokens:.1f} frames a token, "
                f"{self.times_real_time:.1f} x real time"
                + (f" ({100 * unused:.1f} % of what was spoken is not kept)" if unused > 0 else "")
            )
        return "\n".join(lines)


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


OnProgress = Callable[[LabellingSummary, int, int], None]
"""Called with the summary so far, the number of the teacher's step (of a frame for each utterance
at work) and how many are at work; both are 0 where the teacher is not."""


class ProgressBar:
    """A bar over the texts' tokens for `on_progress`, which moves while the teacher speaks.

    It prints the plan first; closing it prints what was done, however the run ended. With a
    `prefix`, of one of several processes, that is one line; `visible` False shows no bar.
    """

    def __init__(self, prefix: str = "", visible: bool = True) -> None:
        self.summary: LabellingSummary | None = None
        """the last one shown"""
        self._prefix = prefix
        # A run with nothing to do is over before the bar shows; a log file gets few lines.
        pause = 0.2 if sys.stderr.isatty() else 5.0
        self._bar = tqdm(
            unit=" tokens", unit_scale=True, leave=False, delay=0.5, mininterval=pause, miniters=0,
            disable=not visible,
        )  # fmt: skip

    def show(self, summary: LabellingSummary, step: int, speaking: int) -> None:
        """See OnProgress."""
        if self.summary is None:
            self._print(summary.plan())
        self.summary = summary
        if self._bar.disable:
            return
        self._bar.total = summary.tokens_to_do
        parts = [f"{summary.done:,} of {summary.to_do:,} texts"]
        if summary.retried:
            parts.append(f"{summary.retried:,} retries")
        if summary.rejected:
            parts.append(f"{sum(summary.rejected.values()):,} rejected")
        if summary.kept:
            parts.append(f"{summary.times_real_time:.0f} x real time")
        if speaking:
            parts.append(f"{speaking} speaking, step {step:,}")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(summary.tokens_done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        if self.summary is not None and self.summary.to_do:
            self._print(self.summary.headline() if self._prefix else self.summary.report())

    def _print(self, lines: str) -> None:
        print(self._prefix + lines, flush=True)
