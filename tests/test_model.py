"""The student: its parameters, its shapes, batches against single utterances, what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from lightspeech.config import ModelConfig
from lightspeech.errors import InputError
from lightspeech.model import TYPICAL_DURATION, LightSpeech, StudentOutput, TrainingOutput

TINY = ModelConfig(
    n_symbols=20, embedding_size=6, encoder_size=8, duration_size=10, decoder_size=12, n_mels=5
)
REFINED = dataclasses.replace(TINY, refiner_blocks=2, refiner_size=7, refiner_hidden=9)


@pytest.fixture(params=[TINY, REFINED], ids=["published", "refined"])
def student(request: pytest.FixtureRequest) -> LightSpeech:
    """A tiny student in float64, so that batches and singles can be compared closely."""
    torch.manual_seed(0)
    student = LightSpeech(request.param).double()
    # Untrained durations hardly differ from token to token; spread them over 0 to some frames.
    last = last_duration_layer(student)
    with torch.no_grad():
        last.weight.mul_(40)
        last.bias.sub_(8)
    return student


def last_duration_layer(student: LightSpeech) -> nn.Linear:
    last = student.duration_predictor[2]
    assert isinstance(last, nn.Linear)
    return last


def batch(lengths: list[int], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Random tokens, with what must never be looked at beyond each length."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 20, (len(lengths), width or max(lengths)), generator=generator)
    token_lengths = torch.tensor(lengths)
    padded = torch.arange(tokens.shape[1]) >= token_lengths.unsqueeze(1)
    return tokens.masked_fill(padded, -7), token_lengths


def random_durations(tokens: Tensor) -> Tensor:
    durations = torch.randint(0, 5, tokens.shape, generator=torch.Generator().manual_seed(2))
    durations[:, 0] += 1
    return durations


def test_parameter_counts() -> None:
    student = LightSpeech()
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in student.named_children()
    }
    assert counts == {
        "embedding": 38_144,
        "encoder": 789_504,
        "projection": 262_656,
        "duration_predictor": 263_169,
        "decoder": 493_056,
        "output": 20_560,
    }
    assert sum(counts.values()) == 1_867_089


def test_every_size_of_the_configuration_is_used() -> None:
    sizes = {f.name: getattr(REFINED, f.name) for f in dataclasses.fields(REFINED)}
    shapes = {n: tuple(p.shape) for n, p in LightSpeech(REFINED).named_parameters()}
    for name, size in sizes.items():
        bigger = LightSpeech(ModelConfig(**{**sizes, name: size + 2}))
        assert {n: tuple(p.shape) for n, p in bigger.named_parameters()} != shapes, name


def test_training_shapes_and_gradients(student: LightSpeech) -> None:
    tokens, token_lengths = batch([7, 3, 5])
    durations = random_durations(tokens)
    output = student(tokens, token_lengths, durations)
    assert isinstance(output, TrainingOutput)
    frames = [int(row[:n].sum()) for row, n in zip(durations, token_lengths, strict=True)]
    assert output.mel.shape == (3, max(frames), 5)
    assert output.durations.shape == (3, 7)
    assert output.memory.shape == (3, 7, 8)
    for item, n in enumerate(frames):
        assert output.mel[item, :n].all()
        assert not output.mel[item, n:].any()
    for item, n in enumerate(token_lengths.tolist()):
        assert output.memory[item, :n].all()
        assert not output.memory[item, n:].any()
        assert not output.durations[item, n:].any()

    (output.mel.sum() + output.durations.sum() + output.memory.sum()).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert student.embedding.weight.grad is not None
    assert not student.embedding.weight.grad[0].any()  # padding stays at zero


def test_durations_start_alive() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(1, 148, (4, 30))
    output = LightSpeech()(tokens, torch.full((4,), 30), torch.ones_like(tokens))
    durations = output.durations.detach()
    assert float(durations.min()) > 4
    assert abs(float(durations.mean()) - TYPICAL_DURATION) < 1


@pytest.mark.parametrize("batch_size", [1, 16])
def test_inference_of_a_batch_equals_singles(student: LightSpeech, batch_size: int) -> None:
    lengths = [1 + (5 * i + 8) % 13 for i in range(batch_size)]
    tokens, token_lengths = batch(lengths, width=15)
    together = student.infer(tokens, token_lengths)
    assert isinstance(together, StudentOutput)
    assert together.mel.shape == (batch_size, int(together.frames.max()), 5)
    assert torch.equal(together.frames, together.durations.sum(1))
    for i, n in enumerate(lengths):
        alone = student.infer(tokens[i : i + 1, :n], token_lengths[i : i + 1])
        frames = int(alone.frames)
        assert int(together.frames[i]) == frames
        assert together.durations[i].tolist() == alone.durations[0].tolist() + [0] * (15 - n)
        torch.testing.assert_close(together.mel[i, :frames], alone.mel[0], rtol=0, atol=1e-12)
        assert not together.mel[i, frames:].any()


def test_training_of_a_batch_equals_singles(student: LightSpeech) -> None:
    tokens, token_lengths = batch([7, 3, 5])
    durations = random_durations(tokens)
    together = student(tokens, token_lengths, durations)
    for i, n in enumerate(token_lengths.tolist()):
        one = slice(i, i + 1)
        alone = student(tokens[one, :n], token_lengths[one], durations[one, :n])
        frames = alone.mel.shape[1]
        torch.testing.assert_close(together.mel[i, :frames], alone.mel[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together.memory[i, :n], alone.memory[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            together.durations[i, :n], alone.durations[0], rtol=0, atol=1e-12
        )


def test_inference_is_training_at_the_predicted_durations(student: LightSpeech) -> None:
    tokens, token_lengths = batch([7, 3, 5])
    inferred = student.infer(tokens, token_lengths)
    trained = student(tokens, token_lengths, inferred.durations)
    torch.testing.assert_close(inferred.mel, trained.mel, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pace", [0.1, 0.5, 1, 1.7, 10.0])
def test_durations_follow_the_pace(student: LightSpeech, pace: float) -> None:
    tokens, token_lengths = batch([12, 4])
    output = student.infer(tokens, token_lengths, pace=pace)
    predicted = student(tokens, token_lengths, torch.ones_like(tokens)).durations.detach()
    assert float(predicted[0].min()) < 0.5 < 2 < float(predicted.max())  # with and without floor
    for item, n in enumerate(token_lengths.tolist()):
        for token in range(n):
            frames = max(1, round(float(predicted[item, token]) / pace))
            assert int(output.durations[item, token]) == frames
        assert not output.durations[item, n:].any()


def test_no_text_becomes_silence(student: LightSpeech) -> None:
    with torch.no_grad():
        last_duration_layer(student).bias.fill_(-1e6)
    tokens, token_lengths = batch([1, 6])
    output = student.infer(tokens, token_lengths, pace=10)
    assert output.frames.tolist() == [1, 6]
    assert output.mel.shape == (2, 6, 5)


def test_inference_keeps_no_graph(student: LightSpeech) -> None:
    output = student.infer(*batch([4]))
    assert output.mel.is_inference()
    assert not output.mel.requires_grad


@pytest.mark.parametrize("pace", [0, -1.0, 0.05, 11, float("nan"), float("inf")])
def test_pace_outside_its_limits(student: LightSpeech, pace: float) -> None:
    with pytest.raises(InputError, match=rf"pace must be 0.1 to 10 .*, not {pace}"):
        student.infer(*batch([3]), pace=pace)


@pytest.mark.parametrize("wrong", [-1, 20])
def test_ids_outside_the_table(student: LightSpeech, wrong: int) -> None:
    tokens, token_lengths = batch([3, 2])
    tokens[1, 1] = wrong
    with pytest.raises(InputError, match=f"symbol ids must be 0 to 19, not {wrong}; encode the"):
        student.infer(tokens, token_lengths)
    with pytest.raises(InputError, match="symbol ids must be 0 to 19"):
        student(tokens, token_lengths, torch.ones_like(tokens))


@pytest.mark.parametrize("lengths", [[0, 3], [2, 4]])
def test_lengths_outside_the_tokens(student: LightSpeech, lengths: list[int]) -> None:
    tokens, _ = batch([3, 3])
    wanted = f"token_lengths must be 1 to 3 .*, not {lengths[0]} to {lengths[1]}"
    with pytest.raises(InputError, match=wanted):
        student.infer(tokens, torch.tensor(lengths))


@pytest.mark.parametrize(
    ("tokens", "lengths"), [((3,), (3,)), ((2, 3), (3,)), ((0, 3), (0,)), ((1, 0), (1,))]
)
def test_shapes_that_do_not_fit(
    student: LightSpeech, tokens: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"tokens must be \(B, N\) and token_lengths \(B,\)"):
        student.infer(torch.ones(tokens, dtype=torch.long), torch.ones(lengths, dtype=torch.long))


@pytest.mark.parametrize("durations", [[[1, -1, 3]], [[0, 0, 0]]])
def test_durations_without_sense(student: LightSpeech, durations: list[list[int]]) -> None:
    tokens, token_lengths = batch([3])
    with pytest.raises(InputError, match="durations must be at least 0 and add up to at least one"):
        student(tokens, token_lengths, torch.tensor(durations))
    with pytest.raises(InputError, match=r"durations must have the tokens' shape \(1, 3\)"):
        student(tokens, token_lengths, torch.ones(1, 4, dtype=torch.long))


@pytest.mark.requires_cuda
def test_cuda_equals_cpu() -> None:
    torch.manual_seed(0)
    student = LightSpeech()
    tokens = torch.randint(1, 148, (3, 20))
    token_lengths = torch.tensor([20, 7, 13])
    durations = torch.randint(1, 7, (3, 20))
    expected = student(tokens, token_lengths, durations)
    student.cuda()
    output = student(tokens.cuda(), token_lengths.cuda(), durations.cuda())
    for name in ("mel", "durations", "memory"):
        torch.testing.assert_close(
            getattr(output, name).cpu(), getattr(expected, name), rtol=1e-3, atol=1e-4
        )


def test_equals_the_same_layers_in_plain_pytorch() -> None:
    torch.manual_seed(0)
    student = LightSpeech(TINY).double()
    with torch.no_grad():
        last_duration_layer(student).weight.mul_(40)  # so that both ReLUs have work
        last_duration_layer(student).bias.sub_(8)
    encoder, decoder = (
        nn.GRU(size_in, size, batch_first=True, bidirectional=True).double()
        for size_in, size in ((6, 4), (8, 6))
    )
    encoder.load_state_dict(student.encoder.state_dict())
    decoder.load_state_dict(student.decoder.state_dict())
    weights = student.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    tokens, token_lengths = batch([7, 3, 5])
    durations = random_durations(tokens)
    output = student(tokens, token_lengths, durations)
    predicted = []
    for i, n in enumerate(token_lengths.tolist()):
        memory = linear(
            "projection", encoder(weights["embedding.weight"][tokens[i : i + 1, :n]])[0]
        )
        hidden = linear("duration_predictor.0", memory).clamp(min=0)
        predicted.append(linear("duration_predictor.2", hidden)[0, :, 0])
        mel = linear("output", decoder(memory.repeat_interleave(durations[i, :n], 1))[0])[0]
        torch.testing.assert_close(output.memory[i, :n], memory[0])
        torch.testing.assert_close(output.durations[i, :n], predicted[-1].clamp(min=0))
        torch.testing.assert_close(output.mel[i, : len(mel)], mel)
    assert torch.cat(predicted).min() < 0 < torch.cat(predicted).max()


def test_the_pad_symbol_is_zero_and_stays_so() -> None:
    student = LightSpeech(TINY)
    assert not student.embedding.weight[0].any()
    tokens = torch.tensor([[3, 0, 4]])  # an underscore in a text is id 0 too
    student(tokens, torch.tensor([3]), torch.ones_like(tokens)).mel.sum().backward()
    assert student.embedding.weight.grad is not None
    assert not student.embedding.weight.grad[0].any()
