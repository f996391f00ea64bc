"""The command line: what it reads, what it writes, and one clear line where it cannot."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import synthesize
import waveglow.load
from lightspeech import cli, synthesis
from lightspeech.audio import AUDIO_FACTS
from lightspeech.checkpoint import VOICE_FILE, save_voice
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.evaluation import results
from lightspeech.evaluation.results import stem
from lightspeech.mel_file import read_mel
from lightspeech.model import LightSpeech
from lightspeech.synthesis import Synthesizer, TeacherSynthesizer
from lightspeech.vocoders import choice, hifigan
from tests.test_synthesis import TINY, Loud, PlantedTeacher, save_tiny_voice


@dataclass
class Outcome:
    code: int
    out: str
    err: str


class Command:
    """Runs synthesize.py with a tiny voice and a vocoder that takes no time."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.voice = save_tiny_voice(folder / "run", {"name": "planted", "sha256": "0"})
        self.results = folder / "results"
        self._monkeypatch, self._capsys = monkeypatch, capsys
        # Nothing but Griffin-Lim is there for `auto`, and it is played by another.
        monkeypatch.setattr(hifigan, "PRETRAINED", folder / "hifigan")
        monkeypatch.setattr(waveglow.load, "PRETRAINED", folder / "waveglow")
        monkeypatch.setattr(choice, "_griffin_lim", lambda device, options: Loud())

    def __call__(self, *options: str | Path, stdin: bytes = b"") -> Outcome:
        voice = [] if "--from-mel" in options else ["--voice", str(self.voice)]
        argv = ["synthesize.py", *voice, "--out", str(self.results)]
        self._monkeypatch.setattr(sys, "argv", [*argv, "--device", "cpu", *map(str, options)])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            cli.run(synthesize.main)
        except SystemExit as e:
            code = int(e.code or 0)
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    def files(self) -> list[str]:
        """What is in the results folder, without the lock."""
        if not self.results.exists():
            return []
        return sorted(path.name for path in self.results.iterdir() if path.name != ".lock")


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def test_a_text_on_the_command_line(command: Command) -> None:
    outcome = command("Hello", "there,", "it is 5.")
    assert outcome.code == 0, outcome.err
    assert command.files() == [
        "001-hello-there-it-is-five.png",
        "001-hello-there-it-is-five.wav",
        "index.html",
        "results.json",
    ]
    info = soundfile.info(command.results / "001-hello-there-it-is-five.wav")
    assert (info.samplerate, info.subtype, info.channels) == (22050, "PCM_16", 1)
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    (text,) = record["texts"]
    assert text["text"] == "Hello there, it is 5."
    assert text["spoken"] == "hello there, it is five."
    assert text["student"]["seconds"] == pytest.approx(info.frames / 22050, abs=1e-4)
    assert text["student"]["timings"][-1][2] == pytest.approx(info.frames / 22050, abs=1e-3)
    assert record["voice"]["step"] == 7
    assert (command.results / "index.html").resolve().as_uri() in outcome.out
    assert f"Wavs:   {command.results.resolve()}\n" in outcome.out
    for stage in ("text to mel", "mel to sound (vocoder)", "text to sound, everything"):
        assert stage in outcome.out
    assert "teacher: the voice's teacher (planted) is not at hand" in outcome.out


def test_standard_input_is_read_line_by_line(command: Command) -> None:
    outcome = command("-", stdin=b"First line.\n\nSecond line.\n")
    assert outcome.code == 0, outcome.err
    wavs = [name for name in command.files() if name.endswith(".wav")]
    assert wavs == ["001-first-line.wav", "002-second-line.wav"]


def test_a_file_with_a_bad_row_goes_on(command: Command, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("Good.\n...\nAlso good.\n", encoding="utf-8")
    outcome = command("--text-file", tmp_path / "lines.txt")
    assert outcome.code == 0, outcome.err
    assert "lines.txt:2: nothing in it can be spoken" in outcome.err
    assert sum(name.endswith(".wav") for name in command.files()) == 2


def test_no_text_takes_the_held_out_lines(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = tmp_path / "heldout.txt"
    held_out.write_text("\n".join(f"Line number {n}." for n in range(30)), encoding="utf-8")
    monkeypatch.setattr(synthesize, "HELD_OUT", held_out)
    monkeypatch.setattr(results, "plot_speech", lambda *_: None)
    assert command("--teacher", "none").code == 0
    assert sum(name.endswith(".wav") for name in command.files()) == 20


def test_the_teacher_beside_the_student(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "teacher.pt").write_bytes(b"weights")
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: PlantedTeacher())
    outcome = command("Good day.", "--teacher", tmp_path / "teacher.pt")
    assert outcome.code == 0, outcome.err
    assert "001-good-day.teacher.wav" in command.files()
    assert "is not the teacher that this voice was distilled from" in outcome.out
    page = (command.results / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 2


def test_show_text_and_characters_that_are_not_spoken(command: Command) -> None:
    outcome = command("Pay \u20ac2 \U0001f642", "--show-text", "--teacher", "none")
    assert outcome.code == 0, outcome.err
    assert "spoken as: pay" in outcome.out
    assert "U+1F642 SLIGHTLY SMILING FACE" in outcome.out
    assert outcome.err.count("U+1F642") == 1


def test_later_results_replace_their_namesakes_only(command: Command) -> None:
    assert command("One.").code == command("Two.").code == command("One.").code == 0
    assert [n for n in command.files() if n.endswith(".wav")] == ["001-one.wav", "001-two.wav"]
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    assert [text["text"] for text in record["texts"]] == ["One."]


def test_what_a_killed_run_left_is_cleared(command: Command) -> None:
    command.results.mkdir()
    (command.results / ".001-x.wav.123.tmp").write_bytes(b"half")
    assert command("One.").code == 0
    assert not [name for name in command.files() if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["..."], "can be spoken: expected at least one letter or digit"),
        ([""], "can be spoken: expected at least one letter or digit"),
        (["Hi", "--pace", "100"], "pace 100: expected 0.1 to 10"),
        (["Hi", "--pace", "nan"], "pace nan: expected 0.1 to 10"),
        (["Hi", "--sentence-silence", "-1"], "sentence silence -1: expected 0 to 10 seconds"),
        (["Hi", "--vocoder", "wavegrow"], "no vocoder 'wavegrow': expected one of auto, light,"),
        (["Hi", "--vocoder", __file__], f"write light:{__file__}, hifigan:{__file__} or waveglow:"),
        (["Hi", "--vocoder", "griffin-lim:x"], "griffin-lim takes no file"),
        (["Hi", "--vocoder", "auto:x"], "auto takes no file"),
        (["Hi", "--vocoder", "hifigan:"], "expected hifigan:PATH, or hifigan alone"),
        (["Hi", "--vocoder", "hifigan"], "no HiFi-GAN checkpoint in"),
        (["Hi", "--vocoder", "waveglow"], "no WaveGlow checkpoint in"),
        (["Hi", "--vocoder", "hifigan:nowhere.pt"], "nowhere.pt"),
        (["Hi", "--vocoder", "waveglow:nowhere.pt"], "nowhere.pt"),
        (["Hi", "--vocoder", "griffin-lim", "--sigma", "1"], "griffin-lim has no sigma to set"),
        (["Hi", "--denoise", "0"], "which auto took, has no denoise to set"),
        (["Hi", "--vocoder", "hifigan", "--vocoder-precision", "float16"], "has no precision"),
        (["Hi", "--sigma", "nan"], "sigma nan: expected 0 to 2"),
        (["Hi", "--vocoder-precision", "int8"], "expected one of float32, bfloat16, float16"),
        (["--from-mel", "a.npy", "--voice", "v"], "--from-mel and --voice were both given"),
        (["Hi", "--from-mel", "a.npy"], "--from-mel and a text were both given"),
        (["--from-mel", "a.npy", "--text-file", "x"], "--from-mel and --text-file were both"),
        (["--from-mel", "a.npy", "--save-mel"], "--from-mel and --save-mel were both given"),
        (["--from-mel", "a.npy", "--pace", "2"], "--from-mel and --pace were both given"),
        (["--from-mel", "a.npy", "--show-text"], "--from-mel and --show-text were both given"),
        (["--from-mel", "a.npy", "--teacher", "t"], "--from-mel and --teacher were both given"),
        (["--from-mel", "a.npy", "--sentence-silence", "1"], "and --sentence-silence were both"),
        (["--from-mel", "a.npy", "--beside", "v"], "--from-mel and --beside were both given"),
        (["Hi", "--beside", "nowhere/at-all"], "no voice at nowhere/at-all"),
        (["Hi", "--beside", __file__], "is damaged, or no safetensors file"),
        (["...", "--voice", "nowhere/at-all"], "can be spoken: expected at least one letter"),
        (["Hi", "--voice", "nowhere/at-all"], "no voice at nowhere/at-all"),
        (["Hi", "--teacher", "nowhere.pt"], "nowhere.pt"),
        (["Hi", "--text-file", "x.txt"], "a text and --text-file were both given"),
        (["--text-file", "nowhere.txt"], "no text file at nowhere.txt"),
        (["Hi", "--device", "abacus"], "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    command: Command, options: list[str], message: str
) -> None:
    outcome = command(*options)
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert command.files() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02", "is not a text file"),
        ("caf\u00e9".encode("latin-1"), "not UTF-8"),
        (b"...\n???\n", "none of its 2 rows can be used"),
    ],
)
def test_bad_files_are_one_line_and_write_nothing(
    command: Command, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    outcome = command("--text-file", tmp_path / "text.txt")
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert command.files() == []


def test_a_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = command("Hi", "--out", tmp_path / "file" / "results")
    assert outcome.code == 1
    assert "cannot write into the folder" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_damaged_voice(command: Command) -> None:
    path = command.voice / VOICE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    outcome = command("Hi")
    assert outcome.code == 1
    assert "damaged" in outcome.err
    assert command.files() == []


def test_a_text_that_fails_among_others(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Synthesizer.__call__

    def picky(self: Synthesizer, text: str, *options: float) -> object:
        if "bad" in text:
            raise InputError("too bad")
        return call(self, text, *options)

    monkeypatch.setattr(Synthesizer, "__call__", picky)
    outcome = command("-", stdin=b"Good.\nBad, bad.\nGood again.\n")
    assert outcome.code == 1
    assert "1 of 3 texts were not spoken: standard input:2: too bad" in outcome.err
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    assert len(record["texts"]) == 2
    assert record["not_spoken"] == ["standard input:2: too bad"]


def test_ctrl_c_keeps_what_was_spoken(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Synthesizer.__call__

    def interrupted(self: Synthesizer, text: str, *options: float) -> object:
        if "stop" in text:
            raise KeyboardInterrupt
        return call(self, text, *options)

    monkeypatch.setattr(Synthesizer, "__call__", interrupted)
    assert command("-", stdin=b"Heard.\nNow stop.\nNever.\n").code == 130
    assert "1 text in the voice" in (command.results / "index.html").read_text(encoding="utf-8")
    assert [n for n in command.files() if n.endswith(".wav")] == ["001-heard.wav"]


def test_names_of_files() -> None:
    assert stem(1, "Hello, World!") == "001-hello-world"
    assert stem(12, "a" * 99) == "012-" + "a" * 40
    assert stem(7, "the quick brown fox jumped over the lazy dogs") == (
        "007-the-quick-brown-fox-jumped-over-the-lazy"
    )
    assert stem(3, "{}") == "003"
    assert stem(1234, "x", digits=4) == "1234-x"


def test_the_device_is_told() -> None:
    assert results.describe_device(torch.device("cpu")).startswith("CPU (")


def test_the_teachers_sound_and_pauses(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:

    (tmp_path / "teacher.pt").write_bytes(b"weights")
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: PlantedTeacher())
    outcome = command("Good. Day.", "--teacher", tmp_path / "teacher.pt", "--sentence-silence", "2")
    assert outcome.code == 0, outcome.err
    expected = TeacherSynthesizer(PlantedTeacher(), Loud())("Good. Day.", sentence_silence=2)  # type: ignore[arg-type]
    found, _ = soundfile.read(command.results / "001-good-day.teacher.wav", dtype="float32")
    np.testing.assert_allclose(found, expected.wav.numpy(), atol=1e-4)


# --- voices beside


def another_voice(folder: Path) -> Path:
    """A voice with other weights than the command's own."""
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    save_voice(
        folder, LightSpeech(TINY), Config(name="other", model=TINY),
        step=9000, validation={"total": 1.0}, store={"digest": "1", "utterances": 34}, teacher={},
    )  # fmt: skip
    return folder


def record_of(command: Command) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((command.results / "results.json").read_text("utf-8"))
    return record


def test_a_voice_beside_says_the_same(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = another_voice(tmp_path / "old")
    (tmp_path / "teacher.pt").write_bytes(b"weights")
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: PlantedTeacher())
    outcome = command(
        "Good. Day.", "--beside", old, "--teacher", tmp_path / "teacher.pt",
        "--pace", "0.5", "--sentence-silence", "2", "--save-mel",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    names = ("001-good-day", "001-good-day.teacher", "001-good-day.old")
    assert {f"{name}.{kind}" for name in names for kind in ("wav", "npy")} <= {*command.files()}
    for voice, name in ((command.voice, names[0]), (old, names[2])):
        expected = Synthesizer.load(voice, Loud())("Good. Day.", 0.5, 2)
        found, _ = soundfile.read(command.results / f"{name}.wav", dtype="float32")
        np.testing.assert_allclose(found, expected.wav.numpy(), atol=1e-4)
        np.testing.assert_allclose(
            np.load(command.results / f"{name}.npy"), expected.mel.T.numpy(), atol=1e-5
        )
    wavs = [(command.results / f"{name}.wav").read_bytes() for name in (names[0], names[2])]
    assert wavs[0] != wavs[1]

    parameters = Synthesizer.load(old, Loud()).parameters
    assert f"beside: {old}, as old, {parameters:,} parameters\n" in outcome.out
    assert re.search(r"^ +student +teacher +old$", outcome.out, re.MULTILINE)
    record = record_of(command)
    assert record["voice"]["name"] == str(command.voice)
    assert record["beside"] == {
        "old": {
            "name": str(old), "parameters": parameters, "configuration": "other", "step": 9000,
        }
    }  # fmt: skip
    assert list(record["times_real_time"]) == ["student", "teacher", "old"]
    assert record["texts"][0]["beside"]["old"]["wav"] == "001-good-day.old.wav"
    assert record["texts"][0]["beside"]["old"]["mel"] == "001-good-day.old.npy"
    page = (command.results / "index.html").read_text(encoding="utf-8")
    players = re.findall(r'<audio [^>]*data-who="([^"]*)" aria-label="([^"]*)"', page)
    assert players == [
        ("student", "student: Good. Day."),
        ("teacher", "teacher: Good. Day."),
        ("beside-1", "old: Good. Day."),
    ]
    assert "configuration other, step 9,000" in page
    assert "learned from 34 utterances" in page


def test_the_voice_itself_is_left_out_beside_it(command: Command, tmp_path: Path) -> None:
    copy = shutil.copy(command.voice / VOICE_FILE, tmp_path / "copy.safetensors")
    old = another_voice(tmp_path / "old")
    outcome = command("Hi.", "--beside", command.voice, copy, "--beside", old)
    assert outcome.code == 0, outcome.err
    for same in (command.voice, copy):
        assert f"beside: without {same}, which is the voice itself\n" in outcome.out
    wavs = [name for name in command.files() if name.endswith(".wav")]
    assert wavs == ["001-hi.old.wav", "001-hi.wav"]
    assert command("Hi.", "--beside", command.voice).code == 0
    assert record_of(command)["beside"] == {}


def test_a_voice_is_beside_once(command: Command, tmp_path: Path) -> None:
    old = another_voice(tmp_path / "old")
    outcome = command("Hi.", "--beside", old, old / VOICE_FILE)
    assert outcome.code == 1
    assert "is named twice; leave it out of --beside" in outcome.err
    assert command.files() == []


def test_names_that_no_file_can_have(command: Command, tmp_path: Path) -> None:
    names = ("a/Teacher", "a/one of them", "a/fine", "a/twice", "b/twice", "a/mine", "b/Mine")
    voices = [another_voice(tmp_path / name) for name in names]
    outcome = command("Hi.", "--beside", *voices)
    assert outcome.code == 0, outcome.err
    suffixes = ["beside-1", "beside-2", "fine", "beside-4", "beside-5", "beside-6", "beside-7"]
    wavs = [name for name in command.files() if name.endswith(".wav")]
    assert wavs == sorted(["001-hi.wav", *(f"001-hi.{suffix}.wav" for suffix in suffixes)])
    spoken = record_of(command)["texts"][0]["beside"]
    assert [voice["wav"] for voice in spoken.values()] == [f"001-hi.{s}.wav" for s in suffixes]
    assert list(spoken)[:3] == ["Teacher", "one of them", "fine"]
    assert list(spoken)[3] == str(voices[3] / VOICE_FILE)
    page = (command.results / "index.html").read_text(encoding="utf-8")
    for suffix in suffixes:
        assert f'href="001-hi.{suffix}.wav"' in page


def fail_beside(monkeypatch: pytest.MonkeyPatch, voice: Path, texts: str) -> None:
    """Has a voice fail at texts that begin in a certain way."""
    call = Synthesizer.__call__

    def picky(self: Synthesizer, text: str, *options: float) -> object:
        if text.startswith(texts) and self.voice["name"] == str(voice):
            raise InputError("too bad")
        return call(self, text, *options)

    monkeypatch.setattr(Synthesizer, "__call__", picky)


def test_a_text_that_fails_for_a_voice_beside(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = another_voice(tmp_path / "old")
    fail_beside(monkeypatch, old, "Bad")
    outcome = command("-", "--beside", old, stdin=b"Good.\nBad, bad.\n")
    assert outcome.code == 1
    failure = "standard input:2: old, beside the voice: too bad"
    assert f"1 of 2 texts were not spoken: {failure}" in outcome.err
    assert record_of(command)["not_spoken"] == [failure]
    wavs = [name for name in command.files() if name.endswith(".wav")]
    assert wavs == ["001-good.old.wav", "001-good.wav"]


def test_a_voice_beside_that_never_speaks_ends_it_before_anything_is_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = another_voice(tmp_path / "old")
    fail_beside(monkeypatch, old, "")
    outcome = command("-", "--beside", old, stdin=b"Good.\nBad, bad.\n")
    assert outcome.err == "error: old, beside the voice: too bad\n"
    assert (outcome.code, command.files()) == (1, [])


# --- vocoders and mels


def test_the_vocoder_is_told(command: Command) -> None:
    outcome = command("Hi there.")
    assert outcome.code == 0, outcome.err
    assert f"vocoder: loud (auto: no HiFi-GAN in {command.results.parent}/hifigan; " in outcome.out
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    assert (record["vocoder"], record["vocoder_checkpoint"]) == ("loud", None)
    assert record["vocoder_reason"].startswith("auto: no HiFi-GAN in ")


def test_the_vocoders_checkpoint_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = Loud()
    loud.source = {"path": "/private/mine.pt", "name": "mine", "sha256": "f00"}
    monkeypatch.setattr(choice, "_griffin_lim", lambda device, options: loud)
    outcome = command("Hi there.", "--vocoder", "griffin-lim")
    assert "vocoder: loud (mine)\n" in outcome.out
    assert "(vocoder loud (mine))" in outcome.out
    text = (command.results / "results.json").read_text(encoding="utf-8")
    assert json.loads(text)["vocoder_checkpoint"] == {"name": "mine", "sha256": "f00"}
    page = (command.results / "index.html").read_text(encoding="utf-8")
    assert "loud (mine)" in page
    assert "/private" not in text + page


def test_mels_are_saved_and_sound_the_same_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "teacher.pt").write_bytes(b"weights")
    monkeypatch.setattr(synthesis, "load_tacotron2", lambda path, device: PlantedTeacher())
    outcome = command("Good day.", "--save-mel", "--teacher", tmp_path / "teacher.pt")
    assert outcome.code == 0, outcome.err
    for name in ("001-good-day", "001-good-day.teacher"):
        saved = np.load(command.results / f"{name}.npy", allow_pickle=False)
        assert saved.dtype == np.float32
        assert saved.shape[0] == 80
        assert saved.flags.c_contiguous
        seconds = soundfile.info(command.results / f"{name}.wav").duration
        assert saved.shape[1] == pytest.approx(seconds * 22050 / 256)
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    assert record["texts"][0]["teacher"]["mel"] == "001-good-day.teacher.npy"

    outcome = command("--from-mel", command.results / "001-good-day.npy")
    assert outcome.code == 0, outcome.err
    assert "vocoder: loud (auto: " in outcome.out
    assert "001-good-day.loud.wav" in outcome.out
    assert "mel to sound (vocoder)" in outcome.out
    assert (command.results / "001-good-day.loud.png").stat().st_size > 1000
    first = (command.results / "001-good-day.wav").read_bytes()
    assert (command.results / "001-good-day.loud.wav").read_bytes() == first


def test_no_mel_is_saved_unasked(command: Command) -> None:
    assert command("Hi.").code == 0
    assert not [name for name in command.files() if name.endswith(".npy")]
    record = json.loads((command.results / "results.json").read_text(encoding="utf-8"))
    assert "mel" not in record["texts"][0]["student"]


def test_bad_files_among_mels_are_reported_and_the_rest_goes_on(
    command: Command, tmp_path: Path
) -> None:
    mel = np.full((80, 30), -4.0, np.float32)
    mel[:, 10:20] = -9
    np.save(tmp_path / "good.npy", mel)
    (tmp_path / "bad.npy").write_text("no mel")
    np.save(tmp_path / "nan.npy", mel * np.nan)
    torch.save(torch.from_numpy(mel)[None], tmp_path / "good.pt")
    names = ("bad.npy", "good.npy", "missing.pt", "nan.npy", "good.pt")
    outcome = command("--from-mel", *(tmp_path / name for name in names))
    assert outcome.code == 1
    assert [n for n in command.files() if n.endswith(".wav")] == [
        "good-2.loud.wav",
        "good.loud.wav",
    ]
    wavs = [command.results / name for name in ("good.loud.wav", "good-2.loud.wav")]
    assert wavs[0].read_bytes() == wavs[1].read_bytes()
    for bad in ("bad.npy is a text file", "no file .*missing.pt", "nan.npy: 2400 of the mel's"):
        assert re.search(f"not vocoded: .*{bad}", outcome.err), bad
    assert "3 of 5 files were not vocoded: " in outcome.err.splitlines()[-1]
    assert "2 mels, 0.7 s of sound" in outcome.out


def test_a_single_bad_mel_is_one_line(command: Command, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "voice.pt")
    outcome = command("--from-mel", tmp_path / "voice.pt")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "voice.pt is a state dict or another dictionary" in outcome.err
    assert command.files() == []


def test_a_mel_that_is_normalised_perhaps_is_noted(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "scaled.npy", np.random.default_rng(0).random((80, 50)))
    outcome = command("--from-mel", tmp_path / "scaled.npy")
    assert outcome.code == 0
    assert "is it normalised, or a logarithm to base 10?" in outcome.err


def test_a_vocoder_that_breaks_on_one_mel(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Silent(Loud):
        name = "silent"

        def stream(self, mel: torch.Tensor) -> Iterator[torch.Tensor]:
            return (0 * piece for piece in super().stream(mel))

    monkeypatch.setattr(choice, "_griffin_lim", lambda device, options: Silent())
    np.save(tmp_path / "a.npy", np.linspace(-11, 1, 80 * 9, dtype=np.float32).reshape(80, 9))
    outcome = command("--from-mel", tmp_path / "a.npy")
    assert outcome.code == 1
    assert "a.npy: the vocoder silent made silence" in outcome.err


def test_a_vocoder_for_other_mels_is_refused_before_anything_is_written(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = Loud()
    loud.audio_facts = {**AUDIO_FACTS, "mel_fmax": 11025.0}
    monkeypatch.setattr(choice, "_griffin_lim", lambda device, options: loud)
    outcome = command("Hi.", "--vocoder", "griffin-lim")
    assert outcome.code == 1
    assert "mel_fmax is 11025.0 (voice: 8000.0)" in outcome.err
    assert outcome.err.count("\n") == 1
    assert command.files() == []


def test_saved_mels_can_be_read(command: Command) -> None:
    assert command("Hi.", "--save-mel", "--teacher", "none").code == 0
    assert read_mel(command.results / "001-hi.npy").shape[1] == 80
