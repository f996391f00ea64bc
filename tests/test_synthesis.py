"""Text to Speech: splitting, joining, timings, the teacher, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightspeech import synthesis
from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH, SAMPLE_RATE
from lightspeech.checkpoint import save_voice, voice_facts
from lightspeech.config import Config, ModelConfig
from lightspeech.errors import InputError
from lightspeech.files import sha256
from lightspeech.joins import PAUSE
from lightspeech.model import LightSpeech
from lightspeech.speech import Piece, Reading, join_readings
from lightspeech.synthesis import (
    Synthesizer,
    TeacherSynthesizer,
    default_voice,
    find_teacher,
    labelling_dropout,
)
from lightspeech.text import encode, normalize
from lightspeech.vocoders import Vocoder, VocoderOptions, check_mel
from tacotron2 import TeacherOutput, default_checkpoint

TINY = ModelConfig(embedding_size=8, encoder_size=16, duration_size=8, decoder_size=8)


class Loud(Vocoder):
    """A vocoder that is easy to predict: a frame's samples are all the mean of its mel, scaled."""

    name = "loud"
    audio_facts = AUDIO_FACTS

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        for piece in check_mel(mel).split(100):
            yield (piece.float().mean(1) / 20).repeat_interleave(HOP_LENGTH)


def tiny_student() -> LightSpeech:
    torch.manual_seed(0)
    return LightSpeech(TINY)


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer(tiny_student(), Loud())


def save_tiny_voice(folder: Path, teacher: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_voice(
        folder, tiny_student(), Config(name="tiny", model=TINY),
        step=7, validation={"total": 1.0}, store={"digest": "0", "utterances": 12}, teacher=teacher,
    )  # fmt: skip
    return folder


def test_timings_tile_the_sound(synthesizer: Synthesizer) -> None:
    speech = synthesizer("Hello there. How are you? Fine!", sentence_silence=0.25)
    assert speech.sample_rate == SAMPLE_RATE
    assert speech.wav.dtype == torch.float32
    assert speech.wav.shape == (HOP_LENGTH * len(speech.mel),)
    assert speech.timings[0][1] == 0
    for (_, _, end), (_, start, _) in zip(speech.timings, speech.timings[1:], strict=False):
        assert start == end
    assert speech.timings[-1][2] == pytest.approx(speech.wav.numel() / SAMPLE_RATE)
    spoken = [symbol for symbol, _, _ in speech.timings if symbol != PAUSE]
    assert spoken == list(normalize("Hello there.How are you?Fine!"))
    assert speech.durations.sum() + 2 * round(0.25 * 86.1328) == len(speech.mel)


def test_pauses_are_silent_and_as_long_as_asked(synthesizer: Synthesizer) -> None:
    speech = synthesizer("One. Two.", sentence_silence=0.5)
    ((_, start, end),) = [timing for timing in speech.timings if timing[0] == PAUSE]
    assert end - start == pytest.approx(0.5, abs=0.006)  # half a frame
    pause = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
    assert not speech.wav[pause].any()
    assert speech.wav[: pause.start].any()
    assert speech.wav[pause.stop :].any()
    frames = slice(pause.start // HOP_LENGTH, pause.stop // HOP_LENGTH)
    torch.testing.assert_close(
        speech.mel[frames], torch.full_like(speech.mel[frames], math.log(1e-5))
    )


def test_no_pause_if_none_is_wanted(synthesizer: Synthesizer) -> None:
    speech = synthesizer("One. Two.", sentence_silence=0)
    assert PAUSE not in {symbol for symbol, _, _ in speech.timings}
    assert len(speech.pieces) == 2


def test_a_sentence_sounds_the_same_alone_and_among_others(synthesizer: Synthesizer) -> None:
    sentences = [f"Sentence number {n} is {'quite ' * n}long." for n in range(1, 21)]
    together = synthesizer(" ".join(sentences))  # more than one batch
    assert [piece.text for piece in together.pieces] == sentences
    for sentence, piece in zip(sentences, together.pieces, strict=True):
        alone = synthesizer(sentence)
        torch.testing.assert_close(piece.durations, alone.pieces[0].durations)
        torch.testing.assert_close(together.mel[piece.mel_rows], alone.mel, atol=1e-5, rtol=1e-5)


def test_joints_do_not_click(synthesizer: Synthesizer) -> None:
    alone = synthesizer("One.").wav
    joined = synthesizer("One. Two.").wav
    torch.testing.assert_close(joined[: len(alone) - 128], alone[:-128])
    assert joined[len(alone) - 1] == 0
    fade = (joined[len(alone) - 128 : len(alone)] / alone[-128:]).numpy()
    np.testing.assert_allclose(fade, np.linspace(1, 0, 128), atol=1e-6)


@pytest.mark.parametrize("text", ["a", "Yes", "word " * 500, "x" * 700])
def test_one_letter_and_five_hundred_words(synthesizer: Synthesizer, text: str) -> None:
    speech = synthesizer(text)
    assert len(speech.mel) >= len(encode(text.strip())) // 2
    assert torch.isfinite(speech.wav).all()
    assert max(len(piece.symbols) for piece in speech.pieces) <= 200 + len(".")


def test_pace(synthesizer: Synthesizer) -> None:
    normal, slow = synthesizer("Take your time."), synthesizer("Take your time.", pace=0.5)
    assert len(slow.mel) == pytest.approx(2 * len(normal.mel), rel=0.15)


def test_phonemes_and_numbers_as_spoken(synthesizer: Synthesizer) -> None:
    assert synthesizer("Say {HH AH0 L OW1} 2 times!").spoken == "say {HH AH0 L OW1} two times!"


def test_a_sentence_without_an_end_gets_one(synthesizer: Synthesizer) -> None:
    speech = synthesizer("b")
    assert [symbol for symbol, _, _ in speech.timings] == ["b", "."]
    assert torch.equal(speech.mel, synthesizer("b.").mel)
    assert speech.pieces[0].text == "b"


def test_stages_are_timed(synthesizer: Synthesizer) -> None:
    seconds = synthesizer("Timed.").seconds
    assert set(seconds) == {"text", "mel", "vocoder"}
    assert all(spent > 0 for spent in seconds.values())


@pytest.mark.parametrize("text", ["", "   \n", "...", "?!", "\U0001f642"])
def test_nothing_speakable(synthesizer: Synthesizer, text: str) -> None:
    with pytest.raises(InputError, match="can be spoken: expected at least one letter or digit"):
        synthesizer(text)


@pytest.mark.parametrize("pace", [0.0, -1.0, 100.0, math.nan])
def test_bad_pace(synthesizer: Synthesizer, pace: float) -> None:
    with pytest.raises(InputError, match=r"pace .*: expected 0.1 to 10"):
        synthesizer("Hello", pace=pace)


@pytest.mark.parametrize("silence", [-0.1, 11.0, math.nan])
def test_bad_silence(synthesizer: Synthesizer, silence: float) -> None:
    with pytest.raises(InputError, match=r"sentence silence .*: expected 0 to 10 seconds"):
        synthesizer("Hello", sentence_silence=silence)


def test_a_broken_voice_is_an_error() -> None:
    student = tiny_student()
    with torch.no_grad():
        student.output.bias[3] = math.nan
    with pytest.raises(InputError, match="the voice made a mel spectrogram with NaN"):
        Synthesizer(student, Loud())("Hello")


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (math.inf, "the vocoder broken:a.pt made samples that are NaN or infinite; use another"),
        (math.nan, "the vocoder broken:a.pt made samples that are NaN"),
        (0.0, r"the vocoder broken:a.pt made silence \(peak 0\) of a mel that reaches .*damaged"),
    ],
)
def test_a_broken_vocoder_is_an_error_that_names_it(factor: float, message: str) -> None:
    class Broken(Loud):
        name = "broken"
        source = {"path": "a.pt", "name": "a", "sha256": "0"}  # noqa: RUF012 - as in Vocoder

        def stream(self, mel: Tensor) -> Iterator[Tensor]:
            return (piece * factor for piece in super().stream(mel))

    with pytest.raises(InputError, match=message):
        Synthesizer(tiny_student(), Broken())("Hello")


def test_silence_of_a_silent_mel_is_the_voices_fault() -> None:
    class Honest(Loud):
        def stream(self, mel: Tensor) -> Iterator[Tensor]:
            yield mel.exp().mean(1).repeat_interleave(HOP_LENGTH)

    student = tiny_student()
    with torch.no_grad():
        student.output.weight.zero_()
        student.output.bias.fill_(-11.5)
    with pytest.raises(InputError, match="the mel itself is silent, so the model that made it"):
        Synthesizer(student, Honest())("Hello")


class ForOtherMels(Loud):
    audio_facts = {**AUDIO_FACTS, "sample_rate": 16000, "mel_fmax": 11025.0}  # noqa: RUF012
    source = {"path": "some.pt", "name": "some", "sha256": "0"}  # noqa: RUF012


def test_a_vocoder_for_other_mels_is_refused() -> None:
    message = (
        r"the vocoder loud:some.pt takes mels that this voice does not make: sample_rate is 16000 "
        r"\(voice: 22050\); mel_fmax is 11025.0 \(voice: 8000.0\); use one that was trained"
    )
    with pytest.raises(InputError, match=message):
        Synthesizer(tiny_student(), ForOtherMels())


def test_a_vocoder_is_compared_with_the_voice_and_not_with_the_constant() -> None:
    voice = {"audio": dict(ForOtherMels.audio_facts)}
    assert Synthesizer(tiny_student(), ForOtherMels(), voice).vocoder.name == "loud"
    with pytest.raises(InputError, match=r"mel_fmax is 8000.0 \(voice: 11025.0\)"):
        Synthesizer(tiny_student(), Loud(), voice)


def test_a_vocoder_is_compared_with_the_teacher() -> None:
    with pytest.raises(InputError, match=r"this teacher does not make: .* \(teacher: 22050\)"):
        TeacherSynthesizer(PlantedTeacher(), ForOtherMels())  # type: ignore[arg-type]


def test_loading_takes_a_name_or_a_vocoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = save_tiny_voice(tmp_path, {"name": "planted"})
    asked: list[Any] = []

    def load(spec: str, device: Any, **others: Any) -> Loud:
        asked.append((spec, others))
        return Loud()

    monkeypatch.setattr(synthesis, "load_vocoder", load)
    ready = Loud()
    assert Synthesizer.load(voice, ready).vocoder is ready
    assert asked == []
    options = VocoderOptions(seed=3)
    teacher = voice_facts(voice)["teacher"].get("sha256")
    expected = {"audio_facts": AUDIO_FACTS, "teacher": teacher}
    Synthesizer.load(voice, "waveglow:x.pt", vocoder_options=options)
    Synthesizer.load(voice)
    assert asked == [
        ("waveglow:x.pt", {"options": options, **expected}),
        ("auto", {"options": VocoderOptions(), **expected}),
    ]
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: PlantedTeacher())
    assert TeacherSynthesizer.load("x.pt", ready).vocoder is ready
    TeacherSynthesizer.load("x.pt", "griffin-lim")
    assert asked[-1] == ("griffin-lim", {"audio_facts": AUDIO_FACTS, "teacher": "0"})


class PlantedTeacher(nn.Module):
    """Speaks each token for a known number of frames; its attention shows nothing but that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.source = {"name": "planted", "sha256": "0"}
        self.audio_facts = dict(AUDIO_FACTS)

    def infer(
        self,
        tokens: Tensor,
        token_lengths: Tensor,
        *,
        prenet_dropout: float,
        seeds: list[int],
        max_frames: int,
    ) -> TeacherOutput:
        durations = [1 + (tokens[i, :n] % 4) for i, n in enumerate(token_lengths.tolist())]
        frames = torch.tensor([int(d.sum()) for d in durations])
        B, N, T = len(tokens), tokens.shape[1], int(frames.max())
        attention = torch.zeros(B, T, N)
        for i, d in enumerate(durations):
            for t, n in enumerate(torch.repeat_interleave(torch.arange(len(d)), d).tolist()):
                attention[i, t, n] = 1
        mel = torch.full((B, T, 80), -3.0)
        return TeacherOutput(
            mel,
            mel,
            torch.zeros(B, T),
            attention,
            torch.zeros(B, N, 4),
            frames,
            frames < max_frames,
        )


def test_the_teachers_durations_are_those_of_its_attention() -> None:
    speech = TeacherSynthesizer(PlantedTeacher(), Loud())("Good day. So long!")  # type: ignore[arg-type]
    for piece in speech.pieces:
        assert piece.attention is not None
        assert piece.attention.shape == (piece.frames, len(piece.symbols))
        expected = [1 + (symbol_id % 4) for symbol_id in encode(piece.text)]
        assert piece.durations.tolist() == expected
        assert piece.stopped


def test_the_bundled_teacher_speaks() -> None:
    teacher = TeacherSynthesizer.load(default_checkpoint(), Loud())
    assert teacher.parameters > 1_000_000
    speech = teacher("Go home.")
    piece = speech.pieces[0]
    assert piece.stopped
    assert 20 < piece.frames < 200
    torch.testing.assert_close(speech.mel, teacher("Go home.").mel)  # seeded


def test_loading_a_voice(tmp_path: Path) -> None:
    folder = save_tiny_voice(tmp_path / "run", {"name": "t", "sha256": "0"})
    synthesizer = Synthesizer.load(folder)
    assert synthesizer.voice["step"] == 7
    assert synthesizer.voice["name"] == str(folder)
    assert synthesizer.parameters == sum(p.numel() for p in tiny_student().parameters())
    assert synthesizer("Hello").wav.abs().max() > 0


def test_voices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no voice at .*absent"):
        Synthesizer.load(tmp_path / "absent")
    folder = save_tiny_voice(tmp_path / "runs" / "lightspeech", {})
    with pytest.raises(InputError, match="griffin-lim"):
        Synthesizer.load(folder, vocoder="wavegrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synthesis, "PRETRAINED", tmp_path / "pretrained")
    bundled = save_tiny_voice(tmp_path / "pretrained", {})
    assert default_voice() == Path("runs/lightspeech")  # one's own comes first
    monkeypatch.setattr(synthesis, "DEFAULT_RUN", tmp_path / "nowhere")
    assert default_voice() == bundled
    monkeypatch.setattr(synthesis, "PRETRAINED", tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"no voice yet: .*python preprocess.py and python train.py"
    ):
        default_voice()


def test_which_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, default = tmp_path / "named.pt", tmp_path / "default.pt"
    named.write_bytes(b"the teacher")
    default.write_bytes(b"another")
    monkeypatch.setattr(synthesis, "checkpoints", lambda: [default, named])
    voice = {"teacher": {"sha256": sha256(named), "name": "named"}}

    assert find_teacher(voice, "none") == (None, "without the teacher, as asked")
    assert find_teacher(voice, "auto")[0] == named
    assert find_teacher(voice, str(named)) == (named, str(named))
    path, note = find_teacher(voice, str(default))
    assert path == default
    assert "is not the teacher that this voice was distilled from" in note

    named.write_bytes(b"trained further")  # no longer what the voice learned from
    path, note = find_teacher(voice, "auto")
    assert path is None
    assert "(named) is not at hand; name its file with --teacher" in note
    default.write_bytes(b"the teacher")
    assert find_teacher(voice, "auto")[0] == default
    path, note = find_teacher({}, "auto")
    assert path is None
    assert "does not say who its teacher was" in note


@pytest.mark.parametrize(
    ("voice", "dropout"),
    [
        ({"store": {"labelling": {"prenet_dropout": 0}}}, 0.0),
        ({"store": {"labelling": {"prenet_dropout": 0.25}}}, 0.25),
        ({"store": {"labelling": {"mode": "forced"}}}, 0.5),
        ({"store": {"digest": "0"}}, 0.5),
        ({"store": {"labelling": {"prenet_dropout": "none"}}}, 0.5),
        ({"store": {"labelling": {"prenet_dropout": 7}}}, 0.5),
        ({}, 0.5),
    ],
)
def test_the_teacher_speaks_as_it_made_the_labels(voice: dict[str, Any], dropout: float) -> None:
    assert labelling_dropout(voice) == dropout


def test_a_teacher_made_for_other_audio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = PlantedTeacher()
    teacher.audio_facts["sample_rate"] = 16000
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: teacher)
    with pytest.raises(InputError, match="sample_rate is 16000, expected 22050"):
        TeacherSynthesizer.load("other.pt", Loud())


def test_a_piece_is_cut_from_the_speech() -> None:
    readings = [
        Reading("a", ["a", "b"], torch.full((3, 80), 1.0), torch.tensor([1, 2])),
        Reading("c", ["c"], torch.full((2, 80), 2.0), torch.tensor([2])),
    ]
    wavs = [torch.ones(3 * HOP_LENGTH), torch.ones(2 * HOP_LENGTH)]
    speech = join_readings(readings, wavs, 4, {})
    first, second = speech.pieces
    assert (first.start, second.start) == (0, 7)
    assert (speech.mel[second.mel_rows] == 2).all()
    assert [symbol for symbol, _, _ in speech.timings] == ["a", "b", PAUSE, "c"]
    assert isinstance(first, Piece)


def test_a_sentence_after_a_pause_fades_in() -> None:
    synthesizer = Synthesizer(tiny_student(), Loud())
    alone, joined = (
        synthesizer("Two.").wav,
        synthesizer("One. Two.").wav[-len(synthesizer("Two.").wav) :],
    )
    fade = (joined[:128] / alone[:128]).numpy()
    np.testing.assert_allclose(fade, np.linspace(0, 1, 128), atol=1e-6)
    torch.testing.assert_close(joined[128:], alone[128:])


def test_every_sentence_of_the_teacher_has_the_seed_that_is_given() -> None:
    seeds: list[int] = []
    dropouts = set()

    class Watched(PlantedTeacher):
        def infer(self, tokens: Any, token_lengths: Any, **options: Any) -> Any:
            seeds.extend(options["seeds"])
            dropouts.add(options["prenet_dropout"])
            output = super().infer(tokens, token_lengths, **options)
            return replace(output, stopped=torch.tensor([True, False]))

    speech = TeacherSynthesizer(Watched(), Loud())("One. Two.", seed=5)  # type: ignore[arg-type]
    assert seeds == [5, 5]
    TeacherSynthesizer(Watched(), Loud(), 0.25)("One. Two.")  # type: ignore[arg-type]
    assert dropouts == {0.5, 0.25}
    assert [piece.stopped for piece in speech.pieces] == [True, False]
