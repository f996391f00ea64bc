"""Weights on disk: nothing lost, nothing mixed, nothing believed unchecked."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightspeech import checkpoint
from lightspeech.checkpoint import (
    PREVIOUS_STATE_FILE,
    STATE_FILE,
    VOICE_CARD,
    VOICE_FILE,
    load_voice,
    save_voice,
)
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.model import LightSpeech
from lightspeech.text import SYMBOLS
from lightspeech.training_state import (
    TrainingState,
    capture,
    load_state,
    restore,
    save_state,
)
from tests.synthetic_store import tiny_config


@pytest.fixture
def student() -> LightSpeech:
    torch.manual_seed(1)
    return LightSpeech(tiny_config().model)


@pytest.fixture
def voice(tmp_path: Path, student: LightSpeech) -> Path:
    """A folder with a voice."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_voice(
        folder,
        student,
        tiny_config(),
        step=7,
        validation={"loss": 0.5},
        store={"digest": "d" * 64, "utterances": 12},
        teacher={"name": "synthetic", "sha256": "a" * 64},
    )
    return folder


def edit(file: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Rewrites a file with other facts or tensors, and a checksum that fits."""
    facts, tensors = checkpoint.read_file(file, "voice")
    change(facts, tensors)
    file.write_bytes(checkpoint.encode_file(facts, tensors))


def test_a_voice_comes_back_as_it_was(voice: Path, student: LightSpeech) -> None:
    elsewhere = voice.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "anna.safetensors").write_bytes((voice / VOICE_FILE).read_bytes())
    for path in (voice, str(voice), voice / VOICE_FILE, elsewhere):
        loaded, facts = load_voice(path)
        assert not loaded.training
        for name, weight in student.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight)
        assert facts["step"] == 7
        assert facts["validation"] == {"loss": 0.5}
        assert facts["teacher"]["name"] == "synthetic"
        assert Config.from_dict(facts["config"], "voice") == tiny_config()
    card = json.loads((voice / VOICE_CARD).read_text(encoding="utf-8"))
    assert card == {"weights": VOICE_FILE, **facts}


def test_a_voice_goes_to_the_device_asked_for(voice: Path) -> None:
    loaded, _ = load_voice(voice, "meta")
    assert all(parameter.is_meta for parameter in loaded.parameters())


def test_no_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no voice at runs.lightspeech: train one first"):
        load_voice()
    with pytest.raises(InputError, match="no voice at nowhere: give a run's folder"):
        load_voice("nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"expected a voice in .*found none; train one first"):
        load_voice(empty)
    (empty / "a.safetensors").touch()
    (empty / "b.safetensors").touch()
    with pytest.raises(InputError, match=r"found a\.safetensors, b\.safetensors"):
        load_voice(empty)
    (empty / STATE_FILE).touch()
    with pytest.raises(InputError, match=r"has no voice yet: .*--resume"):
        load_voice(empty)


@pytest.mark.parametrize("position", [0, 5, 0.01, 0.3, 0.6, 0.999])
def test_any_flipped_byte_is_found(voice: Path, position: float) -> None:
    file = voice / VOICE_FILE
    content = bytearray(file.read_bytes())
    content[int(position if position >= 1 else position * len(content))] ^= 0x11
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"is damaged|but not a LightSpeech voice"):
        load_voice(voice)


@pytest.mark.parametrize("length", [0, 4, 100, 3000, -1])
def test_a_truncated_file_is_refused(voice: Path, length: int) -> None:
    file = voice / VOICE_FILE
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=r"best\.safetensors is damaged"):
        load_voice(voice)


@pytest.mark.parametrize(
    "content", [b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(60), b"[" * 100, bytes(64)]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "voice.pt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"voice\.pt is damaged, or no safetensors file"):
        load_voice(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "holds tensors but not a LightSpeech voice"),
        ({"lightspeech": "not JSON"}, "its header is not what LightSpeech writes"),
        ({"lightspeech": "[" * 20000}, "its header is not what LightSpeech writes"),
        ({"lightspeech": "[1, 2]"}, "its header is not what LightSpeech writes"),
        ({"lightspeech": '{"facts": {}, "checksum": ""}'}, "its header is not what"),
        (
            {"lightspeech": '{"facts": {"format": 99, "kind": "voice"}, "checksum": ""}'},
            "has format 99, .* reads format 1: use the version that wrote it",
        ),
        (
            {"lightspeech": '{"facts": {"format": 1, "kind": "voice"}, "checksum": ""}'},
            "its checksum does not match",
        ),
    ],
)
def test_strange_headers_are_refused(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    file = tmp_path / "voice.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match=message):
        load_voice(file)


def set_facts(**changes: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda facts, tensors: facts.update(changes)


def set_layer(**changes: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda facts, tensors: facts["config"]["model"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, t: f["audio"].update(hop_length=300), "hop_length is 300, expected 256"),
        (set_facts(audio=None), "audio"),
        (set_facts(symbols=list(SYMBOLS[:-1])), "with 147 symbols that are not this version's 148"),
        (set_facts(symbols=None), "with no symbols"),
        (set_facts(kind="training"), "is of the kind 'training', expected a LightSpeech voice"),
        (set_facts(config=[]), "expected a JSON object with name, model and training"),
        (set_layer(decoder_size=10), "does not fit its own configuration: decoder"),
        (set_layer(encoder_size=10**9), "encoder_size must be a whole number, 1 to 16384"),
        (set_layer(embedding_size=16384), "does not fit its own configuration: embedding.weight"),
        (set_layer(embedding_size=-1), "embedding_size must be"),
        (set_layer(embedding_size=8.0), "embedding_size must be"),
        (set_layer(exec="x"), "has unknown settings: model.exec"),
        (lambda f, t: t.pop("output.bias"), r"output.bias is missing, expected \(80,\)"),
        (lambda f, t: t.update(more=torch.ones(1)), r"more is \(1,\), expected no such tensor"),
        (lambda f, t: t["output.bias"].fill_(float("nan")), "weights that are not finite"),
    ],
)
def test_voices_that_cannot_be_right_are_refused(
    voice: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], message: str
) -> None:
    edit(voice / VOICE_FILE, change)
    with pytest.raises(InputError, match=message):
        load_voice(voice)


def test_a_state_is_no_voice(tmp_path: Path) -> None:
    save_state(tmp_path, make_state(1))
    with pytest.raises(InputError, match="is of the kind 'training'"):
        load_voice(tmp_path / STATE_FILE)


def make_state(step: int) -> TrainingState:
    return TrainingState(
        step=step,
        config=tiny_config(),
        store={"digest": "d" * 64, "utterances": 12},
        threads=1,
        tensors={"weight": torch.full((3,), float(step))},
        origin={"name": "other", "frozen": ["encoder"]},
        ranks=4,
        average_steps=17,
        waited=3,
        best_step=2,
        best_loss=0.1 + 0.2,  # not a short decimal
        skipped=3,
        skipped_in_a_row=1,
        seconds=12.5,
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    for state in (make_state(5), replace(make_state(6), best_step=None, best_loss=None)):
        save_state(tmp_path, state)
        loaded, note = load_state(tmp_path)
        assert note is None
        assert torch.equal(loaded.tensors["weight"], state.tensors["weight"])
        assert replace(loaded, tensors={}) == replace(state, tensors={})


def test_the_state_before_is_kept_and_used_where_the_last_is_damaged(tmp_path: Path) -> None:
    save_state(tmp_path, make_state(5))
    assert not (tmp_path / PREVIOUS_STATE_FILE).exists()
    save_state(tmp_path, make_state(10))
    last = tmp_path / STATE_FILE
    last.write_bytes(last.read_bytes()[:-1])
    state, note = load_state(tmp_path)
    assert state.step == 5
    assert note is not None
    assert "damaged" in note
    assert f"going on from {tmp_path / PREVIOUS_STATE_FILE} instead" in note
    assert not last.exists()  # or the next save would move it over the good one
    assert load_state(tmp_path)[0].step == 5
    (tmp_path / PREVIOUS_STATE_FILE).unlink()
    with pytest.raises(InputError, match="expected the state of a LightSpeech training"):
        load_state(tmp_path)


def test_a_failed_save_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, make_state(5))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, make_state(6))
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    assert load_state(tmp_path)[0].step == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "7"}, "its field 'step' is '7'"),
        ({"step": True}, "its field 'step' is True"),
        ({"store": {}}, "its field 'digest' is None"),
        ({"best_loss": "low"}, "its field 'best_loss' is 'low'"),
        ({"origin": ["a voice"]}, r"its field 'origin' is \['a voice'\]"),
        ({"ranks": None}, "its field 'ranks' is None"),
        ({"waited": "long"}, "its field 'waited' is 'long'"),
        ({"config": {"model": 3}}, "model must be an object"),
    ],
)
def test_states_with_strange_fields_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_state(tmp_path, make_state(5))
    file = tmp_path / STATE_FILE
    facts, tensors = checkpoint.read_file(file, "training")
    file.write_bytes(checkpoint.encode_file({**facts, **change}, tensors))
    with pytest.raises(InputError, match=message):
        load_state(tmp_path)


def make_pair(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return module, torch.optim.Adam(module.parameters(), lr=0.1, weight_decay=0.01)


def take_steps(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of steps on random data, which depend on the random generator too."""
    losses = []
    for _ in range(steps):
        loss = module(torch.randn(5, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("steps", [0, 4])
def test_capture_and_restore_lose_nothing(steps: int) -> None:
    module, optimizer = make_pair(1)
    take_steps(module, optimizer, steps)
    tensors = {name: tensor.clone() for name, tensor in capture(module, optimizer).items()}
    expected = take_steps(module, optimizer, 5)
    other, other_optimizer = make_pair(2)
    take_steps(other, other_optimizer, 3 if steps else 0)
    restore(tensors, other, other_optimizer)
    assert take_steps(other, other_optimizer, 5) == expected


def test_a_state_of_other_layers_is_refused() -> None:
    module, optimizer = make_pair(1)
    tensors = capture(module, optimizer)
    other = nn.Linear(3, 4)
    with pytest.raises(InputError, match="whose student or losses have other layers"):
        restore(tensors, other, torch.optim.Adam(other.parameters()))


def test_the_code_version_starts_with_the_package_version() -> None:
    import lightspeech

    assert checkpoint.code_version().startswith(lightspeech.__version__)
