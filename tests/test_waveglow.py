"""WaveGlow against NVIDIA's own outputs (fixtures/waveglow.npz), against a plain implementation of
the paper, and against itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.waveglow_recipe import SMALL, draw_weights
from waveglow import AUDIO_FACTS, FlowOutput, WaveGlow, WaveGlowConfig
from waveglow.noise import BLOCK, SeededNoise
from waveglow.streaming import convolve_by_products

Golden = Mapping[str, np.ndarray]
SIZES = {"small": SMALL, "full": WaveGlowConfig()}

TINY = WaveGlowConfig(
    n_mel_channels=3,
    n_flows=4,
    n_group=6,
    n_early_every=2,
    n_layers=3,
    n_channels=5,
    upsample_kernel=30,
    upsample_stride=12,
)
"""Two positions a frame, a reach of 28 positions, a frame that the two before it reach into."""


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> Golden:
    with np.load(fixtures / "waveglow.npz") as arrays:
        return dict(arrays)


@lru_cache(maxsize=2)
def drawn(size: str) -> WaveGlow:
    """Never changed by a test."""
    model = WaveGlow(SIZES[size])
    model.load_state_dict(draw_weights(SIZES[size]))
    return model.eval()


def random_model(config: WaveGlowConfig = TINY, seed: int = 0) -> WaveGlow:
    """All weights drawn, those that start at zero or as rotations too."""
    torch.manual_seed(seed)
    model = WaveGlow(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("convinv"):
                n = len(weight)
                weight.copy_((torch.eye(n) + 0.3 * torch.randn(n, n))[:, :, None])
            elif ".end." in name:
                weight.normal_(std=0.1)
            else:
                weight.normal_(std=0.3)
    return model.eval()


def random_noise(config: WaveGlowConfig, B: int, T: int) -> list[Tensor]:
    return [torch.randn(B, C, T * config.groups_per_frame) for C in config.noise_channels]


def plain_infer(model: WaveGlow, mel: Tensor, sigma: float, noise: list[Tensor]) -> Tensor:
    """The paper's inference in double precision: no pieces, no kept inverses, nothing folded."""
    c = model.config
    w = {name: weight.double() for name, weight in model.state_dict().items()}
    spectrum = F.conv_transpose1d(
        mel.double().transpose(1, 2), w["upsample.weight"], w["upsample.bias"], c.upsample_stride
    )
    spectrum = spectrum[:, :, : -(c.upsample_kernel - c.upsample_stride) or None]
    B = len(mel)
    spectrum = (
        spectrum.unfold(2, c.n_group, c.n_group)
        .permute(0, 2, 1, 3)
        .reshape(B, -1, c.n_mel_channels * c.n_group)
    )
    spectrum = spectrum.permute(0, 2, 1)
    remaining = [sigma * z.double() for z in noise]
    audio = remaining.pop(0)
    for k in reversed(range(c.n_flows)):
        n_half, C = audio.shape[1] // 2, c.n_channels

        def layer(name: str, x: Tensor, k: int = k, **options: int) -> Tensor:
            return F.conv1d(x, w[f"WN.{k}.{name}.weight"], w[f"WN.{k}.{name}.bias"], **options)

        x = layer("start", audio[:, :n_half])
        condition = layer("cond_layer", spectrum)
        output = torch.zeros(())
        for i in range(c.n_layers):
            padding = 2**i * (c.kernel_size // 2)
            gates = layer(f"in_layers.{i}", x, dilation=2**i, padding=padding)
            gates = gates + condition[:, 2 * C * i : 2 * C * (i + 1)]
            passed = layer(f"res_skip_layers.{i}", gates[:, :C].tanh() * gates[:, C:].sigmoid())
            if i < c.n_layers - 1:
                x = x + passed[:, :C]
                passed = passed[:, C:]
            output = output + passed
        output = layer("end", output)
        changed = (audio[:, n_half:] - output[:, :n_half]) / output[:, n_half:].exp()
        audio = torch.cat((audio[:, :n_half], changed), 1)
        weight = w[f"convinv.{k}.conv.weight"][:, :, 0]
        audio = torch.linalg.solve(weight, audio)
        if k % c.n_early_every == 0 and k > 0:
            audio = torch.cat((remaining.pop(0), audio), 1)
    assert not remaining
    return audio.permute(0, 2, 1).reshape(B, -1)


def assert_close(name: str, ours: Tensor, reference: np.ndarray | Tensor, limit: float) -> None:
    reference = torch.as_tensor(reference)
    assert ours.shape == reference.shape, name
    error = ((ours - reference).abs().max() / reference.abs().max()).item()
    assert error <= limit, f"{name}: relative error {error:.1e}"


def signal_to_noise(reference: Tensor, ours: Tensor) -> float:
    """dB"""
    error = (ours - reference).double().square().sum()
    return (10 * torch.log10(reference.double().square().sum() / error)).item()


def golden_call(golden: Golden, size: str) -> tuple[Tensor, float, list[Tensor]]:
    mel = torch.from_numpy(golden[f"{size}/mel"]).transpose(1, 2)
    noise = [torch.from_numpy(golden[f"{size}/noise/{i}"]) for i in range(3)]
    return mel, float(golden[f"{size}/sigma"]), noise


# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("size", ["small", "full"])
def test_infer_matches_the_reference(golden: Golden, size: str) -> None:
    mel, sigma, noise = golden_call(golden, size)
    wav = drawn(size).infer(mel, sigma, noise=noise)
    assert wav.dtype == torch.float32
    assert_close("audio", wav, golden[f"{size}/audio"], 1e-5)


def test_forward_matches_the_reference(golden: Golden) -> None:
    mel = torch.from_numpy(golden["small/mel"]).transpose(1, 2)
    output = drawn("small")(mel, torch.from_numpy(golden["small/forward/audio"]))
    assert isinstance(output, FlowOutput)
    assert_close("z", output.z.detach(), golden["small/forward/z"], 1e-5)
    log_s = output.log_s.sum().item()
    assert log_s == pytest.approx(golden["small/forward/log_s_sum"].item(), rel=1e-4)
    # The matrices are rotations: the reference's sum is the rounding of zero, and so is ours.
    reference = golden["small/forward/log_det_W_sum"].item()
    assert output.log_det_w.sum().item() == pytest.approx(reference, abs=1e-3)
    assert output.loss().item() == pytest.approx(golden["small/forward/loss"].item(), rel=1e-4)


def test_the_published_model_has_its_size() -> None:
    with torch.device("meta"):
        model = WaveGlow(WaveGlowConfig())
    # Published with weight norm, which has one factor more for each output channel.
    n_outputs = sum(
        len(weight)
        for name, weight in model.named_parameters()
        if name.startswith("WN.") and name.endswith("weight") and ".end." not in name
    )
    assert sum(weight.numel() for weight in model.parameters()) + n_outputs == 87_879_272
    assert model.config.noise_channels == (4, 2, 2)
    assert model.config.reach == 255
    assert model.audio_facts == AUDIO_FACTS
    assert model.source == {}


# --- against the plain implementation ------------------------------------------------------------


@pytest.mark.parametrize("n_frames", [1, 2, 3, 50])
def test_every_chunk_size_gives_one_plain_pass(n_frames: int) -> None:
    model = random_model()
    mel, noise = torch.randn(2, n_frames, 3), random_noise(TINY, 2, n_frames)
    expected = plain_infer(model, mel, 0.7, noise).float()
    for chunk_frames in (1, 2, 3, 7, 100, None):
        pieces = list(model.stream(mel, 0.7, noise=noise, chunk_frames=chunk_frames))
        if chunk_frames is not None:
            assert max(piece.shape[1] for piece in pieces) <= chunk_frames * 12
        assert_close(f"chunks of {chunk_frames}", torch.cat(pieces, 1), expected, 1e-5)
    assert_close("infer", model.infer(mel, 0.7, noise=noise), expected, 1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_size": 5, "n_layers": 2},
        {"kernel_size": 1},
        {"n_layers": 1, "n_flows": 1},
        {"upsample_kernel": 12},
        {"upsample_kernel": 36},
        {"n_group": 2, "n_early_every": 12, "n_channels": 1},
        {"n_early_every": 1, "n_flows": 3, "n_group": 6},
    ],
)
def test_other_sizes(changes: dict[str, int]) -> None:
    config = WaveGlowConfig(**{**TINY.as_dict(), **changes})
    model = random_model(config)
    mel, noise = torch.randn(1, 9, 3), random_noise(config, 1, 9)
    expected = plain_infer(model, mel, 1.0, noise).float()
    assert_close("audio", model.infer(mel, 1.0, noise=noise, chunk_frames=2), expected, 1e-5)


@pytest.mark.parametrize("kernel", [30, 31])
def test_what_inference_makes_is_noise_again_in_training_direction(kernel: int) -> None:
    model = random_model(WaveGlowConfig(**{**TINY.as_dict(), "upsample_kernel": kernel}))
    mel, noise = torch.randn(2, 20, 3), random_noise(TINY, 2, 20)
    z = model(mel, model.infer(mel, 1.0, noise=noise)).z
    # Early outputs come first in z; inference draws them last, the latest of them first.
    assert_close("z", z.detach(), torch.cat([noise[1], noise[0]], 1), 1e-4)


def test_the_audio_comes_back() -> None:
    model = random_model()
    mel, wav = torch.randn(2, 20, 3), torch.randn(2, 240).clamp(-1, 1)
    z = model(mel, wav).z.detach()
    assert_close("audio", model.infer(mel, 1.0, noise=[z[:, 2:], z[:, :2]]), wav, 1e-4)


# --- training direction --------------------------------------------------------------------------


def test_log_determinants_are_those_of_the_jacobian() -> None:
    model = random_model().double()
    mel = torch.randn(1, 3, 3, dtype=torch.float64)
    wav = torch.randn(1, 36, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(mel, x).z.flatten(), wav)
    output = model(mel, wav)
    log_det = torch.linalg.slogdet(jacobian.view(36, 36))[1]
    assert (output.log_s.sum() + output.log_det_w.sum()).item() == pytest.approx(log_det.item())
    expected = (output.z.square().sum() / (2 * 0.8**2) - log_det) / 36
    assert output.loss(sigma=0.8).item() == pytest.approx(expected.item())


def test_every_parameter_gets_a_gradient() -> None:
    model = random_model().train()
    # Fewer samples than the mel has: segments of recordings end between frames.
    model(torch.randn(2, 20, 3), torch.randn(2, 234)).loss().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


def test_a_new_model_is_a_chain_of_rotations() -> None:
    model = WaveGlow(TINY)
    output = model(torch.randn(1, 20, 3), torch.randn(1, 240))
    assert not output.log_s.any()
    assert output.log_det_w.abs().max() < 1e-4
    for convolution in model.convinv:
        assert torch.linalg.det(convolution.conv.weight[:, :, 0]).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "wav", [torch.zeros(1, 240), torch.zeros(2, 252), torch.zeros(2, 239), torch.zeros(2, 0)]
)
def test_samples_that_do_not_fit_the_mel(wav: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"expected .* samples \(2, S\), S a multiple of 6 and at "
    ):
        random_model()(torch.zeros(2, 20, 3), wav)


def test_no_loss_without_a_deviation() -> None:
    output = random_model()(torch.zeros(1, 1, 3), torch.zeros(1, 12))
    for sigma in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"sigma must be above 0 .* not {sigma}"):
            output.loss(sigma=sigma)


# --- inverse convolutions ------------------------------------------------------------------------


def test_inverses_follow_the_weights() -> None:
    mel, noise = torch.randn(1, 5, 3), random_noise(TINY, 1, 5)

    def check(model: WaveGlow) -> None:
        expected = plain_infer(model, mel, 1.0, noise).float()
        assert_close("audio", model.infer(mel, 1.0, noise=noise), expected, 1e-5)

    model = random_model()
    assert not any("inverse" in name for name in model.state_dict())
    check(model)
    model.train()
    with torch.no_grad():
        model.convinv[1].conv.weight.mul_(1.5)
    check(model)  # in training mode
    check(model.eval())
    model.load_state_dict(random_model(seed=1).state_dict())
    check(model)  # loaded in evaluation mode
    with torch.device("meta"):
        empty = WaveGlow(TINY).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    check(empty)


def test_inverses_and_determinants_are_computed_in_double_precision() -> None:
    convolution = random_model().convinv[0]
    left, _, right = torch.linalg.svd(convolution.conv.weight[:, :, 0].detach())
    weight = left * torch.logspace(0, -5, 6) @ right
    convolution.load_state_dict({"conv.weight": weight[:, :, None]})
    expected = torch.linalg.inv(weight.double())
    torch.testing.assert_close(convolution.inverse(), expected.float(), rtol=1e-6, atol=0)
    expected = torch.linalg.slogdet(weight.double())[1]
    log_det = convolution(torch.zeros(1, 6, 1))[1].detach()
    torch.testing.assert_close(log_det, expected.float(), rtol=1e-7, atol=0)


def test_a_singular_convolution_is_named() -> None:
    model = random_model().train()
    with torch.no_grad():
        model.convinv[2].conv.weight.zero_()
    with pytest.raises(ValueError, match="4 x 4 weight is singular"):
        model.eval()


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 40.0), (torch.float16, 60.0)])
def test_half_precision_is_near(golden: Golden, dtype: torch.dtype, least: float) -> None:
    """Measured: 67 and 90 dB; in training direction 54 and 73 dB."""
    mel, sigma, noise = golden_call(golden, "small")
    model = drawn("small").with_precision(dtype)
    wav = model.infer(mel, sigma, noise=noise)
    assert model.precision == dtype
    assert drawn("small").precision == torch.float32
    assert wav.dtype == torch.float32
    assert wav.isfinite().all()
    ratio = signal_to_noise(torch.from_numpy(golden["small/audio"]), wav)
    assert least + 10 < ratio < 110  # not more: it was computed in that precision at all
    kept = {name.split(".")[2] for name, w in model.named_parameters() if w.dtype == dtype}
    assert kept == {"in_layers", "res_skip_layers", "cond_layer"}
    z = model(mel, torch.from_numpy(golden["small/forward/audio"])).z
    assert z.dtype == torch.float32
    assert signal_to_noise(torch.from_numpy(golden["small/forward/z"]), z.detach()) > least


def test_double_precision_is_possible(golden: Golden) -> None:
    mel, sigma, noise = golden_call(golden, "small")
    model = WaveGlow(SMALL)
    model.load_state_dict(draw_weights(SMALL))
    wav = model.double().eval().infer(mel, sigma, noise=noise)
    assert wav.dtype == torch.float32
    expected = plain_infer(model, mel, sigma, noise).float()
    assert_close("audio", wav, expected, 2e-7)


def test_what_half_precision_is_computed_in() -> None:
    """On a CPU float16 is for storage only; bfloat16 is what is asked for."""
    for dtype, working in (
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
    ):
        network = random_model().with_precision(dtype).WN[0]
        assert (network.dtype, network.working_dtype) == (dtype, working)
    assert random_model().double().WN[0].working_dtype == torch.float64


def test_precisions_that_are_none() -> None:
    with pytest.raises(
        ValueError, match=r"expected torch\.bfloat16, float16 or float32, not torch"
    ):
        random_model().with_precision(torch.int8)
    with pytest.raises(ValueError, match="use with_precision"):
        random_model().train().half().infer(torch.zeros(1, 2, 3))


def test_convolution_by_products() -> None:
    x, weight, bias = torch.randn(2, 3, 20), torch.randn(4, 3, 3), torch.randn(4)
    ours = convolve_by_products(x, weight, bias, dilation=4)
    assert_close("convolution", ours, F.conv1d(x, weight, bias, dilation=4), 1e-6)


@pytest.mark.requires_cuda
def test_cuda_gives_the_same(golden: Golden) -> None:
    mel, sigma, noise = golden_call(golden, "small")
    model = WaveGlow(SMALL)
    model.load_state_dict(draw_weights(SMALL))
    model.cuda().eval()
    wav = model.infer(mel.cuda(), sigma, noise=noise)
    assert wav.is_cuda
    assert_close("audio", wav.cpu(), golden["small/audio"], 1e-4)
    seeded = model.infer(mel.cuda(), sigma, seed=3)
    assert_close("seeded", seeded.cpu(), drawn("small").infer(mel, sigma, seed=3), 1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        half = model.with_precision(dtype).infer(mel.cuda(), sigma, noise=noise).cpu()
        assert signal_to_noise(torch.from_numpy(golden["small/audio"]), half) > 35


# --- noise ---------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_samples_however_they_are_cut() -> None:
    model, mel = random_model(), torch.randn(1, 400, 3)  # 800 positions, several blocks of noise
    wav = model.infer(mel, seed=7)
    assert_close("pieces", model.infer(mel, seed=7, chunk_frames=3), wav, 1e-5)
    assert not torch.allclose(model.infer(mel, seed=8), wav, atol=1e-2)
    # A longer utterance begins with the same noise.
    noise = SeededNoise([(7, 0)], [4, 2], torch.device("cpu"), torch.float32)
    given = [noise.columns(draw, 0, 800) for draw in range(2)]
    assert_close("given", model.infer(mel, noise=given), wav, 1e-5)


def test_items_of_a_batch_differ_and_the_first_is_as_alone() -> None:
    model, mel = random_model(), torch.randn(1, 10, 3)
    alone = model.infer(mel, seed=7)
    batch = model.infer(mel.expand(3, -1, -1), seed=7)
    assert_close("first", batch[:1], alone, 1e-5)
    assert not torch.allclose(batch[1], batch[0], atol=1e-2)
    assert not torch.allclose(batch[2], batch[1], atol=1e-2)
    each = model.infer(mel.expand(3, -1, -1), seed=[5, 7, 7])
    assert_close("a seed each", each[1:2], alone, 1e-5)
    assert_close("the same seed", each[2:3], alone, 1e-5)
    assert not torch.allclose(each[0], each[1], atol=1e-2)


def test_without_a_seed_the_global_generator_decides() -> None:
    model, mel = random_model(), torch.randn(1, 4, 3)
    torch.manual_seed(0)
    first, second = model.infer(mel), model.infer(mel)
    torch.manual_seed(0)
    assert torch.equal(model.infer(mel), first)
    assert not torch.allclose(first, second, atol=1e-2)
    state = torch.get_rng_state()
    model.infer(mel, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_sigma_scales_the_noise() -> None:
    model, mel, noise = random_model(), torch.randn(1, 4, 3), random_noise(TINY, 1, 4)
    scaled = [0.3 * z for z in noise]
    expected = model.infer(mel, 1.0, noise=scaled)
    assert_close("audio", model.infer(mel, 0.3, noise=noise), expected, 1e-5)
    silent = model.infer(mel, 0.0, seed=1)
    assert torch.equal(silent, model.infer(mel, 0.0, seed=2))


def test_noise_is_normal_white_and_independent_of_the_pieces() -> None:
    noise = SeededNoise([(1, 0), (1, 1), (2, 0)], [4, 2], torch.device("cpu"), torch.float32)
    whole = torch.cat([noise.columns(draw, 0, 20_000) for draw in range(2)], 1)  # (3, 6, 20000)
    assert whole.mean().abs() < 0.01
    assert whole.std().item() == pytest.approx(1, abs=0.01)
    assert whole.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    signals = whole.flatten(0, 1)
    related = torch.corrcoef(torch.cat((signals[:, 1:], signals[:, :-1])))
    assert (related - torch.eye(36)).abs().max() < 0.05
    for first, last in [(0, 1), (BLOCK - 1, BLOCK + 1), (5, 3 * BLOCK), (700, 700)]:
        assert torch.equal(noise.columns(1, first, last), whole[:, 4:, first:last])


def test_draws_differ() -> None:
    noise = SeededNoise([(1, 0)], [2, 2], torch.device("cpu"), torch.float32)
    assert not torch.equal(noise.columns(0, 0, 10), noise.columns(1, 0, 10))


def test_noise_stays_what_it_was() -> None:
    """What a seed means is a promise to users who keep seeds with their results."""
    noise = SeededNoise([(1234, 0)], [4], torch.device("cpu"), torch.float32)
    expected = [0.17521165, -0.18092421, 0.39748424, -0.16602623]
    assert noise.columns(0, 300, 301).flatten().tolist() == pytest.approx(expected, abs=1e-6)


# --- memory --------------------------------------------------------------------------------------

FLAT_MEMORY = """
import resource, torch
from waveglow import WaveGlow, WaveGlowConfig

torch.set_num_threads(1)
sizes = WaveGlowConfig(n_mel_channels=2, n_flows=2, n_early_every=1, n_layers=2, n_channels=4,
                       upsample_stride=256, upsample_kernel=512)
model = WaveGlow(sizes).eval()

def peak(minutes):
    n_frames, n_samples = int(minutes * 60 * 22050 / 256), 0
    for piece in model.stream(torch.zeros(1, n_frames, 2), seed=0, chunk_frames=512):
        n_samples += piece.shape[1]
    assert n_samples == 256 * n_frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

short = peak(2)
print(peak(30) - short)
"""


def test_thirty_minutes_take_the_memory_of_two() -> None:
    """The samples alone are 150 MB."""
    program = [sys.executable, "-c", FLAT_MEMORY]
    root = Path(__file__).parent.parent
    run = subprocess.run(program, cwd=root, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 15  # MB


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(4, 3), r"expected .* mel \(B, T, 3\), got .* \(4, 3\); add a batch axis"),
        (torch.zeros(1, 3, 4), r"mel \(B, T, 3\), got torch.float32 \(1, 3, 4\); transpose it"),
        (torch.zeros(1, 4, 80), r"mel \(B, T, 3\), got torch.float32 \(1, 4, 80\)$"),
        (torch.zeros(1, 4, 3, dtype=torch.int64), "floating-point mel .* got torch.int64"),
        (torch.zeros(1, 0, 3), r"at least one frame, got \(1, 0, 3\)"),
        (torch.zeros(0, 4, 3), r"at least one frame, got \(0, 4, 3\)"),
        (torch.tensor([[[0.0, float("nan"), 0.0]]]), "1 of the mel's 3 values are NaN or infinite"),
        (torch.tensor([[[0.0, float("inf"), 0.0]]]), "1 of the mel's 3 values are NaN or infinite"),
    ],
)
def test_bad_mels(mel: Tensor, message: str) -> None:
    model = random_model()
    with pytest.raises(ValueError, match=message):
        model.stream(mel)  # at the call, not at the first piece
    with pytest.raises(ValueError, match=message):
        model.infer(mel)
    with pytest.raises(ValueError, match=message):
        model(mel, torch.zeros(1, 12))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_bad_sigmas(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be a number of at least 0, not"):
        random_model().infer(torch.zeros(1, 2, 3), sigma)


def test_bad_noise_and_seeds() -> None:
    model, mel, noise = random_model(), torch.zeros(2, 4, 3), random_noise(TINY, 2, 4)
    for wrong in ([], noise[:1], noise[::-1], [z[:, :, 1:] for z in noise], [z[:1] for z in noise]):
        with pytest.raises(ValueError, match=r"noise of the shapes \[\(2, 4, 8\), \(2, 2, 8\)\], "):
            model.infer(mel, noise=wrong)
    with pytest.raises(ValueError, match="either noise or a seed"):
        model.infer(mel, noise=noise, seed=1)
    for seed in (-1, 2**128, [1], [1, -1]):
        with pytest.raises(ValueError, match="expected a seed, a whole number of at least 0, or 2"):
            model.infer(mel, seed=seed)
    with pytest.raises(ValueError, match="chunk_frames must be at least 1, not 0"):
        model.infer(mel, chunk_frames=0)


def test_bad_configurations_name_every_problem() -> None:
    with pytest.raises(
        ValueError, match=r"n_flows must .* not 0; n_group must be even, not 7; ker"
    ):
        WaveGlowConfig(n_flows=0, n_group=7, kernel_size=2)
    with pytest.raises(
        ValueError, match=r"leave at least 2 channels after 5 early .* of 2, not -2"
    ):
        WaveGlowConfig(n_early_every=2)
    with pytest.raises(
        ValueError, match=r"n_flows must be a whole .* not True; n_layers .* not 8.0"
    ):
        WaveGlowConfig(n_flows=True, n_layers=8.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of n_group, not 12 and 8"):
        WaveGlowConfig(upsample_stride=12)
    with pytest.raises(ValueError, match="at least upsample_stride, not 128 and 256"):
        WaveGlowConfig(upsample_kernel=128)
    assert WaveGlowConfig(**SMALL.as_dict()) == SMALL
