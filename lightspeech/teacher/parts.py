"""The parts of a teacher that can be kept as they are while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tacotron2 import Tacotron2

PARTS = {
    "embedding": ("embedding.",),
    "encoder": ("encoder.",),
    "attention": ("decoder.attention_layer.", "decoder.attention_rnn."),
    "decoder": (
        "decoder.prenet.",
        "decoder.decoder_rnn.",
        "decoder.linear_projection.",
        "decoder.gate_layer.",
    ),
    "postnet": ("postnet.",),
}
"""name -> what the names of its parameters begin with"""


def freeze(model: Tacotron2, parts: Sequence[str]) -> None:
    """Keeps `parts` from learning: their parameters, and their batch norm's statistics."""
    prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
    if not prefixes:
        return
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d) and f"{name}.".startswith(prefixes):
            module.eval()
