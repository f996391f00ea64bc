"""The training loop of a teacher: Lightning Fabric for devices, precision and ranks, the rest here.

Every batch is shared by all processes; losses are sums over frames divided by the frames of the
whole batch, so that one process and several minimise the same thing. All that is random in a step
follows from the seed, the step and the rank: `--resume` goes on, bit for bit, as if it had never
been stopped, on the same machine with as many processes and threads.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from lightspeech.audio import FRAME_SECONDS
from lightspeech.checkpoint import capture, restore
from lightspeech.data import prefetch, split
from lightspeech.dataset.features import Features
from lightspeech.distillation import json_number
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.interrupt import StopRequest
from lightspeech.progress import TrainingProgress
from lightspeech.ranks import Ranks
from lightspeech.run_folder import CONFIG_FILE, History
from lightspeech.sealed import Sealed
from lightspeech.teacher.batches import TeacherBatch, training_batches
from lightspeech.teacher.config import TeacherConfig
from lightspeech.teacher.curves import TeacherCurves
from lightspeech.teacher.ema import WeightAverage
from lightspeech.teacher.objective import Objective, weighted
from lightspeech.teacher.parts import freeze
from lightspeech.teacher.state import (
    LATEST_FILE,
    TEACHER_FILE,
    TeacherState,
    count_parameters,
    save_teacher,
    save_teacher_state,
)
from lightspeech.teacher.validation import validate
from tacotron2 import Tacotron2

MOST_SKIPPED = 10
"""steps in a row without a finite loss after which training gives up"""
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class TeacherResult:
    """How a training ended."""

    step: int
    best_step: int | None
    best_score: list[float] | None
    """share of usable utterances, and minus the loss"""
    seconds: float
    skipped: int
    stopped_by: int | None
    """the signal that stopped it; None if it reached its last step"""
    teacher: Path | None


class TeacherTraining:
    """One sitting of a run: made from features, a folder and a configuration, then `run`."""

    def __init__(
        self,
        features: Features,
        folder: Path,
        config: TeacherConfig,
        model: Tacotron2,
        *,
        state: TeacherState | None = None,
        origin: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        ranks: Ranks | None = None,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
        tensorboard: bool = False,
    ) -> None:
        """Goes to where `state` stands, if there is one.

        Args:
            model: with the weights to begin with.
            origin: what these are, with the `frozen` parts; see TeacherState.
            provenance: what the teacher's JSON says of the data.

        Raises:
            InputError: too few utterances, or another dataset than that of the state.
        """
        device = torch.device(device)
        self.features, self.folder, self.config = features, folder, config
        self.ranks = ranks or Ranks()
        settings = config.training
        usable = [
            i
            for i in range(len(features))
            if features.token_counts[i] <= features.frames[i] <= settings.longest_frames
        ]
        if len(usable) < max(2, self.ranks.count + 1):
            raise InputError(
                f"{len(usable)} of {len(features)} utterances have at most "
                f"{settings.longest_frames} frames, and no fewer than symbols; expected at least "
                f"{max(2, self.ranks.count + 1)}: add recordings, or raise longest_frames"
            )
        ids = [features.ids[i] for i in usable]
        members, held_out = split(ids, settings.validation_share, settings.seed)
        self.members = [usable[i] for i in members]
        self.held_out = [usable[i] for i in held_out]
        self.left_out = len(features) - len(usable)

        self.origin, self.provenance = origin or {}, provenance or {}
        self.model = model
        freeze(model, self.origin.get("frozen", []))
        if not state and not self.origin:
            self._begin_with_the_mean()
        self.module = Objective(model, config.training)
        learning = [p for p in self.module.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(
            learning,
            lr=settings.learning_rate,
            eps=1e-6,
            weight_decay=settings.weight_decay,
            fused=True,  # one pass over the weights instead of six
        )
        self.fabric = Fabric(
            accelerator=device.type,
            devices=_devices(device, self.ranks),
            strategy="ddp" if self.ranks.count > 1 else "auto",
            precision=precision,
        )
        self.fabric.launch()
        self.average = WeightAverage(self.module, settings.ema_decay)
        self.step = self.saved_step = 0
        self.best_step: int | None = None
        self.best_score: list[float] | None = None
        self.skipped = self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.notes: list[str] = []
        if state:
            self._go_to(state)
        self.wrapped, self.optimizer = self.fabric.setup(self.module, self.adam)
        self.average.to(self.fabric.device)
        if self.is_first and not state:
            self._save()
        self.curves = TeacherCurves(folder, self.step, tensorboard) if self.is_first else None

    @torch.no_grad()
    def _begin_with_the_mean(self) -> None:
        """A new model says the mean spectrum: it is spared hundreds of steps to get there."""
        mels = [self.features[i].mel for i in self.members[:100]]
        self.model.decoder.linear_projection.linear_layer.bias.copy_(torch.cat(mels).mean(0))

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.ranks.rank == 0

    def _go_to(self, state: TeacherState) -> None:
        if state.dataset["digest"] != self.features.digest:
            raise InputError(
                f"the run in {self.folder} was started on another dataset (digest "
                f"{state.dataset['digest'][:12]}, {state.dataset.get('utterances')} utterances) "
                f"than this one ({self.features.digest[:12]}, {len(self.features)}): give that "
                "one, or start another run with --out, from this one's teacher (--from)"
            )
        own = {n: v for n, v in state.tensors.items() if not n.startswith("average/")}
        restore(own, self.module, self.adam)
        self.average.restore(
            {n[8:]: v for n, v in state.tensors.items() if n.startswith("average/")},
            state.average_steps,
        )
        self.step = self.saved_step = state.step
        self.seconds = state.seconds
        self.best_step, self.best_score = state.best_step, state.best_score
        self.skipped, self.skipped_in_a_row = state.skipped, state.skipped_in_a_row
        now = (self.ranks.count, torch.get_num_threads())
        if (state.ranks, state.threads) != now:
            self.notes.append(
                f"{now[0]} x {now[1]} processes and threads where the run had {state.ranks} x "
                f"{state.threads}: it goes on, but not bit for bit as it would have"
            )

    @property
    def _hours(self) -> float:
        """Of the utterances to train on."""
        return sum(self.features.frames[i] for i in self.members) * FRAME_SECONDS / 3600

    def plan(self) -> str:
        """What `run` is going to do, for people."""
        settings, features = self.config.training, self.features
        threads = torch.get_num_threads()
        learning = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        lines = [
            f"dataset   {len(features):,} utterances: {len(self.members):,} to train on "
            f"({self._hours:.2f} hours), {len(self.held_out):,} held out"
            + (f", {self.left_out:,} too long or too short" if self.left_out else ""),
            f"teacher   {self.config.name!r}, {count_parameters(self.model):,} parameters"
            + (f", {learning:,} of them learn" if self.origin.get("frozen") else ""),
            f"device    {self.fabric.device}, {self.ranks.count} process"
            f"{'' if self.ranks.count == 1 else 'es'} of {threads} thread"
            f"{'' if threads == 1 else 's'}",
            f"steps     {settings.steps:,} of {settings.frames_per_step:,} frames"
            + (f"; going on after step {self.step:,}" if self.step else ""),
            f"run       {self.folder}",
        ]
        if self.origin.get("name"):
            lines.insert(2, f"from      {self.origin['name']}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def run(self) -> TeacherResult:
        """Trains up to the last step, or until a signal asks to stop; saves, and says how it went.

        Raises:
            InputError: the loss was not finite in MOST_SKIPPED steps in a row.
        """
        settings = self.config.training
        began = time.monotonic() - self.seconds
        if self.is_first:
            write_json(self.folder / CONFIG_FILE, self.config.as_dict())
        batches = training_batches(
            self.features, self.members, settings, self.step, self.ranks.rank, self.ranks.count
        )
        self.module.train()
        freeze(self.model, self.origin.get("frozen", []))
        stopped: int | None = None
        with (
            StopRequest().listening() as stop,
            closing(History(self.folder, self.step)) if self.is_first else nullcontext() as history,
            closing(prefetch(batches)) as batches,
            TrainingProgress(self.step, settings.steps) if self.is_first else nullcontext() as bar,
        ):
            while self.step < settings.steps:
                stopped = self._agree(stop.number)
                if stopped is not None:
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
                    best = None if self.best_score is None else -self.best_score[1]
                    bar.show(line, best, self.skipped)
                    if self.curves:
                        self.curves.log(line)
            if history is not None and self.step != self.saved_step:
                history.secure()
                self._save()
        if self.curves:
            self.curves.close()
        return TeacherResult(
            step=self.step,
            best_step=self.best_step,
            best_score=self.best_score,
            seconds=self.seconds,
            skipped=self.skipped,
            stopped_by=stopped,
            teacher=self.folder / TEACHER_FILE if self.best_step is not None else None,
        )

    def _agree(self, number: int | None) -> int | None:
        """The signal that any of the processes got: all of them stop after the same step."""
        if self.ranks.count == 1:
            return number
        highest = self.fabric.all_reduce(
            torch.tensor(float(number or 0), device=self.fabric.device), reduce_op="max"
        )
        return int(highest) or None

    def _take_step(self, batch: TeacherBatch) -> dict[str, Any]:
        """One step of the optimiser, or none where the loss or its gradient is not finite."""
        settings, ranks = self.config.training, self.ranks
        seed = (settings.seed * 1_000_003 + self.step) * 4_096 + ranks.rank
        torch.manual_seed(seed % 2**63)
        rate = settings.learning_rate_at(self.step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        statistics = [buffer.clone() for buffer in self.module.buffers()]
        terms = self.wrapped(Sealed(batch.to(self.fabric.device)), settings.lead_at(self.step))
        # DDP averages the processes' gradients: times their number they are the sum's.
        terms = {name: value * (ranks.count / batch.all_frames) for name, value in terms.items()}
        loss = weighted(terms, settings, self.step)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None, "clip_gradients returns the norm where max_norm is given"
        values = torch.stack([loss.detach(), *(v.detach() for v in terms.values())])
        if ranks.count > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        numbers = torch.cat((values, norm.to(values)[None])).tolist()
        line = dict(zip(["loss", *terms, "gradient_norm"], numbers, strict=True))
        sound = math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"])
        if sound:
            self.optimizer.step()
            if self.is_first:  # who alone needs it, for validations and files
                self.average.update(self.module)
        else:  # batch norm has taken in what is not finite
            for buffer, before in zip(self.module.buffers(), statistics, strict=True):
                buffer.copy_(before)
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
            "guide_weight": settings.guide_at(self.step - 1),
            "led": settings.lead_at(self.step - 1),
            **{name: json_number(value) for name, value in line.items()},
            "skipped": not sound,
        }

    def _validate(self) -> dict[str, float | None]:
        """Reads along and speaks freely with the averaged weights; keeps them if they are best."""
        found: dict[str, float] = {}
        if self.is_first:
            self.module.eval()
            with self.average.applied(self.module):
                found, runs = validate(
                    self.model, self.features, self.held_out, self.config.training
                )
                if self.curves:
                    self.curves.show(self.step, runs)
                self._keep(found)
            self.module.train()
            freeze(self.model, self.origin.get("frozen", []))
        if self.ranks.count > 1:
            self.fabric.barrier()
        return {name: json_number(value) for name, value in found.items()}

    def _keep(self, found: dict[str, float]) -> None:
        """Saves the model as the latest teacher, and as the best one where it is that.

        What speaks best is best: of like shares of usable utterances, what reads best.
        """
        if not math.isfinite(found["loss"]):
            return
        facts = {
            **self.provenance,
            "training": {
                "step": self.step,
                "configuration": self.config.name,
                "utterances": len(self.members),
                "hours": self._hours,
                "from": self.origin,
                "validation": {name: json_number(value) for name, value in found.items()},
            },
        }
        save_teacher(self.folder / LATEST_FILE, self.model, facts)
        score = [math.floor(found["usable"] * 20) / 20, -found["loss"]]
        if self.best_score is None or score > self.best_score:
            self.best_step, self.best_score = self.step, score
            save_teacher(self.folder / TEACHER_FILE, self.model, facts)

    def _save(self) -> None:
        self.saved_step = self.step
        tensors = capture(self.module, self.adam)
        tensors |= {f"average/{name}": value for name, value in self.average.state().items()}
        save_teacher_state(
            self.folder,
            TeacherState(
                step=self.step,
                config=self.config,
                dataset={"digest": self.features.digest, "utterances": len(self.features)},
                origin=self.origin,
                ranks=self.ranks.count,
                threads=torch.get_num_threads(),
                average_steps=self.average.steps,
                tensors=tensors,
                best_step=self.best_step,
                best_score=self.best_score,
                skipped=self.skipped,
                skipped_in_a_row=self.skipped_in_a_row,
                seconds=self.seconds,
            ),
        )


def _devices(device: torch.device, ranks: Ranks) -> int | list[int]:
    """What Fabric is to take on this machine."""
    if device.type == "cpu":
        return ranks.on_this_machine
    return ranks.on_this_machine if ranks.count > 1 else [device.index or 0]
