"""What all vocoders share: the interface, the mels they take, and how one is chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import waveglow.load
from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH
from lightspeech.errors import InputError
from lightspeech.vocoders import (
    VOCODERS,
    Vocoder,
    VocoderOptions,
    check_mel,
    check_sound,
    choice,
    hifigan,
    light,
    load_vocoder,
)
from lightspeech.vocoders.command_line import describe_vocoder
from lightspeech.vocoders.waveglow import WaveGlowVocoder
from safeload import CheckpointError
from tests.allocations import Allocations
from tests.test_light_vocoder import TEACHER
from tests.test_light_vocoder import save_tiny as save_light
from waveglow import WaveGlow, WaveGlowConfig

TINY_HIFIGAN = {
    "resblock": "2",
    "upsample_rates": [16, 16],
    "upsample_kernel_sizes": [32, 32],
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 2]],
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
}
TINY_WAVEGLOW = WaveGlowConfig(n_flows=2, n_layers=2, n_channels=8)


def save_hifigan(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**TINY_HIFIGAN, **changes}))
    config = hifigan.HifiGanConfig.from_dict(TINY_HIFIGAN)
    torch.manual_seed(0)
    torch.save({"generator": hifigan.Generator(config).state_dict()}, folder / "generator_tiny")
    return folder / "generator_tiny"


def save_waveglow(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save({"state_dict": WaveGlow(TINY_WAVEGLOW).state_dict()}, folder / "tiny.pt")
    return folder / "tiny.pt"


class Folders:
    """Where users drop checkpoints, empty at first."""

    def __init__(self, root: Path) -> None:
        self.hifigan, self.waveglow, self.light = (
            root / name for name in ("hifigan", "waveglow", "light")
        )


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    folders = Folders(tmp_path)
    monkeypatch.setattr(hifigan, "PRETRAINED", folders.hifigan)
    monkeypatch.setattr(waveglow.load, "PRETRAINED", folders.waveglow)
    monkeypatch.setattr(light, "PRETRAINED", folders.light)
    return folders


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loaded for a GPU is loaded on the CPU."""

    def elsewhere(load: Callable[..., Vocoder]) -> Callable[..., Vocoder]:
        return lambda path, device, options: load(path, torch.device("cpu"), options)

    for name, neural in choice._NEURAL.items():
        monkeypatch.setitem(choice._NEURAL, name, replace(neural, load=elsewhere(neural.load)))
    griffin_lim = choice._griffin_lim
    monkeypatch.setattr(choice, "_griffin_lim", lambda device, options: griffin_lim("cpu", options))  # type: ignore[arg-type]


@pytest.fixture(params=["griffin-lim", "hifigan", "light", "waveglow"])
def vocoder(request: pytest.FixtureRequest, tmp_path: Path) -> Vocoder:
    """Each vocoder, small."""
    if request.param == "griffin-lim":
        return load_vocoder("griffin-lim")
    save = {"hifigan": save_hifigan, "light": save_light, "waveglow": save_waveglow}[request.param]
    return load_vocoder(f"{request.param}:{save(tmp_path)}")


def some_mel(frames: int) -> Tensor:
    return torch.randn(frames, 80, generator=torch.Generator().manual_seed(frames)) - 5


# --- the interface


class Steps(Vocoder):
    """Piece n is n."""

    name = "steps"
    audio_facts = AUDIO_FACTS

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        for n, frames in enumerate(check_mel(mel).split(2)):
            yield torch.full((HOP_LENGTH * len(frames),), float(n))


def test_calling_joins_the_pieces() -> None:
    wav = Steps()(torch.zeros(5, 80))
    assert wav.dtype == torch.float32
    assert wav.tolist() == [0.0] * 512 + [1.0] * 512 + [2.0] * 256


def test_a_vocoder_must_stream() -> None:
    with pytest.raises(TypeError, match="stream"):
        Vocoder()  # type: ignore[abstract]


def test_how_a_vocoder_is_called() -> None:
    steps = Steps()
    assert (steps.title, steps.spec, describe_vocoder(steps)) == ("steps", "steps", "steps")
    steps.source = {"path": "/a/b.pt", "name": "b", "sha256": "0"}
    assert (steps.title, steps.spec) == ("steps (b)", "steps:/a/b.pt")
    steps.reason = "auto: why not"
    assert describe_vocoder(steps) == "steps (b; auto: why not)"
    assert Steps().source == {}


def test_importing_the_interface_imports_no_vocoder() -> None:
    program = (
        "import sys, lightspeech.vocoders\n"
        "heavy = ('waveglow', 'librosa', 'lightspeech.vocoders.griffin_lim',"
        " 'lightspeech.vocoders.hifigan', 'lightspeech.vocoders.waveglow')\n"
        "sys.exit(', '.join(name for name in heavy if name in sys.modules) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_every_vocoder_keeps_the_contract(vocoder: Vocoder, frames: int) -> None:
    mel = some_mel(frames)
    wav = vocoder(mel)
    assert vocoder.name in VOCODERS
    assert vocoder.audio_facts == AUDIO_FACTS
    assert wav.shape == (HOP_LENGTH * frames,)
    assert wav.dtype == torch.float32
    assert wav.isfinite().all()
    assert not wav.requires_grad
    torch.testing.assert_close(torch.cat(list(vocoder.stream(mel))), wav, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_vocoder_takes_every_float_and_any_strides(
    vocoder: Vocoder, dtype: torch.dtype
) -> None:
    mel = some_mel(9).to(dtype)
    expected = vocoder(mel.float())
    torch.testing.assert_close(vocoder(mel), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(vocoder(mel.T.contiguous().T), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 4])
def test_every_vocoder_refuses_what_check_mel_refuses(vocoder: Vocoder, frames: int) -> None:
    with pytest.raises(InputError, match="at least one frame" if not frames else "NaN"):
        vocoder(torch.full((frames, 80), float("nan")))


@pytest.mark.requires_cuda
@pytest.mark.parametrize("name", ["griffin-lim", "hifigan", "light", "waveglow"])
def test_every_vocoder_on_a_gpu_takes_a_mel_from_anywhere(name: str, tmp_path: Path) -> None:
    save = {"hifigan": save_hifigan, "light": save_light, "waveglow": save_waveglow}.get(name)
    spec = f"{name}:{save(tmp_path)}" if save else name
    on_cpu, on_gpu = load_vocoder(spec), load_vocoder(spec, "cuda")
    mel = some_mel(20)
    wav = on_gpu(mel)
    assert wav.device.type == "cuda"
    torch.testing.assert_close(on_gpu(mel.cuda()), wav)
    if name != "griffin-lim":  # whose iterations amplify rounding
        torch.testing.assert_close(wav.cpu(), on_cpu(mel), rtol=1e-3, atol=1e-3)


# --- the mels


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(0, 80), "expected a mel of at least one frame, got none"),
        (torch.zeros(5, 79), r"shape \(frames, 80\), got torch.float32 of shape \(5, 79\)$"),
        (torch.zeros(80, 5), "; transpose it$"),
        (torch.zeros(1, 5, 80), r"of shape \(1, 5, 80\)"),
        (torch.zeros(5, 80, dtype=torch.int64), "got torch.int64"),
        (torch.full((5, 80), float("nan")), "400 of the mel's 400 values are NaN or infinite"),
        (torch.full((5, 80), float("-inf")), "values are NaN or infinite"),
        (torch.full((5, 80), 60.0), "the mel reaches 60, expected natural logs"),
        (torch.full((5, 80), -79.0), "the mel reaches -79, .*is it in decibels"),
    ],
)
def test_mels_that_no_vocoder_takes(mel: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_mel(mel)


def test_a_fault_far_into_a_long_mel_is_found() -> None:
    mel = torch.zeros(20_000, 80)
    mel[9_000, 3] = mel[19_999, 79] = float("nan")
    with pytest.raises(InputError, match="2 of the mel's 1600000 values"):
        check_mel(mel)
    mel[9_000, 3], mel[19_999, 79] = 0, 11
    with pytest.raises(InputError, match="the mel reaches 11"):
        check_mel(mel)


def test_a_long_mel_is_not_copied() -> None:
    frames = 155_000  # 30 minutes
    mel = torch.full((1, 80), -3.0, dtype=torch.float16).expand(frames, 80)
    with Allocations() as allocations:
        checked = check_mel(mel)
    assert checked.data_ptr() == mel.data_ptr()
    assert checked.stride() == (0, 1)
    assert 0 < allocations.largest <= 4 * 80 * 4096


def test_a_mel_with_gradients_is_detached() -> None:
    assert not check_mel(torch.zeros(2, 80, requires_grad=True)).requires_grad


# --- by name


def test_unknown_names_list_the_known() -> None:
    message = "no vocoder 'wavenet': expected one of auto, light, waveglow, hifigan, griffin-lim$"
    with pytest.raises(InputError, match=message):
        load_vocoder("wavenet:x.pt")


def test_a_file_without_a_name(tmp_path: Path) -> None:
    path = save_waveglow(tmp_path)
    with pytest.raises(InputError, match=f"write light:{path}, hifigan:{path} or waveglow:{path}$"):
        load_vocoder(str(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("griffin-lim:x.pt", "griffin-lim takes no file: write griffin-lim alone"),
        ("auto:x.pt", "auto takes no file"),
        ("waveglow:", "expected waveglow:PATH, or waveglow alone"),
        ("", "no vocoder ''"),
        ("x" * 5000, "no vocoder 'xxx"),
        ("a\0b", "no vocoder"),
    ],
)
def test_specifications_that_make_no_sense(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_vocoder(spec)


@pytest.mark.parametrize(("name", "title"), [("hifigan", "HiFi-GAN"), ("waveglow", "WaveGlow")])
def test_a_name_takes_what_lies_in_its_folder(folders: Folders, name: str, title: str) -> None:
    folder = getattr(folders, name)
    with pytest.raises(InputError, match=f"no {title} checkpoint in {folder}: put one there"):
        load_vocoder(name)
    path = {"hifigan": save_hifigan, "waveglow": save_waveglow}[name](folder)
    vocoder = load_vocoder(name)
    assert vocoder.name == name
    assert vocoder.spec == f"{name}:{path}"
    assert vocoder.reason == ""


@pytest.mark.parametrize(("name", "others"), [("hifigan", "waveglow"), ("waveglow", "hifigan")])
def test_a_checkpoint_of_the_other_vocoder(tmp_path: Path, name: str, others: str) -> None:
    path = {"hifigan": save_hifigan, "waveglow": save_waveglow}[others](tmp_path)
    with pytest.raises(CheckpointError, match=path.name) as caught:
        load_vocoder(f"{name}:{path}")
    assert "\n" not in str(caught.value)


def test_a_named_vocoder_that_does_not_fit_is_refused(tmp_path: Path, fixtures: Path) -> None:
    path = fixtures / "waveglow_module_zip.pt"
    message = r"the vocoder waveglow:.*module_zip.pt takes mels .*: n_mels is 8 \(voice: 80\); use"
    with pytest.raises(InputError, match=message):
        load_vocoder(f"waveglow:{path}")
    path = save_hifigan(tmp_path, fmax=11025)
    with pytest.raises(InputError, match=r"mel_fmax is 11025.* \(voice: 8000.0\); use"):
        load_vocoder(f"hifigan:{path}")
    facts = {**AUDIO_FACTS, "mel_fmax": 11025.0}
    assert load_vocoder(f"hifigan:{path}", audio_facts=facts).name == "hifigan"


def test_an_empty_configuration_is_one_line(tmp_path: Path) -> None:
    path = save_hifigan(tmp_path)
    for content in ("", "{}", "[]"):
        path.with_name("config.json").write_text(content)
        with pytest.raises(InputError, match=r"config\.json") as caught:
            load_vocoder(f"hifigan:{path}")
        assert "\n" not in str(caught.value)


# --- auto


def test_auto_without_any_checkpoint(folders: Folders) -> None:
    vocoder = load_vocoder()
    assert vocoder.name == "griffin-lim"
    assert vocoder.reason == (
        f"auto: no HiFi-GAN in {folders.hifigan}; no WaveGlow in {folders.waveglow}; "
        f"no light vocoder in {folders.light}"
    )


def test_auto_takes_the_light_vocoder_before_what_is_slow_and_what_is_worse(
    folders: Folders, as_if_on_a_gpu: None
) -> None:
    save_light(folders.light)
    save_waveglow(folders.waveglow)
    on_cpu = load_vocoder("auto", teacher=TEACHER)
    assert on_cpu.title == "light (tiny)"
    assert on_cpu.reason.endswith("; light is the best that is there")
    for other in ("cd" * 32, None):
        on_cpu = load_vocoder("auto", teacher=other)
        assert on_cpu.name == "griffin-lim"
        assert on_cpu.reason.endswith(f"light vocoder in {folders.light} has learned other voices")
    assert load_vocoder("auto", "cuda", teacher=TEACHER).name == "waveglow"
    save_hifigan(folders.hifigan)
    assert load_vocoder("auto").name == "hifigan"


def test_auto_takes_hifigan_first(folders: Folders) -> None:
    save_hifigan(folders.hifigan)
    save_waveglow(folders.waveglow)
    vocoder = load_vocoder("auto")
    assert vocoder.title == "hifigan (generator_tiny)"
    assert vocoder.reason == "auto: hifigan is the best that is there"


def test_auto_takes_waveglow_on_a_gpu_only(folders: Folders, as_if_on_a_gpu: None) -> None:
    save_waveglow(folders.waveglow)
    on_cpu = load_vocoder("auto", "cpu")
    assert on_cpu.name == "griffin-lim"
    assert "; WaveGlow is there but takes several times real time on a CPU" in on_cpu.reason
    on_gpu = load_vocoder("auto", "cuda")
    assert on_gpu.title == "waveglow (tiny)"
    assert on_gpu.reason.startswith(f"auto: no HiFi-GAN in {folders.hifigan}; waveglow is the best")


def test_auto_passes_over_what_is_broken(
    folders: Folders, as_if_on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_hifigan(folders.hifigan)
    path.write_bytes(path.read_bytes()[:-1000])
    save_waveglow(folders.waveglow)
    vocoder = load_vocoder("auto", "cuda")
    assert vocoder.name == "waveglow"
    assert f"the HiFi-GAN in {folders.hifigan} cannot be used; " in vocoder.reason
    note = capsys.readouterr().err
    assert note.startswith(f"note: --vocoder auto passes over HiFi-GAN: {path} is cut short")
    assert note.count("\n") == 1
    with pytest.raises(CheckpointError, match="is cut short or damaged"):
        load_vocoder("hifigan")


def test_auto_passes_over_what_does_not_fit(
    folders: Folders, as_if_on_a_gpu: None, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_hifigan(folders.hifigan, sampling_rate=16000)
    folders.waveglow.mkdir()
    narrow = (fixtures / "waveglow_module_zip.pt").read_bytes()
    (folders.waveglow / "waveglow_256channels.pt").write_bytes(narrow)
    vocoder = load_vocoder("auto", "cuda")
    assert vocoder.name == "griffin-lim"
    first, second = capsys.readouterr().err.splitlines()
    assert "sample_rate is 16000 (voice: 22050)" in first
    assert "n_mels is 8 (voice: 80)" in second


def test_auto_takes_what_fits_the_mels_that_it_is_told_of(folders: Folders) -> None:
    facts = {**AUDIO_FACTS, "mel_fmax": 11025.0}
    with pytest.raises(InputError, match=r"griffin-lim takes .* mel_fmax is 8000.0 .voice: 11025"):
        load_vocoder("auto", audio_facts=facts)
    save_hifigan(folders.hifigan, fmax=11025)
    assert load_vocoder("auto").name == "griffin-lim"
    assert load_vocoder("auto", audio_facts=facts).name == "hifigan"


def test_auto_passes_over_a_folder_with_several(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    save_hifigan(folders.hifigan).with_name("generator_other").write_bytes(b"x")
    assert load_vocoder("auto").name == "griffin-lim"
    assert "generator_other, generator_tiny" in capsys.readouterr().err


# --- sound


@pytest.mark.parametrize(
    ("level", "cause"), [(-11.5, "the mel itself is silent, so"), (0.0, "its weights are damaged")]
)
def test_silence_is_the_fault_of_the_mel_or_of_the_vocoder(level: float, cause: str) -> None:
    vocoder, mels = load_vocoder("griffin-lim"), [torch.full((3, 80), v) for v in (-11.5, level)]
    message = (
        rf"vocoder griffin-lim made silence .peak 0. of a mel that reaches {level:.3g}; {cause}"
    )
    with pytest.raises(InputError, match=message):
        check_sound(vocoder, mels, [torch.zeros(768), torch.zeros(768)])
    check_sound(vocoder, mels, [torch.zeros(768), torch.full((768,), 0.1)])


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -0.1}, "sigma -0.1: expected 0 to 2"),
        ({"sigma": float("nan")}, "sigma nan: expected 0 to 2"),
        ({"denoise": float("inf")}, "denoise inf: expected 0 to 10"),
        ({"precision": "int8"}, "precision 'int8': expected one of float32, bfloat16, float16"),
        ({"seed": -1}, "seed -1: expected 0 to"),
        ({"sigma": 9, "denoise": -1}, "sigma 9: .*; denoise -1: "),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VocoderOptions(**settings)


@pytest.mark.parametrize("setting", [{"sigma": 0.6}, {"denoise": 0}, {"precision": "float32"}])
def test_settings_that_a_vocoder_lacks(folders: Folders, setting: dict[str, Any]) -> None:
    options, (name,) = VocoderOptions(**setting), setting
    with pytest.raises(InputError, match=f"the vocoder griffin-lim has no {name} to set: leave"):
        load_vocoder("griffin-lim", options=options)
    with pytest.raises(InputError, match=f"griffin-lim, which auto took, has no {name} to set"):
        load_vocoder("auto", options=options)
    with pytest.raises(InputError, match=f"the vocoder hifigan has no {name} to set"):
        load_vocoder("hifigan:nowhere.pt", options=options)


def test_the_seed_of_griffin_lim() -> None:
    mel = some_mel(9)
    first, same, other = (
        load_vocoder("griffin-lim", options=VocoderOptions(seed=seed))(mel) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_the_settings_of_waveglow(tmp_path: Path) -> None:
    spec, mel = f"waveglow:{save_waveglow(tmp_path)}", some_mel(12)

    def through(**settings: Any) -> Tensor:
        return load_vocoder(spec, options=VocoderOptions(**settings))(mel)

    default = through()
    torch.testing.assert_close(through(sigma=0.6, denoise=0.1), default, rtol=0, atol=0)
    torch.testing.assert_close(through(precision="float32"), default, rtol=0, atol=0)
    assert not torch.equal(through(seed=1), default)
    model = waveglow.load_waveglow(tmp_path / "tiny.pt")
    silent = model.infer(mel[None], 0.0, seed=0)[0]
    torch.testing.assert_close(through(sigma=0, denoise=0), silent, rtol=1e-4, atol=1e-5)
    expected = model.infer(mel[None], 0.9, seed=5)[0]
    found = through(sigma=0.9, seed=5, denoise=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected = waveglow.Denoiser(model)(expected[None], 3.0)[0]
    found = through(sigma=0.9, seed=5, denoise=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_precision_of_waveglow(tmp_path: Path) -> None:
    spec = f"waveglow:{save_waveglow(tmp_path)}"
    low = load_vocoder(spec, options=VocoderOptions(precision="bfloat16"))
    assert low.model.precision == torch.bfloat16  # type: ignore[attr-defined]
    assert low(some_mel(5)).dtype == torch.float32


@pytest.mark.parametrize("denoise", [0.0, 0.1])
def test_a_waveglow_that_overflows_says_so(tmp_path: Path, denoise: float) -> None:
    vocoder = load_vocoder(f"waveglow:{save_waveglow(tmp_path)}")
    assert isinstance(vocoder, WaveGlowVocoder)
    with torch.no_grad():
        vocoder.model.WN[0].end.bias.fill_(-1e4)  # a log-scale: its exponential is infinite
    broken = WaveGlowVocoder(vocoder.model, denoise=0)
    broken.denoise, broken._denoiser = denoise, vocoder._denoiser if denoise else None
    with pytest.raises(InputError, match=r"the vocoder waveglow:.*tiny.pt .*NaN or infinite"):
        check_sound(broken, [some_mel(3)], [broken(some_mel(3))])
