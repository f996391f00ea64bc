"""The processes of a training, which torchrun starts, as one: they wait, agree and add up.

Each function is called by all processes at the same point. One process alone needs no group, and
then they do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from lightspeech.cli import resolve_device
from lightspeech.errors import InputError
from lightspeech.ranks import Ranks

LONGEST_WAIT = timedelta(days=2)
"""of a process for the others: one of them may have hours of recordings to prepare"""


def device_of(ranks: Ranks, name: str) -> torch.device:
    """What `--device NAME` means for this process: of several, each has a GPU of its own.

    Raises:
        InputError: see `resolve_device`; fewer GPUs than processes, one GPU named for several.
    """
    device = resolve_device(name)
    if device.type == "cpu" or ranks.count == 1:
        return device
    if device.index is not None:
        raise InputError(
            f"--device {name} names one GPU for {ranks.count} processes: give --device cuda, and "
            "each takes its own"
        )
    return resolve_device(f"cuda:{ranks.local}")


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The processes know each other while the block runs.

    Args:
        device: where this one computes. CPUs talk through gloo, also where there are GPUs.

    Raises:
        InputError: there are to be several, and nobody has told where they meet.
    """
    if ranks.count == 1:
        yield
        return
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"WORLD_SIZE is {ranks.count} in the environment, but there is no MASTER_ADDR at which "
            "the processes could meet: start them with torchrun"
        )
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=LONGEST_WAIT,
    )
    yield
    # Not after an exception: the process ends, and the others may no longer be there.
    distributed.destroy_process_group()


def wait_for_all(ranks: Ranks) -> None:
    """Returns when all the processes have come here."""
    highest(ranks, 0)


def highest(ranks: Ranks, number: int) -> int:
    """The largest number that any process gave."""
    if ranks.count == 1:
        return number
    value = torch.tensor(number)
    with _others_may_be_gone():
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def add_up(ranks: Ranks, tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by the sum of all processes' ones; in the same order everywhere.

    Args:
        tensors: of one type, on one device.
    """
    if ranks.count == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message instead of many
    with _others_may_be_gone():
        distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def take_from_first(ranks: Ranks, module: nn.Module) -> None:
    """Gives the module the weights that it has in the first process."""
    if ranks.count == 1:
        return
    with _others_may_be_gone():
        for value in module.state_dict().values():
            distributed.broadcast(value, 0)


@contextmanager
def _others_may_be_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as e:  # what it says differs from backend to backend
        raise InputError(
            "another of the processes has ended, and this one cannot go on alone; what was saved "
            f"before is kept ({str(e).splitlines()[0]})"
        ) from e
