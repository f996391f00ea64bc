"""The state of a teacher's training on disk, and the teacher that comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightspeech.audio import AUDIO_FACTS
from lightspeech.checkpoint import fact, read_file
from lightspeech.parts import count_parameters
from lightspeech.teacher.config import TeacherConfig
from lightspeech.training_state import LoopState, loop_facts, newest_state, replace_state
from safeload import write_checkpoint
from tacotron2 import Tacotron2
from tacotron2.load import KIND

TEACHER_FILE = "teacher.safetensors"
"""The best teacher of a run, in half precision; its JSON lies beside it."""

LATEST_FILE = "latest.safetensors"
"""The teacher of the last validation, in the same form."""


@dataclass(frozen=True, kw_only=True)
class TeacherState(LoopState):
    """The state of a teacher's training."""

    config: TeacherConfig
    dataset: dict[str, Any]
    """`digest`, `utterances`"""
    best_score: list[float] | None = None
    """of the best validation: its share of usable utterances, and minus its loss"""


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
        **loop_facts(facts, tensors, path),
        config=TeacherConfig.from_dict(facts.get("config"), str(path)),
        dataset=dataset,
        best_score=fact(facts, "best_score", (list, type(None)), path),
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
