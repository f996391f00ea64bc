"""Exported voices: they say what torch says, and the folder is what its card says."""

# ruff: noqa: E402 - without the packages the tests are skipped, before what needs them is imported

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the extra export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")

from lightspeech.audio import AUDIO_FACTS, read_wav
from lightspeech.checkpoint import load_voice
from lightspeech.errors import InputError
from lightspeech.export import __main__ as command
from lightspeech.export import folder
from lightspeech.export.checking import check_voice, open_session
from lightspeech.export.graph import Graph
from lightspeech.export.graphs import mel_graph, vocoder_graph, voice_graph
from lightspeech.export.shared_weights import ALIGNMENT, aligned
from lightspeech.model import LightSpeech
from lightspeech.synthesis import PRETRAINED
from lightspeech.text import SYMBOLS, encode_sentence
from lightspeech.vocoders.light import load_light, save_light
from lightspeech.vocoders.light_network import LightConfig, LightNetwork
from tests.exported import (
    ORIGIN,
    STUDENTS,
    random_network,
    random_student,
    random_tokens,
    spoken_in_torch,
    text_inputs,
    vocoded_in_torch,
)

Session = Any


def session_of(graph: Graph) -> Session:
    model = graph.model()
    onnx.checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString())


@pytest.fixture(scope="module", params=STUDENTS)
def student(request: pytest.FixtureRequest) -> LightSpeech:
    return random_student(STUDENTS[request.param])


@pytest.fixture(scope="module")
def network() -> LightNetwork:
    return random_network()


@pytest.fixture(scope="module")
def mel_session(student: LightSpeech) -> Session:
    return session_of(mel_graph(student))


@pytest.fixture(scope="module")
def vocoder_session(network: LightNetwork) -> Session:
    return session_of(vocoder_graph(network))


@pytest.fixture(scope="module")
def files(network: LightNetwork) -> dict[str, bytes]:
    return folder.voice_files(random_student(STUDENTS["refined"]), network, ORIGIN)


@pytest.fixture
def voice(files: dict[str, bytes], tmp_path: Path) -> Path:
    folder.write_files(tmp_path / "voice", files, folder.CARD, folder.KIND)
    return tmp_path / "voice"


# ------------------------------------------------------------------------------------------ parity


@pytest.mark.parametrize("count", [1, 2, 10, 50, 200, 1000])
def test_the_student_says_what_torch_says(
    student: LightSpeech, mel_session: Session, count: int
) -> None:
    tokens = random_tokens(count, seed=count)
    expected, expected_durations = spoken_in_torch(student, tokens)
    mel, durations = mel_session.run(None, text_inputs(tokens))
    assert durations.tolist() == expected_durations.tolist()
    assert mel.dtype == np.float32
    assert mel.shape == expected.shape
    assert np.abs(mel - expected).max() < 1e-4 * np.abs(expected).max()


def test_its_durations_vary(student: LightSpeech) -> None:
    """So that the tests of parity mean something."""
    _, durations = spoken_in_torch(student, random_tokens(200))
    assert durations.min() == 1
    assert durations.max() >= 10


@pytest.mark.parametrize("pace", [0.1, 0.37, 2.0, 10.0])
def test_pace_is_that_of_torch(student: LightSpeech, mel_session: Session, pace: float) -> None:
    tokens = random_tokens(40)
    # the pace that the graph sees is in single precision
    expected, expected_durations = spoken_in_torch(student, tokens, float(np.float32(pace)))
    mel, durations = mel_session.run(None, text_inputs(tokens, pace))
    assert durations.tolist() == expected_durations.tolist()
    assert np.abs(mel - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("pace", "held"), [(0.0, 0.1), (-3.0, 0.1), (1e9, 10.0)])
def test_a_pace_beyond_the_limits_is_held_there(
    mel_session: Session, pace: float, held: float
) -> None:
    tokens = random_tokens(5)
    _, durations = mel_session.run(None, text_inputs(tokens, pace))
    _, expected = mel_session.run(None, text_inputs(tokens, held))
    assert durations.tolist() == expected.tolist()


def test_halves_are_rounded_to_even() -> None:
    student = random_student(STUDENTS["published"])
    with torch.no_grad():
        student.duration_predictor[2].weight.zero_()
        student.duration_predictor[2].bias.fill_(5.0)
    session = session_of(mel_graph(student))
    for pace, frames in ((2.0, 2), (10 / 3, 2), (10.0, 1), (5 / 3.5, 4)):
        _, durations = session.run(None, text_inputs(random_tokens(3), pace))
        assert durations.tolist() == [frames] * 3
        assert spoken_in_torch(student, random_tokens(3), pace)[1].tolist() == [frames] * 3


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 100, 1000])
def test_the_vocoder_sounds_as_in_torch(
    network: LightNetwork, vocoder_session: Session, frames: int
) -> None:
    mel = np.random.default_rng(frames).normal(-5.0, 2.0, (frames, 80)).astype(np.float32)
    expected, tolerance = vocoded_in_torch(network, mel)
    (wav,) = vocoder_session.run(None, {"mel": mel})
    assert wav.shape == (256 * frames,)
    assert np.abs(wav - expected).max() < tolerance


@pytest.mark.parametrize("lean", [-8.0, 8.0])
def test_the_lowest_and_highest_pitches_sound_as_in_torch(lean: float) -> None:
    network = random_network()
    with torch.no_grad():
        network.pitch.bias.add_(lean)
    mel = np.random.default_rng(1).normal(-5.0, 2.0, (60, 80)).astype(np.float32)
    expected, tolerance = vocoded_in_torch(network, mel)
    (wav,) = session_of(vocoder_graph(network)).run(None, {"mel": mel})
    assert np.abs(wav - expected).max() < tolerance


def test_its_magnitudes_are_held_and_its_phases_go_around(network: LightNetwork) -> None:
    """So that the test before means something."""
    made = {}
    for name in ("spectrum", "harmonics"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, out, name=name: made.update({name: out}))
    mel = torch.tensor(np.random.default_rng(0).normal(-5.0, 2.0, (1, 500, 80))).float()
    with torch.inference_mode():
        pitch = network.spectra(mel).pitch
    for out, n_magnitudes in ((made["spectrum"], 513), (made["harmonics"], 65)):
        assert out[..., :n_magnitudes].exp().max() > 100
        assert out[..., n_magnitudes:].abs().max() > 3
    assert pitch.max() / pitch.min() > 1.1


def test_the_bundled_voice_says_what_torch_says() -> None:
    student, _ = load_voice(PRETRAINED)
    network = load_light().network
    session = session_of(voice_graph(student, network))
    tokens = np.array(encode_sentence("The quick brown fox jumps over the lazy dog."))
    mel, expected_durations = spoken_in_torch(student, tokens)
    expected, tolerance = vocoded_in_torch(network, mel)
    wav, durations = session.run(None, text_inputs(tokens))
    assert durations.tolist() == expected_durations.tolist()
    assert np.abs(wav - expected).max() < tolerance


def test_without_optimisations_it_is_the_same(network: LightNetwork) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = voice_graph(random_student(STUDENTS["refined"]), network)
    content = graph.model().SerializeToString()
    plain = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = text_inputs(random_tokens(20))
    wav, expected = plain.run(None, inputs)[0], open_session(content).run(None, inputs)[0]
    assert np.abs(wav - expected).max() < 1e-3 * np.abs(expected).max()


# ------------------------------------------------------------------------------------ wrong inputs


def test_no_tokens_and_unknown_ones_are_errors(
    mel_session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    for tokens in ([], [149], [3, 1_000_000], [-150]):
        with pytest.raises(Exception, match="out of data bounds"):
            mel_session.run(None, text_inputs(np.array(tokens)))
    capfd.readouterr()  # onnxruntime reports them too


def test_a_mel_without_frames_is_an_error(
    vocoder_session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="shape"):
        vocoder_session.run(None, {"mel": np.zeros((0, 80), np.float32)})
    capfd.readouterr()


# -------------------------------------------------------------------------------------------- int8


def test_int8_is_smaller_and_close(network: LightNetwork) -> None:
    student = random_student(STUDENTS["refined"])
    tokens = random_tokens(100)
    exact, exact_durations = spoken_in_torch(student, tokens)
    mel, durations = session_of(mel_graph(student, "int8")).run(None, text_inputs(tokens))
    assert durations.tolist() == exact_durations.tolist()  # these products stay exact
    error = np.abs(mel - exact).mean()
    assert 0 < error < 0.03 * exact.std()
    wav = session_of(vocoder_graph(network, "int8")).run(None, {"mel": exact})[0]
    assert wav.shape == (256 * len(exact),)
    sizes = {
        precision: voice_graph(student, network, precision).model().ByteSize()
        for precision in ("float32", "int8")
    }
    assert sizes["int8"] < sizes["float32"]


# -------------------------------------------------------------------------------------- the folder


def test_the_folder_is_what_its_card_says(voice: Path) -> None:
    card = json.loads((voice / "voice.json").read_text(encoding="utf-8"))
    assert {path.name for path in voice.iterdir()} == {*card["files"], "voice.json", "README.md"}
    for name, file in card.pop("files").items():
        content = (voice / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        onnx.checker.check_model(str(voice / name), full_check=True)
    assert (card["format"], card["kind"], card["name"]) == (1, "LightSpeech export", "tiny")
    assert card["symbols"] == list(SYMBOLS)
    assert card["audio"] == AUDIO_FACTS
    assert card["pace"] == {"min": 0.1, "max": 10.0, "default": 1.0}
    assert card["licence"] == "BSD-3-Clause"
    assert card["vocoder"] == {"name": "a vocoder", "sha256": "ef" * 32}  # nobody's paths
    session = open_session(str(voice / "voice.onnx"))
    within = json.loads(session.get_modelmeta().custom_metadata_map["lightspeech"])
    assert within == card


def test_the_halves_read_the_weights_of_the_whole(voice: Path, tmp_path: Path) -> None:
    weights = (voice / "voice.onnx").stat().st_size
    assert weights > 100_000
    for name in ("mel.onnx", "vocoder.onnx"):
        assert (voice / name).stat().st_size < 40_000
        model = onnx.load(str(voice / name), load_external_data=False)
        places = [dict((e.key, e.value) for e in t.external_data) for t in model.graph.initializer]
        assert {place["location"] for place in places if place} == {"voice.onnx"}
        assert {int(place["offset"]) % ALIGNMENT for place in places if place} == {0}
    moved = tmp_path / "elsewhere"
    shutil.move(voice, moved)
    whole, mel, vocoder = (
        open_session(str(moved / name)) for name in ("voice.onnx", "mel.onnx", "vocoder.onnx")
    )
    inputs = text_inputs(random_tokens(30))
    wav, durations = whole.run(None, inputs)
    frames, same = mel.run(None, inputs)
    assert durations.tolist() == same.tolist()
    np.testing.assert_array_equal(vocoder.run(None, {"mel": frames})[0], wav)


def test_the_whole_needs_no_other_file(voice: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "any name.onnx"
    alone.parent.mkdir()
    shutil.copy(voice / "voice.onnx", alone)
    wav, durations = open_session(str(alone)).run(None, text_inputs(random_tokens(4)))
    assert len(wav) == 256 * durations.sum()


def test_tensors_are_aligned_wherever_they_begin() -> None:
    for size in (1024, 1028, 20_000, 3_000_000):
        graph = Graph("any")
        x = graph.input("x", np.float32, ("n",))
        for number, length in enumerate((size, 260, size)):
            x = x + graph.weight(f"w{number}", np.arange(length // 4, dtype=np.float32) + number)
        graph.output("y", x, np.float32, ("n",))
        content = aligned(graph.model())
        for tensor in onnx.load_model_from_string(content).graph.initializer:
            assert len(tensor.raw_data) < 1024 or content.index(tensor.raw_data) % ALIGNMENT == 0


def test_the_same_voice_gives_the_same_bytes(
    files: dict[str, bytes], network: LightNetwork
) -> None:
    again = folder.voice_files(random_student(STUDENTS["refined"]), network, ORIGIN)
    assert again == files


def test_the_readmes_program_speaks(voice: Path) -> None:
    text = (voice / "README.md").read_text(encoding="utf-8")
    found = re.search(r"`onnxruntime`:\n\n((?:    .*\n)+)", text)
    assert found is not None
    program = textwrap.dedent(found[1])
    subprocess.run([sys.executable, "-c", program], cwd=voice, check=True)
    wav = read_wav(voice / "hello.wav")
    assert len(wav) > 256 * len("hello there.")
    assert "BSD-3-Clause" in text
    assert "{" not in text.replace(found[1], "")


def test_another_export_takes_its_place(voice: Path, files: dict[str, bytes]) -> None:
    (voice / "mel.onnx").unlink()  # as if it had been interrupted
    folder.write_files(voice, files, folder.CARD, folder.KIND)
    assert (voice / "mel.onnx").read_bytes() == files["mel.onnx"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "is not empty"),
        (["voice.json"], "is not empty"),
        (["README.md"], "is not empty"),
    ],
)
def test_somebody_elses_folder_is_left_alone(
    files: dict[str, bytes], tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=message):
        folder.write_files(tmp_path, files, folder.CARD, folder.KIND)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_foreign_file_beside_a_voice_stops_it(voice: Path, files: dict[str, bytes]) -> None:
    (voice / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt beside"):
        folder.write_files(voice, files, folder.CARD, folder.KIND)


def test_a_file_in_the_folders_place(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "voice").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        folder.write_files(tmp_path / "voice", files, folder.CARD, folder.KIND)


# ------------------------------------------------------------------------------------- the command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vocoder_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = LightNetwork(LightConfig(size=16, hidden_size=24, blocks=2))
    save_light(tmp_path, network, {"name": "tiny vocoder"})
    return tmp_path / "vocoder.safetensors"


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_command_exports_the_bundled_voice(
    run_in_process: Run, vocoder_file: Path, tmp_path: Path, precision: str
) -> None:
    out = tmp_path / "out"
    status, printed, errors = run_in_process(
        command.main, "export", PRETRAINED, "--vocoder", f"light:{vocoder_file}", "--out", out,
        "--precision", precision,
    )  # fmt: skip
    assert (status, errors) == (0, "")
    assert "checked beside PyTorch" in printed
    card = json.loads((out / "voice.json").read_text(encoding="utf-8"))
    assert (card["name"], card["precision"]) == ("slt", precision)
    assert card["licence"] == "not stated"  # a vocoder of somebody's
    assert card["voice"]["teacher"]["name"] == "tacotron2_slt"
    assert card["vocoder"]["name"] == "tiny vocoder"
    assert card["parameters"]["student"] == 1_738_641


def test_a_vocoder_of_another_voice_is_pointed_out(run_in_process: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LightNetwork(LightConfig(size=16, hidden_size=24, blocks=2))
    save_light(tmp_path, network, {"name": "tiny", "teachers": ["0" * 64]})
    status, _, errors = run_in_process(
        command.main, "export", PRETRAINED, "--vocoder", f"light:{tmp_path}", "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    assert errors.startswith("note: the vocoder light (tiny) has learned a voice of another")


def test_only_the_light_vocoder_can_be_exported(run_in_process: Run, tmp_path: Path) -> None:
    status, _, errors = run_in_process(
        command.main, "export", PRETRAINED, "--vocoder", "griffin-lim", "--out", tmp_path / "out"
    )
    assert status == 1
    assert "only the light vocoder can be exported" in errors
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(
    run_in_process: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, errors = run_in_process(command.main, "export", "--out", tmp_path / "out")
    assert status == 1
    assert "onnx and onnxruntime: pip install 'lightspeech[export]'" in errors


def test_an_export_that_speaks_otherwise_is_refused(network: LightNetwork) -> None:
    student = random_student(STUDENTS["published"])
    other = voice_graph(random_student(STUDENTS["published"], seed=1), network)
    with pytest.raises(InputError, match="does not speak like its original"):
        check_voice(other.model().SerializeToString(), student, network)
