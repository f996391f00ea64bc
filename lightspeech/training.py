"""The training of a student on a label store (training_loop.py has the loop itself).

The student learns to say what the teacher said; the one with the lowest loss on held-out
utterances (with a critic, of those that have listened to it) becomes the voice, with the average of
its weights where that is asked for. It begins from nothing, or with the weights of a voice, of
which parts may stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, N_MELS
from lightspeech.checkpoint import VOICE_FILE, find_voice, load_voice, save_voice
from lightspeech.config import Config
from lightspeech.dashboard import Dashboard
from lightspeech.data import Batch, split, training_batches, validation_batches
from lightspeech.distillation import Distillation, validate
from lightspeech.errors import InputError
from lightspeech.files import sha256
from lightspeech.model import LightSpeech
from lightspeech.parts import check_frozen, children_of, count_parameters, freeze
from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run
from lightspeech.schedule import learning_rate
from lightspeech.sealed import Sealed
from lightspeech.text import SYMBOLS
from lightspeech.training_loop import TrainingLoop
from lightspeech.training_state import LoopState, TrainingState, save_state

if TYPE_CHECKING:
    from lightspeech.store import LabelStore


def check_trainable(store: LabelStore, config: Config) -> None:
    """InputError if the student of `config` cannot be trained on `store`."""
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


def parts_of_the_student() -> list[str]:
    """The parts that a student with the default layers can keep as they are."""
    with torch.device("meta"):
        return list(children_of(LightSpeech()))


@dataclass(frozen=True)
class Beginning:
    """What a student is trained from, other than from nothing."""

    student: LightSpeech
    origin: dict[str, Any]
    """the voice's `name`, `sha256`, `step` and `teacher`, and the parts that stay `frozen`"""


def begin_with(path: Path, frozen: Sequence[str]) -> Beginning:
    """The student of a voice, to be trained further but for its `frozen` parts.

    Raises:
        InputError: no voice, a damaged one; parts that it has not; or all that it has.
    """
    file = find_voice(path)
    student, facts = load_voice(file)
    check_frozen(frozen, children_of(student))
    origin = {
        "name": str(path),
        "sha256": sha256(file),
        "step": facts.get("step"),
        "teacher": facts.get("teacher"),
        "frozen": sorted(frozen),
    }
    return Beginning(student, origin)


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
    """the signal that stopped it; None if it ended by itself"""
    voice: Path | None
    """where the voice is, if there is one"""
    waited: int = 0
    """validations since the best one, where these were too many to go on; 0: they were not"""


class Training(TrainingLoop[Batch]):
    """One sitting of a run: made from a store, a folder and a configuration, then `run`."""

    def __init__(
        self,
        store: LabelStore,
        run: Run[TrainingState],
        config: Config,
        *,
        beginning: Beginning | None = None,
        ranks: Ranks | None = None,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
        tensorboard: bool = False,
    ) -> None:
        """Builds the student and goes to where `run` stands.

        Args:
            beginning: where a new run begins, with the layers of `config`; a run that goes on
                knows it already.
            ranks: which of the processes that share the run this is.

        Raises:
            InputError: a store that the student cannot be trained on, or another one than the run
                was started on.
        """
        device = torch.device(device)
        check_trainable(store, config)
        self.store, self.config = store, config
        self.members, self.held_out = split(
            store.ids, config.training.validation_share, config.training.seed
        )
        self.origin = run.state.origin if run.state else beginning.origin if beginning else {}
        self._best_loss: float | None = None
        self.waited = 0
        torch.manual_seed(config.training.seed)
        module = Distillation(config, store.memory_size)
        if beginning:
            module.student.load_state_dict(beginning.student.state_dict())
        self.student = module.student
        parts = children_of(self.student)
        check_frozen(self.frozen, parts)
        freeze(self.student, parts, self.frozen)
        self.distillation = module
        super().__init__(
            run.folder,
            module,
            config.training,
            state=run.state,
            ranks=ranks or Ranks(),
            device=device,
            precision=precision,
        )
        if run.note:
            self.notes.append(run.note)
        if self.is_first and not run.state:
            self._save()  # a run can be resumed from its first moment on
        shown = tensorboard and self.is_first
        self.dashboard = Dashboard(self.folder, self.step) if shown else None

    def _go_to(self, state: LoopState) -> None:
        assert isinstance(state, TrainingState)
        if state.store["digest"] != self.store.digest:
            raise InputError(
                f"the run in {self.folder} was started on another label store (digest "
                f"{state.store['digest'][:12]}, {state.store.get('utterances')} utterances) than "
                f"this one ({self.store.digest[:12]}, {len(self.store)}): give that one with "
                "--store, or, if it has grown or was mended, start another run with --out "
                "(after make demo: make clean-demo)"
            )
        super()._go_to(state)
        self._best_loss, self.waited = state.best_loss, state.waited
        if self.exhausted and self.config.training.steps != state.config.training.steps:
            self.waited = 0  # who asks for another length has patience again

    @property
    def frozen(self) -> list[str]:
        """The parts of the student that stay as they are."""
        return list(self.origin.get("frozen", []))

    @property
    def _critic_begins(self) -> float:
        """The step (0-based) at which the critic comes in; infinite without one."""
        settings = self.config.training
        has_one = self.distillation.adversarial is not None
        return round(settings.adversarial_start * settings.steps) if has_one else math.inf

    @property
    def best_loss(self) -> float | None:
        """Of the best validation so far."""
        return self._best_loss

    @property
    def exhausted(self) -> bool:
        """Whether as many validations as the patience allows brought nothing better."""
        return 0 < self.config.training.patience <= self.waited

    def plan(self) -> str:
        """What `run` is going to do, for people."""
        settings = self.config.training
        hours = sum(self.store.frames) * FRAME_SECONDS / 3600
        parameters = count_parameters(self.student)
        extra = count_parameters(self.distillation.loss)
        critic = self.distillation.adversarial
        critics = count_parameters(critic) if critic else 0
        lines = [
            f"store     {len(self.store):,} utterances, {hours:.2f} hours: {len(self.members):,} "
            f"to train on, {len(self.held_out):,} held out for validation",
            f"student   {self.config.name!r}, {parameters:,} parameters"
            + (f" (and {extra:,} that map its memory to the teacher's)" if extra else "")
            + (f", and a critic of {critics:,}" if critics else ""),
            f"device    {self.where()}",
            f"steps     {settings.steps:,} of {settings.batch_size} utterances "
            f"({settings.steps * settings.batch_size / len(self.members):.0f} epochs)"
            + (f"; going on after step {self.step:,}" if self.step else ""),
            f"run       {self.folder}",
        ]
        if self.origin:
            kept = f"; {', '.join(self.frozen)} stay as they are" if self.frozen else ""
            lines.insert(2, f"from      {self.origin.get('name')}, and its layers{kept}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def run(self) -> TrainingResult:
        """Trains up to the last step, while it is getting better, or until a signal asks to stop.

        Raises:
            InputError: the loss was not finite in MOST_SKIPPED steps in a row.
        """
        stopped_by = self._run()
        if self.dashboard:
            self.dashboard.close()
        return TrainingResult(
            step=self.step,
            best_step=self.best_step,
            best_loss=self.best_loss,
            seconds=self.seconds,
            skipped=self.skipped,
            stopped_by=stopped_by,
            voice=self.folder / VOICE_FILE if self.best_step is not None else None,
            waited=self.waited if self.exhausted else 0,
        )

    # What the loop asks

    def _configuration(self) -> dict[str, Any]:
        return self.config.as_dict()

    def _groups(self) -> list[dict[str, Any]]:
        groups = super()._groups()
        critic = self.distillation.adversarial
        if critic is not None:
            of_critic = list(critic.parameters())
            others = groups[0]["params"][: -len(of_critic)]  # the critic comes last in the module
            share = self.config.training.critic_rate
            groups = [{"params": others}, {"params": of_critic, "share": share}]
        return groups

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.training, step)

    def _batches(self) -> Iterator[Batch]:
        settings = self.config.training
        return training_batches(
            self.store, self.members, settings.batch_size, settings.seed, self.step, self.ranks
        )

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        criticised = self.step >= self._critic_begins
        losses: dict[str, Tensor] = self.wrapped(Sealed(batch.to(self.fabric.device)), criticised)
        return losses

    def _begin_to_learn(self) -> None:
        super()._begin_to_learn()
        freeze(self.student, children_of(self.student), self.frozen)

    def _judge(self) -> dict[str, float | None]:
        """Losses over the held-out utterances; the student becomes the voice if it is the best.

        One that has listened to a critic is sharper than the best one before, and a little further
        from the one thing that the teacher said: the first of them is the best so far.
        """
        batches = validation_batches(self.store, self.held_out, self.config.training.batch_size)
        result = validate(self.distillation, batches, self.fabric.device)  # in full precision
        loss = result["loss"]
        self.waited += 1
        critic_came = self.best_step is not None and (
            self.best_step <= self._critic_begins < self.step
        )
        if loss is not None and (critic_came or self._best_loss is None or loss < self._best_loss):
            self.best_step, self._best_loss, self.waited = self.step, loss, 0
            save_voice(
                self.folder,
                self.student,
                self.config,
                step=self.step,
                validation={k: v for k, v in result.items() if v is not None},
                store=self._store_facts(),
                teacher=self.store.manifest["teacher"],
                origin=self.origin,
            )
        if self.dashboard:
            first = next(validation_batches(self.store, self.held_out[:1], 1))
            self.dashboard.show(self.step, self.student, first.to(self.fabric.device))
        return result

    def _save(self) -> None:
        self.saved_step = self.step
        save_state(
            self.folder,
            TrainingState(
                **self._standing(),
                config=self.config,
                store=self._store_facts(),
                origin=self.origin,
                best_loss=self.best_loss,
                waited=self.waited,
            ),
        )

    def _show(self, line: dict[str, Any]) -> None:
        if self.dashboard:
            self.dashboard.log(line)

    def _store_facts(self) -> dict[str, Any]:
        return {
            "digest": self.store.digest,
            "utterances": len(self.store),
            "labelling": self.store.manifest["labelling"],
        }
