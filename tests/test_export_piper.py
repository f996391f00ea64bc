"""Voices for Piper: the ids of its text are ours, and the unmodified program speaks them."""

# ruff: noqa: E402 - without the packages the tests are skipped, before what needs them is imported

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

from lightspeech.checkpoint import load_voice
from lightspeech.errors import InputError
from lightspeech.export import __main__ as command
from lightspeech.export import folder
from lightspeech.export.checking import open_session
from lightspeech.export.graph import Graph
from lightspeech.export.graphs import voice_graph
from lightspeech.export.piper import KIND, SETTINGS, piper_files
from lightspeech.export.piper_text import BEGIN, END, N_IDS, PAD, id_table, tokens_of_piper
from lightspeech.model import LightSpeech
from lightspeech.synthesis import PRETRAINED
from lightspeech.text import decode, encode_sentence, normalize
from lightspeech.text.normalize import to_ascii
from lightspeech.vocoders.light import save_light
from lightspeech.vocoders.light_network import LightNetwork
from tests.exported import ORIGIN, STUDENTS, random_network, random_student, text_inputs

HELD_OUT = Path(__file__).parent.parent / "data" / "heldout.txt"


@pytest.fixture(scope="module")
def to_tokens() -> Callable[[str], list[int]]:
    """Text -> what Piper makes of it -> what the graph makes of that."""
    graph = Graph("text")
    ids = graph.input("ids", np.int64, ("P",))
    graph.output("tokens", tokens_of_piper(graph, ids), np.int64, ("N",))
    session = open_session(graph.model().SerializeToString())
    table = id_table()

    def run(text: str) -> list[int]:
        ids = [BEGIN, PAD]
        for character in unicodedata.normalize("NFD", text):
            ids += [*table[character], PAD] if character in table else []
        tokens: list[int] = session.run(None, {"ids": np.array([*ids, END])})[0].tolist()
        return tokens

    return run


@pytest.mark.parametrize(
    "text",
    [
        "Hello there, World",
        "What? No! (Yes); so: it's - well, done.",
        "  much   white \t space  ",
        "salt & pepper",
        "* & *x",
        "café naïve Ångström — “quotes” … don’t!",
        "Straße, Øre, Łódź, Ωμέγα, Привет",
        "7",
        "(7)",
        "...",
    ],
)
def test_text_gives_our_own_ids(to_tokens: Callable[[str], list[int]], text: str) -> None:
    assert to_tokens(text) == encode_sentence(text.strip())


def test_held_out_sentences_give_our_own_ids(to_tokens: Callable[[str], list[int]]) -> None:
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    # without numbers and abbreviations
    plain = [line for line in lines if normalize(line) == to_ascii(line).lower()]
    assert len(plain) > 200
    for line in plain:
        assert to_tokens(line) == encode_sentence(line)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("", "."),
        ("&", "."),
        ("😀", "."),
        ("^_$", "."),
        ("Room 7 is 42.", "room seven is four two."),
        ("a7b", "a seven b."),
        ("9\t8", "nine eight."),
        ("x²", "x two."),
        ("pay £5, please", "pay ps five, please."),
        ("snake_case", "snakecase."),
    ],
)
def test_what_piper_cannot_normalise(
    to_tokens: Callable[[str], list[int]], text: str, spoken: str
) -> None:
    assert "".join(decode(to_tokens(text))) == spoken


def test_the_table_is_pipers() -> None:
    table = id_table()
    assert {"_", "^", "$"} < table.keys()
    assert all(len(character) == 1 for character in table)
    assert all(0 <= number < N_IDS for ids in table.values() for number in ids)
    assert table["A"] == table["a"]


# --------------------------------------------------------------------------------------- the voice


@pytest.fixture(scope="module")
def student() -> LightSpeech:
    return random_student(STUDENTS["refined"])


@pytest.fixture(scope="module")
def network() -> LightNetwork:
    network = random_network()
    network.spectrum.bias.data[:513] -= 9.5  # quiet, within full scale
    network.harmonics.bias.data[:65] -= 9.5
    return network


@pytest.fixture(scope="module")
def exported(
    student: LightSpeech, network: LightNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("piper")
    folder.write_files(out, piper_files(student, network, ORIGIN), SETTINGS, KIND)
    return out


def our_own(student: LightSpeech, network: LightNetwork, text: str, pace: float) -> np.ndarray:
    """What our own graph says, (S,) float32."""
    session = open_session(voice_graph(student, network).model().SerializeToString())
    wav: np.ndarray = session.run(None, text_inputs(np.array(encode_sentence(text)), pace))[0]
    return wav


def piper_inputs(ids: list[int], length_scale: float = 1.0) -> dict[str, Any]:
    return {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0.667, length_scale, 0.8], np.float32),
    }


def test_the_files_follow_the_rules(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "voice.onnx", "voice.onnx.json", "README.md",
    }  # fmt: skip
    onnx.checker.check_model(str(exported / "voice.onnx"), full_check=True)
    settings = json.loads((exported / "voice.onnx.json").read_text(encoding="utf-8"))
    assert settings["phoneme_type"] == "text"
    assert settings["audio"]["sample_rate"] == 22050
    assert settings["lightspeech"]["licence"] == "BSD-3-Clause"


@pytest.mark.parametrize("length_scale", [0.5, 1.0, 1.7, 1e-3, 1e3])
def test_length_scale_is_the_inverse_of_pace(
    exported: Path, student: LightSpeech, network: LightNetwork, length_scale: float
) -> None:
    tokens = encode_sentence("One word")
    wav = open_session(str(exported / "voice.onnx")).run(None, piper_inputs(tokens, length_scale))
    assert wav[0].shape[:2] == (1, 1)
    expected = our_own(student, network, "One word", min(max(1 / length_scale, 0.1), 10.0))
    np.testing.assert_allclose(wav[0][0, 0], expected, atol=1e-5)


def test_what_lies_beyond_the_length_is_not_spoken(exported: Path) -> None:
    session = open_session(str(exported / "voice.onnx"))
    inputs = piper_inputs([40, 41, 7, 42, 43])
    inputs["input_lengths"][0] = 3
    (wav,) = session.run(None, inputs)
    np.testing.assert_array_equal(wav, session.run(None, piper_inputs([40, 41, 7]))[0])


def test_formats_do_not_share_a_folder(
    exported: Path, student: LightSpeech, network: LightNetwork
) -> None:
    files = folder.voice_files(student, network, ORIGIN)
    with pytest.raises(InputError, match="no exported voice of this format"):
        folder.write_files(exported, files, folder.CARD, folder.KIND)


# --------------------------------------------------------------------------------- Piper, as it is


def piper_voice(path: Path) -> Any:
    piper = pytest.importorskip("piper", reason="needs piper-tts")
    return piper, piper.PiperVoice.load(path)


@pytest.mark.parametrize("pace", [1.0, 0.8])
def test_piper_says_the_same(
    exported: Path, student: LightSpeech, network: LightNetwork, pace: float
) -> None:
    piper, voice = piper_voice(exported / "voice.onnx")
    text = "Café, World: it's a test"
    how = piper.SynthesisConfig(length_scale=1 / pace, normalize_audio=False)
    (chunk,) = voice.synthesize(text, how)
    assert (chunk.sample_rate, chunk.sample_width, chunk.sample_channels) == (22050, 2, 1)
    expected = our_own(student, network, text, pace)
    assert 0.05 < np.abs(expected).max() < 1
    assert chunk.audio_int16_array.shape == expected.shape
    assert np.abs(chunk.audio_int16_array - expected * 32767).max() <= 1.01  # it truncates


@pytest.mark.parametrize("text", ["", " ", "...", "😀", "^", "3.14", "x" * 1000])
def test_piper_says_anything(exported: Path, text: str) -> None:
    _, voice = piper_voice(exported / "voice.onnx")
    for chunk in voice.synthesize(text):
        assert np.isfinite(chunk.audio_float_array).all()
        assert len(chunk.audio_float_array) % 256 == 0


def test_pipers_command_speaks_the_bundled_voice(
    run_in_process: Callable[..., tuple[int, str, str]], network: LightNetwork, tmp_path: Path
) -> None:
    pytest.importorskip("piper", reason="needs piper-tts")
    save_light(tmp_path, network, {"name": "tiny"})
    out = tmp_path / "out"
    status, _, errors = run_in_process(
        command.main, "export", PRETRAINED, "--format", "piper", "--out", out,
        "--vocoder", f"light:{tmp_path / 'vocoder.safetensors'}",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    text = "Hello from Piper."
    subprocess.run(
        [sys.executable, "-m", "piper", "-m", str(out / "voice.onnx"), "--no-normalize", "-f",
         str(tmp_path / "hello.wav"), text],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    with wave.open(str(tmp_path / "hello.wav")) as file:
        assert file.getframerate() == 22050
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    student, _ = load_voice(PRETRAINED)
    expected = our_own(student, network, text, 1.0)
    assert np.abs(samples - np.clip(expected, -1, 1) * 32767).max() <= 1.01
