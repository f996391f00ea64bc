"""Texts -> teacher -> label store: batches, retries, rejects.

Tacotron 2 keeps its pre-net's drop-out while it speaks, so a label is a random draw: each try of an
utterance has a seed of its own, made from the run's seed, the utterance's id and the number of the
try. Neither the batch, nor the order of the texts, nor an interruption changes a label (but for the
rounding of floating-point sums).

A rendition that is not good enough (see lightspeech.renditions) is never a label: the text is drawn
again, and one that fails every time is listed among the rejects, with the reason.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from lightspeech.audio import FRAME_SECONDS, check_audio_facts
from lightspeech.errors import InputError
from lightspeech.manifest import StoreIdentity
from lightspeech.renditions import Failure, LabellingSettings, judge, utterance_seed
from lightspeech.shard import Label
from lightspeech.store_writer import Reject, StoreWriter
from lightspeech.text import SYMBOLS, Line, encode

if TYPE_CHECKING:
    from tacotron2 import Tacotron2, TeacherOutput


@dataclass(frozen=True)
class LabellingSummary:
    """What has happened to the texts so far."""

    texts: int = 0
    """texts given"""
    already_there: int = 0
    """labelled by an earlier run"""
    rejected_before: int = 0
    """rejected by an earlier run, and not tried again"""
    kept: int = 0
    """labelled by this run"""
    retried: int = 0
    """renditions drawn because an earlier one of the same text was not good enough"""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """texts rejected by this run, by reason"""
    tokens: int = 0
    """tokens of those kept"""
    frames: int = 0
    """frames of those kept"""
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

    def report(self) -> str:
        """A few lines after the work."""
        lines = [f"{self.kept:,} of {self.to_do:,} texts labelled, {self.retried:,} retries"]
        lines += [
            f"{count:,} rejected: {reason}"
            for reason, count in sorted(self.rejected.items(), key=lambda item: -item[1])
        ]
        if self.kept:
            lines.append(
                f"{self.speech_seconds / 3600:.2f} hours of speech, "
                f"{self.frames / self.tokens:.1f} frames a token, "
                f"{self.times_real_time:.1f} x real time"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Task:
    """A text to label, and the tries so far."""

    line: Line
    tokens: list[int]
    seeds: tuple[int, ...] = ()
    """every seed tried so far, and last the next one"""
    tries: int = 0
    """tries in this run"""

    def next_try(self, seed: int) -> _Task:
        new = utterance_seed(seed, self.line.id, len(self.seeds))
        return _Task(self.line, self.tokens, (*self.seeds, new), self.tries + 1)


OnProgress = Callable[[LabellingSummary, int, int], None]
"""Called with the summary so far, the frame that the current batch is at and how many of its
utterances have ended; between batches both are 0."""


def store_identity(teacher: Tacotron2, settings: LabellingSettings) -> StoreIdentity:
    """What a store of this teacher's labels says about itself.

    Raises:
        InputError: the teacher's mels are of another kind than lightspeech.audio's.
    """
    assert teacher.config.n_symbols == len(SYMBOLS), "load_tacotron2 refuses other tables"
    check_audio_facts(teacher.audio_facts, f"the teacher {teacher.source['name']}")
    return StoreIdentity(
        teacher=teacher.source["name"],
        teacher_sha256=teacher.source["sha256"],
        memory_size=teacher.config.encoder_embedding_dim,
        labelling=settings.identity(),
    )


def label_corpus(
    lines: Sequence[Line],
    teacher: Tacotron2,
    writer: StoreWriter,
    settings: LabellingSettings,
    *,
    device: torch.device | str = "cpu",
    retry_rejects: bool = False,
    on_progress: OnProgress | None = None,
) -> LabellingSummary:
    """Labels every line that the store does not hold; each batch is in the store before the next.

    Args:
        lines: texts with ids that occur once.
        teacher: a model with Tacotron2's `infer`, in evaluation mode.
        writer: the store, opened with `store_identity(teacher, settings)`.
        device: where the teacher is.
        retry_rejects: try again, with new seeds, what earlier runs rejected.
        on_progress: see OnProgress.

    Raises:
        InputError: an id that the store holds with another text.
    """
    assert len({line.id for line in lines}) == len(lines), "an id twice"
    tasks, summary = _tasks(lines, writer, retry_rejects)
    batches = _batches(tasks, settings)
    again: list[_Task] = []
    if on_progress is not None:
        on_progress(summary, 0, 0)
    while batches or again:
        # What failed is drawn again when there is a batch of it, not one by one at full price.
        if not batches or len(again) >= settings.batch_size:
            again.sort(key=lambda task: len(task.tokens))
            batch, again = again[: settings.batch_size], again[settings.batch_size :]
        else:
            batch = batches.pop()
        started = time.monotonic()
        batch = [task.next_try(settings.seed) for task in batch]
        output = _speak(batch, teacher, settings, torch.device(device), summary, on_progress)
        labels, rejects = [], []
        for row, task in enumerate(batch):
            result = judge(task.line, task.tokens, task.seeds[-1], output, row, settings)
            if isinstance(result, Label):
                labels.append(result)
            elif task.tries < settings.tries:
                again.append(task)
            else:
                rejects.append(_reject(task, result))
        writer.append(labels)
        writer.reject(rejects)
        summary = replace(
            summary,
            kept=summary.kept + len(labels),
            retried=summary.retried + sum(task.tries > 1 for task in batch),
            rejected=Counter(summary.rejected) + Counter(reject.reason for reject in rejects),
            tokens=summary.tokens + sum(len(label.tokens) for label in labels),
            frames=summary.frames + sum(len(label.mel) for label in labels),
            seconds=summary.seconds + time.monotonic() - started,
        )
        if on_progress is not None:
            on_progress(summary, 0, 0)
    return summary


def _tasks(
    lines: Sequence[Line], writer: StoreWriter, retry_rejects: bool
) -> tuple[list[_Task], LabellingSummary]:
    """The lines that need labelling, and a summary that counts the others."""
    tasks = []
    already_there = rejected_before = 0
    for line in lines:
        held, reject = writer.texts.get(line.id), writer.rejects.get(line.id)
        if held is not None and held != line.text:
            raise InputError(
                f"{line.where}: the id {line.id} is in {writer.path} with another text "
                f"({held[:60]!r}); give the changed line a new id, or use another --out"
            )
        if reject is not None and reject.text != line.text:
            reject = None  # another text is another chance
        if held is not None:
            already_there += 1
        elif reject is not None and not retry_rejects:
            rejected_before += 1
        else:
            # The seeds that a reject has seen would fail again.
            tasks.append(_Task(line, encode(line.text), reject.seeds if reject else ()))
    return tasks, LabellingSummary(len(lines), already_there, rejected_before)


def _batches(tasks: list[_Task], settings: LabellingSettings) -> list[list[_Task]]:
    """Batches of texts of like length, in a shuffled order that keeps the estimate of the time
    honest from the start; the first (the last of the list) is the shortest, to show life soon."""
    tasks = sorted(tasks, key=lambda task: (len(task.tokens), task.line.id))
    size = settings.batch_size
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    shortest, others = batches[:1], batches[1:]
    random.Random(settings.seed).shuffle(others)
    return others + shortest


def _speak(
    batch: list[_Task],
    teacher: Tacotron2,
    settings: LabellingSettings,
    device: torch.device,
    summary: LabellingSummary,
    on_progress: OnProgress | None,
) -> TeacherOutput:
    """One call of the teacher."""
    lengths = [len(task.tokens) for task in batch]
    tokens = torch.zeros(len(batch), max(lengths), dtype=torch.int64)  # (B, N)
    for row, task in zip(tokens, batch, strict=True):
        row[: len(task.tokens)] = torch.tensor(task.tokens)
    hook = None
    if on_progress is not None:
        report = on_progress

        def hook(frame: int, going_on: int) -> None:
            report(summary, frame, len(batch) - going_on)

    return teacher.infer(
        tokens.to(device),
        torch.tensor(lengths, device=device),
        prenet_dropout=settings.prenet_dropout,
        seeds=[task.seeds[-1] for task in batch],
        gate_threshold=settings.gate_threshold,
        max_frames=max(settings.frame_limit(length) for length in lengths),
        on_frame=hook,
    )


def _reject(task: _Task, failure: Failure) -> Reject:
    return Reject(task.line.id, task.line.text, failure.reason, failure.scores, task.seeds)


class ProgressBar:
    """A bar over the texts for `on_progress`, which moves while a batch is spoken.

    It prints the plan first; closing it prints what was done, however the run ended.
    """

    def __init__(self) -> None:
        self._summary: LabellingSummary | None = None
        # A run with nothing to do is over before the bar shows; a log file gets few lines.
        pause = 0.2 if sys.stderr.isatty() else 5.0
        self._bar = tqdm(unit=" texts", leave=False, delay=0.5, mininterval=pause, miniters=0)

    def show(self, summary: LabellingSummary, frame: int, ended: int) -> None:
        """See OnProgress."""
        if self._summary is None:
            print(summary.plan(), flush=True)
        self._summary = summary
        self._bar.total = summary.to_do
        speed = f"{summary.times_real_time:.0f} x real time, " if summary.kept else ""
        self._bar.set_postfix_str(f"{speed}frame {frame} of this batch", refresh=False)
        self._bar.update(min(summary.done + ended, summary.to_do) - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        if self._summary is not None and self._summary.to_do:
            print(self._summary.report(), flush=True)
