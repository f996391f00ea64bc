"""The sizes of a WaveGlow, under NVIDIA's names for them, and the facts about its mels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

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
"""The mels that the published models take: Hz, samples, bins; ln(max(magnitude, log_floor))."""


@dataclass(frozen=True)
class WaveGlowConfig:
    """Sizes of the layers. The defaults are those of the published model (88 M parameters)."""

    n_mel_channels: int = 80
    """M: mel bins"""
    n_flows: int = 12
    """steps of the flow, each an invertible 1x1 convolution and a coupling"""
    n_group: int = 8
    """samples that are treated as the channels of one position (even)"""
    n_early_every: int = 4
    """flows between two early outputs"""
    n_early_size: int = 2
    """channels that leave the flow at an early output (even)"""
    n_layers: int = 8
    """dilated convolutions of a coupling network; layer i has dilation 2^i"""
    n_channels: int = 256
    """width of a coupling network"""
    kernel_size: int = 3
    """positions under a dilated convolution (odd)"""
    upsample_kernel: int = 1024
    """samples that a mel frame reaches when it is up-sampled; at least upsample_stride"""
    upsample_stride: int = 256
    """samples a frame; a multiple of n_group"""

    def __post_init__(self) -> None:
        problems = []
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{f.name} must be a whole number of at least 1, not {value!r}")
            elif f.name in ("n_group", "n_early_size") and value % 2:
                problems.append(f"{f.name} must be even, not {value}")
            elif f.name == "kernel_size" and value % 2 == 0:
                problems.append(f"kernel_size must be odd, not {value}")
        if not problems:
            n_outputs = (self.n_flows - 1) // self.n_early_every
            if self.n_group - n_outputs * self.n_early_size < 2:
                problems.append(
                    f"n_group must leave at least 2 channels after {n_outputs} early outputs of "
                    f"{self.n_early_size}, not {self.n_group - n_outputs * self.n_early_size}"
                )
            if self.upsample_kernel < self.upsample_stride:
                problems.append(
                    "upsample_kernel must be at least upsample_stride, not "
                    f"{self.upsample_kernel} and {self.upsample_stride}"
                )
            if self.upsample_stride % self.n_group:
                problems.append(
                    "upsample_stride must be a multiple of n_group, not "
                    f"{self.upsample_stride} and {self.n_group}"
                )
        if problems:
            raise ValueError("WaveGlow configuration: " + "; ".join(problems))

    @property
    def hop_length(self) -> int:
        """Samples a mel frame."""
        return self.upsample_stride

    @property
    def groups_per_frame(self) -> int:
        """Positions of the flow in a mel frame."""
        return self.upsample_stride // self.n_group

    @property
    def early_flows(self) -> tuple[int, ...]:
        """The flows in front of which channels leave, in the training direction."""
        return tuple(range(self.n_early_every, self.n_flows, self.n_early_every))

    @property
    def flow_channels(self) -> tuple[int, ...]:
        """The channels of each flow."""
        return tuple(
            self.n_group - self.n_early_size * (k // self.n_early_every)
            for k in range(self.n_flows)
        )

    @property
    def noise_channels(self) -> tuple[int, ...]:
        """The channels of the noise tensors, in the order in which inference draws them."""
        return (self.flow_channels[-1], *(self.n_early_size for _ in self.early_flows))

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of the layers of a coupling network."""
        return tuple(2**i for i in range(self.n_layers))

    @property
    def reach(self) -> int:
        """Positions that one flow looks to either side."""
        return (self.kernel_size - 1) // 2 * sum(self.dilations)

    def as_dict(self) -> dict[str, int]:
        """Field name -> value, for JSON."""
        return asdict(self)
