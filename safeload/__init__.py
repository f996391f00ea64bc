"""Loads checkpoint files, other people's among them, without running anything that they hold.

    file = read_checkpoint_file(path, kind)      any format -> dictionaries, lists, tensors
    weights = find_state_dict(file)              wherever it lies in there, or in a whole module

    pickled           a pickle as data: nothing that it names is imported or called
    torch_file        PyTorch's zip and legacy formats
    checkpoint_file   which format it is, safetensors with a JSON beside it; Kind, CheckpointFile
    state_dict        the weights: found, checked, in single precision
    write             safetensors + JSON
    converter         the command line of both converters

`tacotron2`, `waveglow` and `lightspeech` use it; it imports none of them.
"""

from __future__ import annotations

from safeload.checkpoint_file import (
    CheckpointFile,
    Kind,
    description_path,
    read_checkpoint_file,
)
from safeload.converter import describe_conversion, run_converter
from safeload.errors import CheckpointError
from safeload.pickled import PickledObject
from safeload.state_dict import check_shapes, find_state_dict, first, single_precision
from safeload.write import check_target, write_checkpoint

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "Kind",
    "PickledObject",
    "check_shapes",
    "check_target",
    "describe_conversion",
    "description_path",
    "find_state_dict",
    "first",
    "read_checkpoint_file",
    "run_converter",
    "single_precision",
    "write_checkpoint",
]
