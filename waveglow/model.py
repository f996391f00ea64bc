"""WaveGlow, put together: the training direction, and inference in bounded memory."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from waveglow.conditioning import FrameUpsampler, upsample
from waveglow.config import AUDIO_FACTS, WaveGlowConfig
from waveglow.invertible import InvertibleConvolution
from waveglow.noise import GivenNoise, Noise, SeededNoise
from waveglow.streaming import Columns, FlowStream
from waveglow.wavenet import CouplingNetwork

CPU_CHUNK = 32
"""Mel frames worked on at a time on a CPU.

Published sizes, 192 frames (2.2 s), one thread of an AMD EPYC; the weights take 350 MB more:

    chunk_frames       8     16     32     64    128    192
    seconds         11.0   10.2   10.0   10.1   10.7    9.7
    peak, MB          87     91    110    184    224    250

The products alone take 8.9 s at the speed of one large product on the same thread.
"""
GPU_CHUNK = 512
"""Mel frames worked on at a time elsewhere: matrices large enough to fill a GPU."""


class FlowOutput(NamedTuple):
    """What the training direction gives for B utterances of L = S / n_group positions."""

    z: Tensor
    """(B, n_group, L): standard-normal if the model explains the audio; early outputs first"""
    log_s: Tensor
    """(B, C, L): log-scales of all couplings, C of them together"""
    log_det_w: Tensor
    """(n_flows,): B L ln|det W| of each invertible convolution, which acts on B L positions"""

    def loss(self, sigma: float = 1.0) -> Tensor:
        """() negative log-likelihood a sample, without its constant (Prenger et al. 2018).

        `sigma`: the standard deviation that z is to have, above 0.
        """
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma must be above 0 to train with, not {sigma}")
        prior = self.z.square().sum() / (2 * sigma * sigma)
        log_det = self.log_s.sum() + self.log_det_w.sum()
        return (prior - log_det) / self.z.numel()


class WaveGlow(nn.Module):
    """Mel spectrogram to samples (Prenger, Valle, Catanzaro 2018, arXiv:1811.00002).

    The parameters have the names of NVIDIA's checkpoints, with the weight norm multiplied out.
    `load_waveglow` makes one from a file, in evaluation mode. The inverses of the 1x1 convolutions
    are computed in double precision by `eval()`.
    """

    def __init__(self, config: WaveGlowConfig) -> None:
        super().__init__()
        self.config = config
        self.source: dict[str, Any] = {}
        """the file the weights are from: path, name, sha256; empty if they are from none"""
        self.audio_facts = dict(AUDIO_FACTS)
        """the mels that it takes, in the fields of AUDIO_FACTS"""
        n_mels = config.n_mel_channels
        self.upsample = nn.ConvTranspose1d(
            n_mels, n_mels, config.upsample_kernel, config.upsample_stride
        )
        # Declared as lists, so that type checkers know what is in them.
        self.WN: list[CouplingNetwork] = nn.ModuleList(  # type: ignore[assignment]
            CouplingNetwork(config, n // 2) for n in config.flow_channels
        )
        self.convinv: list[InvertibleConvolution] = nn.ModuleList(  # type: ignore[assignment]
            InvertibleConvolution(n) for n in config.flow_channels
        )

    def infer(
        self,
        mel: Tensor,
        sigma: float = 0.6,
        *,
        seed: int | Sequence[int] | None = None,
        noise: Sequence[Tensor] | None = None,
        chunk_frames: int | None = None,
    ) -> Tensor:
        """Makes the samples of mels: the pieces of `stream`, joined.

        Args, errors: as of `stream`.

        Returns:
            (B, S) float32, S = hop_length T (256 T in the published model), full scale about 1.
        """
        pieces = self.stream(mel, sigma, seed=seed, noise=noise, chunk_frames=chunk_frames)
        return torch.cat(list(pieces), 1)

    def stream(
        self,
        mel: Tensor,
        sigma: float = 0.6,
        *,
        seed: int | Sequence[int] | None = None,
        noise: Sequence[Tensor] | None = None,
        chunk_frames: int | None = None,
    ) -> Iterator[Tensor]:
        """Makes the samples of mels piece by piece, in memory that does not grow with T.

        The pieces are those of one pass over the whole mel (see waveglow/streaming.py); the first
        one comes when the input has been read as far ahead as the network looks (96 frames).

        Args:
            mel: (B, T, M) natural log magnitudes as in `audio_facts`, T >= 1, on the model's
                device. All items have T frames.
            sigma: standard deviation of the noise, 0 or more. NVIDIA trains with 1 and speaks with
                0.6 to 0.666: less noise, and less variety.
            seed: draws the noise on the CPU, the same for every device. An integer: items of the
                batch differ, and the first is that of the utterance alone. An integer for each
                item: each is that of the utterance alone with its seed. None: a seed from PyTorch's
                global generator.
            noise: the standard-normal tensors instead of drawing them, in the order in which
                inference uses them: `config.noise_channels` channels, (B, C, T groups_per_frame).
            chunk_frames: mel frames worked on at a time; None for CPU_CHUNK or GPU_CHUNK.

        Yields:
            (B, s) float32, hop_length T samples in all.

        Raises:
            ValueError: an argument is not as described; at the call, before the first piece.
        """
        mel = self._checked_mel(mel)
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"sigma must be a number of at least 0, not {sigma}")
        if chunk_frames is None:
            chunk_frames = CPU_CHUNK if mel.device.type == "cpu" else GPU_CHUNK
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, not {chunk_frames}")
        if noise is not None and seed is not None:
            raise ValueError("give either noise or a seed to draw it with, not both")
        source: Noise
        if noise is not None:
            source = GivenNoise(self._checked_noise(noise, mel))
        else:
            seeds = _checked_seeds(seed, mel.shape[0])
            source = SeededNoise(
                seeds, self.config.noise_channels, mel.device, self.upsample.weight.dtype
            )
        return self._pieces(mel, sigma, source, chunk_frames)

    @torch.no_grad()
    def _pieces(
        self, mel: Tensor, sigma: float, noise: Noise, chunk_frames: int
    ) -> Iterator[Tensor]:
        config = self.config
        B, n_frames, M = mel.shape
        length = n_frames * config.groups_per_frame  # L
        frames = FrameUpsampler(mel.transpose(1, 2), self.upsample, config)
        mel = mel[:, :1].to(self.upsample.weight.dtype)  # an example of what to compute with
        spectrum = Columns(mel, M * config.n_group, dtype=self.WN[0].working_dtype)
        flows = [
            (k, FlowStream(self.WN[k], self.convinv[k], mel, length))
            for k in reversed(range(config.n_flows))
        ]
        end = 0
        while flows[-1][1].done < length:
            begin, end = end, end + chunk_frames * config.groups_per_frame
            first, last = min(begin, length), min(end, length)
            if first < last:
                columns = frames.columns(
                    first // config.groups_per_frame, last // config.groups_per_frame
                )
                spectrum.extend(last - first).copy_(columns)
            x = sigma * noise.columns(0, first, last)  # (B, C, n)
            draw = 1
            for step, (k, flow) in enumerate(flows):
                before = flow.done
                x = flow.advance(x, spectrum, end - step * config.reach)
                if k in config.early_flows:
                    early = sigma * noise.columns(draw, before, flow.done)
                    x = torch.cat((early, x), 1)
                    draw += 1
            spectrum.forget(flows[-1][1].done)
            if x.shape[2]:
                yield x.transpose(1, 2).reshape(B, -1).float()

    def forward(self, mel: Tensor, wav: Tensor) -> FlowOutput:
        """The training direction: audio -> noise, with gradients.

        Args:
            mel: (B, T, M) natural log magnitudes as in `audio_facts`.
            wav: (B, S) samples in [-1, 1], S a multiple of n_group and at most hop_length T.

        Raises:
            ValueError: an argument is not as described.
        """
        config = self.config
        mel = self._checked_mel(mel).to(self.upsample.weight.dtype)
        B, S = mel.shape[0], mel.shape[1] * config.hop_length
        if (
            wav.dim() != 2
            or wav.shape[0] != B
            or not 0 < wav.shape[1] <= S
            or wav.shape[1] % config.n_group
            or not wav.is_floating_point()
        ):
            raise ValueError(
                f"expected floating-point samples ({B}, S), S a multiple of {config.n_group} and "
                f"at most {S} for {mel.shape[1]} frames, got {wav.dtype} {tuple(wav.shape)}"
            )
        if wav.device != mel.device:
            raise ValueError(f"the samples are on {wav.device}, the mel on {mel.device}")
        x = wav.to(mel.dtype).unflatten(1, (-1, config.n_group)).transpose(1, 2)  # (B, n_group, L)
        spectrum = upsample(mel.transpose(1, 2), self.upsample, config)[:, :, : x.shape[2]]
        z, log_s, log_det_w = [], [], []
        for k in range(config.n_flows):
            if k in config.early_flows:
                z.append(x[:, : config.n_early_size])
                x = x[:, config.n_early_size :]
            x, log_det = self.convinv[k](x)
            kept, changed = x.chunk(2, 1)
            offset, log_scale = self.WN[k](kept, spectrum)
            x = torch.cat((kept, changed * log_scale.exp() + offset), 1)
            log_s.append(log_scale)
            log_det_w.append(B * x.shape[2] * log_det)
        return FlowOutput(torch.cat([*z, x], 1), torch.cat(log_s, 1), torch.stack(log_det_w))

    @property
    def precision(self) -> torch.dtype:
        """What the convolutions of the coupling networks, nearly all of the work, are done in."""
        return self.WN[0].dtype

    def with_precision(self, dtype: torch.dtype) -> WaveGlow:
        """A copy whose coupling networks compute in `dtype`: bfloat16, float16 or float32.

        Their first and last convolutions, the audio that the flow transforms, the log-scales and
        their exponential, the invertible convolutions, the up-sampling and the output stay in
        float32. On CPUs float16 saves memory for weights only: it is computed in float32.

        Measured with random weights of the published sizes: the output is 45 dB above its distance
        from that of float32 in bfloat16 and 69 dB in float16 (less with stronger couplings), and
        bfloat16 takes 0.55 of the time on a CPU with instructions for it (AVX512-BF16).
        """
        if dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise ValueError(f"expected torch.bfloat16, float16 or float32, not {dtype}")
        other = copy.deepcopy(self)
        for network in other.WN:
            network.set_precision(dtype)
        return other

    def _checked_mel(self, mel: Tensor) -> Tensor:
        M = self.config.n_mel_channels
        if mel.dim() != 3 or mel.shape[2] != M or not mel.is_floating_point():
            hint = ""
            if mel.dim() == 3 and mel.shape[1] == M:
                hint = "; transpose it: mel.transpose(1, 2)"
            elif mel.dim() == 2:
                hint = "; add a batch axis: mel[None]"
            raise ValueError(
                f"expected a floating-point mel (B, T, {M}), got {mel.dtype} "
                f"{tuple(mel.shape)}{hint}"
            )
        if 0 in mel.shape:
            raise ValueError(f"expected a mel of at least one frame, got {tuple(mel.shape)}")
        weight = self.upsample.weight
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the model is in {weight.dtype}, in which the flow loses its audio; keep it in "
                "float32 and use with_precision for the coupling networks"
            )
        if mel.device != weight.device:
            raise ValueError(f"the mel is on {mel.device}, the model on {weight.device}")
        # Extremes need no memory, unlike a mask as large as the mel; NaN is both of them.
        if not all(math.isfinite(extreme) for extreme in mel.detach().aminmax()):
            broken = int((~mel.isfinite()).sum())
            raise ValueError(
                f"{broken} of the mel's {mel.numel()} values are NaN or infinite; "
                "the model that made it is at fault"
            )
        return mel

    def _checked_noise(self, noise: Sequence[Tensor], mel: Tensor) -> list[Tensor]:
        length = mel.shape[1] * self.config.groups_per_frame
        expected = [(mel.shape[0], C, length) for C in self.config.noise_channels]
        found = [tuple(tensor.shape) for tensor in noise]
        if found != expected:
            raise ValueError(f"expected noise of the shapes {expected}, got {found}")
        return [tensor.to(mel.device, self.upsample.weight.dtype) for tensor in noise]


def _checked_seeds(seed: int | Sequence[int] | None, B: int) -> list[tuple[int, int]]:
    """A seed and a number among the items with that seed, for each item of the batch."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    if isinstance(seed, Sequence):
        seeds = [(operator.index(s), 0) for s in seed]
    else:
        seeds = [(operator.index(seed), i) for i in range(B)]
    if len(seeds) != B or not all(0 <= s < 2**128 for s, _ in seeds):
        raise ValueError(
            f"expected a seed, a whole number of at least 0, or {B} of them, got {seed}"
        )
    return seeds
