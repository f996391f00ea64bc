"""The state of a training on disk: all that it needs to go on as if it had never stopped.

`last.safetensors`, of the form that checkpoint.py describes, and `previous.safetensors`, the one
before: at any moment one of them is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightspeech.checkpoint import (
    FORMAT_VERSION,
    PREVIOUS_STATE_FILE,
    STATE_FILE,
    code_version,
    encode_file,
    fact,
    read_file,
)
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.files import atomic_path

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """Where a training loop stands, whatever it trains."""

    step: int
    """optimiser steps done, those that were skipped included"""
    origin: dict[str, Any] = field(default_factory=dict)
    """what its first weights were, and the parts that stay `frozen`; empty: from scratch"""
    ranks: int = 1
    """processes that shared it"""
    threads: int
    """CPU threads of each: another number adds in another order, so the last bits may differ"""
    precision: str = "32-true"
    """of its products, as in training_loop.PRECISIONS"""
    average_steps: int = 0
    """steps that the average of the weights has taken in"""
    tensors: dict[str, Tensor]
    """weights, optimiser moments, random generators (`capture`), the average"""
    best_step: int | None = None
    """the step of the best validation so far"""
    skipped: int = 0
    """steps left out because a loss or gradient was not finite"""
    skipped_in_a_row: int = 0
    """how many of them just now, one after the other"""
    seconds: float = 0.0
    """time spent training, in all the sittings"""


@dataclass(frozen=True, kw_only=True)
class TrainingState(LoopState):
    """The state of a student's training."""

    config: Config
    """the configuration of the run"""
    store: dict[str, Any]
    """the label store: `digest`, `utterances`"""
    best_loss: float | None = None
    """the loss of the best validation"""
    waited: int = 0
    """validations since then"""


def loop_facts(facts: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """The fields of LoopState in a file; those that older versions did not write may be missing."""
    older = {"origin": {}, "ranks": 1, "precision": "32-true", "average_steps": 0}
    facts = {**older, **facts}
    return {
        "step": fact(facts, "step", int, path),
        "origin": fact(facts, "origin", dict, path),
        "ranks": fact(facts, "ranks", int, path),
        "threads": fact(facts, "threads", int, path),
        "precision": fact(facts, "precision", str, path),
        "average_steps": fact(facts, "average_steps", int, path),
        "tensors": tensors,
        "best_step": fact(facts, "best_step", (int, type(None)), path),
        "skipped": fact(facts, "skipped", int, path),
        "skipped_in_a_row": fact(facts, "skipped_in_a_row", int, path),
        "seconds": fact(facts, "seconds", (int, float), path),
    }


def capture(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, the optimiser's moments under the same names, random generators, as tensors."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore(
    tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of `capture`, for an optimiser of parameters of the module, in any groups.

    Raises:
        InputError: the module has other parameters than the one that was captured.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part == "module":
            weights[rest] = value
        elif part == "optimizer":
            key, _, parameter = rest.partition("/")
            moments.setdefault(parameter, {})[key] = value
    try:
        module.load_state_dict(weights)
    except RuntimeError as e:
        raise InputError(
            "the run was saved by a version whose student or losses have other layers: "
            "go on with that version, or start another run with --out"
        ) from e
    # The optimiser numbers its parameters in the order in which it was given them.
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    saved = optimizer.state_dict()
    saved["state"] = {order.index(name): values for name, values in moments.items()}
    optimizer.load_state_dict(saved)
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def save_state(folder: Path, state: TrainingState) -> None:
    """Writes the state as `last.safetensors`; what was there becomes `previous.safetensors`."""
    replace_state(folder, state, "training")


def replace_state(folder: Path, state: Any, kind: str) -> None:
    """Writes `last.safetensors`; what was there becomes `previous.safetensors`.

    Args:
        state: a dataclass with a `config` and `tensors`; its other fields are fit for JSON.
        kind: as `read_file` takes it.
    """
    facts = {name: value for name, value in vars(state).items() if name != "tensors"}
    facts |= {
        "format": FORMAT_VERSION,
        "kind": kind,
        "config": state.config.as_dict(),
        "code_version": code_version(),
    }
    content = encode_file(facts, state.tensors)
    last = folder / STATE_FILE
    with atomic_path(last) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Only now, so that a kill finds the older state, if not both, at any moment.
        if last.exists():
            os.replace(last, folder / PREVIOUS_STATE_FILE)


def load_state(folder: Path) -> tuple[TrainingState, str | None]:
    """The last state that can be read, and a note where that is not the last one written."""
    return newest_state(folder, _load_state)


def newest_state(folder: Path, load: Callable[[Path], State]) -> tuple[State, str | None]:
    """What `load` makes of `last.safetensors` or, where that is damaged, of the one before."""
    try:
        return load(folder / STATE_FILE), None
    except InputError as e:
        previous = folder / PREVIOUS_STATE_FILE
        if not previous.exists():
            raise
        state = load(previous)
        # The next save would move the damaged file over this good one.
        (folder / STATE_FILE).unlink(missing_ok=True)
        return state, f"{e}; going on from {previous} instead"


def _load_state(path: Path) -> TrainingState:
    facts, tensors = read_file(path, "training")
    store = fact(facts, "store", dict, path)
    fact(store, "digest", str, path)
    return TrainingState(
        **loop_facts(facts, tensors, path),
        config=Config.from_dict(facts.get("config"), str(path)),
        store=store,
        best_loss=fact(facts, "best_loss", (float, type(None)), path),
        waited=fact({"waited": 0, **facts}, "waited", int, path),
    )
