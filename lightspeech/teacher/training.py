"""The training of a teacher on recordings (lightspeech/training_loop.py has the loop itself).

It learns to read along; at each validation it speaks freely too, and what speaks best, with the
average of its weights, is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS
from lightspeech.data import split
from lightspeech.dataset.features import Features
from lightspeech.errors import InputError
from lightspeech.parts import count_parameters, freeze
from lightspeech.ranks import Ranks
from lightspeech.run_folder import json_number
from lightspeech.sealed import Sealed
from lightspeech.teacher.batches import TeacherBatch, training_batches
from lightspeech.teacher.config import TeacherConfig
from lightspeech.teacher.curves import TeacherCurves
from lightspeech.teacher.objective import Objective, weighted
from lightspeech.teacher.parts import PARTS
from lightspeech.teacher.state import (
    LATEST_FILE,
    TEACHER_FILE,
    TeacherState,
    save_teacher,
    save_teacher_state,
)
from lightspeech.teacher.validation import validate
from lightspeech.training_loop import TrainingLoop
from lightspeech.training_state import LoopState
from tacotron2 import Tacotron2


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


class TeacherTraining(TrainingLoop[TeacherBatch]):
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
        ranks = ranks or Ranks()
        self.features, self.config = features, config
        settings = config.training
        usable = [
            i
            for i in range(len(features))
            if features.token_counts[i] <= features.frames[i] <= settings.longest_frames
        ]
        if len(usable) < max(2, ranks.count + 1):
            raise InputError(
                f"{len(usable)} of {len(features)} utterances have at most "
                f"{settings.longest_frames} frames, and no fewer than symbols; expected at least "
                f"{max(2, ranks.count + 1)}: add recordings, or raise longest_frames"
            )
        ids = [features.ids[i] for i in usable]
        members, held_out = split(ids, settings.validation_share, settings.seed)
        self.members = [usable[i] for i in members]
        self.held_out = [usable[i] for i in held_out]
        self.left_out = len(features) - len(usable)

        self.origin, self.provenance = origin or {}, provenance or {}
        self.model = model
        self.best_score: list[float] | None = None
        freeze(model, PARTS, self.frozen)
        if not state and not self.origin:
            self._begin_with_the_mean()
        super().__init__(
            folder,
            Objective(model, config.training),
            settings,
            state=state,
            ranks=ranks,
            device=torch.device(device),
            precision=precision,
            eps=1e-6,
        )
        if self.is_first and not state:
            self._save()
        self.curves = TeacherCurves(folder, self.step, tensorboard) if self.is_first else None

    @torch.no_grad()
    def _begin_with_the_mean(self) -> None:
        """A new model says the mean spectrum: it is spared hundreds of steps to get there."""
        mels = [self.features[i].mel for i in self.members[:100]]
        self.model.decoder.linear_projection.linear_layer.bias.copy_(torch.cat(mels).mean(0))

    def _go_to(self, state: LoopState) -> None:
        assert isinstance(state, TeacherState)
        if state.dataset["digest"] != self.features.digest:
            raise InputError(
                f"the run in {self.folder} was started on another dataset (digest "
                f"{state.dataset['digest'][:12]}, {state.dataset.get('utterances')} utterances) "
                f"than this one ({self.features.digest[:12]}, {len(self.features)}): give that "
                "one, or start another run with --out, from this one's teacher (--from)"
            )
        super()._go_to(state)
        self.best_score = state.best_score

    @property
    def frozen(self) -> list[str]:
        """The parts of the teacher that stay as they are."""
        return list(self.origin.get("frozen", []))

    @property
    def best_loss(self) -> float | None:
        """Of the best validation so far; what speaks best is best, not what has the lowest."""
        return None if self.best_score is None else -self.best_score[1]

    @property
    def _hours(self) -> float:
        """Of the utterances to train on."""
        return sum(self.features.frames[i] for i in self.members) * FRAME_SECONDS / 3600

    def plan(self) -> str:
        """What `run` is going to do, for people."""
        settings, features = self.config.training, self.features
        learning = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        lines = [
            f"dataset   {len(features):,} utterances: {len(self.members):,} to train on "
            f"({self._hours:.2f} hours), {len(self.held_out):,} held out"
            + (f", {self.left_out:,} too long or too short" if self.left_out else ""),
            f"teacher   {self.config.name!r}, {count_parameters(self.model):,} parameters"
            + (f", {learning:,} of them learn" if self.frozen else ""),
            f"device    {self.where()}",
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
        stopped_by = self._run()
        if self.curves:
            self.curves.close()
        return TeacherResult(
            step=self.step,
            best_step=self.best_step,
            best_score=self.best_score,
            seconds=self.seconds,
            skipped=self.skipped,
            stopped_by=stopped_by,
            teacher=self.folder / TEACHER_FILE if self.best_step is not None else None,
        )

    # What the loop asks

    def _configuration(self) -> dict[str, Any]:
        return self.config.as_dict()

    def _learning_rate(self, step: int) -> float:
        return self.config.training.learning_rate_at(step)

    def _batches(self) -> Iterator[TeacherBatch]:
        return training_batches(
            self.features,
            self.members,
            self.config.training,
            self.step,
            self.ranks.rank,
            self.ranks.count,
        )

    def _losses(self, batch: TeacherBatch) -> dict[str, Tensor]:
        settings = self.config.training
        sums = self.wrapped(Sealed(batch.to(self.fabric.device)), settings.lead_at(self.step))
        terms = {name: value * (1 / batch.all_frames) for name, value in sums.items()}
        return {"loss": weighted(terms, settings, self.step), **terms}

    def _told(self, step: int) -> dict[str, Any]:
        settings = self.config.training
        return {"guide_weight": settings.guide_at(step), "led": settings.lead_at(step)}

    def _begin_to_learn(self) -> None:
        super()._begin_to_learn()
        freeze(self.model, PARTS, self.frozen)

    def _judge(self) -> dict[str, float | None]:
        """Reads along and speaks freely; keeps the teacher, and as the best one if it is that."""
        found, runs = validate(self.model, self.features, self.held_out, self.config.training)
        if self.curves:
            self.curves.show(self.step, runs)
        self._keep(found)
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
        save_teacher_state(
            self.folder,
            TeacherState(
                **self._standing(),
                config=self.config,
                dataset={"digest": self.features.digest, "utterances": len(self.features)},
                origin=self.origin,
                best_score=self.best_score,
            ),
        )

    def _show(self, line: dict[str, Any]) -> None:
        if self.curves:
            self.curves.log(line)
