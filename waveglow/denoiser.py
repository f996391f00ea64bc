"""Takes the hum out of WaveGlow's samples: its spectrum is that of the model's silence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from waveglow.model import WaveGlow

FFT_SIZE = 1024
"""Samples under the Hann window of a frame"""
HOP = 256
"""Samples between frames"""
BIAS_FRAMES = 88
"""Frames of the mel of zeros whose sound shows the hum (1 s)"""

_PADDING = FFT_SIZE // 2  # samples that the signal is extended by at either end
_OVERLAP = FFT_SIZE // HOP - 1  # later frames that add to a frame's first hop
_PART = 256 * HOP  # samples worked on at a time


class Denoiser:
    """Subtracts a WaveGlow's hum in the spectrum, as NVIDIA's denoiser does.

    The hum is the magnitude of the first frame of what the model makes of a mel of zeros without
    noise. A part of it, the strength, is taken off the magnitudes of every frame; phases stay.
    Frames have 1,024 samples, a Hann window before and after, and a hop of 256; their sum is
    divided by the sum of the squared windows.

    Beyond its ends the signal is reflected about its first and last sample, again and again where
    it is shorter than the 513 samples that this needs.
    """

    def __init__(self, waveglow: WaveGlow) -> None:
        """Has the model speak for a second: 3.5 s of work for one CPU thread if it is NVIDIA's."""
        weight = waveglow.upsample.weight
        zeros = weight.new_zeros(1, BIAS_FRAMES, waveglow.config.n_mel_channels)
        hum = weight.new_zeros(1, 0, dtype=torch.float32)
        for piece in waveglow.stream(zeros, 0.0, seed=0, chunk_frames=8):
            hum = torch.cat((hum, piece), 1)
            if hum.shape[1] > _PADDING:
                break  # the first frame reads no further, so the rest need not be made
        self._window = torch.hann_window(FFT_SIZE, device=weight.device)
        frame = _extended(hum, _PADDING, _PADDING)[:, :FFT_SIZE]
        self.bias_spectrum = torch.fft.rfft(frame * self._window).abs()[0]
        """(513,) magnitudes of the hum"""

    def __call__(self, wav: Tensor, strength: float = 0.1) -> Tensor:
        """(B, S) samples -> (B, S) float32 on the same device.

        Args:
            wav: floating point, S >= 1.
            strength: the part of the hum that is taken off, 0 or more; 0 leaves the samples as they
                are, to rounding, and far more than 1 eats into the voice.

        Raises:
            ValueError: an argument is not as described, or samples are NaN or infinite.
        """
        if wav.dim() == 2 and 0 in wav.shape:
            raise ValueError(f"expected at least one sample, got {tuple(wav.shape)}")
        return torch.cat(list(self.stream([wav], strength)), 1)

    def stream(self, pieces: Iterable[Tensor], strength: float = 0.1) -> Iterator[Tensor]:
        """Denoises a signal that comes piece by piece, in memory that does not grow with it.

        Args:
            pieces: (B, s) samples each, of any lengths.
            strength: as above.

        Yields:
            (B, s) float32, of other lengths than the pieces that came, but as many samples in all.

        Raises:
            ValueError: as above; for the strength at the call, for a piece when it comes.
        """
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"strength must be a number of at least 0, not {strength}")
        return self._stream(_parts(pieces), strength)

    @torch.no_grad()
    def _stream(self, parts: Iterator[Tensor], strength: float) -> Iterator[Tensor]:
        n_samples = n_done = 0
        held: Tensor | None = None  # the samples that came last: the end is extended with them
        frames: _Frames | None = None
        for part in parts:
            n_samples += part.shape[1]
            held = part if held is None else torch.cat((held, part), 1)
            if frames is None and held.shape[1] > _PADDING:
                frames = _Frames(self.bias_spectrum, self._window, strength, part)
                held = _extended(held, _PADDING, 0)
            if frames is not None:
                n_ready = max(0, held.shape[1] - _PADDING - HOP)
                ready = frames.add(held[:, :n_ready])
                held = held[:, n_ready:].clone()
                n_done += ready.shape[1]
                if ready.shape[1]:
                    yield ready
        if held is None:
            return
        before = 0
        if frames is None:
            frames = _Frames(self.bias_spectrum, self._window, strength, held)
            before = _PADDING
        after = _PADDING + -n_samples % HOP  # whole hops
        last = torch.cat((frames.add(_extended(held, before, after)), frames.rest()), 1)
        yield last[:, : n_samples - n_done]


class _Frames:
    """Cuts an extended signal into frames, takes the hum off them, and adds them up again."""

    def __init__(self, bias: Tensor, window: Tensor, strength: float, batch: Tensor) -> None:
        """`batch`: any tensor of the batch size, on the device."""
        B = batch.shape[0]
        self._hum = strength * bias.to(batch.device)
        self._window = window.to(batch.device)
        self._squares = self._window.square().view(_OVERLAP + 1, HOP)
        self._signal = batch.new_zeros(B, 0)
        # Sums so far of frames, and of squared windows, for the hops that later frames add to.
        self._sum = batch.new_zeros(B, _OVERLAP, HOP)
        self._weight = batch.new_zeros(_OVERLAP, HOP)
        self._n_skipped = _PADDING  # samples of the extension in front, still to come

    def add(self, signal: Tensor) -> Tensor:
        """The next samples (B, s) -> as many as are finished, without the extension in front."""
        self._signal = torch.cat((self._signal, signal), 1)
        n_frames = self._signal.shape[1] // HOP - _OVERLAP
        if n_frames < 1:
            return signal[:, :0]
        frames = self._signal.unfold(1, FFT_SIZE, HOP)  # (B, n, 1024)
        spectrum = torch.fft.rfft(frames * self._window)
        magnitude = spectrum.abs()
        left = (magnitude - self._hum).clamp_(min=0)
        # Where there is nothing, nothing is left: the smallest normal number guards the division.
        spectrum *= left / magnitude.clamp_(min=torch.finfo(magnitude.dtype).tiny)
        frames = torch.fft.irfft(spectrum, FFT_SIZE) * self._window
        hops = frames.unflatten(2, (-1, HOP))  # (B, n, 4, 256)
        total = hops.new_zeros(len(hops), n_frames + _OVERLAP, HOP)
        weight = hops.new_zeros(n_frames + _OVERLAP, HOP)
        total[:, :_OVERLAP] = self._sum
        weight[:_OVERLAP] = self._weight
        for i, square in enumerate(self._squares):
            total[:, i : i + n_frames] += hops[:, :, i]
            weight[i : i + n_frames] += square
        self._sum, self._weight = total[:, n_frames:].clone(), weight[n_frames:].clone()
        self._signal = self._signal[:, n_frames * HOP :].clone()
        return self._finished(total[:, :n_frames], weight[:n_frames])

    def rest(self) -> Tensor:
        """The samples under the end of the last frames."""
        return self._finished(self._sum, self._weight)

    def _finished(self, total: Tensor, weight: Tensor) -> Tensor:
        # Only in the extensions is a sum of squared windows nearly 0.
        samples = (total / weight.clamp(min=1e-6)).flatten(1)
        n_skipped = min(self._n_skipped, samples.shape[1])
        self._n_skipped -= n_skipped
        return samples[:, n_skipped:]


def _extended(wav: Tensor, before: int, after: int) -> Tensor:
    """(B, S) -> (B, before + S + after), reflected as often as it takes."""
    n_samples = wav.shape[1]
    positions = torch.arange(-before, n_samples + after, device=wav.device)
    if n_samples == 1:
        return wav[:, positions * 0]
    period = 2 * (n_samples - 1)
    positions %= period
    return wav[:, torch.minimum(positions, period - positions)]


def _parts(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces, checked, in float32 and cut where they are long."""
    B: int | None = None
    for piece in pieces:
        batch = "B" if B is None else B
        if piece.dim() != 2 or not piece.is_floating_point() or piece.shape[0] != (B or len(piece)):
            raise ValueError(
                f"expected floating-point samples ({batch}, S), got {piece.dtype} "
                f"{tuple(piece.shape)}"
            )
        B = piece.shape[0]
        if not piece.numel():
            continue
        for part in piece.detach().split(_PART, 1):
            broken = int((~part.isfinite()).sum())
            if broken:
                raise ValueError(
                    f"{broken} of {part.numel()} samples are NaN or infinite; "
                    "the model that made them is at fault"
                )
            yield part.float()
