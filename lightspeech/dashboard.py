"""What `train.py --tensorboard` shows: curves, and a held-out utterance as the student says it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import SAMPLE_RATE
from lightspeech.data import Batch
from lightspeech.errors import InputError
from lightspeech.model import LightSpeech, StudentOutput
from lightspeech.text import SYMBOLS
from lightspeech.vocoders.griffin_lim import GriffinLim
from lightspeech.vocoders.vocoder import LOUDEST_MEL, SOFTEST_MEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_installed() -> None:
    """InputError where the optional package is missing."""
    if find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "pip install tensorboard, or leave the option out"
        )


class Dashboard:
    """Writes TensorBoard's files into `RUN/tensorboard`, going on after `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        check_installed()
        from lightning_fabric.loggers import TensorBoardLogger

        self._vocoder = GriffinLim()
        # purge_step hides what a killed process wrote of the steps that are taken again
        self.logger = TensorBoardLogger(folder, name="", version="tensorboard", purge_step=step + 1)

    def log(self, line: dict[str, Any]) -> None:
        """The scalars of one line of the history."""
        step = line["step"]
        training = {f"train/{key}": value for key, value in line.items() if key not in _NOT_CURVES}
        validation = {
            f"validation/{key}": value for key, value in line.get("validation", {}).items()
        }
        scalars = {
            key: value for key, value in (training | validation).items() if value is not None
        }
        self.logger.log_metrics(scalars, step)

    def show(self, step: int, student: LightSpeech, batch: Batch) -> None:
        """What the student makes of the first utterance of a batch: pictures and sound.

        Beside it are the teacher's mel, through the same vocoder (Griffin-Lim), and its durations,
        those that were read off its attention.
        """
        n_tokens, n_frames = int(batch.token_lengths[0]), int(batch.frames[0])
        free = student.infer(batch.tokens[:1, :n_tokens], batch.token_lengths[:1])
        self.logger.experiment.add_figure(
            "validation/utterance", _picture(student, batch, free), step
        )
        self._play("validation/student", free.mel[0], step)
        self._play("validation/teacher", batch.mel[0, :n_frames], step)

    def _play(self, name: str, mel: Tensor, step: int) -> None:
        """The sound of a mel (T, M); none where it is not finite."""
        if not bool(mel.isfinite().all()):
            return
        # A student in its first steps may say what no signal is.
        wav = self._vocoder(mel.float().cpu().clamp(SOFTEST_MEL, LOUDEST_MEL))
        self.logger.experiment.add_audio(name, wav.clamp(-1, 1)[None], step, SAMPLE_RATE)

    def close(self) -> None:
        self.logger.finalize("finished")


_NOT_CURVES = ("step", "skipped", "validation")


def _picture(student: LightSpeech, batch: Batch, free: StudentOutput) -> Figure:
    """Teacher's mel, student's mel at the teacher's durations, its own, and both durations.

    Args:
        free: what the student made of the first utterance by itself.
    """
    from matplotlib.figure import Figure

    n_tokens, n_frames = int(batch.token_lengths[0]), int(batch.frames[0])
    tokens, lengths = batch.tokens[:1, :n_tokens], batch.token_lengths[:1]
    with torch.no_grad():
        guided = student(tokens, lengths, batch.durations[:1, :n_tokens])
    mels = {
        "teacher": batch.mel[0, :n_frames],
        "student, the teacher's durations": guided.mel[0],
        "student": free.mel[0],
    }
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplots(4)
    teacher_mel = mels["teacher"].cpu().numpy()
    low, high = float(teacher_mel.min()), float(teacher_mel.max())
    for axis, (name, mel) in zip(axes, mels.items(), strict=False):
        axis.imshow(mel.float().cpu().numpy().T, origin="lower", aspect="auto", vmin=low, vmax=high)
        axis.set(title=name, ylabel="mel bin", xlabel="frame (11.61 ms)")
    positions = np.arange(n_tokens)
    durations = {
        "teacher, of its attention": batch.durations[0, :n_tokens],
        "student, predicted": free.durations[0],
    }
    for name, values in durations.items():
        axes[3].step(positions, values.cpu().numpy(), where="mid", label=name)
    axes[3].set_xticks(positions, [SYMBOLS[int(token)] for token in tokens[0]])
    axes[3].set(ylabel="frames a token", xlim=(-0.5, n_tokens - 0.5))
    axes[3].legend()
    return figure
