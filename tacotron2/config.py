"""The sizes of a Tacotron 2, under NVIDIA's names for them, and the facts about its audio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch

from safeload import CheckpointError

N_SYMBOLS = 148
"""Symbols of the published text front end; a checkpoint with another count speaks another table."""

AUDIO_FACTS: dict[str, int | float | str] = {
    "sample_rate": 22050,
    "fft_size": 1024,
    "window": "hann",
    "window_length": 1024,
    "hop_length": 256,
    "n_mels": 80,
    "mel_fmin": 0.0,
    "mel_fmax": 8000.0,
    "mel_scale": "slaney",
    "spectrum": "magnitude",
    "log": "natural",
    "log_floor": 1e-5,
}
"""How the published models' mels are made: Hz, samples, bins; ln(max(magnitude, log_floor))."""


@dataclass(frozen=True)
class Tacotron2Config:
    """Sizes of the layers. The defaults are those of the published model (28 M parameters)."""

    n_symbols: int = N_SYMBOLS
    """rows of the symbol embedding"""
    symbols_embedding_dim: int = 512
    """width of a symbol's vector; the same as encoder_embedding_dim"""
    encoder_kernel_size: int = 5
    """tokens under an encoder convolution (odd)"""
    encoder_n_convolutions: int = 3
    """convolutions before the encoder's LSTM"""
    encoder_embedding_dim: int = 512
    """E: width of the encoder memory, both directions together (even)"""
    attention_rnn_dim: int = 1024
    """width of the LSTM that queries the attention"""
    attention_dim: int = 128
    """width in which query, memory and location are compared"""
    attention_location_n_filters: int = 32
    """filters over the attention so far"""
    attention_location_kernel_size: int = 31
    """tokens under such a filter (odd)"""
    prenet_dim: int = 256
    """width of both pre-net layers"""
    decoder_rnn_dim: int = 1024
    """width of the LSTM that makes the frames"""
    n_mel_channels: int = 80
    """M: mel bins"""
    postnet_embedding_dim: int = 512
    """channels of the post-net"""
    postnet_kernel_size: int = 5
    """frames under a post-net convolution (odd)"""
    postnet_n_convolutions: int = 5
    """convolutions of the post-net, at least 2"""
    p_attention_dropout: float = 0.1
    """share of the attention LSTM's outputs that is dropped while training"""
    p_decoder_dropout: float = 0.1
    """share of the decoder LSTM's outputs that is dropped while training"""

    def __post_init__(self) -> None:
        problems = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.startswith("p_"):
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int | float)
                    or not 0 <= value < 1
                ):
                    problems.append(f"{f.name} must be at least 0 and below 1, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{f.name} must be a whole number of at least 1, not {value!r}")
            elif f.name.endswith("kernel_size") and value % 2 == 0:
                problems.append(f"{f.name} must be odd, not {value}")
        if not problems:
            if self.symbols_embedding_dim != self.encoder_embedding_dim:
                problems.append(
                    "symbols_embedding_dim and encoder_embedding_dim must be equal, not "
                    f"{self.symbols_embedding_dim} and {self.encoder_embedding_dim}"
                )
            if self.encoder_embedding_dim % 2:
                problems.append(
                    f"encoder_embedding_dim must be even, not {self.encoder_embedding_dim}"
                )
            if self.postnet_n_convolutions < 2:
                problems.append("postnet_n_convolutions must be at least 2, not 1")
        if problems:
            raise ValueError("Tacotron 2 configuration: " + "; ".join(problems))

    def as_dict(self) -> dict[str, int | float]:
        """Field name -> value, for JSON."""
        return asdict(self)

    @staticmethod
    def from_state_dict(weights: Mapping[str, torch.Tensor]) -> Tacotron2Config:
        """Reads the sizes off `weights`, which has NVIDIA's names without a `module.` prefix.

        Raises CheckpointError where a weight that carries a size is missing or has another number
        of axes, or where the sizes make no Tacotron 2. The two drop-out rates leave no trace in the
        weights and get their published values.
        """
        missing = [name for name in _SIZES_FROM if name not in weights]
        if missing:
            raise CheckpointError(f"no {', '.join(missing[:3])} among its {len(weights)} weights")
        for name, axes in _SIZES_FROM.items():
            if weights[name].dim() != axes:
                raise CheckpointError(
                    f"{name} has shape {tuple(weights[name].shape)}; expected {axes} axes"
                )
        shape = {name: tuple(weights[name].shape) for name in _SIZES_FROM}
        n_mels = shape["decoder.prenet.layers.0.linear_layer.weight"][1]
        produced = shape["decoder.linear_projection.linear_layer.weight"][0]
        if produced != n_mels and produced % n_mels == 0:
            raise CheckpointError(
                f"it makes {produced // n_mels} frames a step (n_frames_per_step); "
                "this implementation, like the published model, makes 1"
            )
        query = shape["decoder.attention_layer.query_layer.linear_layer.weight"]
        location = shape["decoder.attention_layer.location_layer.location_conv.conv.weight"]
        embedding = shape["embedding.weight"]
        try:
            return Tacotron2Config(
                n_symbols=embedding[0],
                symbols_embedding_dim=embedding[1],
                encoder_kernel_size=shape["encoder.convolutions.0.0.conv.weight"][2],
                encoder_n_convolutions=_count(weights, "encoder.convolutions."),
                encoder_embedding_dim=2 * shape["encoder.lstm.weight_hh_l0"][1],
                attention_rnn_dim=query[1],
                attention_dim=query[0],
                attention_location_n_filters=location[0],
                attention_location_kernel_size=location[2],
                prenet_dim=shape["decoder.prenet.layers.0.linear_layer.weight"][0],
                decoder_rnn_dim=shape["decoder.decoder_rnn.weight_hh"][1],
                n_mel_channels=n_mels,
                postnet_embedding_dim=shape["postnet.convolutions.0.0.conv.weight"][0],
                postnet_kernel_size=shape["postnet.convolutions.0.0.conv.weight"][2],
                postnet_n_convolutions=_count(weights, "postnet.convolutions."),
            )
        except ValueError as e:
            raise CheckpointError(f"its weights have impossible sizes: {e}") from e


# The weights that carry the sizes, with their number of axes.
_SIZES_FROM = {
    "embedding.weight": 2,
    "encoder.convolutions.0.0.conv.weight": 3,
    "encoder.lstm.weight_hh_l0": 2,
    "decoder.prenet.layers.0.linear_layer.weight": 2,
    "decoder.attention_layer.query_layer.linear_layer.weight": 2,
    "decoder.attention_layer.location_layer.location_conv.conv.weight": 3,
    "decoder.decoder_rnn.weight_hh": 2,
    "decoder.linear_projection.linear_layer.weight": 2,
    "postnet.convolutions.0.0.conv.weight": 3,
}


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    """How many consecutive layers PREFIX0., PREFIX1., ... there are."""
    present = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    count = 0
    while str(count) in present:
        count += 1
    return count
