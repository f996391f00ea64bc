"""Memory is measured in a process of its own, and memory that grows is seen."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightspeech.benchmark import memory, resident
from lightspeech.benchmark.memory import (
    Memory,
    measure,
    memory_of,
    repeated,
)
from lightspeech.benchmark.resident import forget_peak, peak_resident
from lightspeech.errors import InputError
from lightspeech.vocoders import Vocoder

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a process's peak"
)


class Hoarder(Vocoder):
    """Keeps some memory for every frame until the end."""

    name = "hoarder"

    def __init__(self, bytes_a_frame: int) -> None:
        self.numbers = bytes_a_frame // 4

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        kept = []
        for _ in range(len(mel)):
            kept.append(torch.ones(self.numbers))
            yield torch.zeros(256)


@needs_linux
def test_memory_that_grows_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    # What earlier tests have freed goes back to the system, or it would be used without a trace.
    ctypes.CDLL(None).malloc_trim(0)
    found = {}
    for size in (1_000_000, 10_000):
        planted = SimpleNamespace(build=lambda size=size: Hoarder(size))
        monkeypatch.setattr(memory, "find_contender", lambda spec, planted=planted: planted)
        found[size] = measure("hoarder", torch.zeros(200, 80))
    large, small = found[1_000_000], found[10_000]
    assert large is not None
    assert small is not None
    assert 150e6 < large.added_bytes < 220e6  # 200 times 1 MB, less what lay about
    assert small.added_bytes < 20e6
    assert large.peak_bytes > large.added_bytes
    assert large.speech_seconds == pytest.approx(200 * 256 / 22050)


def test_the_peak_of_loading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = SimpleNamespace(build=lambda: Hoarder(4))
    monkeypatch.setattr(memory, "find_contender", lambda spec: planted)
    for peaks, expected in (((500, 100, 300), (500, 200)), ((300, 100, 400), (400, 300))):
        monkeypatch.setattr(memory, "peak_resident", iter(peaks).__next__)
        found = measure("hoarder", torch.zeros(10, 80))
        assert found is not None
        assert (found.peak_bytes, found.added_bytes) == expected


@needs_linux
def test_a_peak_is_forgotten() -> None:
    forget_peak()
    before = peak_resident()
    # Fresh pages, which no allocator has in store: 80 MB, gone at once.
    with mmap.mmap(-1, 80_000_000) as pages:
        pages.write(b"1" * 80_000_000)
    high = peak_resident()
    forget_peak()
    after = peak_resident()
    assert before is not None
    assert high is not None
    assert after is not None
    assert high - before > 70e6
    assert after - before < 20e6


def test_nobody_knows_on_some_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_resident", lambda: None)
    assert measure("griffin-lim", torch.full((9, 80), -5.0)) is None


def test_other_systems_are_asked_in_their_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource", reason="needs a Unix")
    monkeypatch.setattr(resident, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(resident, "_FORGET_PEAK", tmp_path / "none" / "none")
    forget_peak()  # cannot, and does not mind
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(resident.sys, "platform", "linux")
    assert peak_resident() == 7 * 1024
    monkeypatch.setattr(resident.sys, "platform", "darwin")
    assert peak_resident() == 7


def test_a_vocoder_in_a_process_of_its_own() -> None:
    big = torch.ones(100_000_000)  # 400 MB here, of which the other process has nothing
    found = memory_of("griffin-lim", torch.full((5, 80), -5.0), n_frames=12)
    ours = peak_resident()
    del big
    if found is None or ours is None:
        pytest.skip("this system does not tell a process's peak")
    assert isinstance(found, Memory)
    assert found.speech_seconds == pytest.approx(12 * 256 / 22050)
    assert 50e6 < found.peak_bytes < ours - 200e6
    assert found.added_bytes < 100e6


def test_its_last_words_are_passed_on() -> None:
    with pytest.raises(InputError, match=r"memory of tin could not be measured: --vocoder tin:"):
        memory_of("tin", torch.full((5, 80), -5.0), n_frames=3)


def test_a_mel_is_repeated_or_cut() -> None:
    mel = torch.arange(3.0)[:, None].expand(3, 80)
    assert repeated(mel, 7)[:, 5].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert repeated(mel, 2)[:, 5].tolist() == [0, 1]
