"""The bundled voice and vocoder are what their cards say; the voice speaks like its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightspeech.audio import mel_spectrogram
from lightspeech.checkpoint import load_voice
from lightspeech.config import CONFIGS, DEFAULT_CONFIG
from lightspeech.evaluation.figures import timing_difference
from lightspeech.synthesis import PRETRAINED, Synthesizer, TeacherSynthesizer, find_teacher
from lightspeech.vocoders.light import load_light
from lightspeech.vocoders.light_network import LightConfig
from tacotron2.load import BUNDLED
from tacotron2.load import PRETRAINED as TEACHERS

HELD_OUT = Path(__file__).parent.parent / "data" / "heldout.txt"


def test_the_card_says_what_the_file_holds() -> None:
    student, facts = load_voice(PRETRAINED)
    assert sum(parameter.numel() for parameter in student.parameters()) == 1_738_641
    assert facts["config"] == CONFIGS[DEFAULT_CONFIG].as_dict()
    (card,) = PRETRAINED.glob("*.json")
    written = json.loads(card.read_text(encoding="utf-8"))
    assert written.pop("weights") == card.with_suffix(".safetensors").name
    assert written == facts


def test_the_card_of_the_vocoder_says_what_the_file_holds() -> None:
    vocoder = load_light()
    file = Path(vocoder.source["path"])
    assert file.stat().st_size < 6_000_000
    assert vocoder.network.config == LightConfig()
    written = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert written.pop("weights") == file.name
    assert written == vocoder.facts


def test_the_vocoder_gives_back_the_mel_that_it_was_given() -> None:
    """Of the bundled voice: about as near as Griffin-Lim, which has nothing else in mind."""
    speech = Synthesizer.load(PRETRAINED, "light")("The museum is closed on Monday.")
    made = mel_spectrogram(speech.wav.clamp(-1, 1))[: len(speech.mel)]
    loud = speech.mel > -6
    assert (made - speech.mel)[loud].abs().mean() < 0.5


def test_its_teacher_is_the_bundled_one() -> None:
    _, facts = load_voice(PRETRAINED)
    path, note = find_teacher(facts, "auto")
    assert path == TEACHERS / BUNDLED, note


def test_it_times_held_out_text_like_its_teacher() -> None:
    student = Synthesizer.load(PRETRAINED)
    teacher = TeacherSynthesizer.load(TEACHERS / BUNDLED, student.vocoder)
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:4]
    differences = [timing_difference(student(line), teacher(line)) for line in lines]
    # An untrained student is wrong by about 2.2 frames a symbol; two renditions of the teacher with
    # different seeds differ by 0.5 to 1.6.
    assert max(difference.error_frames for difference in differences) < 1.6
    ratios = [difference.length_ratio for difference in differences]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.15)
