"""The training loop: Lightning Fabric for devices and precision, everything else in sight.

One module (student and losses) and one optimiser (Adam), a learning rate that is a function of the
step, clipped gradients, steps with a loss that is not finite left out, validation on held-out
utterances, the best student kept as the voice. Whatever stops it, `--resume` goes on from the last
saved state, and on the same machine with as many threads its losses are, bit for bit, those of a
training that was never stopped.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from lightspeech.audio import FRAME_SECONDS, N_MELS
from lightspeech.checkpoint import (
    VOICE_FILE,
    TrainingState,
    capture,
    restore,
    save_state,
    save_voice,
)
from lightspeech.config import Config, TrainingConfig
from lightspeech.dashboard import Dashboard
from lightspeech.data import Batch, prefetch, split, training_batches, validation_batches
from lightspeech.distillation import Distillation, json_number, validate
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.interrupt import StopRequest
from lightspeech.progress import TrainingProgress
from lightspeech.run_folder import CONFIG_FILE, History, Run
from lightspeech.sealed import Sealed
from lightspeech.text import SYMBOLS

if TYPE_CHECKING:
    from lightspeech.store import LabelStore

MOST_SKIPPED = 10
"""steps in a row without a finite loss after which training gives up"""
PRECISIONS = ("32-true", "bf16-mixed")


def check_trainable(
    store: LabelStore, config: Config, device: torch.device, precision: str
) -> None:
    """InputError if the student of `config` cannot be trained on `store`, on `device`."""
    if len(store) < 2:
        raise InputError(
            f"the label store holds {len(store)} utterance{'' if len(store) == 1 else 's'}, "
            "expected at least 2 (one is held out for validation): "
            "label more text with python preprocess.py --text FILE"
        )
    if config.model.n_mels != N_MELS or config.model.n_symbols < len(SYMBOLS):
        raise InputError(
            f"the configuration has {config.model.n_mels} mel bins and {config.model.n_symbols} "
            f"symbols, expected {N_MELS} and at least {len(SYMBOLS)}: "
            "set model.n_mels and model.n_symbols"
        )
    if precision != "32-true" and device.type == "cpu":
        raise InputError(
            f"--precision {precision} needs a CUDA device, this is to run on the CPU: "
            "leave the option out"
        )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate at `step` (0-based): a linear rise, then half a cosine down to the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    decay_steps = max(config.steps - 1 - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / decay_steps, 1.0)
    fall = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + fall * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    step: int
    """steps taken in all"""
    best_step: int | None
    """the step of the best validation; None before the first"""
    best_loss: float | None
    seconds: float
    """time spent training, in all the sittings"""
    skipped: int
    """steps left out because a loss or gradient was not finite"""
    stopped_by: int | None
    """the signal that stopped it; None if it reached its last step"""
    voice: Path | None
    """where the voice is, if there is one"""


class Training:
    """One sitting of a run: made from a store, a folder and a configuration, then `run`."""

    def __init__(
        self,
        store: LabelStore,
        run: Run[TrainingState],
        config: Config,
        *,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
        tensorboard: bool = False,
    ) -> None:
        """Builds the student and goes to where `run` stands.

        Raises:
            InputError: a store that the student cannot be trained on, or another one than the run
                was started on; a precision that the device has not.
        """
        device = torch.device(device)
        check_trainable(store, config, device, precision)
        self.store, self.folder, self.config = store, run.folder, config
        self.members, self.held_out = split(
            store.ids, config.training.validation_share, config.training.seed
        )
        torch.manual_seed(config.training.seed)
        self.module = Distillation(config, store.memory_size)
        self.adam = torch.optim.Adam(
            self.module.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )
        self.fabric = Fabric(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            precision=precision,
        )
        self.model, self.optimizer = self.fabric.setup(self.module, self.adam)

        self.step = self.saved_step = 0
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self.skipped = self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.notes = [run.note] if run.note else []
        if run.state:
            self._go_to(run.state)
        else:
            self._save()  # a run can be resumed from its first moment on
        if self.step < config.training.steps:
            write_json(self.folder / CONFIG_FILE, config.as_dict())
        self.dashboard = Dashboard(self.folder, self.step) if tensorboard else None

    def _go_to(self, state: TrainingState) -> None:
        if state.store["digest"] != self.store.digest:
            raise InputError(
                f"the run in {self.folder} was started on another label store (digest "
                f"{state.store['digest'][:12]}, {state.store.get('utterances')} utterances) than "
                f"this one ({self.store.digest[:12]}, {len(self.store)}): give that one with "
                "--store, or, if it has grown or was mended, start another run with --out "
                "(after make demo: make clean-demo)"
            )
        restore(state.tensors, self.module, self.adam)
        self.step = self.saved_step = state.step
        self.seconds = state.seconds
        self.best_step, self.best_loss = state.best_step, state.best_loss
        self.skipped, self.skipped_in_a_row = state.skipped, state.skipped_in_a_row
        if state.threads != torch.get_num_threads():
            self.notes.append(
                f"{torch.get_num_threads()} CPU threads where the run had {state.threads}: "
                "losses may differ from an uninterrupted run's in the last digits"
            )

    def plan(self) -> str:
        """What `run` is going to do, for people."""
        settings = self.config.training
        hours = sum(self.store.frames) * FRAME_SECONDS / 3600
        parameters = sum(parameter.numel() for parameter in self.module.student.parameters())
        extra = sum(parameter.numel() for parameter in self.module.loss.parameters())
        threads = torch.get_num_threads()
        lines = [
            f"store     {len(self.store):,} utterances, {hours:.2f} hours: {len(self.members):,} "
            f"to train on, {len(self.held_out):,} held out for validation",
            f"student   {self.config.name!r}, {parameters:,} parameters"
            + (f" (and {extra:,} that map its memory to the teacher's)" if extra else ""),
            f"device    {self.fabric.device}"
            + (
                f", {threads} thread{'' if threads == 1 else 's'}"
                if self.fabric.device.type == "cpu"
                else ""
            ),
            f"steps     {settings.steps:,} of {settings.batch_size} utterances "
            f"({settings.steps * settings.batch_size / len(self.members):.0f} epochs)"
            + (f"; going on after step {self.step:,}" if self.step else ""),
            f"run       {self.folder}",
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def run(self) -> TrainingResult:
        """Trains up to the last step, or until a signal asks to stop; saves, and says how it went.

        Raises:
            InputError: the loss was not finite in MOST_SKIPPED steps in a row.
        """
        settings = self.config.training
        began = time.monotonic() - self.seconds
        line: dict[str, Any] = {}
        batches = training_batches(
            self.store, self.members, settings.batch_size, settings.seed, self.step
        )
        with (
            StopRequest().listening() as stop,
            closing(History(self.folder, self.step)) as history,
            closing(prefetch(batches)) as batches,
            TrainingProgress(self.step, settings.steps) as progress,
        ):
            while self.step < settings.steps and stop.number is None:
                line = self._take_step(next(batches))
                if self.step == settings.steps or self.step % settings.validate_every == 0:
                    line["validation"] = self._validate()
                self.seconds = time.monotonic() - began
                history.append(line)
                if self.step % settings.save_every == 0:
                    history.secure()
                    self._save()
                progress.show(line, self.best_loss, self.skipped)
                if self.dashboard:
                    self.dashboard.log(line)
            if self.step != self.saved_step:
                history.secure()
                self._save()
        if self.dashboard:
            self.dashboard.close()
        return TrainingResult(
            step=self.step,
            best_step=self.best_step,
            best_loss=self.best_loss,
            seconds=self.seconds,
            skipped=self.skipped,
            stopped_by=stop.number if self.step < settings.steps else None,
            voice=self.folder / VOICE_FILE if self.best_step is not None else None,
        )

    def _take_step(self, batch: Batch) -> dict[str, Any]:
        """One step of the optimiser, or none where the loss or its gradient is not finite."""
        settings = self.config.training
        rate = learning_rate(settings, self.step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        losses = self.model(Sealed(batch.to(self.fabric.device)))
        self.fabric.backward(losses["loss"])
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None, "clip_gradients returns the norm where max_norm is given"
        # one transfer for all the numbers: each would wait for the device
        values = torch.stack([*losses.values(), norm.to(losses["loss"])]).tolist()
        line = dict(zip([*losses, "gradient_norm"], values, strict=True))
        sound = math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"])
        if sound:
            self.optimizer.step()
        self.step += 1
        self.skipped += not sound
        self.skipped_in_a_row = 0 if sound else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise InputError(
                f"the loss or its gradient was not finite in {MOST_SKIPPED} steps in a row "
                f"(up to step {self.step}), so training has stopped: start another run with a "
                f"lower --learning-rate (it was {rate:.2g}); {self.folder} keeps what it had "
                "saved before"
            )
        return {
            "step": self.step,
            "learning_rate": rate,
            **{name: json_number(value) for name, value in line.items()},
            "skipped": not sound,
        }

    def _validate(self) -> dict[str, float | None]:
        """Losses over the held-out utterances; the student becomes the voice if it is the best."""
        self.module.eval()
        result = validate(
            self.model,
            self.module,
            validation_batches(self.store, self.held_out, self.config.training.batch_size),
            self.fabric.device,
        )
        loss = result["loss"]
        if loss is not None and (self.best_loss is None or loss < self.best_loss):
            self.best_step, self.best_loss = self.step, loss
            save_voice(
                self.folder,
                self.module.student,
                self.config,
                step=self.step,
                validation={k: v for k, v in result.items() if v is not None},
                store=self._store_facts(),
                teacher=self.store.manifest["teacher"],
            )
        if self.dashboard:
            first = next(validation_batches(self.store, self.held_out[:1], 1))
            self.dashboard.show(self.step, self.module.student, first.to(self.fabric.device))
        self.module.train()
        return result

    def _save(self) -> None:
        self.saved_step = self.step
        save_state(
            self.folder,
            TrainingState(
                step=self.step,
                config=self.config,
                store=self._store_facts(),
                threads=torch.get_num_threads(),
                tensors=capture(self.module, self.adam),
                best_step=self.best_step,
                best_loss=self.best_loss,
                skipped=self.skipped,
                skipped_in_a_row=self.skipped_in_a_row,
                seconds=self.seconds,
            ),
        )

    def _store_facts(self) -> dict[str, Any]:
        return {"digest": self.store.digest, "utterances": len(self.store)}
