"""Every layout in which WaveGlow is published loads; everything else is named and refused."""

from __future__ import annotations

import collections
import copy
import hashlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safeload import CheckpointError, PickledObject, find_state_dict, read_checkpoint_file
from waveglow import convert as convert_module
from waveglow.config import AUDIO_FACTS, WaveGlowConfig
from waveglow.convert import convert
from waveglow.load import KIND, PUBLISHED, build_waveglow, default_checkpoint, load_waveglow
from waveglow.model import WaveGlow

FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parent.parent
LAYOUTS = ("module_zip", "module_legacy", "module_oldest_legacy", "ddp_statedict")
CONFIG = WaveGlowConfig(
    n_mel_channels=8, n_flows=4, n_early_every=2, n_layers=3, n_channels=16, kernel_size=3
)
Weights = dict[str, Tensor]


def fixture(layout: str) -> Path:
    return FIXTURES / f"waveglow_{layout}.pt"


def published() -> Weights:
    """Weights under NVIDIA's names, with their weight norm."""
    return find_state_dict(read_checkpoint_file(fixture("ddp_statedict"), KIND))


def is_golden(model: WaveGlow) -> bool:
    """Whether the model makes the audio that NVIDIA's code makes of these weights."""
    with np.load(FIXTURES / "waveglow_checkpoints.npz") as golden:
        mel = torch.from_numpy(golden["mel"]).transpose(1, 2)
        noise = [torch.from_numpy(golden[f"noise/{i}"]) for i in range(2)]
        audio = torch.from_numpy(golden["audio"])
        found = model.infer(mel, float(golden["sigma"]), noise=noise)
    return bool((found - audio).abs().max() < 1e-4 * audio.abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts(layout: str) -> None:
    model = load_waveglow(fixture(layout))
    assert is_golden(model)
    assert model.config == CONFIG
    assert not any(module.training for module in model.modules())
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    assert not any("weight_g" in name or "original" in name for name in model.state_dict())
    assert model.audio_facts == {**AUDIO_FACTS, "n_mels": 8}
    assert model.source == {
        "path": str(fixture(layout)),
        "name": f"waveglow_{layout}",
        "sha256": hashlib.sha256(fixture(layout).read_bytes()).hexdigest(),
    }


def test_the_audio_tells_other_weights(tmp_path: Path) -> None:
    weights = published()
    weights["WN.1.res_skip_layers.0.weight_g"] = weights["WN.1.res_skip_layers.0.weight_g"] * 1.1
    torch.save(weights, tmp_path / "w.pt")
    assert not is_golden(load_waveglow(tmp_path / "w.pt"))


def new_names(weights: Weights) -> Weights:
    """The names of torch.nn.utils.parametrizations.weight_norm."""
    return {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): weight
        for name, weight in weights.items()
    }


def folded(weights: Weights) -> Weights:
    """Weight norm as PyTorch's own function takes it away."""
    plain = {n: w for n, w in weights.items() if not n.endswith(("weight_g", "weight_v"))}
    for name in weights:
        if name.endswith("weight_v"):
            layer = nn.Module()
            layer.weight = nn.Parameter(weights[name].double())
            nn.utils.parametrizations.weight_norm(layer)
            layer.parametrizations.weight.original0.data = weights[
                name.replace("weight_v", "weight_g")
            ].double()
            plain[name.removesuffix("_v")] = layer.weight.detach().float()
    return plain


def in_order(weights: Weights) -> Weights:
    """NVIDIA's invertible convolutions are stored transposed, which safetensors does not take."""
    return {name: weight.contiguous() for name, weight in weights.items()}


def with_prefix(weights: Weights) -> Weights:
    return {f"module.{name}": weight for name, weight in weights.items()}


STATE_DICTS: dict[str, Callable[[Weights], Any]] = {
    "bare": dict,
    "bare distributed": with_prefix,
    "state_dict without config": lambda w: {"state_dict": w, "iteration": 3},
    "model as state dict": lambda w: {"model": collections.OrderedDict(w), "optimizer": {}},
    "folded": folded,
    "new names of weight norm": new_names,
    "new names, distributed, with config": lambda w: {
        "state_dict": with_prefix(new_names(w)),
        "config": {"n_flows": 4, "WN_config": {"n_layers": 3}, "unknown": object.__name__},
    },
    "parameters": lambda w: {n: nn.Parameter(x) for n, x in w.items()},
    "double precision": lambda w: {n: x.double() for n, x in w.items()},
    "transposed in memory": lambda w: {
        n: x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x
        for n, x in w.items()
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", STATE_DICTS)
def test_state_dicts(tmp_path: Path, layout: str, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save(STATE_DICTS[layout](published()), path, _use_new_zipfile_serialization=zipped)
    model = load_waveglow(path)
    assert model.config == CONFIG
    assert is_golden(model)


def test_weight_norm_is_folded_in_double_precision(tmp_path: Path) -> None:
    weights = published()
    torch.save(weights, tmp_path / "w.pt")
    model = load_waveglow(tmp_path / "w.pt").state_dict()
    for name, weight in folded(weights).items():
        torch.testing.assert_close(model[name], weight, rtol=1.2e-7, atol=0)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    weights = {name: weight.half() for name, weight in published().items()}
    torch.save({"state_dict": weights}, tmp_path / "half.pt")
    model = load_waveglow(tmp_path / "half.pt")
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.upsample.weight, weights["upsample.weight"].float())


def test_a_module_beside_its_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVIDIA's train.py writes it, wrapped for several GPUs; the classes are gone afterwards."""
    fake = types.ModuleType("glow")
    fake.WaveGlow = type("WaveGlow", (nn.Module,), {"__module__": "glow"})
    monkeypatch.setitem(sys.modules, "glow", fake)
    model = fake.WaveGlow()
    for name, weight in published().items():
        *path, leaf = name.split(".")
        part = model
        for step in path:
            if step not in part._modules:
                part.add_module(step, nn.Module())
            part = part._modules[step]
        part.register_parameter(leaf, nn.Parameter(weight))
    model.n_flows, model.n_group, model.n_early_every, model.n_early_size = 4, 8, 2, 2
    model = nn.DataParallel(model)
    optimizer = torch.optim.Adam(model.parameters())
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "whole.pt")
    monkeypatch.delitem(sys.modules, "glow")
    assert is_golden(load_waveglow(tmp_path / "whole.pt"))


def test_a_module_called_glow_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    made = tmp_path / "made by the import"
    (trap / "glow.py").write_text(f"import os\nos.mkdir({str(made)!r})\nraise RuntimeError\n")
    monkeypatch.chdir(trap)
    monkeypatch.syspath_prepend(str(trap))
    monkeypatch.delitem(sys.modules, "glow", raising=False)
    for layout in LAYOUTS:
        assert load_waveglow(fixture(layout)).config == CONFIG
    assert not made.exists()
    assert "glow" not in sys.modules


def test_loads_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "glow", raising=False)
    assert load_waveglow(str(fixture("module_legacy"))).config == CONFIG


def test_without_early_outputs(tmp_path: Path) -> None:
    """The weights do not say when they would come; the model is the same without knowing."""
    config = WaveGlowConfig(n_mel_channels=4, n_flows=3, n_layers=1, n_channels=4)
    weights = WaveGlow(config).state_dict()
    torch.save(weights, tmp_path / "a.pt")
    assert load_waveglow(tmp_path / "a.pt").config.flow_channels == (8, 8, 8)
    torch.save({"state_dict": weights, "config": {"n_early_every": 4}}, tmp_path / "b.pt")
    assert load_waveglow(tmp_path / "b.pt").config == config
    stated = {"n_early_every": 4, "n_early_size": 4}
    torch.save({"state_dict": weights, "config": stated}, tmp_path / "d.pt")
    assert load_waveglow(tmp_path / "d.pt").config.n_early_size == 4
    torch.save({"state_dict": weights, "config": {"n_early_every": 2}}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "n_early_every is 2 by its configuration and 3 by its weights")


@pytest.mark.requires_cuda
def test_loads_onto_a_gpu() -> None:
    model = load_waveglow(fixture("module_legacy"), "cuda")
    assert {weight.device.type for weight in model.parameters()} == {"cuda"}


# What is refused, and what it says.


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_waveglow(path)
    assert "\n" not in str(caught.value)
    assert str(path.with_suffix("")) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.pt", r"no file .*no\.pt; .*waveglow_256channels\.pt.*pretrained")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder, not a file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"Hello, this is a letter.\n" * 9, "is a text file, not a checkpoint"),
        (b"<!DOCTYPE html><html>", "is a web page, not a checkpoint"),
        (b"weights={'upsample': 1}\n", "is a text file, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
    ],
)
def test_not_a_checkpoint_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "wrong.pt").write_bytes(content)
    refused(tmp_path / "wrong.pt", f"{message}.*; expected a WaveGlow checkpoint such as")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_files(tmp_path: Path, layout: str) -> None:
    whole = fixture(layout).read_bytes()
    for size in (600, len(whole) // 3, int(0.7 * len(whole)), len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        refused(tmp_path / "cut.pt", "cut short or damaged .*download it again")


OTHERS = {
    "Tacotron 2": {"embedding.weight": torch.ones(2), "decoder.prenet.layers.0": torch.ones(1)},
    "HiFi-GAN": {"generator": {"conv_pre.weight_g": torch.ones(1), "ups.0.bias": torch.ones(1)}},
    "LightSpeech": {"duration_predictor.0.weight": torch.ones(1)},
}


@pytest.mark.parametrize("model", OTHERS)
def test_other_models(tmp_path: Path, model: str) -> None:
    torch.save(OTHERS[model], tmp_path / "other.pt")
    refused(tmp_path / "other.pt", rf"is a checkpoint of {model} \(.*\), not of WaveGlow")


def test_the_bundled_teacher_is_no_vocoder() -> None:
    path = ROOT / "tacotron2/pretrained/tacotron2_slt.safetensors"
    refused(path, r"is a checkpoint of Tacotron 2 \(a text-to-mel model\), not of WaveGlow")


def changed(**changes: Any) -> Weights:
    """Weights with some replaced, or left out where the replacement is None."""
    weights: dict[str, Any] = {**published(), **changes}
    return {name: weight for name, weight in weights.items() if weight is not None}


START_G, START_V = "WN.2.start.weight_g", "WN.2.start.weight_v"
MIXER = "convinv.1.conv.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WN.1.end.bias": None}, r"1 weights are missing: WN\.1\.end\.bias"),
        (
            {START_G: None},
            r"1 weights are missing: WN\.2\.start\.weight; .* are not WaveGlow's: .*",
        ),
        ({"speaker.weight": torch.ones(2)}, "1 weights are not WaveGlow's: speaker.weight"),
        ({"WN.2.start.weight": torch.ones(16, 3, 1)}, "2 weights are not WaveGlow's"),
        ({"WN.1.end.bias": torch.ones(7)}, r"WN\.1\.end\.bias is \(7,\), expected \(8,\)"),
        ({START_G: torch.ones(15, 1, 1)}, r"WN\.2\.start has shapes \(15, 1, 1\) and \(16, 3, 1\)"),
        ({START_G: torch.ones(16)}, r"WN\.2\.start has shapes \(16,\) and"),
        ({START_V: torch.ones(())}, r"WN\.2\.start has shapes"),
        ({START_V: torch.zeros(16, 3, 1)}, r"not finite .*: WN\.2\.start\.weight"),
        ({START_V: torch.full((16, 3, 1), torch.nan)}, r"not finite .*: WN\.2\.start\.weight_v"),
        ({"upsample.bias": torch.full((8,), torch.inf)}, r"not finite .*upsample\.bias"),
        ({"upsample.bias": torch.ones(8, dtype=torch.int8)}, "is of type torch.int8"),
        ({"upsample.weight": None}, r"no upsample\.weight among its 77 weights"),
        ({"upsample.weight": torch.ones(8, 8)}, r"upsample\.weight has shape \(8, 8\); expected 3"),
        ({"upsample.weight": torch.ones(8, 0, 8)}, "none of them empty"),
        ({"upsample.weight": torch.ones(8, 8, 255)}, "upsample_kernel must be at least"),
        ({MIXER: torch.zeros(8, 8, 1)}, r"convinv\.1\.conv\.weight is singular"),
        ({MIXER: torch.ones(8, 8, 1)}, r"convinv\.1\.conv\.weight is singular"),
        (
            {MIXER: torch.diag(torch.tensor([1.0] * 7 + [1e-8]))[:, :, None]},
            r"convinv\.1\.conv\.weight is singular",
        ),
        ({MIXER: 1e-32 * torch.eye(8)[:, :, None]}, r"convinv\.1\.conv\.weight is singular"),
        ({MIXER: torch.eye(7)[:, :, None]}, "impossible sizes: .*n_early_size must be even"),
        ({MIXER: torch.eye(4)[:, :, None]}, "must leave at least 2 channels"),
        ({MIXER: torch.ones(())}, "impossible sizes"),
        ({"convinv.3.conv.weight": torch.eye(4)[:, :, None]}, "have 8, 8, 6, 4 channels; expected"),
        ({"convinv.2.conv.weight": None}, "not WaveGlow's: .*convinv.3|not WaveGlow's: WN"),
        ({"WN.0.in_layers.0.weight_v": torch.ones(32, 16, 2)}, "kernel_size must be odd"),
        ({"upsample.bias": "a text"}, "expected only tensors in the state dict, got upsample.bias"),
        ({"upsample.bias": torch.ones(1).expand(8)}, "damaged"),
        ({"WN.0.cond_layers.0.bias": torch.ones(32)}, "not WaveGlow's: WN.0.cond_layers.0.bias"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    torch.save({"state_dict": changed(**changes)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", message)


def test_many_flows_of_many_layers_in_few_weights(tmp_path: Path) -> None:
    """The sizes of the model come from the weights; so a file must have all that it promises."""
    weights = published()
    for i in range(4, 3000):
        weights[f"convinv.{i}.conv.weight"] = weights["convinv.3.conv.weight"]
        weights[f"WN.0.in_layers.{i - 1}.weight"] = weights["WN.0.in_layers.0.weight_v"]
    torch.save({"state_dict": weights}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "impossible sizes|flows of 2999 layers|have 8, 8, 6, 6, ")


def test_more_layers_than_weights_are_never_made(tmp_path: Path) -> None:
    weights = folded(published())
    for i in range(60):
        weights[f"convinv.{i}.conv.weight"] = torch.eye(8)[:, :, None]
        weights[f"WN.0.in_layers.{i}.weight"] = weights["WN.0.in_layers.0.weight"]
    torch.save(weights, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"has 60 flows of 60 layers by its first flow's, but only \d+ weig")


def test_sizes_beyond_what_a_tensor_can_have(tmp_path: Path) -> None:
    """Two long weights promise a third one of 2^64 elements."""
    n = 2**21 - 1
    weights = folded(published())
    weights["WN.0.start.weight"] = torch.zeros(n, 1, 1, dtype=torch.float16)
    weights["WN.0.in_layers.0.weight"] = torch.zeros(1, 1, n, dtype=torch.float16)
    torch.save(weights, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "its weights have impossible sizes: .*n_channels=2097151")


def oldest() -> Weights:
    return find_state_dict(read_checkpoint_file(fixture("module_oldest_legacy"), KIND))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WN.1.cond_layers.1.bias": None}, "missing: WN.1.cond_layer.bias"),
        ({"WN.1.res_layers.1.bias": None}, "missing: WN.1.res_skip_layers.1.bias"),
        ({"WN.1.skip_layers.2.bias": None}, "missing: WN.1.res_skip_layers.2.bias"),
        ({"WN.1.res_layers.1.bias": torch.ones(9)}, r"res_skip_layers.1.bias is \(25,\)"),
        ({"WN.1.res_layers.1.bias": torch.ones(9, 2)}, "do not fit together"),
        ({"WN.1.cond_layer.bias": torch.ones(96)}, "has both .*cond_layers.0.bias .* two layouts"),
        ({"WN.1.res_layers.2.bias": torch.ones(16)}, "not WaveGlow's: WN.1.res_layers.2.bias"),
    ],
)
def test_oldest_weights_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    weights: dict[str, Any] = {**oldest(), **changes}
    torch.save({n: w for n, w in weights.items() if w is not None}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_flows": 5}, "n_flows is 5 by its configuration and 4 by its weights"),
        ({"n_group": 16}, "n_group is 16 by its configuration and 8 by its weights"),
        ({"n_early_every": 4}, "n_early_every is 4 by its configuration and 2 by its weights"),
        ({"n_early_size": 4}, "n_early_size is 4 by its configuration and 2 by its weights"),
        ({"n_mel_channels": 80}, "n_mel_channels is 80 by its configuration and 8 by its weights"),
        ({"WN_config": {"n_layers": 8}}, "n_layers is 8 by its configuration and 3 by its weights"),
        ({"WN_config": {"n_channels": 256}}, "n_channels is 256 by .* and 16 by its weights"),
        ({"WN_config": {"kernel_size": 5}}, "kernel_size is 5 by .* and 3 by its weights"),
        ({"n_flows": "4"}, "n_flows is '4' by its configuration"),
        ({"n_flows": [4]}, "n_flows is a list by its configuration"),
        ({"n_flows": True}, "n_flows is a bool by its configuration"),
        ({"n_flows": 4.0}, "n_flows is 4.0 by its configuration"),
    ],
)
def test_a_config_of_another_model(tmp_path: Path, config: Any, message: str) -> None:
    torch.save({"state_dict": published(), "config": config}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", f"contradicts itself: .*{message}")


def test_attributes_of_a_module_that_contradict_its_weights() -> None:
    file = read_checkpoint_file(fixture("module_legacy"), KIND)
    module = file.content["model"]
    for name, value, message in (
        ("n_flows", 12, "n_flows is 12 by its configuration and 4"),
        ("n_group", 4, "n_group is 4 by its configuration and 8"),
        ("n_early_every", 4, "n_early_every is 4 by its configuration and 2"),
        ("n_early_size", 4, "n_early_size is 4 by its configuration and 2"),
    ):
        kept = module.state[name]
        module.state[name] = value
        with pytest.raises(CheckpointError, match=message):
            build_waveglow(file)
        module.state[name] = kept
    module.state["_modules"]["upsample"].state["stride"] = (300,)
    with pytest.raises(CheckpointError, match="a mel frame is 300 samples, expected 256"):
        build_waveglow(file)
    parallel = PickledObject("torch.nn.parallel.data_parallel.DataParallel")
    parallel.state = {"_modules": {"module": module}}
    file.content["model"] = parallel
    with pytest.raises(CheckpointError, match="a mel frame is 300 samples, expected 256"):
        build_waveglow(file)


# The file to use where none is named.


def test_default_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no WaveGlow checkpoint in .*put NVIDIA's wavegl"):
        default_checkpoint(tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "nvidia_waveglowpyt_fp32_20190427").touch()
    assert default_checkpoint(tmp_path).name == "nvidia_waveglowpyt_fp32_20190427"
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "mine.json").touch()
    with pytest.raises(CheckpointError, match=r"several .*mine\.safetensors, nvidia_waveglow"):
        default_checkpoint(tmp_path)
    (tmp_path / PUBLISHED).touch()
    assert default_checkpoint(tmp_path).name == PUBLISHED


# safetensors with a JSON beside it, and the converter that writes both.


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    new = tmp_path / "new.safetensors"
    convert(fixture("module_oldest_legacy"), new, provenance="drawn by a recipe", licence="none")
    return new


def test_converted_files_are_the_same_model(converted: Path) -> None:
    old, new = load_waveglow(fixture("module_oldest_legacy")), load_waveglow(converted)
    assert is_golden(new)
    assert new.config == old.config
    assert new.audio_facts == old.audio_facts == {**AUDIO_FACTS, "n_mels": 8}
    assert list(new.state_dict()) == list(old.state_dict())
    for name, weight in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], weight), name
    description = json.loads(converted.with_suffix(".json").read_text())
    assert description["format"] == "waveglow"
    assert description["sha256"] == new.source["sha256"]
    assert description["converted_from"]["sha256"] == old.source["sha256"]
    assert description["config"] == CONFIG.as_dict()
    assert description["provenance"] == "drawn by a recipe"
    assert description["licence"] == "none"
    assert description["parameters"] == sum(w.numel() for w in old.parameters())


def test_converting_again_changes_nothing(converted: Path) -> None:
    again = converted.with_name("again.safetensors")
    convert(converted, again)
    assert again.read_bytes() == converted.read_bytes()


def test_safetensors_without_their_json(converted: Path, tmp_path: Path) -> None:
    converted.with_suffix(".json").unlink()
    assert is_golden(load_waveglow(converted))
    save_file(with_prefix(in_order(published())), tmp_path / "own.safetensors")
    assert is_golden(load_waveglow(tmp_path / "own.safetensors"))


def test_truncated_safetensors(converted: Path) -> None:
    whole = converted.read_bytes()
    converted.with_suffix(".json").unlink()
    for size in (20, 3000, len(whole) - 1):
        converted.write_bytes(whole[:size])
        refused(converted, "cut short or damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"its SHA-256 is \w{64}, expected 0{64}; restore both"),
        ({"version": 2}, "has version 2, expected 1; convert the original"),
        ({"format": "tacotron2"}, "does not describe a WaveGlow"),
        ({"audio": {**AUDIO_FACTS, "n_mels": 80}}, "other audio facts .*n_mels 80 for 8"),
        ({"config": {**CONFIG.as_dict(), "n_flows": 12}}, "n_flows is 12 by its .* and 4 by"),
    ],
)
def test_a_json_that_does_not_belong(converted: Path, change: Any, message: str) -> None:
    beside = converted.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    refused(converted, message)


def test_mel_bins_that_a_json_of_somebody_elses_misstates(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(in_order(folded(published())), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    description = {"format": "waveglow", "version": 1, "sha256": digest, "audio": AUDIO_FACTS}
    path.with_suffix(".json").write_text(json.dumps(description))
    refused(path, "says n_mels 80, its weights take 8")


def test_convert_overwrites_only_when_told(converted: Path, tmp_path: Path) -> None:
    old = fixture("module_zip")
    with pytest.raises(CheckpointError, match=r"new\.safetensors and .*new\.json exist"):
        convert(old, converted)
    convert(old, converted, overwrite=True)
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.safetensors"):
        convert(old, converted.with_suffix(".pt"))
    torch.save(changed(**{"WN.1.end.bias": None}), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="1 weights are missing"):
        convert(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_convert_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "b.safetensors"
    monkeypatch.setattr(sys, "argv", ["convert", str(fixture("module_legacy")), str(new)])
    convert_module.main()
    assert "115,724 parameters, SHA-256" in capsys.readouterr().out
    assert set(load_file(new)) == set(load_waveglow(new).state_dict())
    with pytest.raises(SystemExit, match=r"^1$"):
        convert_module.main()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "choose another name or --overwrite" in error


def test_options_of_the_convert_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = tmp_path / "b.safetensors"
    for licence in ("mine", "yours"):
        options = ["--overwrite", "--licence", licence, "--provenance", f"{licence} too"]
        arguments = ["convert", str(fixture("module_legacy")), str(new), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        convert_module.main()
        description = json.loads(new.with_suffix(".json").read_text())
        assert (description["licence"], description["provenance"]) == (licence, f"{licence} too")


def test_convert_looks_where_it_writes_before_it_reads(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.safetensors"):
        convert(tmp_path / "nowhere.pt", tmp_path / "w.pt")


def test_ctrl_c_stops_the_convert_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["convert", "old", "new"])
    monkeypatch.setattr(convert_module, "convert", interrupted)
    with pytest.raises(SystemExit, match=r"^130$"):
        convert_module.main()
    assert capsys.readouterr().err == "\nstopped\n"


def test_loading_leaves_the_file_content_alone() -> None:
    file = read_checkpoint_file(fixture("module_zip"), KIND)
    before = copy.deepcopy(find_state_dict(file))
    build_waveglow(file)
    after = find_state_dict(file)
    assert all(torch.equal(before[name], after[name]) for name in before)
