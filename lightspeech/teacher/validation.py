"""How good a teacher is by now: reading along with held-out recordings, and speaking freely.

Losses of reading along fall from the first step and say little about speech: a teacher that cannot
speak yet has good ones. What says when it is usable is how it does without a recording to hold on
to: whether its attention reads the text from start to end, and whether it stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from lightspeech.alignment import AlignmentScores, score_alignment
from lightspeech.dataset.features import Features
from lightspeech.renditions import utterance_seed
from lightspeech.teacher.batches import TeacherBatch, validation_batches
from lightspeech.teacher.config import TeacherTrainingConfig
from lightspeech.teacher.objective import batch_losses
from tacotron2 import Request, Spoken, Tacotron2

FRAMES_AT_ONCE = 16_000
"""frames of a batch that is read along"""
MOST_FRAMES_A_TOKEN = 20
"""An utterance is cut off after so many frames for each of its symbols, and a second."""


@dataclass(frozen=True, eq=False)
class FreeRun:
    """An utterance spoken without a recording."""

    id: str
    spoken: Spoken
    scores: AlignmentScores

    @property
    def usable(self) -> bool:
        """It stopped, read every symbol, and never jumped back by more than one."""
        return (
            self.spoken.stopped and self.scores.coverage == 1.0 and self.scores.backward_jumps == 0
        )


def validate(
    model: Tacotron2, features: Features, held_out: Sequence[int], config: TeacherTrainingConfig
) -> tuple[dict[str, float], list[FreeRun]]:
    """Figures of held-out utterances, and what became of those that were spoken freely.

    `loss` is what says how well a teacher reads along; see `read_along` and `summarize` for the
    others. The model is in eval mode.
    """
    batches = validation_batches(features, held_out, FRAMES_AT_ONCE)
    losses = read_along(model, batches, config, config.seed)
    asked = held_out[: config.spoken]
    runs = speak_freely(model, features, asked, config.seed)
    loss = losses["mel"] + losses["mel_absolute"] + losses["gate"]
    return {"loss": loss, **losses, **summarize(runs, len(asked))}, runs


@torch.no_grad()
def read_along(
    model: Tacotron2, batches: Iterable[TeacherBatch], config: TeacherTrainingConfig, seed: int
) -> dict[str, float]:
    """Mean losses a frame over held-out utterances, teacher-forced; the model is in eval mode."""
    device = model.embedding.weight.device
    sums: dict[str, float] = {}
    frames = 0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch in batches:
            batch = batch.to(device)
            losses = batch_losses(model, batch, config)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            frames += batch.all_frames
    return {name: value / frames for name, value in sums.items()}


def speak_freely(
    model: Tacotron2, features: Features, members: Sequence[int], seed: int
) -> list[FreeRun]:
    """Speaks held-out texts; the model is in eval mode. In the order of `members`."""
    requests = iter(
        Request(
            tokens=features[i].tokens,
            seed=utterance_seed(seed, features.ids[i], 0),
            max_frames=86 + MOST_FRAMES_A_TOKEN * features.token_counts[i],
            tag=i,
        )
        for i in members
    )
    runs = {}
    for spoken in model.speak(lambda: next(requests, None), slots=min(32, max(len(members), 1))):
        i = spoken.request.tag
        attention = spoken.attention.cpu()
        if not bool(attention.isfinite().all()):
            continue
        runs[i] = FreeRun(features.ids[i], spoken, score_alignment(attention))
    return [runs[i] for i in members if i in runs]


def summarize(runs: Sequence[FreeRun], asked: int) -> dict[str, float]:
    """Figures of free running: shares of the `asked` utterances, and means of the scores."""
    if not runs:
        return {"stopped": 0.0, "usable": 0.0}
    return {
        "stopped": sum(run.spoken.stopped for run in runs) / asked,
        "usable": sum(run.usable for run in runs) / asked,
        "coverage": sum(run.scores.coverage for run in runs) / len(runs),
        "focus": sum(run.scores.focus_rate for run in runs) / len(runs),
        "backward_jumps": sum(run.scores.backward_jumps for run in runs) / len(runs),
    }
