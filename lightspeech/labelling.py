"""Texts -> teacher -> label store: the queue, retries, picks and rejects.

Tacotron 2 keeps its pre-net's drop-out while it speaks, so a label is a random draw: each rendition
of an utterance has a seed of its own, made from the run's seed, the utterance's id and the number
of the draw. Neither the batch, nor the order of the texts, nor an interruption, nor how many
processes share the work changes a label (but for the rounding of floating-point sums).

A rendition that is not good enough (see lightspeech.renditions) is never a label: the text is drawn
again, and one that fails every time is listed among the rejects, with the reason.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from lightspeech.audio import check_audio_facts
from lightspeech.calibration import WIDE, UsualLength, calibration_lines, fit_length
from lightspeech.errors import InputError
from lightspeech.forced import find_recordings
from lightspeech.labelling_progress import LabellingSummary, OnProgress, ProgressBar
from lightspeech.labelling_queue import Task, longest_first, read_along, read_freely
from lightspeech.manifest import StoreIdentity
from lightspeech.ranks import Ranks
from lightspeech.renditions import (
    Failure,
    LabellingSettings,
    Rendition,
    judge,
    most_typical,
    sound_length,
)
from lightspeech.shard import Label
from lightspeech.store_writer import Reject, StoreWriter
from lightspeech.text import SYMBOLS, Line, encode

if TYPE_CHECKING:
    from tacotron2 import Tacotron2

__all__ = [
    "LabellingSummary",
    "OnProgress",
    "ProgressBar",
    "label_corpus",
    "store_identity",
]

WRITE_EVERY = 30.0
"""Seconds after which labels are written though they are fewer than a batch."""


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
    wavs: Path | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    retry_rejects: bool = False,
    on_progress: OnProgress | None = None,
) -> LabellingSummary:
    """Labels every line that the store does not hold, and writes as it goes.

    At any moment at most a batch of labels, or half a minute's, is not in the store yet; an error
    or Ctrl-C writes these too.

    Args:
        lines: texts with ids that occur once; the same for every rank.
        teacher: a model with Tacotron2's `speak`, in evaluation mode.
        writer: the store, opened with `store_identity(teacher, settings)`.
        device: where the teacher is.
        wavs: in forced mode, the folder of the recordings.
        ranks: which of several processes this is; it labels its share of the lines.
        retry_rejects: try again, with new seeds, what earlier runs rejected.
        on_progress: see OnProgress.

    Raises:
        InputError: an id that the store holds with another text; in forced mode, no recordings.
    """
    assert len({line.id for line in lines}) == len(lines), "an id twice"
    assert (settings.mode == "forced") == (wavs is not None), "recordings are for the forced mode"
    run = _Run(lines, teacher, writer, settings, torch.device(device), wavs, on_progress)
    tasks = run.plan([line for line in lines if ranks.has(line.id)], retry_rejects)
    if tasks:
        run.calibrate(tasks)
        with run:
            run.label(tasks)
    return run.summary


class _Run:
    """One call of `label_corpus`. As a context it writes, at the end, what is not written yet."""

    def __init__(
        self,
        corpus: Sequence[Line],
        teacher: Tacotron2,
        writer: StoreWriter,
        settings: LabellingSettings,
        device: torch.device,
        wavs: Path | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.summary = LabellingSummary()
        self._corpus = corpus  # of all ranks
        self._teacher, self._writer, self._settings = teacher, writer, settings
        self._device, self._wavs, self._on_progress = device, wavs, on_progress
        self._usual = WIDE
        self._first: dict[str, tuple[Task, Rendition]] = {}  # spoken to calibrate, by id
        self._saved = self.summary  # when all was written that it counts
        self._labels: list[Label] = []  # not written yet
        self._rejects: list[Reject] = []
        self._clock = self._last_written = time.monotonic()

    # What there is to do

    def plan(self, lines: Sequence[Line], retry_rejects: bool) -> list[Task]:
        """The lines that need labelling, the longest first; counts the others."""
        tasks = []
        already_there = rejected_before = 0
        texts, rejects = self._writer.texts, self._writer.rejects
        for line in lines:
            held, reject = texts.get(line.id), rejects.get(line.id)
            if held is not None and held != line.text:
                raise InputError(
                    f"{line.where}: the id {line.id} is in {self._writer.path} with another text "
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
                tasks.append(Task(line, encode(line.text), reject.seeds if reject else ()))
        self._count(
            texts=len(lines),
            already_there=already_there,
            rejected_before=rejected_before,
            tokens_to_do=sum(len(task.tokens) for task in tasks),
        )
        self._report()
        return longest_first(tasks)

    # How long utterances usually are

    def calibrate(self, tasks: Sequence[Task]) -> None:
        """Learns the usual length from the store, or measures it and leaves it there.

        Ranks that find none all measure the same, and all take what the first of them has stored:
        no rank waits for another, which may have died.
        """
        if self._writer.calibration is None:
            lines = self._corpus
            if self._wavs is not None:
                recordings = find_recordings(self._wavs)
                lines = [line for line in lines if line.id in recordings]
            chosen = calibration_lines(lines, self._settings.seed)
            queue = deque(longest_first(Task(line, encode(line.text)) for line in chosen))
            fresh = {task.line.id for task in tasks if not task.seeds}
            lengths = []
            for task, rendition in self._renditions(queue, unusable=lambda line, reason: None):
                length = sound_length(rendition, self._settings)
                if length is not None:
                    lengths.append(length)
                if task.line.id in fresh:
                    self._first[task.line.id] = task, rendition
            found = fit_length(lengths)
            if found is not None:
                self._writer.set_calibration(found.as_dict())
        if self._writer.calibration is not None:
            self._usual = UsualLength.from_dict(self._writer.calibration)

    # The work

    def label(self, tasks: Sequence[Task]) -> None:
        """Speaks, judges and hands on until every task is a label or a reject."""
        by_id = {task.line.id: task for task in tasks}
        queue = deque(task for task in tasks if task.line.id not in self._first)

        def unusable(line: Line, reason: str) -> None:
            self._reject(by_id[line.id], Failure(reason, {}))

        for task, rendition in self._drawn():
            self._judge(task, rendition, queue)
        for task, rendition in self._renditions(queue, unusable):
            self._judge(task, rendition, queue)

    def _drawn(self) -> Iterator[tuple[Task, Rendition]]:
        """What was spoken to calibrate, each only once, so that its memory is free again."""
        while self._first:
            _, drawn = self._first.popitem()
            yield drawn

    def _judge(self, task: Task, rendition: Rendition, queue: deque[Task]) -> None:
        """Makes a label or a reject of the task, or lets it wait in the queue for another draw."""
        draw = len(task.seeds)
        result = judge(task.line, task.tokens, rendition, self._settings, self._usual, draw)
        if isinstance(result, Label):
            task = replace(task, good=(*task.good, result))
        else:
            task = replace(task, failures=task.failures + 1)
            self._count(failures=Counter(self.summary.failures) + Counter([result.reason]))
        if len(task.good) < self._settings.pick and task.failures < self._settings.chances:
            self._count(retried=self.summary.retried + isinstance(result, Failure))
            queue.appendleft(task)
        elif task.good:
            self._keep(task)
        else:
            assert isinstance(result, Failure)
            self._reject(task, result)

    def _renditions(
        self, queue: deque[Task], unusable: Callable[[Line, str], None]
    ) -> Iterator[tuple[Task, Rendition]]:
        """Every task of the queue with its next rendition, as they come. The caller may put tasks
        back into the queue. `unusable` is called for lines without a usable recording."""
        if self._wavs is None:
            report = self._report if self._on_progress is not None else None
            read = read_freely(queue, self._teacher, self._settings, report)
        else:
            read = read_along(
                queue,
                self._wavs,
                self._teacher,
                self._settings,
                self._device,
                unusable,
                self._corpus,
            )
        for task, rendition in read:
            self._count(frames_spoken=self.summary.frames_spoken + len(rendition.mel))
            yield task, rendition

    # What becomes of it

    def _keep(self, task: Task) -> None:
        label = most_typical(task.good)
        self._labels.append(label)
        self._count(
            kept=self.summary.kept + 1,
            kept_after_retry=self.summary.kept_after_retry + (task.failures > 0),
            tokens=self.summary.tokens + len(label.tokens),
            frames=self.summary.frames + len(label.mel),
            tokens_done=self.summary.tokens_done + len(task.tokens),
        )
        self._write_if_due()

    def _reject(self, task: Task, failure: Failure) -> None:
        line = task.line
        self._rejects.append(Reject(line.id, line.text, failure.reason, failure.scores, task.seeds))
        self._count(
            rejected=Counter(self.summary.rejected) + Counter([failure.reason]),
            tokens_done=self.summary.tokens_done + len(task.tokens),
        )
        self._write_if_due()

    def _write_if_due(self) -> None:
        late = time.monotonic() - self._last_written > WRITE_EVERY
        if late or len(self._labels) + len(self._rejects) >= self._settings.batch_size:
            self._write()
        self._report()

    def _write(self) -> None:
        # First taken off the list: what could not be written now (a full disk) will not be later.
        labels, self._labels = self._labels, []
        rejects, self._rejects = self._rejects, []
        try:
            self._writer.append(labels)
            self._writer.reject(rejects)
        except BaseException:  # then they do not count
            names = ("kept", "kept_after_retry", "tokens", "frames", "rejected")
            self._count(**{name: getattr(self._saved, name) for name in names})
            raise
        self._saved = self.summary
        self._last_written = time.monotonic()

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write()
        self._count()  # the time
        self._report()

    def _count(self, **changes: object) -> None:
        now = time.monotonic()
        seconds = self.summary.seconds + now - self._clock
        self._clock = now
        self.summary = replace(self.summary, seconds=seconds, **changes)  # type: ignore[arg-type]

    def _report(self, step: int = 0, speaking: int = 0) -> None:
        if self._on_progress is not None:
            self._on_progress(self.summary, step, speaking)
