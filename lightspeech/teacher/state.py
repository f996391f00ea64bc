"""The state of a teacher's training on disk, and the teacher that comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightspeech.audio import AUDIO_FACTS
from lightspeech.checkpoint import fact, newest_state, read_file, replace_state
from lightspeech.teacher.config import TeacherConfig
from safeload import write_checkpoint
from tacotron2 import Tacotron2
from tacotron2.load import KIND

TEACHER_FILE = "teacher.safetensors"
"""The best teacher of a run, in half precision; its JSON lies beside it."""

LATEST_FILE = "latest.safetensors"
"""The teacher of the last validation, in the same form."""


@dataclass(frozen=True)
class TeacherState:
    """All that a training needs to go on as if it had never stopped."""

    step: int
    config: TeacherConfig
    dataset: dict[str, Any]
    """`digest`, `utterances`"""
    origin: dict[str, Any]
    """the checkpoint whose weights it began with, and what stays `frozen`; empty: from scratch"""
    ranks: int
    """processes that shared it"""
    threads: int
    """CPU threads of each"""
    average_steps: int
    """steps that the average of the weights has taken in"""
    tensors: dict[str, Tensor]
    """weights, optimiser's moments, the average"""
    best_step: int | None = None
    """the step of the best validation so far"""
    best_score: list[float] | None = None
    """its share of usable utterances and its loss"""
    skipped: int = 0
    """steps left out because a loss or gradient was not finite"""
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    """time spent training, in all the sittings"""


def save_teacher_state(folder: Path, state: TeacherState) -> None:
    """Writes the state as `last.safetensors`; what was there becomes `previous.safetensors`."""
    replace_state(folder, state, "teacher training")


def load_teacher_state(folder: Path) -> tuple[TeacherState, str | None]:
    """The last state that can be read, and a note where that is not the last one written."""
    return newest_state(folder, _load)


def _load(path: Path) -> TeacherState:
    facts, tensors = read_file(path, "teacher training")
    dataset = fact(facts, "dataset", dict, path)
    fact(dataset, "digest", str, path)
    return TeacherState(
        step=fact(facts, "step", int, path),
        config=TeacherConfig.from_dict(facts.get("config"), str(path)),
        dataset=dataset,
        origin=fact(facts, "origin", dict, path),
        ranks=fact(facts, "ranks", int, path),
        threads=fact(facts, "threads", int, path),
        average_steps=fact(facts, "average_steps", int, path),
        tensors=tensors,
        best_step=fact(facts, "best_step", (int, type(None)), path),
        best_score=fact(facts, "best_score", (list, type(None)), path),
        skipped=fact(facts, "skipped", int, path),
        skipped_in_a_row=fact(facts, "skipped_in_a_row", int, path),
        seconds=fact(facts, "seconds", (int, float), path),
    )


def save_teacher(path: Path, model: Tacotron2, facts: dict[str, Any]) -> None:
    """Writes a teacher that `load_tacotron2` reads: weights in half precision, and a JSON.

    Args:
        path: ends in .safetensors; what is there is replaced.
        facts: what its JSON tells beyond its sizes.
    """
    weights = {
        name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    description = {
        "parameters": count_parameters(model),
        "config": model.config.as_dict(),
        "audio": AUDIO_FACTS,
        **facts,
    }
    write_checkpoint(path, weights, description, KIND, overwrite=True)


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())
