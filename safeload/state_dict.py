"""The state dict in a checkpoint: found, cleaned, compared with what a model needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from safeload.checkpoint_file import CheckpointFile
from safeload.errors import CheckpointError
from safeload.pickled import PickledObject
from safeload.torch_file import weights_of

_ENOUGH = 10_000
"""names that tell one model from another"""

_PLACES = ("state_dict", "model", "generator")

# Models that people take for one another, by the names of their parameters.
_MODELS = {
    "Tacotron 2": ("a text-to-mel model", r"decoder\.(prenet|attention_rnn)\."),
    "WaveGlow": ("a vocoder", r"(WN|convinv)\.\d|upsample\.(weight|bias)$"),
    "HiFi-GAN": ("a vocoder", r"(conv_pre|conv_post|resblocks\.\d|ups\.\d)"),
    "HiFi-GAN's discriminators": ("needed for its training only", r"(mpd|msd|discriminators)\."),
    "LightSpeech": ("the student", r"duration_predictor\."),
}


def find_state_dict(file: CheckpointFile) -> dict[str, Tensor]:
    """The weights in a checkpoint, without `module.` prefixes.

    They may be the content itself, lie under `state_dict`, `model` or `generator`, or be those of
    a whole pickled module in either place.

    Raises CheckpointError if there are none, or they are another model's: it says which.
    """
    content = file.content
    if isinstance(content, Mapping):
        for place in _PLACES:
            if isinstance(content.get(place), Mapping | PickledObject):
                content = content[place]
                break
    if isinstance(content, PickledObject):
        content = _weights_of(file, content)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file.path} holds a {type(content).__name__}; expected a {file.kind.name} state dict "
            f"such as {file.kind.example}"
        )
    weights: dict[str, Tensor] = {}
    for full_name, value in content.items():
        if isinstance(value, Tensor):
            name = re.sub(r"^(module\.)+", "", str(full_name))
            if name in weights:
                raise CheckpointError(
                    f"{file.path} has {first([name])} twice, with and without module.; "
                    "expected one model's weights"
                )
            weights[name] = value
    if not any(file.kind.marks.match(name) for name in weights):
        raise CheckpointError(f"{file.path} {_what_it_is(file, content)}; {file.kind.advice}")
    others = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    if others:
        raise CheckpointError(
            f"{file.path}: expected only tensors in the state dict, got {first(others)}"
        )
    overlapping = [name for name, weight in weights.items() if _overlaps(weight)]
    if overlapping:
        raise CheckpointError(
            f"{file.path}: elements of {first(overlapping)} lie upon each other; the file is "
            "damaged, or the model was saved after expand(): save contiguous copies"
        )
    return weights


def _overlaps(weight: Tensor) -> bool:
    """Whether elements share memory, which a trained weight's cannot, and a damaged stride's do."""
    reach = 0
    for stride, size in sorted(zip(weight.stride(), weight.shape, strict=True)):
        if size > 1 and weight.numel():
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False


def _weights_of(file: CheckpointFile, module: PickledObject) -> dict[str, Tensor]:
    try:
        return weights_of(module)
    except (TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(
            f"{file.path} holds a {first([module.name])} that makes no sense ({first([str(e)])}); "
            "copy or download it again and compare its size with the original's"
        ) from e


def _what_it_is(file: CheckpointFile, content: Mapping[Any, Any]) -> str:
    """Says what a file without the wanted weights holds instead."""
    names = [str(name) for name in content]
    for value in content.values():  # a state dict one level down
        if isinstance(value, Mapping) and len(names) < _ENOUGH:
            names += [str(name) for name in islice(value, _ENOUGH)]
    names = [name.removeprefix("module.") for name in names]
    for model, (what, pattern) in _MODELS.items():
        if model != file.kind.name and any(re.match(pattern, name) for name in names):
            return f"is a checkpoint of {model} ({what}), not of {file.kind.name}"
    found = f"its entries are {first(names)}" if names else "it is empty"
    return f"has none of {file.kind.name}'s weights ({found})"


def check_shapes(
    file: CheckpointFile,
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    optional: Callable[[str], bool] = lambda name: False,
    *,
    advice: str = "",
) -> None:
    """CheckpointError if weights are missing, surplus, or of other shapes than `expected`.

    `optional` says of a name that it may be missing; `advice`, what to do next, ends the message
    where the usual, another checkpoint, is not all.
    """
    missing = [n for n in expected if n not in weights and not optional(n)]
    surplus = [n for n in weights if n not in expected]
    wrong = [
        f"{n} is {tuple(weights[n].shape)}, expected {tuple(expected[n].shape)}"
        for n in expected
        if n in weights and weights[n].shape != expected[n].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} weights are missing: {first(missing)}")
    if surplus:
        problems.append(f"{len(surplus)} weights are not {file.kind.name}'s: {first(surplus)}")
    if wrong:
        problems.append(f"{len(wrong)} weights have a wrong shape: {first(wrong)}")
    if problems:
        usual = f"use a checkpoint such as {file.kind.example}, without changes to its layers"
        raise CheckpointError(
            f"{file.path} does not fit {file.kind.name}: {'; '.join(problems)}; {advice or usual}"
        )


def single_precision(file: CheckpointFile, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32, contiguous; CheckpointError where one is not finite, or no float."""
    result = {}
    broken = []
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise CheckpointError(
                f"{file.path}: {first([name])} is of type {weight.dtype}; expected half or single "
                "precision, so convert from the original checkpoint, before it was quantised"
            )
        result[name] = weight.detach().to(torch.float32).contiguous()
        if not torch.isfinite(result[name]).all():
            broken.append(name)
    if broken:
        raise CheckpointError(
            f"{file.path}: {len(broken)} weights hold numbers that are not finite (NaN or "
            f"infinite): {first(broken)}; the training that made it diverged, or the file is "
            "damaged: use an earlier checkpoint"
        )
    return result


def first(names: list[str], count: int = 3) -> str:
    """The first few names, fit for a line of text."""
    short = [name if len(name) <= 200 else f"{name[:200]}..." for name in names[:count]]
    shown = [name if name.isprintable() else ascii(name) for name in short]
    return ", ".join(shown) + (", ..." if len(names) > count else "")
