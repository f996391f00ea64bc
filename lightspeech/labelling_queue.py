"""The queue of texts, and what the teacher makes of it.

The teacher takes the longest texts first: neighbours in the queue are then of like length, what
does not fit the memory shows at once, and the end of the run, when places stay empty, is short.
Whoever takes the renditions may put texts back into the queue, to be drawn again; they come next,
so that nothing waits for the end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightspeech.forced import forced_renditions
from lightspeech.renditions import LabellingSettings, Rendition, utterance_seed
from lightspeech.shard import Label
from lightspeech.text import Line
from tacotron2 import Request, Spoken

if TYPE_CHECKING:
    from tacotron2 import Tacotron2

MOST_TOKENS = 1 << 15
"""Tokens, padding included, that the teacher reads at once: 64 texts of 350 characters fit."""


@dataclass(frozen=True)
class Task:
    """A text to label, and its renditions so far."""

    line: Line
    tokens: list[int]
    seeds: tuple[int, ...] = ()
    """every seed drawn so far; of one at work, the last is the one that it is spoken with"""
    good: tuple[Label, ...] = ()
    """renditions that may become the label"""
    failures: int = 0
    """renditions of this run that were not good enough"""

    def next_draw(self, seed: int) -> Task:
        """The same with one seed more."""
        new = utterance_seed(seed, self.line.id, len(self.seeds))
        return replace(self, seeds=(*self.seeds, new))


def longest_first(tasks: Iterable[Task]) -> list[Task]:
    """The order of the queue; it does not depend on the order of the tasks."""
    return sorted(tasks, key=lambda task: (-len(task.tokens), task.line.id))


def read_freely(
    queue: deque[Task],
    teacher: Tacotron2,
    settings: LabellingSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Task, Rendition]]:
    """What the teacher makes of the queue by itself, as it comes, until the queue is empty.

    Args:
        queue: tasks to draw; at most `settings.batch_size` are at work, and MOST_TOKENS tokens.
        teacher, settings: who speaks, and how.
        on_step: see `on_frame` of Tacotron2.speak.
    """
    at_work: Counter[int] = Counter()  # number of tokens -> utterances

    def take() -> Request | None:
        if not queue:
            return None
        n_tokens = len(queue[0].tokens)
        if at_work and (at_work.total() + 1) * max(n_tokens, *at_work) > MOST_TOKENS:
            return None
        task = queue.popleft().next_draw(settings.seed)
        at_work[n_tokens] += 1
        limit = settings.frame_limit(n_tokens)
        return Request(torch.tensor(task.tokens), task.seeds[-1], limit, task)

    for spoken in teacher.speak(
        take,
        slots=settings.batch_size,
        prenet_dropout=settings.prenet_dropout,
        gate_threshold=settings.gate_threshold,
        on_frame=on_step,
    ):
        task: Task = spoken.request.tag
        at_work[len(task.tokens)] -= 1
        at_work += Counter()  # drops those that are 0
        yield task, _rendition(spoken)


def read_along(
    queue: deque[Task],
    wavs: Path,
    teacher: Tacotron2,
    settings: LabellingSettings,
    device: torch.device,
    unusable: Callable[[Line, str], None],
    corpus: Sequence[Line],
) -> Iterator[tuple[Task, Rendition]]:
    """What the teacher makes of the queue along with the recordings in `wavs`.

    `unusable` is called, with the reason, for a line that has no recording which can be used; only
    a folder without a recording of any line of the `corpus` is an error.
    """
    tasks = {task.line.id: replace(task, seeds=(0,)) for task in queue}
    queue.clear()
    if not tasks:
        return
    lines = [task.line for task in tasks.values()]
    for line, rendition in forced_renditions(
        lines, wavs, teacher, settings, device, unusable, targets=settings.targets, corpus=corpus
    ):
        yield tasks[line.id], rendition


def _rendition(spoken: Spoken) -> Rendition:
    def own(values: Tensor) -> Tensor:
        return values.to("cpu", torch.float32).contiguous()

    return Rendition(
        own(spoken.mel),
        own(spoken.attention),
        own(spoken.memory),
        spoken.stopped,
        spoken.request.seed,
    )
