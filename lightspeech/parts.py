"""The parts of a model: which can be kept as they are while the rest learns, and how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lightspeech.errors import InputError

Parts = Mapping[str, tuple[str, ...]]
"""name of a part -> what the names of its parameters begin with"""


def children_of(model: nn.Module) -> Parts:
    """Each child of the model that has weights, as a part by its attribute's name."""
    return {
        name: (f"{name}.",)
        for name, child in model.named_children()
        if next(child.parameters(), None) is not None
    }


def check_frozen(frozen: Sequence[str], parts: Parts) -> None:
    """InputError if `--freeze` names what is no part of the model, or all of them."""
    unknown = sorted(set(frozen) - parts.keys())
    if unknown:
        raise InputError(f"--freeze {' '.join(unknown)}: no such part; expected {', '.join(parts)}")
    if set(frozen) == set(parts):
        raise InputError("--freeze names every part, so that nothing would learn: leave one out")


def freeze(model: nn.Module, parts: Parts, frozen: Sequence[str]) -> None:
    """Keeps parts from learning: their parameters, and their batch norm's statistics.

    Args:
        parts: of the model.
        frozen: the names of those to keep.
    """
    prefixes = tuple(prefix for part in frozen for prefix in parts[part])
    if not prefixes:
        return
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d) and f"{name}.".startswith(prefixes):
            module.eval()


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())
