"""Vocoders hold a flat memory ceiling, however long the mel is.

Each case runs in a process of its own, whose peak is then nobody else's: the system's own figure
for the most that the process ever held (VmHWM), taken over a short mel and over a long one. What
is measured can also fail: a vocoder that makes the whole before it gives out a piece is found out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, HOP_LENGTH, N_MELS
from lightspeech.vocoders import Vocoder, check_mel

ROOT = Path(__file__).parent.parent
HALF_AN_HOUR = round(30 * 60 / FRAME_SECONDS)
TWO_MINUTES = round(2 * 60 / FRAME_SECONDS)

pytestmark = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="needs Linux, where a process can read and reset its peak",
)


# --- in the process that is measured


def whole(mel: Tensor) -> Iterator[Tensor]:
    """Not bounded: all samples are there before the first piece is given out."""
    yield from torch.full((HOP_LENGTH * len(mel),), 0.1).split(HOP_LENGTH * 1000)


def copying(mel: Tensor) -> Iterator[Tensor]:
    """Not bounded: the mel is copied."""
    return checking(mel.clone())


def checking(mel: Tensor) -> Iterator[Tensor]:
    """Bounded: the least that any vocoder does."""
    for piece in check_mel(mel).split(1000):
        yield piece.mean(dim=1).repeat_interleave(HOP_LENGTH)


def griffin_lim() -> Vocoder:
    from lightspeech.vocoders.griffin_lim import GriffinLim

    return GriffinLim(iterations=0)


def hifigan() -> Vocoder:
    from lightspeech.vocoders.hifigan import HifiGan
    from lightspeech.vocoders.hifigan_config import HifiGanConfig
    from lightspeech.vocoders.hifigan_generator import Generator

    config = HifiGanConfig(
        resblock="2",
        upsample_rates=(16, 16),
        upsample_kernel_sizes=(32, 32),
        upsample_initial_channel=8,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        num_mels=80,
        n_fft=1024,
        hop_size=256,
        win_size=1024,
        sampling_rate=22050,
        fmin=0.0,
        fmax=8000.0,
    )
    return HifiGan(Generator(config))


def waveglow() -> Vocoder:
    from lightspeech.vocoders.waveglow import WaveGlowVocoder
    from waveglow import WaveGlow, WaveGlowConfig

    config = WaveGlowConfig(
        n_flows=2, n_early_every=1, n_layers=2, n_channels=4, upsample_kernel=256
    )
    return WaveGlowVocoder(WaveGlow(config))


STREAMS: dict[str, Callable[[], Callable[[Tensor], Iterator[Tensor]]]] = {
    "whole": lambda: whole,
    "copying": lambda: copying,
    "checking": lambda: checking,
    "griffin-lim": lambda: griffin_lim().stream,
    "hifigan": lambda: hifigan().stream,
    "waveglow": lambda: waveglow().stream,
}


def mel_that_needs_no_memory(n_frames: int) -> Tensor:
    """(T, M): each frame is the one before it, moved by a bin; a view of T + 79 numbers."""
    numbers = torch.randn(n_frames + N_MELS - 1, generator=torch.Generator().manual_seed(0))
    return (numbers - 5).as_strided((n_frames, N_MELS), (1, 1))


def listen(stream: Callable[[Tensor], Iterator[Tensor]], n_frames: int) -> int:
    """Consumes a mel's sound piece by piece; the process's peak meanwhile, in kilobytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    n_samples = 0
    for piece in stream(mel_that_needs_no_memory(n_frames)):
        assert piece.isfinite().all()
        n_samples += len(piece)
    assert n_samples == HOP_LENGTH * n_frames
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def main(name: str, short: int, long: int) -> None:
    """Prints by how many megabytes (10^6) the peak of the long mel exceeds the short one's."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stream = STREAMS[name]()
    listen(stream, short)  # imports, caches and the allocator's first pages
    few, many = listen(stream, short), listen(stream, long)
    print((many - few) * 1024 / 1e6)


# --- the tests


def growth(name: str, short: int, long: int) -> float:
    """Megabytes by which the peak grows from a mel of `short` frames to one of `long`."""
    # With a fixed threshold the C library gives large blocks back as soon as they are free; else
    # it keeps some for later, and the peak changes from run to run by as much as we look for.
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_bounded_memory", name, str(short), str(long)],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("name", "bytes_a_frame"), [("whole", HOP_LENGTH * 4), ("copying", N_MELS * 4)]
)
def test_what_is_not_bounded_is_found_out(name: str, bytes_a_frame: int) -> None:
    expected = (HALF_AN_HOUR - TWO_MINUTES) * bytes_a_frame / 1e6
    assert growth(name, TWO_MINUTES, HALF_AN_HOUR) > 0.8 * expected


def test_checking_a_mel_takes_no_memory() -> None:
    assert growth("checking", TWO_MINUTES, HALF_AN_HOUR) < 10  # megabytes; a copy has 46


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "short", "long"),
    [
        ("griffin-lim", TWO_MINUTES, HALF_AN_HOUR),
        ("hifigan", TWO_MINUTES, HALF_AN_HOUR),
        # Shorter, as it is the slowest of the three even with next to no channels.
        ("waveglow", TWO_MINUTES // 4, HALF_AN_HOUR // 6),
    ],
)
def test_a_long_mel_takes_no_more_memory_than_a_short_one(name: str, short: int, long: int) -> None:
    # For half an hour: less than 32 MB, where the sound has 159 and a copied mel 50. (The allocator
    # alone came to 2.4 of WaveGlow's 4.8 MB once, on a busy machine.)
    sound = HOP_LENGTH * 4 * (long - short) / 1e6
    assert growth(name, short, long) < 0.2 * sound


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
