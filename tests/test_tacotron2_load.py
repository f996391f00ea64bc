"""Every layout in which Tacotron 2 is published loads; everything else is named and refused."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pickle
import shutil
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tacotron2
from tacotron2 import (
    CheckpointError,
    Tacotron2Config,
    default_checkpoint,
    load_tacotron2,
)
from tacotron2.config import AUDIO_FACTS
from tacotron2.convert import convert, main
from tests.tacotron2_recipe import MINI, draw_weights

SMALL = replace(
    MINI,
    symbols_embedding_dim=8,
    encoder_embedding_dim=8,
    attention_rnn_dim=8,
    decoder_rnn_dim=8,
    prenet_dim=4,
    postnet_embedding_dim=4,
)
Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    return draw_weights(SMALL)


def with_prefix(weights: Weights) -> Weights:
    return {f"module.{name}": weight for name, weight in weights.items()}


def training_checkpoint(weights: Weights) -> dict[str, Any]:
    """What NVIDIA's train.py writes."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    parameter.sum().backward()
    optimizer.step()
    return {
        "iteration": 6500,
        "state_dict": collections.OrderedDict(weights),
        "optimizer": optimizer.state_dict(),
        "learning_rate": np.float64(1e-3),
    }


def deep_learning_examples(weights: Weights) -> dict[str, Any]:
    return {
        "epoch": 1500,
        "cuda_rng_state_all": torch.get_rng_state(),
        "random_rng_states_all": [torch.get_rng_state()],
        "config": {"mask_padding": False, "n_mel_channels": 80, "max_decoder_steps": 2000},
        "state_dict": with_prefix(weights),
        "optimizer": {"state": {}, "param_groups": []},
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}},
    }


LAYOUTS: dict[str, Callable[[Weights], Any]] = {
    "state_dict": lambda w: {"state_dict": w},
    "training": training_checkpoint,
    "distributed": lambda w: {"state_dict": with_prefix(w), "iteration": 1},
    "DeepLearningExamples": deep_learning_examples,
    "bare": dict,
    "bare distributed": with_prefix,
    "before batch norm counted": lambda w: {
        "state_dict": {n: x for n, x in w.items() if not n.endswith("num_batches_tracked")}
    },
    "parameters": lambda w: {
        "state_dict": {
            n: nn.Parameter(x) if x.is_floating_point() and "running" not in n else x
            for n, x in w.items()
        }
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loads_every_layout(tmp_path: Path, weights: Weights, layout: str, zipped: bool) -> None:
    path = tmp_path / "anything.pt"
    torch.save(LAYOUTS[layout](weights), path, _use_new_zipfile_serialization=zipped)
    model = load_tacotron2(path)
    assert model.config == SMALL
    assert not model.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert model.source == {
        "path": str(path),
        "name": "anything",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert model.audio_facts == AUDIO_FACTS


def test_reads_pickles_of_numpy_1(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "old.pt"
    torch.save(training_checkpoint(weights), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_tacotron2(path).config == SMALL


def test_half_precision_becomes_single(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "half.pt"
    half = {n: w.half() if w.is_floating_point() else w for n, w in weights.items()}
    torch.save({"state_dict": half}, path)
    model = load_tacotron2(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.embedding.weight, half["embedding.weight"].float())
    assert model.infer(torch.tensor([[1, 2]]), torch.tensor([2]), max_frames=2).mel.isfinite().all()


def test_safetensors_load_with_and_without_their_json(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(weights, path)
    assert load_tacotron2(path).config == SMALL


# What is refused, and what it says.


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tacotron2(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pt", r"no file .*nothing\.pt.*tacotron2_statedict\.pt.*pretrained")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder, not a file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"Hello, this is a letter.\n" * 9, "is a text file, not a checkpoint.*'Hello, this"),
        (b"<!DOCTYPE html><html>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (bytes(range(256)) * 4, "is neither a PyTorch nor a safetensors file"),
        (pickle.dumps({"state_dict": {}}), "is a pickle that PyTorch did not write"),
    ],
)
def test_not_a_checkpoint_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.pt"
    path.write_bytes(content)
    refused(path, message)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "letters.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "hello")
    refused(path, "is a zip archive without a checkpoint in it")


def test_a_torchscript_program(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"program/{name}", "")
    refused(path, "is a TorchScript program, not a checkpoint")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_truncated_file(tmp_path: Path, weights: Weights, zipped: bool) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "cut short or damaged .*download it again")


def test_a_truncated_safetensors_file(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "cut.safetensors"
    save_file(weights, path)
    whole = path.read_bytes()
    for size in (20, 500, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "cut short or damaged")


def test_random_damage_never_ends_in_another_error(tmp_path: Path, weights: Weights) -> None:
    rng = np.random.default_rng(0)
    messages = []
    for zipped in (True, False):
        path = tmp_path / f"damaged{zipped}.pt"
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=zipped)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(30):
            damaged = whole.copy()
            damaged[rng.integers(0, 4000, 8)] = rng.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            try:
                load_tacotron2(path)  # damage to the numbers themselves can pass
            except CheckpointError as e:
                messages.append(str(e))
    assert len(messages) > 30
    assert not [message for message in messages if "\n" in message]


class RunsCode:
    """A pickle that makes a file when it is read carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, weights: Weights, zipped: bool) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "made by the pickle"
    content = {"state_dict": weights, "extra": RunsCode(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, rf"asks to run code while it is read \({os.mkdir.__module__}\.mkdir\)")
    assert not target.exists()
    with pytest.raises(CheckpointError, match="asks to run code"):
        convert(path, tmp_path / "new.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pt"]


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("glow", "WaveGlow", r"a whole pickled WaveGlow \(a vocoder\), not a Tacotron 2"),
        ("model", "Tacotron2", r"asks to run code .*\(model\.Tacotron2\).*save them alone"),
    ],
)
def test_whole_pickled_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, message: str
) -> None:
    fake = types.ModuleType(module)
    pickled = type(name, (), {"__module__": module})
    setattr(fake, name, pickled)
    monkeypatch.setitem(sys.modules, module, fake)
    torch.save({"model": pickled()}, tmp_path / "whole.pt")
    monkeypatch.delitem(sys.modules, module)
    refused(tmp_path / "whole.pt", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {"module.upsample.weight": torch.ones(1), "WN.0.start.bias": 1}},
            r"checkpoint of WaveGlow \(a vocoder\), not of Tacotron 2",
        ),
        (
            {"generator": {"conv_pre.bias": torch.ones(1), "ups.0.bias": torch.ones(1)}},
            r"checkpoint of HiFi-GAN \(a vocoder\), not of Tacotron 2",
        ),
        (
            {"embedding.weight": torch.ones(1), "duration_predictor.0.weight": torch.ones(1)},
            r"checkpoint of LightSpeech \(the student\), not of Tacotron 2",
        ),
        (
            {"state_dict": {"fc.weight": torch.ones(1)}, "epoch": 3},
            r"none of Tacotron 2's weights \(its entries are fc.weight\)",
        ),
        ({}, r"none of Tacotron 2's weights \(it is empty\)"),
        (torch.ones(3), "holds a Tensor; expected a Tacotron 2 state dict"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_models(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", message)


def test_real_vocoder_files(shared: Path) -> None:
    for name in (
        "waveglow_module_zip.pt",
        "waveglow_module_legacy.pt",
        "waveglow_ddp_statedict.pt",
    ):
        refused(shared / "golden" / name, "WaveGlow")
    refused(shared / "data/hifigan_lj_v2/generator_v2", "HiFi-GAN")


def save_changed(tmp_path: Path, weights: Weights, **changes: Tensor | None) -> Path:
    """Saves the weights with some replaced, or left out where the replacement is None."""
    changed: dict[str, Tensor | None] = {**weights, **changes}
    path = tmp_path / "changed.pt"
    torch.save({"state_dict": {n: w for n, w in changed.items() if w is not None}}, path)
    return path


GATE = "decoder.gate_layer.linear_layer.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({GATE: None}, f"1 weights are missing: {GATE}"),
        ({GATE: torch.ones(1, 7)}, rf"wrong shape: {GATE} is \(1, 7\), expected \(1, 16\)"),
        ({"speaker.weight": torch.ones(2)}, "1 weights are not Tacotron 2's: speaker.weight"),
        ({"embedding.weight": torch.ones(8)}, r"embedding.weight has shape \(8,\); expected 2"),
        ({"embedding.weight": torch.ones(96, 8)}, "with 96 symbols, the text front end .* has 148"),
        ({"embedding.weight": torch.ones(148, 10)}, "must be equal, not 10 and 8"),
        ({"encoder.lstm.weight_hh_l0": None}, "no encoder.lstm.weight_hh_l0 among its"),
        ({GATE: torch.full((1, 16), torch.nan)}, f"1 weights hold numbers .* not finite .*{GATE}"),
        ({GATE: torch.ones(1, 16, dtype=torch.int8)}, "is of type torch.int8; expected half or"),
        ({"decoder.linear_projection.linear_layer.weight": torch.ones(160, 16)}, "2 frames a step"),
        ({GATE: "a string"}, f"expected only tensors in the state dict, got {GATE}"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, weights: Weights, changes: dict[str, Any], message: str
) -> None:
    refused(save_changed(tmp_path, weights, **changes), message)


def test_another_number_of_mel_bins(tmp_path: Path) -> None:
    path = tmp_path / "bins.pt"
    torch.save(draw_weights(replace(SMALL, n_mel_channels=40)), path)
    refused(path, "makes 40 mel bins, expected 80")


# safetensors with a JSON beside it, and the converter that writes both.


@pytest.fixture
def converted(tmp_path: Path, weights: Weights) -> Path:
    old, new = tmp_path / "tacotron2_statedict.pt", tmp_path / "new.safetensors"
    half = {n: w.half() if w.is_floating_point() else w for n, w in weights.items()}
    torch.save(deep_learning_examples(half), old)
    convert(old, new, provenance="drawn by a test", licence="none")
    return new


def test_convert_keeps_weights_and_precision(converted: Path) -> None:
    old, new = (
        load_tacotron2(converted.with_name("tacotron2_statedict.pt")),
        load_tacotron2(converted),
    )
    assert new.config == old.config
    for name, weight in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], weight)
    assert load_file(converted)["embedding.weight"].dtype == torch.float16
    description = json.loads(converted.with_suffix(".json").read_text())
    assert description["sha256"] == new.source["sha256"]
    assert description["converted_from"]["sha256"] == old.source["sha256"]
    assert description["config"] == SMALL.as_dict()
    assert description["audio"] == AUDIO_FACTS
    assert description["provenance"] == "drawn by a test"


def test_convert_overwrites_only_when_told(converted: Path) -> None:
    old = converted.with_name("tacotron2_statedict.pt")
    with pytest.raises(CheckpointError, match=r"new\.safetensors and .*new\.json exist"):
        convert(old, converted)
    convert(old, converted, overwrite=True)
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.safetensors"):
        convert(old, converted.with_suffix(".pt"))
    with pytest.raises(CheckpointError, match=r"cannot write .*no/such/x\.safetensors: "):
        convert(old, converted.parent / "no/such/x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"its SHA-256 is \w{64}, expected 0{64}; restore both"),
        ({"version": 2}, "has version 2, expected 1; convert the original"),
        ({"format": "waveglow"}, "does not describe a Tacotron 2"),
        ({"audio": {"sample_rate": 22050}}, "expected audio facts sample_rate, fft_size"),
    ],
)
def test_a_json_that_does_not_belong(converted: Path, change: dict[str, Any], message: str) -> None:
    beside = converted.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_tacotron2(converted)


def test_a_json_that_is_none(converted: Path) -> None:
    converted.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match=r"new\.json is not readable JSON"):
        load_tacotron2(converted)


def test_convert_as_a_command(
    converted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = converted.with_name("tacotron2_statedict.pt"), converted.with_name("b.safetensors")
    monkeypatch.setattr(sys, "argv", ["convert", str(old), str(new)])
    main()
    assert "parameters, SHA-256" in capsys.readouterr().out
    assert load_tacotron2(new).config == SMALL
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1


# The checkpoint where none is named.


def test_default_is_the_users_then_the_bundled(tmp_path: Path, converted: Path) -> None:
    folder = tmp_path / "pretrained"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no Tacotron 2 checkpoint in .*is missing"):
        default_checkpoint(folder)
    for name in ("tacotron2_slt.safetensors", "README.md", "tacotron2_slt.json"):
        (folder / name).touch()
    assert default_checkpoint(folder).name == "tacotron2_slt.safetensors"
    (folder / "nvidia_tacotron2pyt_fp32_20190427").touch()
    assert default_checkpoint(folder).name == "nvidia_tacotron2pyt_fp32_20190427"
    (folder / "nvidia_tacotron2pyt_fp32_20190427").unlink()
    shutil.copy(converted, folder / "mine.safetensors")
    assert default_checkpoint(folder).name == "mine.safetensors"
    (folder / "second.pth").touch()
    with pytest.raises(CheckpointError, match=r"several .*: mine\.safetensors, second\.pth; keep"):
        default_checkpoint(folder)
    (folder / "tacotron2_statedict.pt").touch()
    assert default_checkpoint(folder).name == "tacotron2_statedict.pt"


def test_the_bundled_checkpoint_loads() -> None:
    model = load_tacotron2(tacotron2.load.PRETRAINED / tacotron2.load.BUNDLED)
    assert sum(p.numel() for p in model.parameters()) == 4_852_929
    assert model.source["name"] == "tacotron2_slt"
    description = json.loads(tacotron2.load.PRETRAINED.joinpath("tacotron2_slt.json").read_text())
    assert Tacotron2Config(**description["config"]) == model.config


def test_the_bundled_checkpoint_speaks() -> None:
    # "hello." in the ids of the text front end: letters from 38 on, the full stop is 7.
    ids = [38 + ord(letter) - ord("a") for letter in "hello"] + [7]
    model = load_tacotron2(tacotron2.load.PRETRAINED / tacotron2.load.BUNDLED)
    output = model.infer(torch.tensor([ids]), torch.tensor([len(ids)]), seeds=[0], max_frames=200)
    assert output.stopped.item()
    assert 20 <= output.frames.item() <= 120
    path = output.attention[0].argmax(1)
    assert path[0] <= 1
    assert path[-1] >= 4
    assert -11.6 < output.mel.min() < output.mel.max() < 3
