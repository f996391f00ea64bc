"""A teacher's run folder, shared by the processes of a training.

config.json           the configuration, which `--config RUN/config.json` takes too
history.jsonl         a line a step: losses, learning rate, gradient; validations
last.safetensors      the state from which --resume goes on; previous.safetensors the one before
teacher.safetensors   the best teacher so far, with a JSON beside it
latest.safetensors    the teacher of the last validation
attention.png         how it reads held-out text when it speaks freely
curves.png            the validations
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run, open_run
from lightspeech.teacher.state import TeacherState, load_teacher_state


def open_teacher_run(
    folder: Path, resume: bool, ranks: Ranks
) -> AbstractContextManager[Run[TeacherState]]:
    """Takes hold of a run's folder; the first process does it for all of them.

    Raises:
        InputError: see `open_run`.
    """
    return open_run(folder, resume, load_teacher_state, ranks)
