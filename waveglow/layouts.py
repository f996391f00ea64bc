"""What the published layouts of WaveGlow differ in -> one set of weights and its sizes.

NVIDIA's names changed twice. Today's, which the model here has too, with the weight norm folded:

    upsample                     mel -> one vector a sample
    convinv.K.conv               invertible 1x1 convolution of flow K
    WN.K.start, end              into and out of its coupling network
    WN.K.in_layers.I             dilated convolutions
    WN.K.cond_layer              the mel's part, for all layers at once
    WN.K.res_skip_layers.I       residual and skip; the last layer has skip only

Before that, the mel's part was a convolution a layer (`cond_layers.I`), and first of all residual
and skip were two (`res_layers.I`, `skip_layers.I`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from safeload import CheckpointError, CheckpointFile, PickledObject, first
from waveglow.config import WaveGlowConfig

_NORMED = {
    ".weight_v": ".weight_g",
    ".parametrizations.weight.original1": ".parametrizations.weight.original0",
}
"""direction v -> length g, by the names of torch.nn.utils.weight_norm and of its successor"""

_STATED = ("n_mel_channels", "n_flows", "n_group", "n_early_every", "n_early_size")
_STATED_OF_WN = ("n_layers", "n_channels", "kernel_size")

_AXES = {
    "upsample.weight": 3,
    "convinv.0.conv.weight": 3,
    "WN.0.start.weight": 3,
    "WN.0.in_layers.0.weight": 3,
}
"""the weights that carry sizes, with their number of axes"""


def current_weights(file: CheckpointFile, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of any layout -> today's names, weight norm folded; what has them stays as it is.

    Raises CheckpointError where a weight's norm has another shape than its direction.
    """
    return _joined(file, _folded(file, weights))


def _folded(file: CheckpointFile, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w = g v / |v|, the norm taken over all but the first axis (arXiv:1602.07868), in float64."""
    folded = dict(weights)
    for name, v in weights.items():
        suffix = next((s for s in _NORMED if name.endswith(s)), None)
        if suffix is None:
            continue
        layer = name.removesuffix(suffix)
        g = weights.get(layer + _NORMED[suffix])
        if g is None or f"{layer}.weight" in weights:
            continue  # missing or surplus, which the comparison with the model's names will say
        if v.dim() < 2 or g.shape != (v.shape[0], *(1 for _ in v.shape[1:])):
            raise CheckpointError(
                f"{file.path}: the weight norm of {first([layer])} has shapes {tuple(g.shape)} and "
                f"{tuple(v.shape)}; expected one length for each first index"
            )
        length = torch.linalg.vector_norm(v.double().flatten(1), dim=1).reshape(g.shape)
        del folded[name], folded[layer + _NORMED[suffix]]
        folded[f"{layer}.weight"] = (g.double() * v.double() / length).float()
    return folded


def _joined(file: CheckpointFile, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Separate conditioning, residual and skip layers -> joined ones."""
    joined = dict(weights)
    networks = sorted({m[0] for name in weights if (m := re.match(r"WN\.\d+\.", name))})
    for network in networks:
        for kind in ("weight", "bias"):
            n_layers = _count(weights, f"{network}in_layers.", f".{kind}")
            conditions = [f"{network}cond_layers.{i}.{kind}" for i in range(n_layers)]
            if n_layers and all(name in weights for name in conditions):
                _join(file, joined, conditions, f"{network}cond_layer.{kind}")
            for i in range(n_layers):
                skip = f"{network}skip_layers.{i}.{kind}"
                residual = f"{network}res_layers.{i}.{kind}"
                parts = [skip] if i == n_layers - 1 else [residual, skip]
                if all(name in weights for name in parts):
                    _join(file, joined, parts, f"{network}res_skip_layers.{i}.{kind}")
    return joined


def _join(file: CheckpointFile, weights: dict[str, Tensor], parts: list[str], whole: str) -> None:
    if whole in weights:
        raise CheckpointError(
            f"{file.path} has both {parts[0]} and {whole}, of two layouts; expected one of them"
        )
    try:
        weights[whole] = torch.cat([weights.pop(part) for part in parts])
    except RuntimeError as e:
        raise CheckpointError(
            f"{file.path}: the shapes of {first(parts)} do not fit together"
        ) from e


def sizes_of(file: CheckpointFile, weights: Mapping[str, Tensor]) -> WaveGlowConfig:
    """Reads the sizes off the weights (today's names) and compares them with what the file states.

    Raises CheckpointError where they contradict each other, or make no WaveGlow.
    """
    missing = [name for name in _AXES if name not in weights]
    if missing:
        raise CheckpointError(
            f"{file.path} is no WaveGlow checkpoint that fits: no {first(missing)} among its "
            f"{len(weights)} weights; {file.kind.advice}"
        )
    for name, axes in _AXES.items():
        if weights[name].dim() != axes or not weights[name].numel():
            raise CheckpointError(
                f"{file.path}: {name} has shape {tuple(weights[name].shape)}; expected {axes} axes "
                "and none of them empty"
            )
    stated = _stated_sizes(file)
    n_flows = _count(weights, "convinv.", ".conv.weight")
    channels = [_rows(weights[f"convinv.{k}.conv.weight"]) for k in range(n_flows)]
    found: dict[str, Any] = {
        "n_mel_channels": weights["upsample.weight"].shape[0],
        "n_flows": n_flows,
        "n_group": channels[0],
        **_early_outputs(channels, stated),
        "n_layers": _count(weights, "WN.0.in_layers.", ".weight"),
        "n_channels": weights["WN.0.start.weight"].shape[0],
        "kernel_size": weights["WN.0.in_layers.0.weight"].shape[2],
        "upsample_kernel": weights["upsample.weight"].shape[2],
        "upsample_stride": file.audio_facts["hop_length"],
    }
    contradictions = [
        f"{name} is {_shown(stated[name])} by its configuration and {value} by its weights"
        if name != "upsample_stride"
        else f"a mel frame is {_shown(stated[name])} samples, expected {value}"
        for name, value in found.items()
        if name in stated and (type(stated[name]) is not int or stated[name] != value)
    ]
    if contradictions:
        raise CheckpointError(
            f"{file.path} contradicts itself: {'; '.join(contradictions)}; "
            "put the checkpoint and the configuration that belong together into one file"
        )
    try:
        config = WaveGlowConfig(**found)
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{file.path}: its weights have impossible sizes: {e}") from e
    if list(config.flow_channels) != channels:
        raise CheckpointError(
            f"{file.path}: its invertible convolutions have {_row(channels)} channels; expected "
            f"{_row(config.flow_channels)}, with {config.n_early_size} fewer every "
            f"{config.n_early_every} flows"
        )
    return config


def _rows(weight: Tensor) -> int:
    return weight.shape[0] if weight.dim() else 0


def _early_outputs(channels: list[int], stated: Mapping[str, Any]) -> dict[str, int]:
    """After how many flows channels leave, and how many; as stated where none ever do."""
    drops = [k for k in range(1, len(channels)) if channels[k] != channels[k - 1]]
    if drops:
        every = drops[0]
        return {"n_early_every": every, "n_early_size": channels[every - 1] - channels[every]}
    said, size = stated.get("n_early_every"), stated.get("n_early_size")
    return {
        "n_early_every": said if type(said) is int and said >= len(channels) else len(channels),
        "n_early_size": size if type(size) is int else WaveGlowConfig.n_early_size,
    }


def _stated_sizes(file: CheckpointFile) -> dict[str, Any]:
    """The sizes that a file states beside its weights, as far as it does."""
    if file.description is not None and isinstance(file.description.get("config"), dict):
        return dict(file.description["config"])
    stated: dict[str, Any] = {}
    content = file.content
    if isinstance(content, Mapping):
        config = content.get("config")
        if isinstance(config, Mapping):  # DeepLearningExamples
            stated |= _chosen(config, _STATED)
            if isinstance(config.get("WN_config"), Mapping):
                stated |= _chosen(config["WN_config"], _STATED_OF_WN)
        content = content.get("model")
    if isinstance(content, PickledObject):
        content = _child(content, "module") or content  # of a DataParallel
        stated |= _chosen(content.state, _STATED)
        networks = _child(content, "WN")
        if networks is not None and (network := _child(networks, "0")) is not None:
            stated |= _chosen(network.state, _STATED_OF_WN)
        upsample = _child(content, "upsample")
        if upsample is not None and (stride := upsample.state.get("stride")) is not None:
            single = isinstance(stride, tuple | list) and len(stride) == 1
            stated["upsample_stride"] = stride[0] if single else stride
    return stated


def _chosen(of: Mapping[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: of[name] for name in names if name in of}


def _child(module: PickledObject, name: str) -> PickledObject | None:
    children = module.state.get("_modules")
    child = children.get(name) if isinstance(children, Mapping) else None
    return child if isinstance(child, PickledObject) else None


def _count(weights: Mapping[str, Tensor], prefix: str, suffix: str) -> int:
    """How many consecutive layers PREFIX0SUFFIX, PREFIX1SUFFIX, ... there are."""
    count = 0
    while f"{prefix}{count}{suffix}" in weights:
        count += 1
    return count


def _row(numbers: tuple[int, ...] | list[int]) -> str:
    shown = ", ".join(map(str, numbers[:16]))
    return shown + (", ..." if len(numbers) > 16 else "")


def _shown(value: Any) -> str:
    """A value of any sort, fit for a line of text."""
    if isinstance(value, str):
        return ascii(value[:40])
    if value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63):
        return str(value)
    return f"a {type(value).__name__}"
