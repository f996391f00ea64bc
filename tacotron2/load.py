"""Checkpoint file -> Tacotron2, from any layout in which such checkpoints are published."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from safeload import (
    CheckpointError,
    CheckpointFile,
    Kind,
    check_shapes,
    find_state_dict,
    read_checkpoint_file,
    single_precision,
)
from tacotron2.config import AUDIO_FACTS, N_SYMBOLS, Tacotron2Config
from tacotron2.model import Tacotron2

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where the bundled checkpoint is, and where a user drops their own."""

BUNDLED = "tacotron2_slt.safetensors"
PUBLISHED = "tacotron2_statedict.pt"
"""The name under which NVIDIA publishes the LJSpeech checkpoint."""

_SUFFIXES = (".pt", ".pth", ".safetensors")

KIND = Kind(
    name="Tacotron 2",
    example=f"NVIDIA's {PUBLISHED}",
    marks=re.compile(r"decoder\.prenet\."),
    audio_facts=AUDIO_FACTS,
    format="tacotron2",
    converter="python -m tacotron2.convert",
    hint=f"expected a Tacotron 2 checkpoint such as NVIDIA's {PUBLISHED}: give its path or put it "
    f"into {PRETRAINED}",
)


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
    return build_tacotron2(read_checkpoint_file(path, KIND), device)


def build_tacotron2(file: CheckpointFile, device: str | torch.device = "cpu") -> Tacotron2:
    """The model in a checkpoint file that has been read; see `load_tacotron2`."""
    weights = find_state_dict(file)
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
    expected = model.state_dict()
    # Checkpoints from before PyTorch 0.4.1 lack batch norm's counters, which only training uses.
    check_shapes(file, weights, expected, optional=_is_counter)
    floats = single_precision(file, {n: w for n, w in weights.items() if not _is_counter(n)})
    model.load_state_dict(
        {
            name: weights.get(name, torch.tensor(0)).to(torch.int64)
            if _is_counter(name)
            else floats[name]
            for name in expected
        },
        assign=True,
    )
    model.audio_facts = dict(file.audio_facts)
    model.source = {"path": str(file.path), "name": file.path.stem, "sha256": file.sha256}
    return model.to(device).eval()


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
