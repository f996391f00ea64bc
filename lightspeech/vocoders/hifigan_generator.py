"""The generator of HiFi-GAN (Kong, Kim and Bae 2020, arXiv:2010.05646): mel -> wav.

    mel --> convolution --> stages, each: upsampling, mean of residual blocks --> convolution, tanh

The layers have the names of the published checkpoints, with weight norm folded into the weights.
What is computed is that of the paper. How, is made for a CPU (the gain is in hifigan.CHUNK_FRAMES):

- Activations are (B, T, C), channels last, as mels are: PyTorch's convolutions then work on them
  as they lie. It has that layout in two dimensions only, so there is a second one, of size 1.
- A transposed convolution with rate u is an ordinary one with u times the channels, one set for
  each of the u samples that a position becomes: in this layout they lie in their order already.
- Of a piece's context, each layer computes only what later ones need.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lightspeech.vocoders.hifigan_config import HifiGanConfig

_SLOPE = 0.1  # of the leaky ReLUs
_LAST_SLOPE = 0.01  # of the one before the last convolution: PyTorch's default, as published
_OUTER_TAPS = 7  # of the first and the last convolution


class Convolution(nn.Conv1d):
    """A Conv1d that keeps the length, for (B, T, C)."""

    def __init__(self, n_in: int, n_out: int, taps: int, dilation: int = 1) -> None:
        super().__init__(n_in, n_out, taps, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C_in) -> (B, T, C_out)."""
        dilation = self.dilation[0]
        padding = self.kernel_size[0] // 2 * dilation
        return _convolve(x, self.weight, self.bias, padding, dilation)


class FirstConvolution(Convolution):
    """The convolution of the mel itself, in double precision.

    Log mels are large and mostly negative, so its sums cancel; of all the rounding in a generator
    this layer's matters most, five times as much as the rest, and it is among the cheapest.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, M) -> (B, T, C) of the type of x."""
        assert self.bias is not None
        padding = self.kernel_size[0] // 2
        return _convolve(x.double(), self.weight.double(), self.bias.double(), padding).to(x.dtype)


class Upsampling(nn.ConvTranspose1d):
    """A ConvTranspose1d that makes a sequence exactly `rate` times as long, for (B, T, C)."""

    def __init__(self, n_in: int, n_out: int, taps: int, rate: int) -> None:
        super().__init__(n_in, n_out, taps, stride=rate)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # takes no output_size
        """(B, T, C_in) -> (B, rate T, C_out)."""
        assert self.bias is not None
        rate, taps = self.stride[0], self.kernel_size[0]
        # Sample q rate + s of the untrimmed result hears x[q] through tap s, x[q - 1] through tap
        # s + rate, and so on: a convolution over q, and another one for each s.
        n_heard = -(-taps // rate)
        phases = F.pad(self.weight, (0, n_heard * rate - taps)).unflatten(2, (n_heard, rate))
        phases = phases.flip(2).permute(3, 1, 0, 2).flatten(0, 1)  # (rate C_out, C_in, n_heard)
        y = _convolve(x, phases, self.bias.repeat(rate), n_heard - 1)
        y = y.unflatten(2, (rate, -1)).flatten(1, 2)  # (B, rate (T + n_heard - 1), C_out)
        trimmed = (taps - rate) // 2
        return y[:, trimmed : trimmed + rate * x.shape[1]]


class PairedResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated; each pair adds to its input (ResBlock1)."""

    def __init__(self, n_channels: int, taps: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Convolution(n_channels, n_channels, taps, d) for d in dilations)
        self.convs2 = nn.ModuleList(Convolution(n_channels, n_channels, taps) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            y = dilated(F.leaky_relu(x, _SLOPE))
            x = plain(F.leaky_relu(y, _SLOPE, inplace=True)).add_(x)
        return x


class SingleResidualBlock(nn.Module):
    """Dilated convolutions, each of which adds to its input (ResBlock2)."""

    def __init__(self, n_channels: int, taps: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Convolution(n_channels, n_channels, taps, d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        for dilated in self.convs:
            x = dilated(F.leaky_relu(x, _SLOPE)).add_(x)
        return x


class Generator(nn.Module):
    """(B, T, M) natural log magnitudes -> (B, S) in [-1, 1], S = hop length x T.

    Args:
        config: the sizes of the layers. They are drawn at random, as by PyTorch's constructors.
    """

    def __init__(self, config: HifiGanConfig) -> None:
        super().__init__()
        self.config = config
        n_channels = config.upsample_initial_channel
        self.conv_pre = FirstConvolution(config.num_mels, n_channels, _OUTER_TAPS)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()  # those of the first stage, of the second, ...
        block = PairedResidualBlock if config.resblock == "1" else SingleResidualBlock
        for rate, taps in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(Upsampling(n_channels, n_channels // 2, taps, rate))
            n_channels //= 2
            self.resblocks.extend(
                block(n_channels, taps, dilations)
                for taps, dilations in zip(
                    config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
                )
            )
        self.conv_post = Convolution(n_channels, 1, _OUTER_TAPS)

    def forward(self, mel: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """The samples of frames `first` to `last` (None: all that follow) of a mel.

        They are those of the whole utterance if the mel has `context_frames` more at either end, or
        ends with the utterance there. What they do not depend on is not computed.

        Args:
            mel: (B, T, M) natural log magnitudes.

        Returns:
            (B, hop length x (last - first)).
        """
        hop = self.config.hop_length
        last = mel.shape[1] if last is None else last
        spans = needed_spans(self.config, first, last)
        n_blocks = len(self.config.resblock_kernel_sizes)
        x, start = self.conv_pre(mel), 0  # (B, T, C), of which x[:, 0] is at `start`
        for stage, rate in enumerate(self.config.upsample_rates):
            x, start = _crop(x, start, spans[stage + 1])
            x = self.ups[stage](F.leaky_relu(x, _SLOPE, inplace=True))
            start *= rate  # (B, T, C) -> (B, rate T, C / 2)
            blocks = self.resblocks[stage * n_blocks : (stage + 1) * n_blocks]
            total = blocks[0](x)
            for block in blocks[1:]:
                total += block(x)
            x = total.div_(n_blocks)
        x, start = _crop(x, start, spans[-1])
        wav = self.conv_post(F.leaky_relu(x, _LAST_SLOPE, inplace=True))  # (B, S, 1)
        return wav[:, first * hop - start : last * hop - start, 0].tanh()


def context_frames(config: HifiGanConfig) -> int:
    """How many frames beyond its own a sample depends on, at either side: exactly as many."""
    return -needed_spans(config, 0, 1)[0][0]


def needed_spans(config: HifiGanConfig, first: int, last: int) -> list[tuple[int, int]]:
    """What the samples of frames `first` to `last` depend on, layer by layer.

    Returns:
        [start, stop) for each of: the mel (in frames), the input of every upsampling and that of
        the last convolution, in positions at their own rates. They may reach beyond the utterance.
    """
    halo = _OUTER_TAPS // 2
    start, stop = first * config.hop_length - halo, last * config.hop_length + halo
    spans = [(start, stop)]
    reach = max(
        (taps - 1) // 2 * (sum(dilations) + (len(dilations) if config.resblock == "1" else 0))
        for taps, dilations in zip(
            config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
        )
    )
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    for rate, taps in reversed(stages):
        # Position q of a transposed convolution's input is heard from q rate - padding on, for
        # `taps` samples.
        padding = (taps - rate) // 2
        start = -((taps - 1 - padding - (start - reach)) // rate)
        stop = (stop + reach - 1 + padding) // rate + 1
        spans.append((start, stop))
    spans.append((start - halo, stop + halo))
    return spans[::-1]


def _crop(x: Tensor, start: int, span: tuple[int, int]) -> tuple[Tensor, int]:
    """x[:, 0] is at position `start` -> the part of x within the span, and where that starts."""
    kept = max(span[0], start)
    return x[:, kept - start : span[1] - start], kept


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int = 1
) -> Tensor:
    """(B, T, C_in), (C_out, C_in, taps) -> (B, T', C_out)"""
    # The height of 1 makes it two-dimensional; see the module's docstring.
    y = F.conv2d(
        x.mT[:, :, None], weight[:, :, None], bias, padding=(0, padding), dilation=(1, dilation)
    )
    return y[:, :, 0].mT
