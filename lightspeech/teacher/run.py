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

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run, open_run
from lightspeech.teacher.state import TeacherState, load_teacher_state


@contextmanager
def open_teacher_run(folder: Path, resume: bool, ranks: Ranks) -> Iterator[Run[TeacherState]]:
    """Takes hold of a run's folder; the first process does it for all of them.

    Raises:
        InputError: see `open_run`.
    """
    if ranks.rank == 0:
        with open_run(folder, resume, load_teacher_state) as run:
            if ranks.count > 1:
                torch.distributed.barrier()
            yield run
    else:
        torch.distributed.barrier()
        state, note = load_teacher_state(folder) if resume else (None, None)
        yield Run(folder, state, note)
