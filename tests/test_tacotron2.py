"""Tacotron 2 against NVIDIA's own outputs (fixtures/tacotron2.npz) and against itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightspeech.text import encode
from tacotron2 import Tacotron2, Tacotron2Config, TeacherOutput
from tacotron2.dropout import BLOCK, PrenetDropout
from tacotron2.load import BUNDLED, PRETRAINED, load_tacotron2
from tacotron2.model import UNHEARD
from tests.tacotron2_recipe import MINI, draw_tacotron2

Golden = Mapping[str, np.ndarray]
SIZES = {"mini": MINI, "full": Tacotron2Config()}
CAPS = {"mini": 60, "full": 25}


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> Golden:
    with np.load(fixtures / "tacotron2.npz") as arrays:
        return dict(arrays)


@lru_cache(maxsize=2)
def drawn(size: str) -> Tacotron2:
    """Never changed by a test; `stopping` makes a copy."""
    return draw_tacotron2(SIZES[size])


def stopping(golden: Golden) -> Tacotron2:
    """`mini` with the gate bias that ends an utterance after some frames."""
    model = copy.deepcopy(drawn("mini"))
    with torch.no_grad():
        model.decoder.gate_layer.linear_layer.bias.fill_(float(golden["stop/gate_bias"]))
    return model


def batch(*ids: np.ndarray, padding: int = 0) -> tuple[Tensor, Tensor]:
    tensors = [torch.from_numpy(i) for i in ids]
    tokens = pad_sequence(tensors, batch_first=True, padding_value=padding)
    return tokens, torch.tensor([len(i) for i in ids])


def assert_close(name: str, ours: Tensor, reference: np.ndarray) -> None:
    assert ours.shape == reference.shape, name
    error = np.abs(ours.detach().numpy() - reference).max() / np.abs(reference).max()
    assert error <= 1e-4, f"{name}: relative error {error:.1e}"


def assert_item_matches(golden: Golden, key: str, output: TeacherOutput, i: int) -> None:
    """Item i equals the reference's arrays under `key`, and is zero (gate: 1000) beyond them."""
    N, T = len(golden[f"{key}/ids"]), golden[f"{key}/mel"].shape[1]
    assert output.frames[i] == T
    assert_close("memory", output.memory[i, :N], golden[f"{key}/memory"])
    assert_close("mel", output.mel_before_postnet[i, :T].T, golden[f"{key}/mel"])
    assert_close("post-net", output.mel[i, :T].T, golden[f"{key}/mel_postnet"])
    assert_close("gate", output.gate_logits[i, :T], golden[f"{key}/gate"])
    assert_close("attention", output.attention[i, :T, :N], golden[f"{key}/alignments"])
    assert not output.memory[i, N:].any()
    assert not output.mel[i, T:].any()
    assert not output.mel_before_postnet[i, T:].any()
    assert not output.attention[i, T:].any()
    assert not output.attention[i, :, N:].any()
    assert (output.gate_logits[i, T:] == 1000).all()


@pytest.mark.parametrize("size", ["mini", "full"])
@pytest.mark.parametrize("text", [0, 1])
def test_matches_the_reference_alone(golden: Golden, size: str, text: int) -> None:
    key = f"{size}/{text}"
    tokens, lengths = batch(golden[f"{key}/ids"])
    output = drawn(size).infer(tokens, lengths, prenet_dropout=0, max_frames=CAPS[size])
    assert_item_matches(golden, key, output, 0)
    assert output.stopped.tolist() == [False]


@pytest.mark.parametrize("size", ["mini", "full"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0, 0), (0, 1) * 4])
def test_matches_the_reference_in_a_batch(
    golden: Golden, size: str, order: tuple[int, ...]
) -> None:
    tokens, lengths = batch(*(golden[f"{size}/{text}/ids"] for text in order), padding=99)
    output = drawn(size).infer(tokens, lengths, prenet_dropout=0, max_frames=CAPS[size])
    for i, text in enumerate(order):
        assert_item_matches(golden, f"{size}/{text}", output, i)


def test_stops_where_the_reference_stops(golden: Golden) -> None:
    tokens, lengths = batch(golden["stop/ids"])
    output = stopping(golden).infer(tokens, lengths, prenet_dropout=0)
    assert_item_matches(golden, "stop", output, 0)
    assert output.stopped.tolist() == [True]


def test_stops_each_item_by_itself(golden: Golden) -> None:
    tokens, lengths = batch(golden["stop/ids"][:40], golden["stop/ids"], golden["stop/ids"][:70])
    output = stopping(golden).infer(tokens, lengths, prenet_dropout=0, max_frames=90)
    assert_item_matches(golden, "stop", output, 1)
    assert len(set(output.frames.tolist())) > 1
    assert output.mel.shape[1] == output.frames.max()


def test_teacher_forced_matches_the_reference(golden: Golden) -> None:
    output = drawn("mini")(
        torch.from_numpy(golden["forced/ids"]),
        torch.from_numpy(golden["forced/lengths"]),
        torch.from_numpy(golden["forced/mel_target"]).transpose(1, 2),
        torch.from_numpy(golden["forced/mel_lengths"]),
        prenet_dropout=0,
    )
    assert_close("mel", output.mel_before_postnet.transpose(1, 2), golden["forced/mel"])
    assert_close("post-net", output.mel.transpose(1, 2), golden["forced/mel_postnet"])
    assert_close("attention", output.attention, golden["forced/alignments"])
    # The 1000 beyond the end would hide errors in the gates before it.
    for i, T in enumerate(golden["forced/mel_lengths"]):
        assert_close("gate", output.gate_logits[i, :T], golden["forced/gate"][i, :T])
        assert (output.gate_logits[i, T:].detach().numpy() == golden["forced/gate"][i, T:]).all()


def test_teacher_forced_without_leaks_equals_each_item_alone(golden: Golden) -> None:
    model = copy.deepcopy(drawn("mini")).double()
    tokens, lengths = torch.from_numpy(golden["forced/ids"]), golden["forced/lengths"]
    mel = torch.from_numpy(golden["forced/mel_target"]).transpose(1, 2).double()
    frames = golden["forced/mel_lengths"]
    together = model(
        tokens.clone(),
        torch.from_numpy(lengths),
        mel + 7 * (torch.arange(50)[:, None] >= torch.from_numpy(frames)[:, None, None]),
        torch.from_numpy(frames),
        prenet_dropout=0,
        padding_leaks=False,
    )
    for i, (N, T) in enumerate(zip(lengths, frames, strict=True)):
        for padding_leaks in (True, False):  # alone there is no padding
            alone = model(
                tokens[i : i + 1, :N],
                torch.tensor([N]),
                mel[i : i + 1, :T],
                torch.tensor([T]),
                prenet_dropout=0,
                padding_leaks=padding_leaks,
            )
            torch.testing.assert_close(together.mel[i, :T], alone.mel[0], rtol=0, atol=1e-10)
            torch.testing.assert_close(
                together.attention[i, :T, :N], alone.attention[0], rtol=0, atol=1e-10
            )
        assert not together.attention[i, T:].any()
        assert not together.mel[i, T:].any()


def test_teacher_forced_on_its_own_output_gives_it_again(golden: Golden) -> None:
    tokens, lengths = batch(golden["mini/0/ids"], golden["mini/1/ids"])
    model = copy.deepcopy(drawn("mini")).double()
    free = model.infer(tokens, lengths, prenet_dropout=0, max_frames=30)
    forced = model(
        tokens,
        lengths,
        free.mel_before_postnet,
        free.frames,
        prenet_dropout=0,
        padding_leaks=False,
    )
    for name in ("mel", "mel_before_postnet", "gate_logits", "attention", "memory"):
        torch.testing.assert_close(getattr(forced, name), getattr(free, name))


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_seed_gives_the_same_utterance_in_any_batch(
    golden: Golden, precision: torch.dtype, tolerance: float
) -> None:
    model = stopping(golden).to(precision)
    ids = golden["stop/ids"]
    texts = [ids[:9], ids[5:60], ids, ids[20:50], ids[:1], ids[40:]]
    seeds = [11, 12, 13, 14, 15, 2**63]
    tokens, lengths = batch(*texts, padding=1)
    together = model.infer(tokens, lengths, seeds=seeds, max_frames=20)
    assert together.frames.unique().numel() > 2  # they leave the batch at different moments
    backwards = model.infer(tokens.flip(0), lengths.flip(0), seeds=seeds[::-1], max_frames=20)
    for i, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
        alone = model.infer(*batch(text), seeds=[seed], max_frames=20)
        N, T = len(text), int(alone.frames[0])
        for output, row in ((together, i), (backwards, len(texts) - 1 - i)):
            assert output.frames[row] == T
            assert output.stopped[row] == alone.stopped[0] == (T < 20)
            for name, size in (("mel", 80), ("mel_before_postnet", 80), ("attention", N)):
                ours, expected = getattr(output, name)[row, :T, :size], getattr(alone, name)[0]
                torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
            torch.testing.assert_close(
                output.memory[row, :N], alone.memory[0], rtol=0, atol=tolerance
            )


def test_seeds_decide_the_utterance(golden: Golden) -> None:
    model, (tokens, lengths) = drawn("mini"), batch(*[golden["mini/0/ids"]] * 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    output = model.infer(tokens, lengths, seeds=torch.tensor([5, 6, 5]), max_frames=10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(output.mel[0], output.mel[2])
    assert (output.mel[0] - output.mel[1]).abs().max() > 0.01


def test_without_seeds_the_global_generator_decides(golden: Golden) -> None:
    model, (tokens, lengths) = drawn("mini"), batch(*[golden["mini/0/ids"]] * 2)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model.infer(tokens, lengths, max_frames=5).mel)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0][0], outputs[0][1])


def seeded(seeds: list[int], size: int, probability: float) -> PrenetDropout:
    dropout = PrenetDropout(len(seeds), size, probability, torch.device("cpu"))
    for slot, seed in enumerate(seeds):
        dropout.enter(slot, seed)
    return dropout


def test_dropout_is_the_raw_philox_stream_of_each_seed() -> None:
    # Pins the stream: a change here would silently change every label of a resumed store.
    size, seeds = 6, [3, 99]
    dropout = seeded(seeds, size, 0.25)
    drawn_frames = [dropout.next_frame(2).clone() for _ in range(2 * BLOCK)]
    for row, seed in enumerate(seeds):
        words = np.random.Philox(seed).random_raw(2 * BLOCK * 2 * size // 4)
        shifts = np.arange(0, 64, 16, dtype=np.uint64)
        numbers = (words[:, None] >> shifts).astype(np.uint64) & np.uint64(0xFFFF)
        kept = (numbers.reshape(2 * BLOCK, 2, size) >= 0x4000).astype(np.float32)
        ours = torch.stack(drawn_frames)[:, :, row].numpy()
        np.testing.assert_allclose(ours, kept / 0.75, rtol=1e-6)


def test_dropout_drops_the_share_it_is_told() -> None:
    for probability in (0.1, 0.5):
        dropout = seeded(list(range(8)), 64, probability)
        factors = torch.stack([dropout.next_frame(8).clone() for _ in range(100)])
        dropped = (factors == 0).double().mean().item()
        assert dropped == pytest.approx(probability, abs=0.01)
        assert factors.mean().item() == pytest.approx(1.0, abs=0.02)


def test_dropout_goes_on_when_utterances_move_and_others_enter() -> None:
    alone, late = seeded([8], 4, 0.5), seeded([5], 4, 0.5)
    together = seeded([7, 8, 9], 4, 0.5)
    moved = BLOCK + 5
    for frame in range(4 * BLOCK):
        if frame == moved:
            together.move(1, 0)
            together.enter(1, 5)
            together.leave(2)
        found = together.next_frame(2)
        assert torch.equal(found[:, 1 if frame < moved else 0], alone.next_frame(1)[:, 0])
        if frame >= moved:
            assert torch.equal(found[:, 1], late.next_frame(1)[:, 0])


def test_reports_each_frame(golden: Golden) -> None:
    calls: list[tuple[int, int]] = []
    tokens, lengths = batch(golden["stop/ids"][:40], golden["stop/ids"])
    output = stopping(golden).infer(
        tokens,
        lengths,
        prenet_dropout=0,
        max_frames=90,
        on_frame=lambda frame, active: calls.append((frame, active)),
    )
    frames = output.frames.tolist()
    last = max(frames)
    assert calls == [
        (f, sum(n > f or (n == f and not s) for n, s in zip(frames, output.stopped, strict=True)))
        for f in range(1, last + 1)
    ]


@pytest.mark.parametrize("max_frames", [1, 18, 19, 20])
def test_the_cap_is_reported(golden: Golden, max_frames: int) -> None:
    output = stopping(golden).infer(
        *batch(golden["stop/ids"]), prenet_dropout=0, max_frames=max_frames
    )
    assert output.frames.tolist() == [min(max_frames, 19)]
    assert output.stopped.tolist() == [max_frames >= 19]


def test_gate_threshold(golden: Golden) -> None:
    model, ids = stopping(golden), batch(golden["stop/ids"])
    first = model.infer(*ids, prenet_dropout=0, gate_threshold=0.0)
    assert (first.frames.item(), first.stopped.item()) == (1, True)
    never = model.infer(*ids, prenet_dropout=0, gate_threshold=1.0, max_frames=25)
    assert (never.frames.item(), never.stopped.item()) == (25, False)


def test_training_drops_and_learns(golden: Golden) -> None:
    model = copy.deepcopy(drawn("mini")).train()
    arguments = (
        *batch(golden["mini/0/ids"], golden["mini/1/ids"]),
        torch.randn(2, 6, 80),
        torch.tensor([6, 4]),
    )
    output = model(*arguments, prenet_dropout=0.5)
    assert not torch.equal(output.mel, model(*arguments, prenet_dropout=0.5).mel)
    (output.mel.square().sum() + output.gate_logits[0].sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Batch norm takes the mean away, so the biases before it matter only up to rounding.
    assert [name for name in without if not name.endswith("conv.bias")] == []
    with pytest.raises(ValueError, match=r"training mode; call \.eval\(\)"):
        model.infer(*arguments[:2])


def test_infer_gives_ordinary_tensors(golden: Golden) -> None:
    memory = drawn("mini").infer(*batch(golden["mini/0/ids"]), max_frames=2).memory
    weight = torch.ones(32, requires_grad=True)
    (memory @ weight).sum().backward()  # a tensor of inference mode would refuse
    assert weight.grad is not None


def test_published_size() -> None:
    with torch.device("meta"):
        model = Tacotron2(Tacotron2Config())
    assert sum(p.numel() for p in model.parameters()) == 28_193_153


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, r"expected tokens \(B, N\).*got \(3,\)"),
        ({"tokens": torch.zeros(0, 3, dtype=torch.int64)}, r"at least \(1, 1\), got \(0, 3\)"),
        ({"tokens": torch.tensor([[1, 148, 2]])}, "symbol ids must be 0 to 147, got 1 to 148"),
        ({"token_lengths": torch.tensor([4])}, r"token_lengths must be 1 to 3, got \[4\]"),
        ({"token_lengths": torch.tensor([0])}, r"token_lengths must be 1 to 3, got \[0\]"),
        ({"token_lengths": torch.tensor([1.5])}, "of whole numbers"),
        ({"token_lengths": torch.tensor([1, 2])}, r"expected token_lengths \(1,\)"),
        ({"prenet_dropout": 1.0}, "prenet_dropout must be at least 0 and below 1"),
        ({"gate_threshold": 1.5}, "gate_threshold must be 0 to 1, not 1.5"),
        ({"max_frames": 0}, "max_frames must be at least 1, not 0"),
        ({"seeds": [1, 2]}, r"expected 1 seeds, .* got \[1, 2\]"),
        ({"seeds": [-1]}, r"integers of at least 0, got \[-1\]"),
    ],
)
def test_refuses_arguments_that_make_no_sense(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "tokens": torch.tensor([[1, 2, 3]]),
        "token_lengths": torch.tensor([3]),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        drawn("mini").infer(**arguments)  # type: ignore[arg-type]


def test_teacher_forced_refuses_other_shapes() -> None:
    tokens, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    with pytest.raises(ValueError, match=r"expected mel \(1, T, 80\), got \(1, 80, 5\)"):
        drawn("mini")(tokens, lengths, torch.zeros(1, 80, 5), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"frames must be 1 to 5, got \[6\]"):
        drawn("mini")(tokens, lengths, torch.zeros(1, 5, 80), torch.tensor([6]))


def test_what_lies_in_the_padding_is_ignored_even_if_it_is_no_symbol(golden: Golden) -> None:
    ids = golden["mini/0/ids"]
    model, clean = drawn("mini"), batch(ids)
    dirty = torch.cat((clean[0], torch.full((1, 9), -1000)), 1)
    a = model.infer(*clean, prenet_dropout=0, max_frames=5)
    b = model.infer(dirty, clean[1], prenet_dropout=0, max_frames=5)
    torch.testing.assert_close(a.mel, b.mel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prenet_dim": 0}, "prenet_dim must be a whole number of at least 1, not 0"),
        ({"encoder_kernel_size": 4}, "encoder_kernel_size must be odd, not 4"),
        ({"symbols_embedding_dim": 64}, "must be equal, not 64 and 512"),
        ({"p_decoder_dropout": 1.0}, "p_decoder_dropout must be at least 0 and below 1"),
        ({"postnet_n_convolutions": 1}, "postnet_n_convolutions must be at least 2"),
        ({"symbols_embedding_dim": 31, "encoder_embedding_dim": 31}, "must be even, not 31"),
    ],
)
def test_config_is_validated(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tacotron2Config(**change)


@pytest.mark.requires_cuda
def test_a_seed_gives_the_same_utterance_on_a_gpu(golden: Golden) -> None:
    model = stopping(golden)
    tokens, lengths = batch(golden["stop/ids"], golden["stop/ids"][:30])
    here = model.infer(tokens, lengths, seeds=[1, 2], max_frames=30)
    there = model.cuda().infer(tokens.cuda(), lengths, seeds=[1, 2], max_frames=30)
    assert there.mel.is_cuda
    torch.testing.assert_close(there.frames.cpu(), here.frames)
    torch.testing.assert_close(there.mel.cpu(), here.mel, rtol=0, atol=1e-2)


def test_the_bundled_teacher_says_the_same_in_any_batch() -> None:

    teacher = load_tacotron2(PRETRAINED / BUNDLED)
    lines = (Path(__file__).parent.parent / "data" / "heldout.txt").read_text().splitlines()
    ids = [np.array(encode(line)) for line in lines[:6]]
    together = teacher.infer(*batch(*ids), seeds=range(6))
    for i in range(6):
        alone = teacher.infer(*batch(ids[i]), seeds=[i])
        T = int(alone.frames[0])
        assert int(together.frames[i]) == T
        torch.testing.assert_close(together.mel[i, :T], alone.mel[0], rtol=0, atol=1e-3)


def test_frames_that_are_not_heard_are_the_mean_of_all_eight_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = drawn("mini")
    tokens, token_lengths = batch(np.array([5, 9, 20]), np.array([7, 8]))
    generator = torch.Generator().manual_seed(3)
    frames, mel = torch.tensor([300, 200]), torch.randn(2, 300, 80, generator=generator) - 5
    heard: list[Tensor] = []
    prenet = model.decoder.prenet.forward
    monkeypatch.setattr(
        model.decoder.prenet, "forward", lambda x, factors: (heard.append(x), prenet(x, factors))[1]
    )

    def read(frame_dropout: float) -> Tensor:
        torch.manual_seed(4)
        with torch.no_grad():
            model(tokens, token_lengths, mel, frames, prenet_dropout=0, frame_dropout=frame_dropout)
        return heard.pop()

    whole, half = read(0.0), read(0.5)
    assert torch.equal(half, read(0.5))
    assert not half[:, 0].any()  # before the first frame there is none
    mean = torch.cat((mel[0], mel[1, :200])).mean(0)
    is_mean = (half[:, 1:] - mean).abs().amax(2) < 1e-4
    is_frame = (half[:, 1:] == whole[:, 1:]).all(2)
    assert bool((is_mean ^ is_frame).all())
    stretches = is_mean[0, : 37 * UNHEARD].view(37, UNHEARD)
    assert torch.equal(stretches.any(1), stretches.all(1))
    assert 0.3 < is_mean.float().mean() < 0.7
    with pytest.raises(ValueError, match="frame_dropout must be at least 0 and below 1, not 1"):
        read(1.0)
