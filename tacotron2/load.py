"""Checkpoint file -> Tacotron2, from any layout in which such checkpoints are published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tacotron2.checkpoint_file import CheckpointFile, read_checkpoint_file
from tacotron2.config import N_SYMBOLS, Tacotron2Config
from tacotron2.errors import CheckpointError
from tacotron2.model import Tacotron2

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where the bundled checkpoint is, and where a user drops their own."""

BUNDLED = "tacotron2_mini.safetensors"
PUBLISHED = "tacotron2_statedict.pt"
"""The name under which NVIDIA publishes the LJSpeech checkpoint."""

_SUFFIXES = (".pt", ".pth", ".safetensors")

# Other models that people take for this one, by the names of their parameters.
_OTHER_MODELS = {
    "WaveGlow (a vocoder)": re.compile(r"(WN|convinv)\.\d|upsample\.(weight|bias)$"),
    "HiFi-GAN (a vocoder)": re.compile(r"(conv_pre|conv_post|resblocks\.\d|ups\.\d)"),
    "LightSpeech (the student)": re.compile(r"duration_predictor\."),
}


def checkpoints(folder: Path = PRETRAINED) -> list[Path]:
    """All the checkpoints in `folder`: what ends in .pt, .pth or .safetensors or starts with
    `nvidia_tacotron2` (NVIDIA publishes some without a suffix)."""
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in _SUFFIXES or path.name.startswith("nvidia_tacotron2")
    )


def default_checkpoint(folder: Path = PRETRAINED) -> Path:
    """The checkpoint to use where none is named: the user's, else the bundled one.

    The user's is `tacotron2_statedict.pt` in `folder`, or else the only other one of `checkpoints`.
    Raises CheckpointError if there are several, or none at all.
    """
    if (folder / PUBLISHED).exists():
        return folder / PUBLISHED
    own = [path for path in checkpoints(folder) if path.name != BUNDLED]
    if len(own) > 1:
        names = ", ".join(path.name for path in own)
        raise CheckpointError(
            f"several checkpoints in {folder}: {names}; keep one there, or name the one to use"
        )
    if own:
        return own[0]
    if (folder / BUNDLED).exists():
        return folder / BUNDLED
    raise CheckpointError(
        f"no Tacotron 2 checkpoint in {folder}: the bundled {BUNDLED} is missing; "
        f"restore it with git, or put NVIDIA's {PUBLISHED} there"
    )


def load_tacotron2(path: str | Path, device: str | torch.device = "cpu") -> Tacotron2:
    """Loads a checkpoint, in evaluation mode and single precision.

    Layouts: NVIDIA's training checkpoints and `tacotron2_statedict.pt` (a `state_dict` beside other
    entries), DeepLearningExamples' (also with a `config`), bare state dicts, all with or without
    `module.` prefixes, in half or single precision, in both of PyTorch's file formats; and
    safetensors with the JSON that `tacotron2.convert` writes beside it, whose checksum is verified.
    Sizes are read off the weights. Nothing in a file is ever executed.

    The result's `source` has the `path`, the `name` (the file's name without its suffix) and the
    `sha256` of the file; its `audio_facts` say what its mels are.

    Raises:
        CheckpointError: the file is missing, damaged, something else, or does not fit; one line
            says what is wrong and what to do.
    """
    return build_tacotron2(read_checkpoint_file(path, hint=_where_to_get_one()), device)


def build_tacotron2(file: CheckpointFile, device: str | torch.device = "cpu") -> Tacotron2:
    """The model in a checkpoint file that has been read; see `load_tacotron2`."""
    weights = find_weights(file)
    try:
        config = Tacotron2Config.from_state_dict(weights)
    except CheckpointError as e:
        raise CheckpointError(f"{file.path} is no Tacotron 2 checkpoint that fits: {e}") from e
    if config.n_symbols != N_SYMBOLS:
        raise CheckpointError(
            f"{file.path} was trained with {config.n_symbols} symbols, the text front end here has "
            f"{N_SYMBOLS}; use a checkpoint that was trained with NVIDIA's symbol table"
        )
    if config.n_mel_channels != file.audio_facts["n_mels"]:
        raise CheckpointError(
            f"{file.path} makes {config.n_mel_channels} mel bins, expected "
            f"{file.audio_facts['n_mels']}; use a checkpoint with the published audio settings"
        )
    with torch.device("meta"):
        model = Tacotron2(config)
    _check_shapes(file.path, weights, model.state_dict())
    model.load_state_dict(_single_precision(file.path, weights, model), assign=True)
    model.audio_facts = dict(file.audio_facts)
    model.source = {"path": str(file.path), "name": file.path.stem, "sha256": file.sha256}
    return model.to(device).eval()


def find_weights(file: CheckpointFile) -> dict[str, Tensor]:
    """The state dict in a checkpoint, without `module.` prefixes; CheckpointError without one."""
    content = file.content
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file.path} holds a {type(content).__name__}; expected a Tacotron 2 state dict"
        )
    weights = {
        re.sub(r"^(module\.)+", "", str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if "embedding.weight" not in weights or not any(n.startswith("decoder.pre") for n in weights):
        raise CheckpointError(f"{file.path} {_what_it_is(content)}; {_where_to_get_one()}")
    others = sorted(str(name) for name in content if not isinstance(content[name], Tensor))
    if others:
        raise CheckpointError(
            f"{file.path}: expected only tensors in the state dict, got {_first(others)}"
        )
    return weights


def _what_it_is(content: Mapping[Any, Any]) -> str:
    """Says what a file without Tacotron 2's weights holds instead."""
    names = [str(name) for name in content]
    for value in content.values():  # a state dict one level down, such as HiFi-GAN's "generator"
        if isinstance(value, Mapping):
            names += [str(name) for name in value]
    names = [name.removeprefix("module.") for name in names]
    for model, pattern in _OTHER_MODELS.items():
        if any(pattern.match(name) for name in names):
            return f"is a checkpoint of {model}, not of Tacotron 2"
    found = f"its entries are {_first(names)}" if names else "it is empty"
    return f"has none of Tacotron 2's weights ({found})"


def _where_to_get_one() -> str:
    return (
        f"expected a Tacotron 2 checkpoint such as NVIDIA's {PUBLISHED}: give its path or put it "
        f"into {PRETRAINED}"
    )


def _check_shapes(path: Path, weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    # Checkpoints from before PyTorch 0.4.1 lack batch norm's counters, which only training uses.
    missing = [n for n in model if n not in weights and not n.endswith("num_batches_tracked")]
    surplus = [n for n in weights if n not in model]
    wrong = [
        f"{n} is {tuple(weights[n].shape)}, expected {tuple(model[n].shape)}"
        for n in model
        if n in weights and weights[n].shape != model[n].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} weights are missing: {_first(missing)}")
    if surplus:
        problems.append(f"{len(surplus)} weights are not Tacotron 2's: {_first(surplus)}")
    if wrong:
        problems.append(f"{len(wrong)} weights have a wrong shape: {_first(wrong)}")
    if problems:
        raise CheckpointError(
            f"{path} does not fit Tacotron 2: {'; '.join(problems)}; "
            "use a checkpoint of NVIDIA's Tacotron 2, without changes to its layers"
        )


def _single_precision(
    path: Path, weights: Mapping[str, Tensor], model: Tacotron2
) -> dict[str, Tensor]:
    """The weights as the model needs them: float32, finite, in its order."""
    result = {}
    broken = []
    for name, expected in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            result[name] = weights.get(name, torch.tensor(0)).detach().to(torch.int64)
            continue
        if not weights[name].is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is of type {weights[name].dtype}; expected half or single "
                "precision, so convert from the original checkpoint, before it was quantised"
            )
        weight = weights[name].detach().to(expected.dtype).contiguous()
        if not torch.isfinite(weight).all():
            broken.append(name)
        result[name] = weight
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} weights hold numbers that are not finite (NaN or infinite): "
            f"{_first(broken)}; the training that made it diverged, so use an earlier checkpoint"
        )
    return result


def _first(names: list[str], count: int = 3) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:count]]
    return ", ".join(shown) + (", ..." if len(names) > count else "")
