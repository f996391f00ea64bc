"""Cleaning of recordings and the measures by which they are judged, against figures by hand."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightspeech.audio import SAMPLE_RATE
from lightspeech.dataset import clean as cleaning
from lightspeech.dataset.checks import Limits, duplicates, pace_faults
from lightspeech.dataset.clean import clean, moments, normalize_loudness, trim
from lightspeech.dataset.measuring import (
    UnfitSoundError,
    clipped_share,
    longest_pause,
    measure,
    missing_wav_bytes,
    speech_to_noise,
)
from lightspeech.errors import InputError
from tests.planted_dataset import voice


def tone(seconds: float, amplitude: float = 0.1, hertz: float = 220.0) -> torch.Tensor:
    time = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    return (amplitude * torch.sin(2 * torch.pi * hertz * time)).float()


def level(wav: torch.Tensor) -> float:
    """dB of full scale"""
    return float(10 * torch.log10(wav.double().square().mean()))


def test_moments_are_root_mean_squares_of_256_samples() -> None:
    wav = torch.cat([torch.full((256,), 0.5), torch.full((128,), -1.0)])
    assert moments(wav).tolist() == pytest.approx([0.5, (128 / 256) ** 0.5])


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.3), (1.0, 0.0), (0.0, 0.7), (0.01, 0.02)])
def test_trim_leaves_the_margin(before: float, after: float) -> None:
    def quiet(seconds: float) -> torch.Tensor:
        return tone(seconds, 1e-4)

    wav = torch.cat([quiet(before), tone(1.0), quiet(after)])
    kept = 1.0 + min(before, cleaning.MARGIN_SECONDS) + min(after, cleaning.MARGIN_SECONDS)
    # The ends are found to within one moment of 256 samples.
    assert len(trim(wav)) / SAMPLE_RATE == pytest.approx(kept, abs=2 * 256 / SAMPLE_RATE)


def test_what_is_45_db_below_the_loudest_moment_is_silence() -> None:
    for decibels, is_cut in ((-44.0, False), (-46.0, True)):
        wav = torch.cat([tone(0.5, 0.1 * 10 ** (decibels / 20)), tone(1.0)])
        assert (len(trim(wav)) < 1.2 * SAMPLE_RATE) is is_cut


@pytest.mark.parametrize("amplitude", [0.003, 0.1, 0.9])
def test_speech_gets_the_same_loudness(amplitude: float) -> None:
    assert level(normalize_loudness(tone(1.0, amplitude))) == pytest.approx(-22.0, abs=0.05)


def test_pauses_do_not_count_to_the_loudness() -> None:
    wav = torch.cat([tone(1.0, 0.4), tone(2.0, 0.4 * 10 ** (-31 / 20)), tone(1.0, 0.4)])
    assert level(normalize_loudness(wav)[:SAMPLE_RATE]) == pytest.approx(-22.0, abs=0.1)


def test_no_peak_is_beyond_the_highest() -> None:
    wav = tone(1.0, 0.01)
    wav[5000] = 0.5
    cleaned = normalize_loudness(wav)
    assert float(cleaned.abs().max()) == pytest.approx(cleaning.HIGHEST_PEAK)
    assert level(cleaned) < -22.5


def test_silence_stays_what_it_is() -> None:
    assert torch.equal(clean(torch.zeros(1000)), torch.zeros(1000))


def test_clipped_share() -> None:
    time = np.arange(22050) / 22050
    sine = np.sin(2 * np.pi * 100 * time)
    for scale in (0.9, 0.2):  # a flat top is one, however it was scaled later
        clipped = scale * np.clip(2 * sine, -1, 1)
        # |2 sin| > 1 two thirds of the time
        assert clipped_share(clipped[:, None]) == pytest.approx(2 / 3, abs=0.01)
        both = np.stack([0.3 * sine, clipped], axis=1)
        assert clipped_share(both) == pytest.approx(2 / 3, abs=0.01)
    assert clipped_share(0.9 * sine[:, None]) == 0
    quantised = np.round(0.04 * sine * 2**7) / 2**7
    assert clipped_share(quantised[:, None]) == 0  # too quiet to tell
    speech = voice(np.random.default_rng(1), 2.0)
    assert clipped_share((np.round(speech * 32768) / 32768)[:, None]) == 0


def test_clipping_on_one_side() -> None:
    wave = np.minimum(voice(np.random.default_rng(2), 2.0), 0.1)
    assert clipped_share(wave[:, None]) == pytest.approx(float((wave == 0.1).mean()), rel=0.1)


def test_longest_pause() -> None:
    for seconds in (0.0, 0.4, 1.5):
        wav = torch.cat([tone(1.0), tone(seconds, 1e-4), tone(0.5), tone(0.1, 1e-4), tone(0.3)])
        expected = max(seconds, 0.1)
        assert longest_pause(moments(wav)) == pytest.approx(expected, abs=2 * 256 / SAMPLE_RATE)
    assert longest_pause(moments(tone(1.0))) == 0


def test_speech_to_noise() -> None:
    wav = torch.cat([tone(1.0, 0.1), tone(0.5, 0.001)])
    assert speech_to_noise(moments(wav)) == pytest.approx(40.0, abs=0.5)
    assert speech_to_noise(moments(torch.cat([tone(1.0), torch.zeros(22050)]))) == 120.0


def test_missing_wav_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1000), 22050)
    content = path.read_bytes()
    assert missing_wav_bytes(path) == 0
    path.write_bytes(content[:-123])
    assert missing_wav_bytes(path) == 123
    for unknown in (0, 0xFFFFFFFF, 0x7FFFFFFF):  # as programs that write to a pipe leave it
        path.write_bytes(content[:40] + struct.pack("<I", unknown) + content[44:])
        assert missing_wav_bytes(path) == 0
    path.write_bytes(content + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert missing_wav_bytes(path) == 0
    path.write_bytes(b"not a wav at all")
    assert missing_wav_bytes(path) == 0


def test_a_flac_of_unknown_length_is_no_surprise(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, voice(np.random.default_rng(0), 1.0), 22050)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the low 36 of 8 bytes: its number of samples, 0 for unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(UnfitSoundError, match="does not say how long it is") as caught:
        measure(path, Limits())
    assert caught.value.reason == "unreadable"


def test_a_sound_that_claims_hours_is_not_read(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(200 * 1000), 1000)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(UnfitSoundError, match="200 s, more than 15"):
        measure(path, Limits())


def test_channels_that_cancel_out_are_silent(tmp_path: Path) -> None:
    wave = voice(np.random.default_rng(0), 1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1), 22050)
    with pytest.raises(UnfitSoundError, match="cancel each other out") as caught:
        measure(tmp_path / "a.wav", Limits())
    assert caught.value.reason == "silent"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(UnfitSoundError, match="it is not a file"):
        measure(tmp_path / "a.wav", Limits())


def test_the_decoder_keeps_its_messages_to_itself(tmp_path: Path, capfd) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, voice(np.random.default_rng(0), 2.0), 22050)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnfitSoundError, match="samples are there"):
        measure(path, Limits())
    assert capfd.readouterr().err == ""


def test_no_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.clip(5 * voice(np.random.default_rng(0), 0.25), -1, 1), 22050)
    with pytest.raises(UnfitSoundError):
        measure(path, Limits())
    sound, wav = measure(path, Limits(**dict.fromkeys(vars(Limits()))))
    assert sound.clipped > 0.01
    assert sound.samples == len(wav)


def test_pace_is_judged_by_the_median() -> None:
    rng = np.random.default_rng(0)
    paces = {f"u{i}": (float(rng.normal(0.07, 0.005)) * 40, 40) for i in range(50)}
    odd = {"half": (1.4, 40), "double": (6.0, 40), "rapid": (0.4, 40), "endless": (14.0, 40)}
    short = {"Oh.": (0.6, 3), "Yes, yes.": (1.8, 9)}
    faults, middle = pace_faults({**paces, **odd, **short}, Limits())
    assert {id: reason for id, (reason, _) in faults.items()} == {
        "half": "too_fast", "double": "too_slow", "rapid": "too_fast", "endless": "too_slow",
    }  # fmt: skip
    assert "nobody reads in less than 25" in faults["rapid"][1]
    assert "this dataset's median is 70" in faults["half"][1]
    assert middle is not None
    assert middle[0] == pytest.approx(0.07, rel=0.02)


def test_few_utterances_have_no_median() -> None:
    faults, middle = pace_faults({"a": (1.0, 40), "b": (4.0, 40), "c": (0.1, 40)}, Limits())
    assert middle is None
    assert list(faults) == ["c"]


def test_a_quarter_of_wrong_transcripts_does_not_hide_itself() -> None:
    good = {f"g{i}": (2.8 + 0.01 * (i % 7), 40) for i in range(30)}
    wrong = {f"w{i}": (2.8, 16 + i) for i in range(10)}
    faults, _ = pace_faults({**good, **wrong}, Limits())
    assert set(faults) == {id for id, (s, n) in wrong.items() if s / n > 0.07 * 1.5}
    assert len(faults) >= 9


def test_duplicates() -> None:
    assert duplicates([("a", "1"), ("b", "2"), ("c", "1"), ("d", "3"), ("e", "1")]) == [
        ["a", "c", "e"]
    ]


def test_bad_limits_are_named_together() -> None:
    with pytest.raises(InputError, match=r"max_pause must be .* not -1; min_peak|min_peak"):
        Limits(max_pause=-1, min_peak=float("nan"))
    with pytest.raises(InputError, match=r"min_seconds \(20\) must be below max_seconds \(15\)"):
        Limits(min_seconds=20)
