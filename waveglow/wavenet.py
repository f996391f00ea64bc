"""The coupling network, called WN in the checkpoints: a WaveNet without causality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from waveglow.config import WaveGlowConfig


@dataclass(frozen=True)
class Layer:
    """What a layer of a coupling network computes with, K taps wide."""

    dilation: int
    padding: int
    """positions seen to either side"""
    weight: Tensor
    """(2C, C, K)"""
    bias: Tensor
    """(2C,), that of the conditioning included"""
    condition: Tensor
    """(2C, M n_group, 1)"""
    residual: Tensor
    """(C, C, 1) to the next layer's input; (0, C, 1) of the last layer"""
    residual_bias: Tensor
    """(C,) or (0,)"""
    skip: Tensor
    """(C, C, 1) to the network's output"""
    skip_bias: Tensor
    """(C,)"""

    def to(self, dtype: torch.dtype) -> Layer:
        """The same in another precision; not a copy where it has that."""
        return Layer(
            dilation=self.dilation,
            padding=self.padding,
            weight=self.weight.to(dtype),
            bias=self.bias.to(dtype),
            condition=self.condition.to(dtype),
            residual=self.residual.to(dtype),
            residual_bias=self.residual_bias.to(dtype),
            skip=self.skip.to(dtype),
            skip_bias=self.skip_bias.to(dtype),
        )


class CouplingNetwork(nn.Module):
    """Half of a flow's channels and the mel -> offset and log-scale of the other half.

    Its `end` starts at zero, so that an untrained coupling changes nothing.
    """

    def __init__(self, config: WaveGlowConfig, n_half: int) -> None:
        super().__init__()
        n_channels, n_layers = config.n_channels, config.n_layers
        self.n_channels = n_channels
        self.dilations = config.dilations
        self.paddings = [d * (config.kernel_size - 1) // 2 for d in config.dilations]
        self.start = nn.Conv1d(n_half, n_channels, 1)
        self.end = nn.Conv1d(n_channels, 2 * n_half, 1)
        for weight in weights_of(self.end):
            nn.init.zeros_(weight)
        self.cond_layer = nn.Conv1d(
            config.n_mel_channels * config.n_group, 2 * n_channels * n_layers, 1
        )
        self.in_layers = nn.ModuleList(
            nn.Conv1d(
                n_channels,
                2 * n_channels,
                config.kernel_size,
                dilation=dilation,
                padding=padding,
            )
            for dilation, padding in zip(self.dilations, self.paddings, strict=True)
        )
        # The last layer has no next one that its residual half could go to.
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(n_channels, 2 * n_channels if i < n_layers - 1 else n_channels, 1)
            for i in range(n_layers)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The precision of all convolutions but the first and the last, which have the audio's."""
        return self.cond_layer.weight.dtype

    @property
    def working_dtype(self) -> torch.dtype:
        """What inference computes those in.

        On CPUs float16 is only a way to store weights: its products are fifty times slower there
        than those of float32, into which the weights are converted.
        """
        on_cpu = self.cond_layer.weight.device.type == "cpu"
        return torch.float32 if on_cpu and self.dtype == torch.float16 else self.dtype

    def set_precision(self, dtype: torch.dtype) -> None:
        """Converts all convolutions but the first and the last.

        The first one reads few channels, whose rounding would reach all of its outputs alike
        instead of averaging out: kept in float32, it costs nothing and gains 1 to 4 dB.
        """
        for module in (self.cond_layer, self.in_layers, self.res_skip_layers):
            module.to(dtype)

    def layer(self, i: int) -> Layer:
        """The weights of layer i.

        The conditioning is cut up by layers, because the output of all of it together would be the
        largest tensor by far.
        """
        C = self.n_channels
        weight, bias = weights_of(self.in_layers[i])
        condition, condition_bias = weights_of(self.cond_layer)
        part = slice(2 * C * i, 2 * C * (i + 1))
        passed, passed_bias = weights_of(self.res_skip_layers[i])
        return Layer(
            dilation=self.dilations[i],
            padding=self.paddings[i],
            weight=weight,
            bias=bias + condition_bias[part],
            condition=condition[part],
            residual=passed[:-C],
            residual_bias=passed_bias[:-C],
            skip=passed[-C:],
            skip_bias=passed_bias[-C:],
        )

    def forward(self, audio: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """audio (B, n_half, L), up-sampled mel (B, M n_group, L) -> offset, log-scale, each as
        audio."""
        spectrum = spectrum.to(self.dtype)
        x = self.start(audio).to(self.dtype)  # (B, C, L)
        skipped = audio.new_zeros(())
        for i in range(len(self.in_layers)):
            layer = self.layer(i)
            gates = F.conv1d(
                x, layer.weight, layer.bias, padding=layer.padding, dilation=layer.dilation
            ) + F.conv1d(spectrum, layer.condition)  # (B, 2C, L)
            signal, gate = gates.chunk(2, 1)
            passed = torch.tanh(signal) * torch.sigmoid(gate)
            skipped = skipped + F.conv1d(passed, layer.skip, layer.skip_bias).to(audio.dtype)
            if len(layer.residual):
                x = x + F.conv1d(passed, layer.residual, layer.residual_bias)
        offset, log_scale = self.end(skipped).chunk(2, 1)
        return offset, log_scale


def weights_of(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (D, C, K) and bias (D,)."""
    assert isinstance(convolution, nn.Conv1d)
    assert convolution.bias is not None
    return convolution.weight, convolution.bias
