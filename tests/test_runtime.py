"""An exported voice without PyTorch: the same speech, whatever comes, and clear errors."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lightspeech.audio_facts import AUDIO_FACTS, FRAME_SECONDS, HOP_LENGTH
from lightspeech.errors import InputError
from lightspeech.export.folder import voice_files
from lightspeech.joins import PAUSE
from lightspeech.runtime import Span, Voice
from lightspeech.runtime.__main__ import main
from lightspeech.runtime.onnx_file import read_properties
from lightspeech.runtime.speech import words_of
from lightspeech.speech import Reading, Speech, join_readings
from lightspeech.synthesis import Synthesizer
from lightspeech.text import SYMBOLS, decode, encode_sentence, split_sentences
from lightspeech.vocoders.light import LightVocoder
from tests import runtime_fuzzing
from tests.exported import ORIGIN, STUDENTS, random_network, random_student
from tests.fake_voice import CARD, FRAMES, expected_wav, graph, save_fake_voice, with_card

ROOT = Path(__file__).parent.parent
TEXT = "Hello, Mr. Smith! It is 12 o'clock; isn't it? Say {HH AH0 L OW1} to the well-known cat."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_fake_voice(tmp_path_factory.mktemp("voices") / "voice")


@pytest.fixture(scope="module")
def voice(folder: Path) -> Voice:
    return Voice.load(folder)


def synthesized(text: str, pause_frames: int) -> Speech:
    """What lightspeech.speech makes of the sentences of the fake voice."""
    readings, wavs = [], []
    for sentence in split_sentences(text):
        ids = encode_sentence(sentence)
        durations = torch.full((len(ids),), FRAMES)
        mel = torch.zeros(int(durations.sum()), 80)
        readings.append(Reading(sentence, decode(ids), mel, durations))
        wavs.append(torch.from_numpy(expected_wav(ids)))
    return join_readings(readings, wavs, pause_frames, {})


# Speaking.


@pytest.mark.parametrize(("silence", "pause_frames"), [(0.2, 17), (0.0, 0), (1.0, 86)])
def test_it_joins_sentences_as_the_synthesizer_does(
    voice: Voice, silence: float, pause_frames: int
) -> None:
    expected = synthesized(TEXT, pause_frames)
    speech = voice(TEXT, sentence_silence=silence)
    np.testing.assert_allclose(speech.wav, expected.wav.numpy(), rtol=0, atol=1e-7)
    assert speech.timings == expected.timings
    assert speech.duration == expected.duration
    assert speech.sample_rate == expected.sample_rate
    assert [sentence.text for sentence in speech.sentences] == [p.text for p in expected.pieces]
    starts = [piece.start * FRAME_SECONDS for piece in expected.pieces]
    assert [sentence.start for sentence in speech.sentences] == starts


def test_an_export_says_what_its_models_say_in_pytorch(tmp_path: Path) -> None:
    student, network = random_student(STUDENTS["refined"]), random_network()
    synthesizer = Synthesizer(student, LightVocoder(network))
    for name, content in voice_files(student, network, ORIGIN).items():
        (tmp_path / name).write_bytes(content)
    exported = Voice.load(tmp_path)
    for pace in (0.5, 1.0, 1.7):
        expected, speech = synthesizer(TEXT, pace), exported(TEXT, pace)
        assert speech.timings == expected.timings
        peak = float(expected.wav.abs().max())
        # The joins are exact (above); a vocoder magnifies the rounding of its phases.
        np.testing.assert_allclose(speech.wav, expected.wav.numpy(), rtol=0, atol=2e-3 * peak)


def test_the_voice_says_what_is_usual(voice: Voice, tmp_path: Path) -> None:
    assert voice.name == "fake"
    card = {**CARD, "pace": {"min": 0.5, "max": 2, "default": 1.5}, "sentence_silence": 1.0}
    other = Voice.load(save_fake_voice(tmp_path, card=card))
    np.testing.assert_array_equal(other("One. Two.").wav, voice("One. Two.", 1.5, 1.0).wav)
    with pytest.raises(InputError, match=r"pace 3: expected 0.5 to 2; 1 is the voice's own"):
        other("One.", pace=3)


def test_the_stream_is_the_whole(voice: Voice) -> None:
    whole = voice(TEXT)
    parts = list(voice.stream(TEXT))
    assert len(parts) == len(split_sentences(TEXT)) > 2
    np.testing.assert_array_equal(np.concatenate([part.wav for part in parts]), whole.wav)
    assert [timing for part in parts for timing in part.timings] == whole.timings
    assert [sentence for part in parts for sentence in part.sentences] == whole.sentences
    pause, start, end = parts[1].timings[0]
    assert pause == PAUSE
    assert start == pytest.approx(parts[0].duration)
    assert end - start == pytest.approx(17 * FRAME_SECONDS)


def test_the_stream_makes_a_sentence_when_it_is_asked_for(
    voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    speak_ids = voice.speak_ids
    monkeypatch.setattr(voice, "speak_ids", lambda *a: (made.append(1), speak_ids(*a))[1])
    stream = voice.stream("One. Two. Three.")
    assert made == []
    next(stream)
    assert made == [1]


def test_ids_to_samples(voice: Voice) -> None:
    ids = encode_sentence("Hello.")
    wav, durations = voice.speak_ids(ids)
    np.testing.assert_array_equal(wav, expected_wav(ids))
    assert durations.tolist() == [FRAMES] * len(ids)
    _, faster = voice.speak_ids(ids, pace=3)
    assert faster.tolist() == [1] * len(ids)
    assert faster.dtype == np.int64


def test_the_file_alone_is_enough(voice: Voice, folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "renamed.onnx"
    alone.write_bytes((folder / "voice.onnx").read_bytes())
    np.testing.assert_array_equal(Voice.load(alone)(TEXT).wav, voice(TEXT).wav)
    (tmp_path / "only").mkdir()
    alone.rename(tmp_path / "only" / "voice.onnx")
    assert Voice.load(tmp_path / "only").name == "fake"


def test_threads_may_share_a_voice(voice: Voice) -> None:
    texts = [f"Number {i}, and {i * 37} more. It is the {i}th of {1900 + i}." for i in range(60)]
    barrier = threading.Barrier(8)

    def speak_all(_: int) -> list[np.ndarray]:
        barrier.wait()
        return [voice(text).wav for text in texts]

    forget_numbers()  # so that the threads spell them, too, at the same time
    with ThreadPoolExecutor(8) as pool:
        in_threads = list(pool.map(speak_all, range(8)))
    forget_numbers()
    alone = [voice(text).wav for text in texts]
    for together in in_threads:
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)


def forget_numbers() -> None:
    normalize = import_module("lightspeech.text.normalize")
    for name in ("_short_cardinal", "_short_ordinal"):
        getattr(normalize, name).cache_clear()


def test_spelling_numbers_leaves_typeguard_as_it_was() -> None:
    program = (
        "import lightspeech.text, typeguard; before = typeguard.typechecked;"
        "assert lightspeech.text.normalize('12') == 'twelve'; import inflect;"
        "assert typeguard.typechecked is before; assert inflect.typechecked is not before"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_words_are_what_is_between_spaces_and_marks(voice: Voice) -> None:
    words = voice("'Well-known' -- {HH AH0}, isn't it? $12").words
    assert [word.text for word in words] == [
        "well-known", "{HH AH0}", "isn't", "it", "twelve", "dollars"
    ]  # fmt: skip
    symbol = FRAMES * FRAME_SECONDS
    assert words[0].start == pytest.approx(symbol)  # after the apostrophe
    assert words[0].end == pytest.approx(11 * symbol)
    for word, following in pairwise(words):
        assert word.start < word.end <= following.start


def test_words_at_the_ends() -> None:
    timings = [(symbol, float(i), i + 1.0) for i, symbol in enumerate("-a'-b")]
    assert list(words_of(timings)) == [Span("a", 1, 2), Span("b", 4, 5)]
    assert list(words_of([])) == []
    assert list(words_of([(PAUSE, 0.0, 1.0)])) == []


def test_sound_in_16_bits(voice: Voice, tmp_path: Path) -> None:
    speech = voice("Hello.")
    assert np.frombuffer(speech.pcm16, "<i2").tolist() == np.rint(speech.wav * 32767).tolist()
    speech.save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (22050, 1, 2)
        assert file.readframes(file.getnframes()) == speech.pcm16


def test_a_loud_voice_is_clipped_in_a_stream_and_scaled_in_a_file(tmp_path: Path) -> None:
    loud = Voice.load(save_fake_voice(tmp_path, with_card(graph(loudness=1 / 50))))
    speech = loud("Zz, a.")
    samples = np.frombuffer(speech.pcm16, "<i2")
    assert samples.max() == 32767
    assert samples[-1] == round(float(speech.wav[-1]) * 32767)
    speech.save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        written = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_allclose(written, speech.wav / speech.wav.max() * 32767, atol=0.5001)


# What cannot be spoken, or loaded.


@pytest.mark.parametrize("text", ["", " \n\t", "...", "😀😀", "{}", "\ud800", "\0"])
def test_nothing_speakable_is_an_error(voice: Voice, text: str) -> None:
    with pytest.raises(InputError, match="can be spoken: expected at least one letter or digit"):
        voice(text)
    with pytest.raises(InputError, match="can be spoken"):
        voice.stream(text)  # not only when its first sentence is asked for


@pytest.mark.parametrize("pace", [0, 0.09, 11, -1, float("nan"), float("inf")])
def test_paces_out_of_range(voice: Voice, pace: float) -> None:
    with pytest.raises(InputError, match=r"^pace .*: expected 0.1 to 10; 1 is the voice's own"):
        voice("Hello.", pace=pace)
    with pytest.raises(InputError, match=r"^pace "):
        voice.speak_ids([20], pace=pace)


@pytest.mark.parametrize("silence", [-0.1, 10.5, float("nan")])
def test_silences_out_of_range(voice: Voice, silence: float) -> None:
    with pytest.raises(InputError, match=r"sentence silence .*: expected 0 to 10 seconds"):
        voice("Hello.", sentence_silence=silence)


@pytest.mark.parametrize("ids", [[-1], [148], [3, 10**6]])
def test_ids_out_of_range(voice: Voice, ids: list[int]) -> None:
    with pytest.raises(InputError, match=r"symbol ids .* expected 0 to 147"):
        voice.speak_ids(ids)
    with pytest.raises(InputError, match="expected at least one symbol id"):
        voice.speak_ids([])


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_numbers_of_threads_out_of_range(folder: Path, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads {threads}: expected 1 to "):
        Voice.load(folder, threads)


def test_two_threads_say_the_same(folder: Path, voice: Voice) -> None:
    np.testing.assert_array_equal(Voice.load(folder, threads=2)(TEXT).wav, voice(TEXT).wav)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no voice at .*absent: give the folder"):
        Voice.load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no voice\.onnx in .*: give the folder"):
        Voice.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "voice.onnx")
        with pytest.raises(InputError, match=r"no voice\.onnx in"):
            Voice.load(tmp_path)


def test_a_voice_that_was_not_exported(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "best.safetensors"):
        with pytest.raises(InputError, match=r"needs PyTorch: export it first, with python -m"):
            Voice.load(path)


def test_a_damaged_folder(tmp_path: Path) -> None:
    voice = save_fake_voice(tmp_path / "voice")
    content = bytearray((voice / "voice.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (voice / "voice.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"voice\.onnx is damaged.*checksum does not match; copy"):
        Voice.load(voice)
    card = json.loads((voice / "voice.json").read_text())
    for files in (None, {}, {"voice.onnx": 3}, []):
        (voice / "voice.json").write_text(json.dumps({**card, "files": files}))
        with pytest.raises(InputError, match=r"voice\.json is damaged: it has no checksum"):
            Voice.load(voice)
    (voice / "voice.json").write_text("{")
    with pytest.raises(InputError, match=r"voice\.json is not a readable card"):
        Voice.load(voice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "voice"}, "does not describe an exported voice"),
        ({"format": 2}, "has format 2, .* reads format 1: install a newer lightspeech"),
        ({"format": None}, "has format None, .* reads format 1: export it again"),
        ({"audio": {**AUDIO_FACTS, "hop_length": 300}}, "hop_length is 300, expected 256"),
        ({"audio": None}, "declares no audio facts"),
        ({"symbols": list(SYMBOLS[:-1])}, "147 symbols that are not this version's 148"),
        ({"symbols": ["x", *SYMBOLS[1:]]}, "148 symbols that are not this version's 148"),
        ({"symbols": None}, "no symbols that are not"),
        ({"language": "de"}, "speaks the language 'de', and this version reads 'en' only"),
        ({"pace": None}, "is damaged: its pace has None where a number must be"),
        ({"pace": {"min": 2, "max": 1, "default": 1}}, "is damaged: its pace is"),
        ({"pace": {"min": float("nan"), "max": 1, "default": 1}}, "its pace has nan"),
        ({"sentence_silence": True}, "its sentence_silence has True"),
        ({"sentence_silence": 99}, "is damaged: .* its sentence_silence 99"),
    ],
)
def test_cards_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    card = {**CARD, **change}
    save_fake_voice(tmp_path, card=card)
    with pytest.raises(InputError, match=message):
        Voice.load(tmp_path)
    with pytest.raises(InputError, match=message):
        Voice.load(tmp_path / "voice.onnx")  # the card within


def test_further_symbols_do_no_harm(tmp_path: Path, voice: Voice) -> None:
    other = Voice.load(save_fake_voice(tmp_path, card={**CARD, "symbols": [*SYMBOLS, "@new"]}))
    np.testing.assert_array_equal(other("Hello.").wav, voice("Hello.").wav)


def load_alone(folder: Path, content: bytes) -> Voice:
    folder.mkdir(exist_ok=True)
    (folder / "other.onnx").write_bytes(content)
    return Voice.load(folder / "other.onnx")


def test_files_that_are_no_voice(tmp_path: Path) -> None:
    for content in (b"\xff" * 100, b"ab", with_card(graph())[:-20]):
        with pytest.raises(InputError, match=r"is damaged, or no ONNX file"):
            load_alone(tmp_path, content)
    for content in (b"", graph().SerializeToString()):
        with pytest.raises(InputError, match=r"no voice for this runtime \(Piper's are"):
            load_alone(tmp_path, content)
    damaged = graph()
    onnx.helper.set_model_props(damaged, {"lightspeech": "{"})
    with pytest.raises(InputError, match="its card cannot be read"):
        load_alone(tmp_path, damaged.SerializeToString())


def test_graphs_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the voice fake is another graph: it has .*'wav'"):
        load_alone(tmp_path, with_card(graph(n_outputs=1)))
    renamed = graph()
    renamed.graph.input[0].name = "input"
    renamed.graph.node[4].input[0] = renamed.graph.node[6].input[0] = "input"
    with pytest.raises(InputError, match=r"another graph: it has .*'input'"):
        load_alone(tmp_path, with_card(renamed))


@pytest.mark.parametrize(
    ("domain", "operation"), [("evil", "Run"), ("ai.onnx.contrib", "PyOp"), ("", "NoSuch")]
)
def test_operations_that_are_not_known_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], domain: str, operation: str
) -> None:
    model = graph()
    model.opset_import.append(onnx.helper.make_opsetid(domain or "other", 1))
    model.graph.node.append(onnx.helper.make_node(operation, ["ids"], ["more"], domain=domain))
    with pytest.raises(InputError, match=rf"cannot be used: ONNX Runtime .*{operation}"):
        load_alone(tmp_path, with_card(model))
    assert capfd.readouterr().err == ""  # the message says it all


def external(tensor: Any, location: str) -> Any:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    return tensor


def hidden_in(model: Any, place: str, tensor: Any) -> None:
    """Puts a tensor into one of the places that a model has for them."""
    helper = onnx.helper
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif place == "attribute's list":
        node = helper.make_node("Constant", [], ["c"])
        node.attribute.append(helper.make_attribute("values", [tensor]))
        model.graph.node.append(node)
    elif place == "subgraph":
        inner = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["b"], ["c"], then_branch=inner))
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "function":
        model.functions.add().node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    else:
        model.training_info.add().algorithm.initializer.append(tensor)


@pytest.mark.parametrize(
    "place",
    ["initializer", "attribute", "attribute's list", "subgraph", "sparse", "function", "training"],
)
@pytest.mark.parametrize("location", ["secret", "/etc/passwd", "../secret"])
def test_numbers_in_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, location: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(100))
    monkeypatch.chdir(tmp_path)
    model = graph()
    tensor = onnx.numpy_helper.from_array(np.ones(1, np.float32), "elsewhere")
    hidden_in(model, place, external(tensor, location))
    with pytest.raises(InputError, match="keeps numbers in another file"):
        load_alone(tmp_path, with_card(model))


def test_a_file_of_another_format_of_onnx_runtime(folder: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "voice.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        str(folder / "voice.onnx"), options, providers=["CPUExecutionProvider"]
    )
    content = (tmp_path / "voice.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    with pytest.raises(InputError, match="no ONNX file"):
        load_alone(tmp_path, content)


def test_metadata_are_those_that_onnx_reads() -> None:
    model = graph()
    props = {"lightspeech": "é" * 1000, "": "x", "other": ""}
    onnx.helper.set_model_props(model, props)
    found = read_properties(model.SerializeToString(), "it")
    found.setdefault("other", b"")  # protobuf may leave out what is empty
    assert {name: value.decode() for name, value in found.items() if name} == {
        name: value for name, value in props.items() if name
    }


def test_any_damage_to_the_file_is_an_error_or_does_no_harm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = with_card(graph())
    messages = []
    for _ in range(300):
        content = bytearray(original)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        try:
            load_alone(tmp_path, bytes(content))("Hello.")
        except InputError as e:
            messages.append(str(e))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loudness": 0.0}, "the voice fake made silence .*its weights are damaged"),
        ({"loudness": float("nan")}, "made no sound of a sentence of 6 symbols"),
        ({"samples_per_frame": 255}, "not 256 a frame"),
        ({"samples_per_frame": 0}, "made no sound"),
    ],
)
def test_voices_that_make_no_sound(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    voice = Voice.load(save_fake_voice(tmp_path, with_card(graph(**change))))
    with pytest.raises(InputError, match=message):
        voice("Hello.")


def test_a_voice_that_fails_on_the_way(tmp_path: Path) -> None:
    model = graph()
    model.graph.initializer[4].CopyFrom(onnx.numpy_helper.from_array(np.array(-1), "hop"))
    voice = Voice.load(save_fake_voice(tmp_path, with_card(model)))
    with pytest.raises(InputError, match="the voice fake failed at a sentence of 6 symbols: "):
        voice("Hello.")


def test_without_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'lightspeech\[runtime\]'"):
        Voice.load(folder)


# Any text.


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_any_text_gives_a_sound_or_a_clear_error(voice: Voice, first: int) -> None:
    outcomes = [runtime_fuzzing.speak(voice, number)[0] for number in range(first, first + 50)]
    assert set(outcomes) <= {"sound", "nothing to say"}
    assert outcomes.count("sound") > 25


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at Linux's /proc")
def test_memory_and_threads_stay_as_they_are(voice: Voice) -> None:
    text = "All work and no play makes Jack a dull boy. " * 20
    for _ in range(20):
        voice(text)
    memory, threads = runtime_fuzzing.resident_memory(), runtime_fuzzing.threads()
    for _ in range(200):
        voice(text)
    assert runtime_fuzzing.resident_memory() - memory < 10
    assert runtime_fuzzing.threads() == threads


# The command line.


class Command:
    """Runs python -m lightspeech.runtime in this process."""

    def __init__(self, run: Callable[..., tuple[int, str, str]], patch: pytest.MonkeyPatch) -> None:
        self._run, self._patch = run, patch

    def __call__(self, *words: object, stdin: bytes = b"") -> tuple[int, str, str]:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return self._run(main, "runtime", *words)


@pytest.fixture
def command(
    run_in_process: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(run_in_process, monkeypatch)


def in_a_process(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lightspeech.runtime", *map(str, words)],
        input=stdin, capture_output=True, cwd=ROOT, check=False,
    )  # fmt: skip


def samples_in(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes())


def test_a_text_to_a_file(command: Command, voice: Voice, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    code, printed, _ = command(folder, "--out", out, "Hello there.", "--pace", 2, "How are you?")
    assert code == 0
    assert printed.startswith(f"{out}: ")
    assert " s of speech in " in printed
    assert samples_in(out) == voice("Hello there. How are you?", pace=2).pcm16


def test_without_options_it_writes_a_file_here(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(folder, "Hello.")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


def test_all_of_standard_input_to_a_file(
    command: Command, voice: Voice, folder: Path, tmp_path: Path
) -> None:
    text = "A sentence over\r\ntwo lines.\n\nA heading\n\nMore, naïve text."
    for words in ([], ["-"]):
        out, timings = tmp_path / "all.wav", tmp_path / "all.json"
        code, _, _ = command(
            folder,
            *words,
            "--out",
            out,
            "--timings",
            timings,
            stdin=b"\xef\xbb\xbf" + text.encode(),
        )
        assert code == 0
        speech = voice(text)
        assert len(speech.sentences) == 3
        assert samples_in(out) == speech.pcm16
        assert json.loads(timings.read_text()) == json.loads(json.dumps(speech.captions()))
        out.unlink()


def test_timings_have_this_shape(voice: Voice) -> None:
    content = voice("Hi 2. Yes.").captions()
    assert list(content) == ["duration", "sentences", "words", "symbols"]
    assert [word["text"] for word in content["words"]] == ["hi", "two", "yes"]
    assert "".join(symbol["text"] for symbol in content["symbols"]) == f"hi two.{PAUSE}yes."
    for name in ("sentences", "words", "symbols"):
        assert all(list(entry) == ["text", "start", "end"] for entry in content[name])
    assert content["symbols"][-1]["end"] == content["duration"]


def test_a_file_a_line(command: Command, voice: Voice, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "wavs"
    code, printed, errors = command(
        folder, "--out", f"{out}/", "--timings", tmp_path / "times",
        stdin=b"One.\n\n...\nTwo. And more.\nBad \xff\n",
    )  # fmt: skip
    assert code == 1
    assert errors.splitlines() == [
        "error: standard input:3: nothing in '...' can be spoken: "
        "expected at least one letter or digit",
        "error: standard input:5: not UTF-8 (byte 0xff)",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["0001.wav", "0004.wav"]
    assert len(printed.splitlines()) == 2
    speech = voice("Two. And more.")
    assert samples_in(out / "0004.wav") == speech.pcm16
    times = json.loads((tmp_path / "times" / "0004.json").read_text())
    assert times["duration"] == speech.duration


def test_raw_samples_line_by_line(voice: Voice, folder: Path, tmp_path: Path) -> None:
    timings = tmp_path / "t.json"
    finished = in_a_process(
        folder, "--raw", "--timings", timings, "--sentence-silence", 0.5,
        stdin=b"\xef\xbb\xbfOne. Two.\n\n...\nThree.",
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stderr.decode().splitlines() == [
        "error: standard input:3: nothing in '...' can be spoken: "
        "expected at least one letter or digit"
    ]
    first, last = voice("One. Two.", sentence_silence=0.5), voice("Three.")
    pause = bytes(2 * HOP_LENGTH * 43)
    assert finished.stdout == first.pcm16 + pause + last.pcm16
    content = json.loads(timings.read_text())
    assert content["duration"] == pytest.approx(len(finished.stdout) / 2 / 22050)
    assert [word["text"] for word in content["words"]] == ["one", "two", "three"]
    symbols = content["symbols"]
    for symbol, following in pairwise(symbols):
        assert following["start"] == pytest.approx(symbol["end"])
    assert content["sentences"][-1]["start"] == pytest.approx(first.duration + 43 * FRAME_SECONDS)


def test_raw_samples_come_with_each_line(folder: Path, voice: Voice) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lightspeech.runtime", str(folder), "--raw"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        expected = voice("Hello.").pcm16
        process.stdin.write(b"Hello.\n")
        process.stdin.flush()
        assert process.stdout.read(len(expected)) == expected  # before there is any more input
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_a_reader_that_leaves(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lightspeech.runtime", str(folder), "--raw"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"Hello.\n" * 200)
        process.stdin.close()
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["..."], b"", "error: nothing in '...' can be spoken"),
        ([""], b"", "error: nothing in '' can be spoken"),
        ([], b"\n", "error: standard input holds no text"),
        (["--raw"], b"", "error: standard input holds no text"),
        ([], b"good\nbad \xe9\n", "standard input:2: not UTF-8 (byte 0xe9); convert it"),
        (["--out", "wavs/"], b"\n \n", "error: standard input holds no text"),
        (["--raw", "..."], b"", "error: nothing in '...' can be spoken"),
        (["--out", "wavs/", "..."], b"", "error: nothing in '...' can be spoken"),
        (["Hello", "--pace", "99"], b"", "error: pace 99: expected 0.1 to 10"),
        (["--raw", "--pace", "99"], b"a\nb\n", "error: pace 99: expected 0.1 to 10"),
        (["Hello", "--sentence-silence", "-1"], b"", "error: sentence silence -1: expected"),
        (["Hello", "--out", "absent/a.wav"], b"", "error: cannot write absent/a.wav: No such"),
        (["Hello", "--threads", "100000"], b"", "error: threads 100000: expected 1 to"),
    ],
)
def test_one_clear_line(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], stdin: bytes, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, errors = command(folder, *words, stdin=stdin)
    assert code == 1
    assert message in errors
    assert errors.count("\n") == 1


def test_raw_samples_are_not_for_a_terminal(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, _, errors = command(folder, "--raw", "Hello")
    assert code == 1
    assert "which nothing reads here: add | aplay -r 22050 -f S16_LE" in errors


def test_a_long_sound_goes_through_the_disk(
    command: Command, voice: Voice, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightspeech.runtime import __main__ as program

    monkeypatch.setattr(program, "_IN_MEMORY", 1000)
    monkeypatch.setattr(program, "_BLOCK", 4096)
    out = tmp_path / "a.wav"
    assert command(folder, TEXT, "--out", out)[0] == 0
    assert samples_in(out) == voice(TEXT).pcm16


# Without PyTorch.


def test_nothing_heavy_is_imported(folder: Path) -> None:
    program = (
        "import sys; from lightspeech.runtime import Voice; import lightspeech.runtime.__main__; "
        f"Voice.load({str(folder)!r})('Hello, 12.'); print(*sorted(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in finished.stdout.split()}
    heavy = {"torch", "librosa", "matplotlib", "scipy", "soundfile", "safetensors", "pyarrow",
             "lightning_fabric", "tqdm", "PIL", "numba", "onnx", "safeload"}  # fmt: skip
    assert "onnxruntime" in loaded
    assert not loaded & heavy


@pytest.mark.parametrize("script", ["preprocess.py", "train.py", "synthesize.py"])
def test_the_scripts_say_that_they_need_torch(script: str) -> None:
    program = f"import sys, runpy; sys.modules['torch'] = None; runpy.run_path({script!r})"
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: this command needs PyTorch, which is not installed")
    assert "pip install -c constraints.txt -e '.[train]'" in finished.stderr
    assert finished.stderr.count("\n") == 1
