"""Checkpoint file -> WaveGlow, from any layout in which such checkpoints are published."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from safeload import (
    CheckpointError,
    CheckpointFile,
    Kind,
    check_shapes,
    find_state_dict,
    read_checkpoint_file,
    single_precision,
)
from waveglow.config import AUDIO_FACTS, WaveGlowConfig
from waveglow.layouts import current_weights, sizes_of
from waveglow.model import WaveGlow

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where a user drops a checkpoint."""

PUBLISHED = "waveglow_256channels.pt"
"""The name under which NVIDIA publishes the LJSpeech checkpoint."""

KIND = Kind(
    name="WaveGlow",
    example=f"NVIDIA's {PUBLISHED}",
    marks=re.compile(r"(WN|convinv)\.\d"),
    audio_facts=AUDIO_FACTS,
    format="waveglow",
    converter="python -m waveglow.convert",
    modules=frozenset({"glow", "glow_old", "waveglow.glow", "waveglow.glow_old", "waveglow.model"}),
    hint=(
        f"expected a WaveGlow checkpoint such as NVIDIA's {PUBLISHED}: give its path or put it "
        f"into {PRETRAINED}"
    ),
)
"""Whole modules were pickled under the first two names in NVIDIA's repository, under the others in
programs that have it in a folder; none of them is imported."""

_SUFFIXES = (".pt", ".pth", ".safetensors")
_SINGULAR = 1e-6
"""a matrix whose smallest singular value is this share of its largest has no usable inverse"""
_SMALLEST = 1e-30
"""a singular value whose inverse is too large for single precision"""


def checkpoints(folder: Path = PRETRAINED) -> list[Path]:
    """All the checkpoints in `folder`: what ends in .pt, .pth or .safetensors or starts with
    `nvidia_waveglow` (NVIDIA publishes some without a suffix)."""
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in _SUFFIXES or path.name.startswith("nvidia_waveglow")
    )


def default_checkpoint(folder: Path = PRETRAINED) -> Path:
    """The checkpoint to use where none is named: `waveglow_256channels.pt`, or else the only one.

    Raises CheckpointError if there are several, or none.
    """
    if (folder / PUBLISHED).exists():
        return folder / PUBLISHED
    own = checkpoints(folder)
    if len(own) > 1:
        names = ", ".join(path.name for path in own)
        raise CheckpointError(
            f"several checkpoints in {folder}: {names}; keep one there, or name the one to use"
        )
    if not own:
        raise CheckpointError(
            f"no WaveGlow checkpoint in {folder}; put NVIDIA's {PUBLISHED} there "
            f"(see {folder / 'README.md'}), or give the path of another"
        )
    return own[0]


def load_waveglow(path: str | Path, device: str | torch.device = "cpu") -> WaveGlow:
    """Loads a checkpoint, in evaluation mode and single precision, with the weight norm folded.

    Layouts: NVIDIA's whole pickled modules in both of PyTorch's file formats, with their
    conditioning, residual and skip layers separate (the oldest) or joined; DeepLearningExamples'
    state dicts with a `config`; state dicts alone or under `state_dict` or `model`; with or without
    `module.` prefixes and weight norm, under its old or its new names; and safetensors with the
    JSON that `waveglow.convert` writes beside it, whose checksum is verified. Sizes are read off
    the weights. Nothing in a file is ever executed.

    The result's `source` has the `path`, the `name` (the file's name without its suffix) and the
    `sha256` of the file; its `audio_facts` say what mels it takes.

    Raises:
        CheckpointError: the file is missing, damaged, something else, or does not fit; one line
            says what is wrong and what to do.
    """
    return build_waveglow(read_checkpoint_file(path, KIND), device)


def build_waveglow(file: CheckpointFile, device: str | torch.device = "cpu") -> WaveGlow:
    """The model in a checkpoint file that has been read; see `load_waveglow`."""
    found = single_precision(file, find_state_dict(file))
    weights = current_weights(file, found)
    config = sizes_of(file, weights)
    if config.n_flows * config.n_layers > len(weights):  # before so many layers are made
        raise CheckpointError(
            f"{file.path} has {config.n_flows} flows of {config.n_layers} layers by its first "
            f"flow's, but only {len(weights)} weights; {file.kind.advice}"
        )
    try:
        with torch.device("meta"):
            model = WaveGlow(config)
    except RuntimeError as e:  # sizes beyond what a tensor can have
        raise CheckpointError(f"{file.path}: its weights have impossible sizes: {config}") from e
    check_shapes(file, weights, model.state_dict())
    weights = single_precision(file, weights)  # again: folding divides by lengths, which may be 0
    _check_invertible(file, weights, config)
    model.load_state_dict(weights, assign=True)
    model.audio_facts = _audio_facts(file, config)
    model.source = {"path": str(file.path), "name": file.path.stem, "sha256": file.sha256}
    return model.to(device).eval()


def _check_invertible(
    file: CheckpointFile, weights: dict[str, Tensor], config: WaveGlowConfig
) -> None:
    for k in range(config.n_flows):
        name = f"convinv.{k}.conv.weight"
        scales = torch.linalg.svdvals(weights[name][:, :, 0].double())
        if not scales[-1] > max(_SINGULAR * float(scales[0]), _SMALLEST):
            raise CheckpointError(
                f"{file.path}: {name} is singular, so the flow cannot be inverted; the training "
                "that made it diverged, or the file is damaged: use an earlier checkpoint"
            )


def _audio_facts(file: CheckpointFile, config: WaveGlowConfig) -> dict[str, int | float | str]:
    """The mels that the model takes: its own number of bins, all else as the file says."""
    stated = file.audio_facts["n_mels"]
    if file.description is not None and stated != config.n_mel_channels:
        raise CheckpointError(
            f"{file.path} contradicts itself: the JSON beside it says n_mels {stated}, its weights "
            f"take {config.n_mel_channels}; restore both files"
        )
    return {**file.audio_facts, "n_mels": config.n_mel_channels}
