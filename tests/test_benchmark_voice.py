"""What the benchmark says of an exported voice, and that it is measured without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightspeech.benchmark import voice
from lightspeech.benchmark.floors import light_multiply_adds
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.speaking import TEXTS
from lightspeech.vocoders.light_network import LightConfig
from tests.test_light_vocoder import save_tiny


def test_multiply_adds_of_the_light_vocoder() -> None:
    config = LightConfig(size=8, hidden_size=12, blocks=2)
    a_frame = 80 * 7 * 8 + 2 * (8 * 7 + 2 * 8 * 12) + 8 * 2 * 513
    assert light_multiply_adds(config) == pytest.approx(a_frame * 22050 / 256)


def test_the_texts_are_as_long_as_they_say() -> None:
    assert len(TEXTS["50 characters"]) == 50
    sizes = [len(text) for text in TEXTS.values()]
    assert sizes == sorted(sizes)


@pytest.mark.slow
def test_the_part_voice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs lightspeech[export]")
    pytest.importorskip("onnxruntime", reason="needs lightspeech[runtime]")
    save_tiny(tmp_path)
    monkeypatch.setattr(voice, "LIGHT", tmp_path)
    monkeypatch.setattr(voice.os, "cpu_count", lambda: 2)
    found = voice.bench_voice(Settings(repeats=1, threads=1))
    rows = {row.what: row for row in found.rows}
    assert len(rows) == len(found.rows) == 2 * (3 + 3 + 2 + 2 * (len(TEXTS) + 1))
    for threads in ("1 thread", "2 threads"):
        for name in ("student,", "student of the published layers"):
            ours = [r for w, r in rows.items() if w.startswith(name) and f", {threads}," in w]
            assert [r.what.rsplit(", ", 1)[1] for r in ours] == ["float32", "int8", "PyTorch"]
            assert {r.beside for r in ours} == {"nn.GRU"}
            assert [r.floor_seconds is None for r in ours] == [False, True, False]
            for row in ours:
                assert row.multiply_adds == ours[0].multiply_adds
                assert row.speech_seconds == ours[0].speech_seconds
        vocoders = [r for w, r in rows.items() if w.startswith("light") and f", {threads}," in w]
        assert {r.beside for r in vocoders} == {"PyTorch"}
        (word,) = (
            r
            for w, r in rows.items()
            if w.startswith("text to sound, a word") and w.endswith(f"{threads}, float32")
        )
        assert word.first_seconds is not None
        assert 0 < word.first_seconds <= word.seconds
        assert word.model_bytes is not None
        assert word.model_bytes > 5_000_000
        if word.memory is not None:
            assert word.memory.peak_bytes > 20e6
    assert found.notes[0].startswith("files of the exported voice, float32: 6.")
    assert found.notes[1].startswith("files of the exported voice, int8: 3.")


def test_without_the_packages_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice.importlib.util, "find_spec", lambda name: None)
    found = voice.bench_voice(Settings())
    assert found.rows == []
    assert "it needs pip install -e '.[export,runtime]'" in found.notes[0]


def test_the_process_that_is_measured_has_no_torch() -> None:
    code = (
        "import sys, json, lightspeech.benchmark.speaking\n"
        "print(json.dumps([n for n in ('torch', 'librosa', 'scipy') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
