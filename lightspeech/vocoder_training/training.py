"""The training of a light vocoder (lightspeech/training_loop.py has the loop itself).

It learns to make the sound of recordings from their mels; the one whose sound of held-out
recordings is nearest to them, of those that have listened to the critics, with the average of its
weights, is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS
from lightspeech.checkpoint import fact, read_file
from lightspeech.errors import InputError
from lightspeech.parts import count_parameters
from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run
from lightspeech.schedule import learning_rate
from lightspeech.sealed import Sealed
from lightspeech.training_loop import TrainingLoop
from lightspeech.training_state import LoopState, loop_facts, newest_state, replace_state
from lightspeech.vocoder_training.clips import (
    ClipBatch,
    Recording,
    digest_of,
    split,
    training_clips,
    whole,
)
from lightspeech.vocoder_training.config import VocoderConfig
from lightspeech.vocoder_training.objective import VocoderObjective
from lightspeech.vocoders.light import FILE, LightVocoder, save_light


@dataclass(frozen=True, kw_only=True)
class VocoderState(LoopState):
    """The state of a light vocoder's training."""

    config: VocoderConfig
    data: dict[str, Any]
    """`digest`, `recordings`"""
    best_loss: float | None = None
    """spectral distance of the best validation"""


def load_vocoder_state(folder: Path) -> tuple[VocoderState, str | None]:
    """The last state that can be read, and a note where that is not the last one written."""
    return newest_state(folder, _load)


def _load(path: Path) -> VocoderState:
    facts, tensors = read_file(path, "vocoder training")
    data = fact(facts, "data", dict, path)
    fact(data, "digest", str, path)
    return VocoderState(
        **loop_facts(facts, tensors, path),
        config=VocoderConfig.from_dict(facts.get("config"), str(path)),
        data=data,
        best_loss=fact(facts, "best_loss", (float, type(None)), path),
    )


@dataclass(frozen=True)
class VocoderResult:
    """How a training ended."""

    step: int
    best_step: int | None
    best_loss: float | None
    """spectral distance"""
    seconds: float
    skipped: int
    stopped_by: int | None
    """the signal that stopped it; None if it reached its last step"""
    vocoder: Path | None


class VocoderTraining(TrainingLoop[ClipBatch]):
    """One sitting of a run: made from recordings, a folder and a configuration, then `run`."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        run: Run[VocoderState],
        config: VocoderConfig,
        *,
        beginning: LightVocoder | None = None,
        ranks: Ranks | None = None,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
    ) -> None:
        """Builds the network and goes to where `run` stands.

        Args:
            beginning: whose weights a new run begins with.

        Raises:
            InputError: too few recordings, others than the run was started on, or fewer clips a
                step than processes.
        """
        ranks = ranks or Ranks()
        settings = config.training
        usable = [r for r in recordings if r.frames >= settings.clip_frames]
        if len(usable) < 2:
            raise InputError(
                f"{len(usable)} of {len(recordings)} recordings have at least "
                f"{settings.clip_frames} frames ({settings.clip_frames * FRAME_SECONDS:.2f} s); "
                "expected at least 2: add recordings"
            )
        if settings.batch_size < ranks.count:
            raise InputError(
                f"{ranks.count} processes cannot share {settings.batch_size} clips a step: "
                "take a larger --batch-size"
            )
        self.config = config
        self.left_out = len(recordings) - len(usable)
        self.members, self.held_out = split(usable, settings.held_out, settings.seed)
        self.data = {"digest": digest_of(usable), "recordings": len(usable)}
        self.origin: dict[str, Any] = run.state.origin if run.state else {}
        self._best_loss: float | None = None
        torch.manual_seed(settings.seed)
        objective = VocoderObjective(config)
        if beginning is not None and run.state is None:
            objective.network.load_state_dict(beginning.network.state_dict())
            self.origin = {name: beginning.source[name] for name in ("name", "sha256")}
            self.origin["step"] = beginning.facts.get("step")
        self.objective = objective
        super().__init__(
            run.folder,
            objective,
            settings,
            state=run.state,
            ranks=ranks,
            device=torch.device(device),
            precision=precision,
            betas=(0.8, 0.99),  # usual where a network learns against critics
        )
        if run.note:
            self.notes.append(run.note)
        if self.is_first and not run.state:
            self._save()

    def _go_to(self, state: LoopState) -> None:
        assert isinstance(state, VocoderState)
        if state.data["digest"] != self.data["digest"]:
            raise InputError(
                f"the run in {self.folder} was started on other recordings or mels "
                f"({state.data.get('recordings')} of them) than these "
                f"({self.data['recordings']}): give those, or start another run with --out"
            )
        super()._go_to(state)
        self._best_loss = state.best_loss

    @property
    def best_loss(self) -> float | None:
        """Spectral distance of the best validation so far."""
        return self._best_loss

    @property
    def _critics_begin(self) -> int:
        """The step (0-based) at which the critics come in."""
        return round(self.config.training.critic_start * self.config.training.steps)

    @property
    def _hours(self) -> float:
        """Of the recordings to learn from."""
        return sum(recording.frames for recording in self.members) * FRAME_SECONDS / 3600

    def plan(self) -> str:
        """What `run` is going to do, for people."""
        settings = self.config.training
        mels = sum(recording.mel is not None for recording in self.members)
        clips = settings.steps * settings.batch_size * settings.clip_frames * FRAME_SECONDS / 3600
        lines = [
            f"data      {len(self.members):,} recordings, {self._hours:.2f} hours"
            + (f", {mels:,} of them with mels of another maker too" if mels else "")
            + f"; {len(self.held_out)} more held out for validation"
            + (f"; {self.left_out:,} are shorter than a clip" if self.left_out else ""),
            f"vocoder   {self.config.name!r}, {count_parameters(self.objective.network):,} "
            f"parameters, and critics of {count_parameters(self.objective.critics):,}",
            f"device    {self.where()}",
            f"steps     {settings.steps:,} of {settings.batch_size} clips of "
            f"{settings.clip_frames} frames ({clips:.1f} hours of sound)"
            + (f"; going on after step {self.step:,}" if self.step else ""),
            f"run       {self.folder}",
        ]
        if self.origin.get("name"):
            lines.insert(2, f"from      {self.origin['name']}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def run(self) -> VocoderResult:
        """Trains up to the last step, or until a signal asks to stop; saves, and says how it went.

        Raises:
            InputError: the loss was not finite in MOST_SKIPPED steps in a row, or a recording
                cannot be read.
        """
        stopped_by = self._run()
        return VocoderResult(
            step=self.step,
            best_step=self.best_step,
            best_loss=self.best_loss,
            seconds=self.seconds,
            skipped=self.skipped,
            stopped_by=stopped_by,
            vocoder=self.folder / FILE if self.best_step is not None else None,
        )

    # What the loop asks

    def _configuration(self) -> dict[str, Any]:
        return self.config.as_dict()

    def _groups(self) -> list[dict[str, Any]]:
        share = self.config.training.critic_rate
        return [
            {"params": list(self.objective.network.parameters())},
            {"params": list(self.objective.critics.parameters()), "share": share},
        ]

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.training, step)

    def _batches(self) -> Iterator[ClipBatch]:
        return training_clips(self.members, self.config.training, self.step, self.ranks)

    def _losses(self, batch: ClipBatch) -> dict[str, Tensor]:
        criticised = self.step >= self._critics_begin
        losses: dict[str, Tensor] = self.wrapped(Sealed(batch.to(self.fabric.device)), criticised)
        return losses

    @torch.no_grad()
    def _judge(self) -> dict[str, float | None]:
        """Spectral distances of held-out recordings; keeps the vocoder if it is the best."""
        network, distance = self.objective.network, self.objective.distance
        network.train()  # with what it leaves out when it speaks (`softest`), which nobody learned
        total = 0.0
        for recording in self.held_out:
            mel, wav = whole(recording)
            made = network(mel[None].to(self.fabric.device))
            total += distance(made, wav[None].to(self.fabric.device)).item()
        loss = total / len(self.held_out)
        critics_came = self.best_step is not None and (
            self.best_step <= self._critics_begin < self.step
        )
        if math.isfinite(loss) and (
            critics_came or self._best_loss is None or loss < self._best_loss
        ):
            self.best_step, self._best_loss = self.step, loss
            save_light(self.folder, network, self._facts(loss))
        return {"spectral": loss if math.isfinite(loss) else None}

    def _facts(self, loss: float) -> dict[str, Any]:
        """What the vocoder's file says of how it came about."""
        return {
            "name": self.config.name,
            "config": self.config.as_dict(),
            "step": self.step,
            "validation": {"spectral": loss},
            "data": {**self.data, "hours": self._hours},
            "from": self.origin,
        }

    def _save(self) -> None:
        self.saved_step = self.step
        state = VocoderState(
            **self._standing(),
            config=self.config,
            data=self.data,
            origin=self.origin,
            best_loss=self.best_loss,
        )
        replace_state(self.folder, state, "vocoder training")

    def _show(self, line: dict[str, Any]) -> None:
        """Nothing: the history has it all."""
