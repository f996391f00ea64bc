"""The judges agree with what is known: speech beats noise, a perfect transcript has no errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightspeech import cli, evaluate
from lightspeech.audio import read_wav
from lightspeech.errors import InputError
from lightspeech.evaluation import quality
from lightspeech.evaluation.quality import dnsmos, error_rates, plain_words, recognise
from lightspeech.synthesis import TeacherSynthesizer
from lightspeech.text import normalize
from lightspeech.vocoders import load_vocoder
from tacotron2 import default_checkpoint


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """The bundled teacher, through Griffin-Lim."""
    teacher = TeacherSynthesizer.load(default_checkpoint(), load_vocoder("griffin-lim"))
    return teacher("We were late for the train to the city.").wav


@pytest.mark.slow
def test_speech_sounds_better_than_noise(speech: Tensor) -> None:
    pytest.importorskip("speechmos", reason="needs the extra eval")
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(0))
    noise *= 0.3 * speech.std()  # 10 dB below the speech
    clean, noisy, only_noise = (dnsmos(x) for x in (speech, speech + noise, noise))
    assert 1 <= only_noise.p808 < noisy.p808 < clean.p808 <= 5
    assert 1 <= only_noise.overall < noisy.overall < clean.overall <= 5
    assert clean.p808 > only_noise.p808 + 0.5


@pytest.mark.slow
def test_recordings_score_as_in_the_design(shared: Path) -> None:
    pytest.importorskip("speechmos", reason="needs the extra eval")
    scores = [
        dnsmos(read_wav(p)) for p in sorted((shared / "data/ljspeech_wavs").glob("*.wav"))[:3]
    ]
    assert sum(score.p808 for score in scores) / 3 == pytest.approx(4.07, abs=0.25)
    assert sum(score.overall for score in scores) / 3 == pytest.approx(3.35, abs=0.25)


@pytest.mark.slow
def test_a_recording_is_recognised(shared: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="needs the extra eval")
    pytest.importorskip("jiwer", reason="needs the extra eval")
    table = (shared / "data/ljspeech_transcripts.txt").read_text(encoding="utf-8").splitlines()
    said = normalize(dict(line.split("|", 1) for line in table)["LJ001-0001"])
    wav = read_wav(shared / "data/ljspeech_wavs/LJ001-0001.wav")
    heard = recognise(wav)
    assert error_rates(said, heard).character < 0.15
    other = read_wav(shared / "data/ljspeech_wavs/LJ001-0002.wav")
    assert recognise(other) != heard
    assert recognise(wav) == heard  # what came before has no influence


def test_error_rates() -> None:
    pytest.importorskip("jiwer", reason="needs the extra eval")
    perfect = error_rates("Well-known, isn't it?", "well known isn't it")
    assert perfect == quality.ErrorRates(0.0, 0.0)
    assert error_rates("one two three four", "one too three").word == pytest.approx(2 / 4)
    assert error_rates("abcd", "abxd").character == pytest.approx(1 / 4)
    assert error_rates("hello", "").word == 1.0
    # Edits of all over the length of all, not a mean of rates: 1 word of 5.
    assert error_rates(["one", "a b c d"], ["won", "a b c d"]).word == pytest.approx(1 / 5)
    with pytest.raises(InputError, match="nothing was said"):
        error_rates("...", "a")


def test_plain_words() -> None:
    assert plain_words("It\u2019s \"A-1\", 'so'!") == "it's a 1 so"


@pytest.mark.parametrize(
    "wav", [torch.zeros(0), torch.zeros(2, 100), torch.full((500,), torch.nan)]
)
def test_signals_that_cannot_be_judged(wav: Tensor) -> None:
    with pytest.raises(InputError, match="cannot judge this signal"):
        dnsmos(wav)


def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", None)
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with pytest.raises(SystemExit) as stop:
        cli.run(evaluate.main)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "speechmos" in message
    assert "pip install -c constraints.txt -e '.[eval]'" in message
