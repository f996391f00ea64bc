"""The training loop, of a student and of a teacher alike.

One module (a model and its losses) and one optimiser (Adam); a learning rate that is a function of
the step, clipped gradients, steps with a loss that is not finite left out; the average of the
weights, validation, the state on disk. Lightning Fabric takes care of device and precision.

Several processes share each batch, and a loss is a sum over a process's share divided by the counts
of the whole batch: gradients and losses are added up, so that one process and several minimise the
same thing. All of them then take the same step, and the first one validates and writes the files.

All that is random in a step follows from the seed, the step and the process. So whatever stops it,
`--resume` goes on from the last saved state as if it had never been stopped: bit for bit, on the
same machine with as many processes and threads.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lightspeech.data import prefetch
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.interrupt import StopRequest
from lightspeech.process_group import add_up, highest, take_from_first, wait_for_all
from lightspeech.progress import TrainingProgress
from lightspeech.ranks import Ranks
from lightspeech.run_folder import CONFIG_FILE, History, json_number
from lightspeech.training_state import LoopState, capture, restore
from lightspeech.weight_average import WeightAverage

MOST_SKIPPED = 10
"""steps in a row without a finite loss after which training gives up"""
PRECISIONS = ("32-true", "bf16-mixed")
_EXHAUSTED = 1_000_000
"""what a process gives for the number of a signal where nothing more is to be gained"""

BatchT = TypeVar("BatchT")


class LoopSettings(Protocol):
    """The settings of a training that the loop itself goes by."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def seed(self) -> int: ...


class TrainingLoop(ABC, Generic[BatchT]):
    """One sitting of a training. What is trained, on what, says a subclass."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        settings: LoopSettings,
        *,
        state: LoopState | None,
        ranks: Ranks,
        device: torch.device,
        precision: str,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        """Goes to where `state` stands, if there is one.

        Args:
            module: model and losses; those of its parameters learn that ask for a gradient.
            eps: Adam's, which keeps it from dividing by zero.
            betas: Adam's, how much it keeps of the means of gradients and of their squares.

        Raises:
            InputError: a state of another module.
        """
        self.folder, self.module, self.ranks = folder, module, ranks
        self._settings, self.precision = settings, precision
        self.adam = torch.optim.Adam(
            self._groups(),
            lr=settings.learning_rate,
            eps=eps,
            betas=betas,
            weight_decay=settings.weight_decay,
            fused=True,  # one pass over the weights instead of six
        )
        self.fabric = Fabric(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            precision=precision,
        )
        self.fabric.launch()
        # only the first process validates and saves
        self.average = WeightAverage(module, settings.ema_decay if self.is_first else 0.0)
        self.step = self.saved_step = 0
        self.best_step: int | None = None
        self.skipped = self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.notes: list[str] = []
        if state:
            self._go_to(state)
        self.wrapped, self.optimizer = self.fabric.setup(module, self.adam)
        self.average.to(self.fabric.device)
        take_from_first(ranks, module)

    def _go_to(self, state: LoopState) -> None:
        prefix = "average/"
        own = {n: v for n, v in state.tensors.items() if not n.startswith(prefix)}
        restore(own, self.module, self.adam)
        self.average.restore(
            {n[len(prefix) :]: v for n, v in state.tensors.items() if n.startswith(prefix)},
            state.average_steps,
        )
        self.step = self.saved_step = state.step
        self.best_step = state.best_step
        self.skipped, self.skipped_in_a_row = state.skipped, state.skipped_in_a_row
        self.seconds = state.seconds
        now = _way(self.ranks.count, torch.get_num_threads(), self.precision)
        before = _way(state.ranks, state.threads, state.precision)
        if now != before:
            self.notes.append(
                f"{now} where the run had {before}: it goes on, but not bit for bit as it would "
                "have"
            )

    def _standing(self) -> dict[str, Any]:
        """The fields of LoopState, but for the `origin`."""
        tensors = capture(self.module, self.adam)
        tensors |= {f"average/{name}": value for name, value in self.average.state().items()}
        return {
            "step": self.step,
            "ranks": self.ranks.count,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "average_steps": self.average.steps,
            "tensors": tensors,
            "best_step": self.best_step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
        }

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes the files."""
        return self.ranks.rank == 0

    def where(self) -> str:
        """The device, the processes and their threads, for people."""
        threads = torch.get_num_threads()
        return (
            f"{self.fabric.device}, {self.ranks.count} process"
            f"{'' if self.ranks.count == 1 else 'es'} of {threads} thread"
            f"{'' if threads == 1 else 's'}"
        )

    # What a training says of itself

    @property
    def exhausted(self) -> bool:
        """Whether nothing more is to be gained; it is the first process that knows."""
        return False

    @property
    @abstractmethod
    def best_loss(self) -> float | None:
        """Of the best validation so far, if there was one; for people."""

    @abstractmethod
    def _configuration(self) -> dict[str, Any]:
        """What config.json is to hold."""

    @abstractmethod
    def _learning_rate(self, step: int) -> float:
        """At `step` (0-based)."""

    @abstractmethod
    def _batches(self) -> Iterator[BatchT]:
        """This process's share of each batch, from that of the step it stands at on."""

    @abstractmethod
    def _losses(self, batch: BatchT) -> dict[str, Tensor]:
        """`loss`, which is minimised, and what else is to be told: this share of each mean."""

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters that learn, in the module's order, in groups as Adam takes them; `share`
        is what a group takes of the learning rate, if not all."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad]}]

    def _told(self, step: int) -> dict[str, Any]:
        """What the history tells of `step` (0-based) besides its losses."""
        return {}

    def _begin_to_learn(self) -> None:
        """Puts the module into the mode for training."""
        self.module.train()

    @abstractmethod
    def _judge(self) -> dict[str, float | None]:
        """Figures of held-out data, in evaluation mode; keeps what is best."""

    @abstractmethod
    def _save(self) -> None:
        """Writes the state."""

    @abstractmethod
    def _show(self, line: dict[str, Any]) -> None:
        """Is given each line of the history."""

    # The loop

    def _run(self) -> int | None:
        """Trains up to the last step, or until a signal asks to stop; saves.

        Returns:
            The signal that stopped it.

        Raises:
            InputError: the loss was not finite in MOST_SKIPPED steps in a row; another process
                has ended.
        """
        settings, first = self._settings, self.is_first
        began = time.monotonic() - self.seconds
        if first:
            write_json(self.folder / CONFIG_FILE, self._configuration())
        self._begin_to_learn()
        stopped: int | None = None
        with (
            StopRequest().listening() as stop,
            closing(History(self.folder, self.step)) if first else nullcontext() as history,
            closing(prefetch(self._batches())) as batches,
            TrainingProgress(self.step, settings.steps) if first else nullcontext() as bar,
        ):
            while self.step < settings.steps:
                reason = highest(self.ranks, _EXHAUSTED if self.exhausted else stop.number or 0)
                if reason:  # all of them stop after the same step
                    stopped = None if reason == _EXHAUSTED else reason
                    break
                line = self._take_step(next(batches))
                if self.step == settings.steps or self.step % settings.validate_every == 0:
                    line["validation"] = self._validate()
                self.seconds = time.monotonic() - began
                if history is not None and bar is not None:
                    history.append(line)
                    if self.step % settings.save_every == 0:
                        history.secure()
                        self._save()
                    bar.show(line, self.best_loss, self.skipped)
                    self._show(line)
            if history is not None and self.step != self.saved_step:
                history.secure()
                self._save()
        return stopped

    def _take_step(self, batch: BatchT) -> dict[str, Any]:
        """One step of the optimiser, or none where the loss or its gradient is not finite."""
        settings = self._settings
        seed = (settings.seed * 1_000_003 + self.step) * 4_096 + self.ranks.rank
        torch.manual_seed(seed % 2**63)
        rate = self._learning_rate(self.step)
        for group in self.adam.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        self.optimizer.zero_grad()
        statistics = [buffer.clone() for buffer in self.module.buffers()]
        losses = self._losses(batch)
        if not losses["loss"].requires_grad:
            raise InputError(
                "nothing that learns has a part in the loss: freeze less, or give the losses of "
                "what learns a weight"
            )
        self.fabric.backward(losses["loss"])
        values = torch.stack([value.detach() for value in losses.values()])
        learning = (p for group in self.adam.param_groups for p in group["params"])
        gradients = [p.grad for p in learning if p.grad is not None]
        add_up(self.ranks, [values, *gradients])
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None, "clip_gradients returns the norm where max_norm is given"
        # one transfer for all the numbers: each would wait for the device
        numbers = torch.cat((values, norm.to(values)[None])).tolist()
        line = dict(zip([*losses, "gradient_norm"], numbers, strict=True))
        sound = math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"])
        if sound:
            self.optimizer.step()
            self.average.update(self.module)
        else:  # batch norm has taken in what is not finite
            for buffer, before in zip(self.module.buffers(), statistics, strict=True):
                buffer.copy_(before)
        told = self._told(self.step)
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
            **told,
            **{name: json_number(value) for name, value in line.items()},
            "skipped": not sound,
        }

    def _validate(self) -> dict[str, float | None]:
        """What `_judge` finds with the averaged weights; nothing in the other processes."""
        found: dict[str, float | None] = {}
        if self.is_first:
            self.module.eval()
            with self.average.applied(self.module):
                found = self._judge()
            self._begin_to_learn()
        wait_for_all(self.ranks)
        return found


def _way(ranks: int, threads: int, precision: str) -> str:
    """What the last bits of a training depend on, for people."""
    return f"{ranks} x {threads} processes and threads in {precision}"
