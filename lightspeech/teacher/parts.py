"""The parts of a teacher that can be kept as they are while the rest learns."""

from __future__ import annotations

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
"""name -> what the names of its parameters begin with, as `lightspeech.parts` takes it"""
