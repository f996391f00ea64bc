"""HiFi-GAN against the published generator's own output and a naive implementation; its files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH, mel_spectrogram
from lightspeech.errors import InputError
from lightspeech.vocoders.hifigan import HifiGan, default_checkpoint, load_hifigan
from lightspeech.vocoders.hifigan_config import HifiGanConfig
from lightspeech.vocoders.hifigan_generator import Generator, context_frames
from safeload import CheckpointError

Weights = dict[str, Tensor]
Json = dict[str, Any]

V1: Json = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
    "fmax_loss": None,
    "learning_rate": 0.0002,
    "dist_config": {"world_size": 1},
}
V2: Json = V1 | {"upsample_initial_channel": 128}
V3: Json = V1 | {
    "resblock": "2",
    "upsample_rates": [8, 8, 4],
    "upsample_kernel_sizes": [16, 16, 8],
    "upsample_initial_channel": 256,
    "resblock_kernel_sizes": [3, 5, 7],
    "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]],
}
PUBLISHED = {"V1": V1, "V2": V2, "V3": V3}
PARAMETERS = {"V1": 13_926_017, "V2": 925_985, "V3": 1_462_273}

# Small ones, with kernels that are no multiple of their rate, or no larger.
SMALL: Json = V1 | {
    "upsample_rates": [8, 4, 8],
    "upsample_kernel_sizes": [16, 10, 8],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [3]],
}
SMALL_SINGLE: Json = SMALL | {"resblock": "2", "upsample_kernel_sizes": [10, 12, 14]}


def drawn_checkpoint(values: Json, seed: int = 0) -> Weights:
    """Random weights under weight norm, with the published names; signals keep about their size."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def draw(layer: str, *shape: int, n_out: int) -> None:
        direction = rng.standard_normal(shape, dtype=np.float32)
        gain = (0.5 + rng.random((shape[0], 1, 1), dtype=np.float32)) * math.sqrt(2 / 3)
        weights[f"{layer}.weight_v"] = torch.from_numpy(direction)
        weights[f"{layer}.weight_g"] = torch.from_numpy(gain)
        weights[f"{layer}.bias"] = torch.from_numpy(
            0.1 * rng.standard_normal(n_out, dtype=np.float32)
        )

    n = values["upsample_initial_channel"]
    draw("conv_pre", n, values["num_mels"], 7, n_out=n)
    block = 0
    for stage, taps in enumerate(values["upsample_kernel_sizes"]):
        draw(f"ups.{stage}", n, n // 2, taps, n_out=n // 2)
        n //= 2
        for k, dilations in zip(
            values["resblock_kernel_sizes"], values["resblock_dilation_sizes"], strict=True
        ):
            for i in range(len(dilations)):
                for name in ("convs1", "convs2") if values["resblock"] == "1" else ("convs",):
                    draw(f"resblocks.{block}.{name}.{i}", n, n, k, n_out=n)
            block += 1
    draw("conv_post", 1, n, 7, n_out=1)
    return weights


def naive_hifigan(values: Json, weights: Weights, mel: Tensor) -> Tensor:
    """(T, M) -> (S,): the paper's generator written down, in float64, weight norm unfolded."""

    def weight_of(layer: str) -> Tensor:
        v, g = weights[f"{layer}.weight_v"].double(), weights[f"{layer}.weight_g"].double()
        return g * v / v.square().sum(dim=(1, 2), keepdim=True).sqrt()

    def convolve(layer: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight, bias = weight_of(layer), weights[f"{layer}.bias"].double()
        padding = (weight.shape[2] * dilation - dilation) // 2
        return F.conv1d(x, weight, bias, padding=padding, dilation=dilation)

    def residual_block(i: int, x: Tensor, dilations: list[int]) -> Tensor:
        for j, dilation in enumerate(dilations):
            if values["resblock"] == "1":
                y = convolve(f"resblocks.{i}.convs1.{j}", F.leaky_relu(x, 0.1), dilation)
                x = x + convolve(f"resblocks.{i}.convs2.{j}", F.leaky_relu(y, 0.1))
            else:
                x = x + convolve(f"resblocks.{i}.convs.{j}", F.leaky_relu(x, 0.1), dilation)
        return x

    x = convolve("conv_pre", mel.double().T[None])  # (1, C, T)
    kinds = values["resblock_dilation_sizes"]
    for stage, (rate, taps) in enumerate(
        zip(values["upsample_rates"], values["upsample_kernel_sizes"], strict=True)
    ):
        x = F.conv_transpose1d(
            F.leaky_relu(x, 0.1),
            weight_of(f"ups.{stage}"),
            weights[f"ups.{stage}.bias"].double(),
            stride=rate,
            padding=(taps - rate) // 2,
        )
        blocks = [residual_block(len(kinds) * stage + j, x, kinds[j]) for j in range(len(kinds))]
        x = torch.stack(blocks).mean(dim=0)
    return torch.tanh(convolve("conv_post", F.leaky_relu(x, 0.01)))[0, 0]


def drawn_mel(n_frames: int, seed: int = 1) -> Tensor:
    """(T, M) float32 in the range of log mels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_frames, 80, generator=generator) * 2 - 5


def write(folder: Path, values: Json, weights: Weights, name: str = "generator_v9") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    torch.save({"generator": weights}, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("small"), SMALL, drawn_checkpoint(SMALL))


@pytest.fixture(scope="module")
def small(small_file: Path) -> HifiGan:
    return load_hifigan(small_file)


@pytest.fixture(scope="module")
def published(shared: Path) -> HifiGan:
    return load_hifigan(shared / "data/hifigan_lj_v2/generator_v2")


# What it computes.


def test_equals_the_published_generator(published: HifiGan, fixtures: Path) -> None:
    golden = np.load(fixtures / "hifigan_v2.npz")
    wav = published(torch.from_numpy(golden["mel"]).T)
    assert wav.dtype == torch.float32
    error = np.abs(wav.numpy() - golden["audio"]).max() / np.abs(golden["audio"]).max()
    assert error < 1e-4


@pytest.mark.parametrize("version", PUBLISHED)
def test_published_versions_equal_the_naive_implementation(tmp_path: Path, version: str) -> None:
    values = PUBLISHED[version]
    weights, mel = drawn_checkpoint(values), drawn_mel(3)
    vocoder = load_hifigan(write(tmp_path, values, weights))
    assert sum(p.numel() for p in vocoder.generator.parameters()) == PARAMETERS[version]
    assert vocoder.audio_facts == AUDIO_FACTS
    expected = naive_hifigan(values, weights, mel)
    assert 0.02 < expected.std() < 0.9  # neither silent nor clipped by the tanh
    torch.testing.assert_close(vocoder(mel).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("values", [SMALL, SMALL_SINGLE], ids=["pairs", "single"])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 50])
def test_odd_sizes_equal_the_naive_implementation(
    tmp_path: Path, values: Json, n_frames: int
) -> None:
    weights, mel = drawn_checkpoint(values), drawn_mel(n_frames)
    vocoder = load_hifigan(write(tmp_path, values, weights))
    expected = naive_hifigan(values, weights, mel)
    torch.testing.assert_close(vocoder(mel).double(), expected, rtol=0, atol=1e-5)


def test_a_batch_is_its_utterances(small: HifiGan) -> None:
    mels = torch.stack([drawn_mel(9, seed) for seed in range(3)])
    wavs = small.generator(mels)
    assert wavs.shape == (3, 9 * HOP_LENGTH)
    for mel, wav in zip(mels, wavs, strict=True):
        torch.testing.assert_close(small(mel), wav, rtol=0, atol=1e-5)


def test_the_mel_is_left_as_it_is_and_any_float_will_do(small: HifiGan) -> None:
    mel = drawn_mel(4)
    before = mel.clone()
    wav = small(mel)
    assert torch.equal(mel, before)
    torch.testing.assert_close(small(mel.double()), wav, rtol=0, atol=1e-6)
    assert small(mel.half()).dtype == torch.float32


# Bounded memory.


@pytest.mark.parametrize("values", [SMALL, SMALL_SINGLE, V2, V3], ids=["a", "b", "V2", "V3"])
def test_pieces_join_to_the_whole(tmp_path: Path, values: Json) -> None:
    vocoder = load_hifigan(write(tmp_path, values, drawn_checkpoint(values)))
    for n_frames in (1, 2, 3, 50):
        mel = drawn_mel(n_frames)
        whole = vocoder.generator(mel[None])[0]
        for chunk_frames in (1, 2, 5, 64):
            if values in (V2, V3) and chunk_frames < 5 < n_frames:
                continue  # slow, and shown by the small ones
            chunked = HifiGan(vocoder.generator, chunk_frames=chunk_frames)
            pieces = list(chunked.stream(mel))
            assert [len(piece) for piece in pieces[:-1]] == [chunk_frames * HOP_LENGTH] * (
                len(pieces) - 1
            )
            torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("values", [SMALL, SMALL_SINGLE, V2, V3], ids=["a", "b", "V2", "V3"])
def test_the_context_is_what_samples_depend_on(values: Json) -> None:
    # The gradient of a sum of positive terms is not zero wherever there is any dependence.
    narrow = values | {"upsample_initial_channel": 16}
    generator = Generator(HifiGanConfig.from_dict(narrow)).double()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(0.01)
    context = context_frames(generator.config)
    first, last, n_frames = context + 3, context + 5, 2 * context + 9
    mel = torch.zeros(1, n_frames, 80, dtype=torch.float64, requires_grad=True)
    generator(mel)[:, first * HOP_LENGTH : last * HOP_LENGTH].sum().backward()
    assert mel.grad is not None
    heard = mel.grad.abs().sum(dim=(0, 2)).nonzero()[:, 0].tolist()
    assert heard == list(range(first - context, last + context))


@pytest.mark.parametrize("version", PUBLISHED)
def test_context_of_the_published_versions(version: str) -> None:
    expected = {"V1": 13, "V2": 13, "V3": 11}
    assert context_frames(HifiGanConfig.from_dict(PUBLISHED[version])) == expected[version]


@torch.no_grad()
def test_a_frame_less_of_context_is_heard() -> None:
    # One convolution a block, so that the outermost frame still weighs something.
    values = SMALL | {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    torch.manual_seed(0)
    generator = Generator(HifiGanConfig.from_dict(values)).double()
    context = context_frames(generator.config)
    mel = torch.randn(1, 2 * context + 9, 80, dtype=torch.float64) * 10
    first, last = context + 4, context + 5
    whole = generator(mel)[:, first * HOP_LENGTH : last * HOP_LENGTH]

    def difference(frames: int) -> float:
        part = mel[:, first - frames : last + frames]
        return float((generator(part, frames, frames + 1) - whole).abs().max())

    assert difference(context) < 1e-12
    assert difference(context - 1) > 1e-9


def test_memory_does_not_grow_with_the_mel(small: HifiGan, monkeypatch: pytest.MonkeyPatch) -> None:
    widest = 0
    real_conv2d = F.conv2d

    def watched(x: Tensor, *args: Any, **options: Any) -> Tensor:
        nonlocal widest
        y = real_conv2d(x, *args, **options)
        widest = max(widest, x.numel(), y.numel())
        return y

    monkeypatch.setattr(F, "conv2d", watched)
    vocoder = HifiGan(small.generator, chunk_frames=16)
    sizes = []
    for n_frames in (60, 600):
        widest = 0
        n_samples = sum(len(piece) for piece in vocoder.stream(drawn_mel(1).expand(n_frames, 80)))
        assert n_samples == n_frames * HOP_LENGTH
        sizes.append(widest)
    assert sizes[0] == sizes[1] < 600 * HOP_LENGTH


def test_pieces_come_one_by_one(small: HifiGan) -> None:
    pieces: Iterator[Tensor] = HifiGan(small.generator, chunk_frames=2).stream(drawn_mel(9))
    assert next(pieces).shape == (2 * HOP_LENGTH,)


def test_a_chunk_of_nothing_is_refused(small: HifiGan) -> None:
    with pytest.raises(InputError, match="needs chunks of at least 1 frame, not 0"):
        HifiGan(small.generator, chunk_frames=0)


@pytest.mark.requires_cuda
def test_on_a_gpu(small_file: Path, small: HifiGan) -> None:
    vocoder = load_hifigan(small_file, "cuda")
    wav = vocoder(drawn_mel(50))
    assert wav.device.type == "cuda"
    torch.testing.assert_close(
        wav.cpu(), small(drawn_mel(50)), rtol=0, atol=2e-2
    )  # perhaps in TF32


# A real mel.


def test_a_real_mel_becomes_speech(published: HifiGan, shared: Path) -> None:
    mel = torch.from_numpy(np.load(shared / "data/tacotron2_lj_mel.npy")).T.contiguous()
    wav = published(mel)
    assert wav.shape == (len(mel) * HOP_LENGTH,)
    assert 0.3 < wav.abs().max() <= 1.0
    # 3e-6 apart; with the first convolution in single precision it was 1.2e-4
    torch.testing.assert_close(wav, published.generator(mel[None])[0], rtol=0, atol=1e-5)
    difference = float((mel_spectrogram(wav)[: len(mel)] - mel).abs().mean())
    # 0.33 as measured (0.26 at the half hop by which HiFi-GAN's frames are late); the mean frame
    # repeated is at 1.37, a generator with random weights at 1.9, noise at 2.5.
    assert difference < 0.45


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(0, 80), "at least one frame, got none"),
        (torch.zeros(80, 7), "transpose it"),
        (torch.full((3, 80), torch.nan), "are NaN or infinite"),
    ],
)
def test_refuses_what_is_no_mel(small: HifiGan, mel: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(mel)


# Its files.


def plain(weights: Weights) -> Weights:
    """Folded, as after remove_weight_norm."""
    result = {}
    for name, value in weights.items():
        layer = name.removesuffix(".weight_v")
        if name.endswith(".weight_v"):
            length = value.square().sum(dim=(1, 2), keepdim=True).sqrt()
            result[f"{layer}.weight"] = weights[f"{layer}.weight_g"] * value / length
        elif name.endswith(".bias"):
            result[name] = value
    return result


def parametrized(weights: Weights) -> Weights:
    names = {
        "weight_g": "parametrizations.weight.original0",
        "weight_v": "parametrizations.weight.original1",
        "bias": "bias",
    }
    return {
        f"{layer}.{names[kind]}": value
        for (layer, _, kind), value in ((n.rpartition("."), w) for n, w in weights.items())
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda w: {"generator": w},
        lambda w: {"generator": parametrized(w)},
        lambda w: {"generator": plain(w)},
        lambda w: {"generator": {f"module.{n}": x for n, x in w.items()}},
        lambda w: w,
    ],
    ids=["published", "parametrized", "folded", "distributed", "bare"],
)
def test_loads_every_layout(tmp_path: Path, small: HifiGan, layout: Any, zipped: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    path = tmp_path / "g_02500000"
    torch.save(layout(drawn_checkpoint(SMALL)), path, _use_new_zipfile_serialization=zipped)
    vocoder = load_hifigan(path)
    torch.testing.assert_close(vocoder(drawn_mel(3)), small(drawn_mel(3)), rtol=0, atol=1e-5)
    assert vocoder.source == {
        "path": str(path),
        "name": "g_02500000",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert not vocoder.generator.training


def test_loads_safetensors_and_half_precision(tmp_path: Path, small: HifiGan) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    half = {name: value.half() for name, value in plain(drawn_checkpoint(SMALL)).items()}
    save_file(half, tmp_path / "mine.safetensors")
    vocoder = load_hifigan(tmp_path)
    assert {p.dtype for p in vocoder.generator.parameters()} == {torch.float32}
    torch.testing.assert_close(vocoder(drawn_mel(3)), small(drawn_mel(3)), rtol=0, atol=0.02)


def test_a_folder_names_its_generator(tmp_path: Path, small_file: Path) -> None:
    assert load_hifigan(small_file.parent).source["path"] == str(small_file)
    with pytest.raises(InputError, match=r"no HiFi-GAN generator in the folder .*name begins"):
        load_hifigan(tmp_path)


def test_default_checkpoint(tmp_path: Path) -> None:
    assert default_checkpoint(tmp_path / "not there") is None
    for name in ("README.md", "config.json", "do_02500000"):
        (tmp_path / name).write_bytes(b"")
    assert default_checkpoint(tmp_path) is None
    (tmp_path / "generator_v1").write_bytes(b"")
    assert default_checkpoint(tmp_path) == tmp_path / "generator_v1"
    (tmp_path / "g_02500000").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"several HiFi-GAN generators in .*: g_02500000, generator_v1; keep one"
    ):
        default_checkpoint(tmp_path)


def test_default_checkpoint_in_the_folder_that_it_came_in(tmp_path: Path) -> None:
    for name in ("LJ_V2", "light"):
        (tmp_path / name).mkdir()
    (tmp_path / "light" / "slt.safetensors").touch()  # another vocoder, without a configuration
    (tmp_path / "LJ_V2" / "generator_v2").touch()
    assert default_checkpoint(tmp_path) is None
    (tmp_path / "LJ_V2" / "config.json").touch()
    assert default_checkpoint(tmp_path) == tmp_path / "LJ_V2" / "generator_v2"
    (tmp_path / "generator_v1").touch()
    with pytest.raises(InputError, match=r": LJ_V2/generator_v2, generator_v1; keep one there"):
        default_checkpoint(tmp_path)


def refused(path: Path, message: str, error: type[ValueError] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        load_hifigan(path)
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "generator_v1", r"no file .*generator_v1.*beside its config\.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"mpd": {"discriminators.0.convs.0.bias": torch.ones(1)}, "msd": {}, "steps": 3},
            "is a checkpoint of HiFi-GAN's discriminators .*not of HiFi-GAN",
        ),
        (
            {"state_dict": {"decoder.prenet.layers.0.linear_layer.weight": torch.ones(1)}},
            r"is a checkpoint of Tacotron 2 \(a text-to-mel model\), not of HiFi-GAN",
        ),
        ({"state_dict": {"WN.0.start.bias": torch.ones(1)}}, "is a checkpoint of WaveGlow"),
        ({}, r"none of HiFi-GAN's weights \(it is empty\)"),
    ],
)
def test_other_models_need_no_configuration_to_be_told(
    tmp_path: Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "generator_v1")
    refused(tmp_path / "generator_v1", message)


def test_text_and_truncated_files(tmp_path: Path, small_file: Path) -> None:
    path = write(tmp_path, SMALL, {})
    path.write_text("Hello, this is a letter.")
    refused(path, "is a text file, not a checkpoint")
    whole = small_file.read_bytes()
    for share in (0.02, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "cut short or damaged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_post.weight_g": None}, "1 weights are missing: conv_post.weight_g"),
        ({"conv_post.weight_v": None}, "1 weights are missing: conv_post.weight; "),
        ({"conv_post.weight": torch.ones(1, 2, 7)}, "1 weights are not HiFi-GAN's: conv_post.weig"),
        ({"conv_pre.weight_g": torch.ones(16)}, r"conv_pre.weight_g is \(16,\), expected \(16, 1,"),
        ({"conv_pre.weight_v": torch.ones(3)}, r"conv_pre.weight_v is \(3,\), expected \(16, 80,"),
        ({"conv_pre.bias": torch.full((16,), torch.nan)}, "not finite .*: conv_pre.bias"),
        ({"conv_post.weight_v": torch.zeros(1, 2, 7)}, "not finite .*: conv_post.weight"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    weights: dict[str, Any] = {**drawn_checkpoint(SMALL), **changes}
    path = write(tmp_path, SMALL, {n: w for n, w in weights.items() if w is not None})
    refused(path, message)


def test_another_version_s_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL | {"upsample_initial_channel": 4096}, drawn_checkpoint(SMALL))
    refused(
        path,
        r"does not fit HiFi-GAN: .*conv_pre.bias is \(16,\), expected \(4096,\).*; "
        r"it or the config\.json beside it has been changed, .*: use the two that were published",
    )


# Its configuration.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no .*config\.json: expected the configuration .* beside it.*jik876/hifi-gan"),
        ("", r"is not a readable HiFi-GAN configuration: it is empty; use the config\.json that"),
        ("resblock: 1", "is not a readable HiFi-GAN configuration: .*; use the config.json that"),
        ("[" * 100_000, "is not a readable HiFi-GAN configuration"),
        (
            "[1, 2]",
            r"holds no JSON object, expected one with upsample_rates, .*; use the config\.json",
        ),
        ("{}", r"no resblock, upsample_rates, .*, fmin, fmax; use the config\.json that was publ"),
    ],
    ids=["missing", "empty", "not JSON", "deep", "array", "nothing in it"],
)
def test_configuration_files(
    tmp_path: Path, small_file: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "generator_v1"
    path.write_bytes(small_file.read_bytes())
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    refused(path, message, InputError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resblock": 1}, 'resblock must be the text "1" or "2", not 1'),
        ({"upsample_rates": 8}, "upsample_rates must be 1 to 8 sizes of 1 to 128, not 8"),
        ({"upsample_rates": [True, 2]}, r"upsample_rates must be .* not \(True, 2\)"),
        ({"upsample_rates": [2] * 9}, "upsample_rates must be 1 to 8 sizes"),
        ({"upsample_kernel_sizes": [16, 10**9, 8]}, r"not \(16, 1000000000, 8\)"),
        ({"upsample_initial_channel": 2**40}, "must be a whole number, 1 to 4096, not 10995"),
        ({"upsample_initial_channel": "128"}, "must be a whole number, 1 to 4096, not '128'"),
        ({"resblock_dilation_sizes": [[1, 2], 3]}, "resblock_dilation_sizes must be 1 to 8 lists"),
        ({"resblock_dilation_sizes": [["x" * 99]]}, r"not \(\('x{54}\.\.\."),
        ({"num_mels": 80.0}, "num_mels must be a whole number, 1 to 4096, not 80.0"),
        ({"fmin": math.nan}, "fmin must be a frequency in Hz, not nan"),
        ({"fmax": "8k"}, "fmax must be a frequency in Hz, or null, not '8k'"),
        ({"upsample_kernel_sizes": [16, 10]}, "2 upsample_kernel_sizes for 3 upsample_rates"),
        ({"upsample_kernel_sizes": [16, 11, 8]}, "kernel of 11 does not fit a rate of 4: it must"),
        ({"upsample_kernel_sizes": [16, 2, 8]}, "kernel of 2 does not fit a rate of 4"),
        ({"hop_size": 300}, "hop_size is 300, but the upsample_rates multiply to 256"),
        ({"upsample_initial_channel": 12}, "upsample_initial_channel 12 cannot be halved 3 times"),
        ({"resblock_kernel_sizes": [3]}, "2 resblock_dilation_sizes for 1 resblock_kernel_sizes"),
        ({"resblock_kernel_sizes": [3, 4]}, r"resblock_kernel_sizes must be odd, not \(3, 4\)"),
        (
            {"hop_size": 300, "resblock_kernel_sizes": [3, 4]},
            "hop_size is 300, .*; resblock_kernel_sizes must be odd",
        ),
        ({"n_fft": 0, "win_size": None}, "n_fft must be .* not 0; win_size must be .* not None"),
    ],
)
def test_impossible_configurations(changes: Json, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        HifiGanConfig.from_dict(SMALL | changes)
    assert "\n" not in str(caught.value)


def test_missing_and_wrong_fields_are_reported_together() -> None:
    values = {name: value for name, value in SMALL.items() if name not in ("fmax", "n_fft")}
    with pytest.raises(InputError, match=r"no n_fft, fmax; num_mels must be .* not -1"):
        HifiGanConfig.from_dict(values | {"num_mels": -1})


def test_a_configuration_is_checked_however_it_is_made() -> None:
    config = HifiGanConfig.from_dict(SMALL)
    assert {f.name for f in fields(config)} <= SMALL.keys()
    with pytest.raises(InputError, match="hop_size is 255"):
        replace(config, hop_size=255)


def test_audio_facts_come_from_the_configuration() -> None:
    facts = HifiGanConfig.from_dict(V1 | {"fmax": None, "fmin": 20, "num_mels": 100}).audio_facts
    assert facts == AUDIO_FACTS | {"mel_fmax": 11025.0, "mel_fmin": 20.0, "n_mels": 100}


def test_other_mels_are_refused_by_field(tmp_path: Path) -> None:
    values = SMALL | {"sampling_rate": 16000, "fmax": 7999}
    vocoder = load_hifigan(write(tmp_path, values, drawn_checkpoint(values)))
    with pytest.raises(
        InputError,
        match=r"sample_rate is 16000, expected 22050; mel_fmax is 7999.0, expected 8000.0",
    ):
        vocoder(drawn_mel(3))


def test_a_configuration_that_an_editor_marked_as_unicode(tmp_path: Path, small: HifiGan) -> None:
    path = write(tmp_path, SMALL, drawn_checkpoint(SMALL))
    beside = tmp_path / "config.json"
    beside.write_bytes(b"\xef\xbb\xbf" + beside.read_bytes())
    assert load_hifigan(path).generator.config == small.generator.config
