"""A teacher that says labels again, for the attention that a store does not keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightspeech.errors import InputError
from lightspeech.files import sha256
from lightspeech.shard import Label
from tacotron2 import checkpoints

if TYPE_CHECKING:
    from tacotron2 import Tacotron2

Respeak = Callable[[Label], Tensor]
"""Gives the attention (T, N) with which a label was spoken."""


class TeacherAttention:
    """A Respeak by the teacher that made the labels, with their own seeds.

    Args:
        teacher: in evaluation mode, on any device.
        labelling: the settings that the store's manifest holds.
    """

    def __init__(self, teacher: Tacotron2, labelling: Mapping[str, Any]) -> None:
        self._teacher = teacher
        self._prenet_dropout = labelling.get("prenet_dropout", 0.5)
        self._gate_threshold = labelling.get("gate_threshold", 0.5)

    def __call__(self, label: Label) -> Tensor:
        """One label's."""
        return self.together([label])[0]

    def together(self, labels: Sequence[Label]) -> list[Tensor]:
        """Those of several labels, spoken as one batch, which takes hardly longer than one."""
        device = next(self._teacher.parameters()).device
        output = self._teacher.infer(
            pad_sequence([label.tokens for label in labels], batch_first=True).to(device),
            torch.tensor([len(label.tokens) for label in labels], device=device),
            prenet_dropout=self._prenet_dropout,
            seeds=[label.seed for label in labels],
            gate_threshold=self._gate_threshold,
            max_frames=max(len(label.mel) for label in labels),
        )
        return [
            output.attention[i, : int(output.frames[i]), : len(label.tokens)]
            for i, label in enumerate(labels)
        ]


def attention_of(respeak: Respeak, labels: Sequence[Label]) -> list[Tensor | None]:
    """The attention of each label, on the CPU; None where what was spoken is not the label.

    Another device rounds otherwise, and now and then that makes another rendition.
    """
    if isinstance(respeak, TeacherAttention):
        spoken = respeak.together(labels) if labels else []
    else:
        spoken = [respeak(label) for label in labels]
    found: list[Tensor | None] = []
    for label, attention in zip(labels, spoken, strict=True):
        attention = attention.detach().float().cpu()
        fits = attention.shape == (len(label.mel), len(label.tokens))
        found.append(attention if fits and bool(attention.isfinite().all()) else None)
    return found


def find_checkpoint(choice: str, digest: str) -> Path | None:
    """The file of the teacher with this SHA-256.

    Args:
        choice: `auto` looks into tacotron2/pretrained, `none` does not; or the path of the file.

    Raises:
        InputError: the file that was named is missing, or another teacher.
    """
    if choice == "none":
        return None
    if choice == "auto":
        return next((path for path in checkpoints() if sha256(path) == digest), None)
    path = Path(choice)
    if not path.is_file():
        raise InputError(f"no teacher at {path}; name its checkpoint, or use --teacher none")
    found = sha256(path)
    if found != digest:
        raise InputError(
            f"{path} ({found[:12]}) is not the teacher of these labels ({digest[:12]}); "
            "name that one, or use --teacher none"
        )
    return path
