"""What a Tacotron 2 is trained on, each term against a plain loop over utterances."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tacotron2 import TeacherOutput
from tacotron2.layers import within
from tacotron2.losses import (
    BLANK,
    SMALLEST,
    forward_sum,
    gate,
    guided_attention,
    mel_absolute,
    mel_squared,
    path_attention,
    teacher_losses,
)
from tests.tacotron2_recipe import draw_tacotron2

FRAMES = [7, 1, 9, 4]
LENGTHS = [5, 1, 3, 6]
B, T, N, M = len(FRAMES), max(FRAMES), max(LENGTHS), 3
frames, token_lengths = torch.tensor(FRAMES), torch.tensor(LENGTHS)
real = [(b, t) for b in range(B) for t in range(FRAMES[b])]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw_mels(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    output, mel = (torch.randn(B, T, M, generator=generator) for _ in range(2))
    return output, mel


def draw_attention(
    generator: torch.Generator, frames: list[int] = FRAMES, lengths: list[int] = LENGTHS
) -> Tensor:
    """As the model gives it: rows of real frames sum to 1, all else is 0. Some of it is close
    to 0 and to 1."""
    logits = 4 * torch.randn(len(frames), max(frames), max(lengths), generator=generator)
    tokens = within(torch.tensor(lengths), max(lengths))
    attention = logits.masked_fill(~tokens[:, None], -torch.inf).softmax(2)
    return attention.masked_fill(~within(torch.tensor(frames), max(frames))[:, :, None], 0.0)


def draw_path(generator: torch.Generator) -> Tensor:
    path = torch.full((B, T), -1)
    for b, t in real:
        path[b, t] = int(torch.randint(LENGTHS[b], (1,), generator=generator))
        if t == FRAMES[b] - 1:
            path[b, t] = LENGTHS[b] - 1
    return path


def draw_output(generator: torch.Generator) -> tuple[TeacherOutput, Tensor]:
    """What `Tacotron2.forward` gives without leaks, and the mel."""
    outside = ~within(frames, T)
    before, after, mel = (
        torch.randn(B, T, M, generator=generator).masked_fill(outside[:, :, None], 0.0)
        for _ in range(3)
    )
    logits = torch.randn(B, T, generator=generator).masked_fill(outside, 1000.0)
    output = TeacherOutput(
        mel=after,
        mel_before_postnet=before,
        gate_logits=logits,
        attention=draw_attention(generator),
        memory=torch.zeros(B, N, 2),
        frames=frames,
        stopped=torch.ones(B, dtype=torch.bool),
    )
    return output, mel


def one_of(output: TeacherOutput, b: int) -> TeacherOutput:
    """Utterance b without its padding."""
    t, n = slice(FRAMES[b]), slice(LENGTHS[b])
    return TeacherOutput(
        mel=output.mel[b : b + 1, t],
        mel_before_postnet=output.mel_before_postnet[b : b + 1, t],
        gate_logits=output.gate_logits[b : b + 1, t],
        attention=output.attention[b : b + 1, t, n],
        memory=output.memory[b : b + 1, n],
        frames=output.frames[b : b + 1],
        stopped=output.stopped[b : b + 1],
    )


def value(loss: Tensor) -> float:
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    return float(loss.detach())


# Mels


def test_mel_terms_are_means_over_bins_and_sums_over_frames(generator: torch.Generator) -> None:
    output, mel = draw_mels(generator)
    squared = absolute = 0.0
    for b, t in real:
        errors = [float(output[b, t, m]) - float(mel[b, t, m]) for m in range(M)]
        squared += sum(e * e for e in errors) / M
        absolute += sum(abs(e) for e in errors) / M
    assert value(mel_squared(output, mel, frames)) == pytest.approx(squared, rel=1e-5)
    assert value(mel_absolute(output, mel, frames)) == pytest.approx(absolute, rel=1e-5)


@pytest.mark.parametrize("term", [mel_squared, mel_absolute])
@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_what_lies_beyond_the_end_does_not_count(
    generator: torch.Generator, term: Callable[..., Tensor], garbage: float
) -> None:
    output, mel = draw_mels(generator)
    outside = ~within(frames, T)[:, :, None]
    expected = term(output, mel, frames)
    assert torch.equal(term(output, mel.masked_fill(outside, garbage), frames), expected)
    assert torch.equal(term(output.masked_fill(outside, garbage), mel, frames), expected)


@pytest.mark.parametrize("term", [mel_squared, mel_absolute])
def test_mel_gradients_are_those_of_real_frames(
    generator: torch.Generator, term: Callable[..., Tensor]
) -> None:
    output, mel = draw_mels(generator)
    output.requires_grad_()
    outside = ~within(frames, T)[:, :, None].expand_as(mel)
    term(output, mel.masked_fill(outside, 1e15), frames).backward()
    assert output.grad is not None
    error = (output - mel).detach()
    expected = 2 * error / M if term is mel_squared else error.sign() / M
    torch.testing.assert_close(output.grad, expected.masked_fill(outside, 0.0))


# The gate


@pytest.mark.parametrize("end_weight", [1.0, 10.0, 0.5])
def test_gate(generator: torch.Generator, end_weight: float) -> None:
    logits = (3 * torch.randn(B, T, generator=generator)).requires_grad_()
    expected, gradient = 0.0, torch.zeros(B, T)
    for b, t in real:
        probability = 1 / (1 + math.exp(-float(logits.detach()[b, t])))
        if t == FRAMES[b] - 1:
            expected -= end_weight * math.log(probability)
            gradient[b, t] = end_weight * (probability - 1)
        else:
            expected -= math.log(1 - probability)
            gradient[b, t] = probability
    loss = gate(logits, frames, end_weight)
    assert value(loss) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(logits.grad, gradient)


def test_gate_beyond_the_end_and_where_it_is_certain() -> None:
    """The model puts 1000 beyond the end; a logit as large at the end costs nothing."""
    logits = torch.full((2, 4), 1000.0)
    logits[0, 0] = logits[0, 1] = -1000.0
    logits.requires_grad_()
    loss = gate(logits, torch.tensor([3, 1]), 10.0)
    assert value(loss) == 0.0
    loss.backward()
    assert not logits.grad.any()
    wrong = torch.tensor([[1000.0, -1000.0]])
    assert value(gate(wrong, torch.tensor([2]), 10.0)) == 1000 + 10 * 1000
    garbage = torch.tensor([[0.0, math.nan, math.inf]])
    assert value(gate(garbage, torch.tensor([1]), 3.0)) == pytest.approx(3 * math.log(2))


# Where the attention looks


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
def test_guided_attention(generator: torch.Generator, width: float) -> None:
    attention = draw_attention(generator).requires_grad_()
    expected, gradient = 0.0, torch.zeros(B, T, N)
    for b, t in real:
        for n in range(LENGTHS[b]):
            distance = n / LENGTHS[b] - t / FRAMES[b]
            penalty = 1 - math.exp(-(distance**2) / (2 * width**2))
            expected += float(attention.detach()[b, t, n]) * penalty
            gradient[b, t, n] = penalty
    loss = guided_attention(attention, token_lengths, frames, width)
    assert value(loss) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    inside = within(token_lengths, N)[:, None] & within(frames, T)[:, :, None]
    torch.testing.assert_close(attention.grad.masked_fill(~inside, 0.0), gradient)
    assert not attention.grad[~within(frames, T)].any()


def test_guided_attention_does_not_see_beyond_the_end(generator: torch.Generator) -> None:
    """With `padding_leaks` the attention goes on there."""
    attention = draw_attention(generator)
    expected = guided_attention(attention, token_lengths, frames, 0.3)
    leaking = attention.masked_fill(~within(frames, T)[:, :, None], math.nan)
    assert torch.equal(guided_attention(leaking, token_lengths, frames, 0.3), expected)


def test_guided_attention_is_zero_on_the_diagonal_and_grows_away_from_it() -> None:
    lengths = torch.tensor([6])
    found = [
        value(guided_attention(torch.eye(6).roll(shift, 1)[None], lengths, lengths, 0.3))
        for shift in (0, 1, 2, 3)
    ]
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    assert found == sorted(found)
    assert found[1] > 0.1


def paths(T: int, N: int) -> list[list[int]]:
    """All ways to read N tokens in order over T frames: the token of each, -1 for none."""
    return [
        list(path)
        for path in itertools.product(range(-1, N), repeat=T)
        if [token for token, _ in itertools.groupby(path) if token >= 0] == list(range(N))
    ]


def enumerated(attention: list[list[float]]) -> float:
    """`forward_sum` of one utterance, from every path by itself."""
    T, N = len(attention), len(attention[0])
    rows = []
    for row in attention:
        weights = [math.exp(BLANK), *(a + SMALLEST for a in row)]
        rows.append([weight / sum(weights) for weight in weights])
    total = sum(math.prod(rows[t][token + 1] for t, token in enumerate(p)) for p in paths(T, N))
    return -math.log(total)


def test_the_oracle_of_paths() -> None:
    assert paths(2, 2) == [[0, 1]]
    assert sorted(paths(3, 2)) == [[-1, 0, 1], [0, -1, 1], [0, 0, 1], [0, 1, -1], [0, 1, 1]]
    assert paths(1, 2) == []


@pytest.mark.parametrize(
    ("T", "N"), [(1, 1), (4, 1), (2, 2), (3, 2), (5, 2), (3, 3), (5, 3), (6, 4), (5, 5)]
)
def test_order_sums_over_all_paths(generator: torch.Generator, T: int, N: int) -> None:
    attention = draw_attention(generator, [T], [N])
    loss = forward_sum(attention, torch.tensor([N]), torch.tensor([T]))
    assert value(loss) == pytest.approx(enumerated(attention[0].tolist()), rel=1e-4, abs=1e-6)


def test_order_of_a_batch_is_that_of_its_utterances(generator: torch.Generator) -> None:
    """Also in the gradient, against numeric derivatives of the enumeration."""
    counts, sizes = [5, 3, 1, 4], [3, 3, 1, 2]
    attention = draw_attention(generator, counts, sizes).requires_grad_()
    loss = forward_sum(attention, torch.tensor(sizes), torch.tensor(counts))
    loss.backward()
    expected = 0.0
    for b, (T, N) in enumerate(zip(counts, sizes, strict=True)):
        rows = attention.detach()[b, :T, :N].tolist()
        expected += enumerated(rows)
        for t in range(T):
            for n in range(N):
                step = 1e-2 * (rows[t][n] + SMALLEST)
                above, below = ([list(row) for row in rows] for _ in range(2))
                above[t][n] += step
                below[t][n] -= step
                derivative = (enumerated(above) - enumerated(below)) / (2 * step)
                found = float(attention.grad[b, t, n])
                assert found == pytest.approx(derivative, rel=1e-2, abs=1e-2), (b, t, n)
        assert not attention.grad[b, T:].any()
    assert value(loss) == pytest.approx(expected, rel=1e-4)


def test_order_with_fewer_frames_than_tokens_counts_nothing(generator: torch.Generator) -> None:
    counts, sizes = [3, 5], [4, 2]
    attention = draw_attention(generator, counts, sizes).requires_grad_()
    loss = forward_sum(attention, torch.tensor(sizes), torch.tensor(counts))
    rest = enumerated(attention.detach()[1, :, :2].tolist())
    assert value(loss) == pytest.approx(rest, rel=1e-4)
    loss.backward()
    assert not attention.grad[0].any()
    assert attention.grad[1, :, :2].any()
    assert attention.grad.isfinite().all()
    alone = attention[:1, :3].detach().requires_grad_()
    loss = forward_sum(alone, torch.tensor([4]), torch.tensor([3]))
    loss.backward()
    assert value(loss) == 0.0
    assert not alone.grad.any()


def test_order_of_the_perfect_and_of_the_impossible() -> None:
    """Attention of exactly 0 and 1 costs little where it reads on, much where it skips, and its
    gradient is finite."""
    steady = torch.eye(5).repeat_interleave(3, 0)[None]
    skipping = steady.clone()
    skipping[:, 6:9] = torch.eye(5)[1]
    backwards = steady.flip(2)
    found = []
    for attention in (steady, skipping, backwards):
        attention = attention.clone().requires_grad_()
        loss = forward_sum(attention, torch.tensor([5]), torch.tensor([15]))
        loss.backward()
        assert attention.grad.isfinite().all()
        found.append(value(loss))
    assert found[0] < 15 * math.log1p(math.exp(BLANK)) + 1e-3
    assert found[1] > found[0] + 10
    assert found[2] > found[1] + 10


def test_order_hardly_minds_when_what_is_read() -> None:
    """Early or late, evenly or not, unlike the guided attention."""
    durations = torch.tensor([[3, 3, 3, 3], [6, 1, 1, 4], [1, 1, 1, 9]])
    lengths = torch.tensor([4]), torch.tensor([12])
    order, guide = [], []
    for duration in durations:
        attention = torch.eye(4).repeat_interleave(duration, 0)[None]
        order.append(value(forward_sum(attention, *lengths)))
        guide.append(value(guided_attention(attention, *lengths, 0.3)))
    assert max(order) < 0.2
    assert guide[0] + 1 < guide[1] < guide[2]


def test_attention_on_a_path(generator: torch.Generator) -> None:
    attention, path = draw_attention(generator).requires_grad_(), draw_path(generator)
    expected, gradient = 0.0, torch.zeros(B, T, N)
    for b, t in real:
        n = int(path[b, t])
        weight = float(attention.detach()[b, t, n]) + SMALLEST
        expected -= math.log(weight)
        gradient[b, t, n] = -1 / weight
    loss = path_attention(attention, path)
    assert value(loss) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(attention.grad, gradient)


def test_attention_where_nothing_is_on_the_path() -> None:
    attention = torch.zeros(1, 2, 2, requires_grad=True)
    loss = path_attention(attention, torch.tensor([[1, -1]]))
    assert value(loss) == pytest.approx(-math.log(SMALLEST), rel=1e-6)
    loss.backward()
    assert attention.grad.isfinite().all()
    assert not attention.grad[0, 1].any()


# All of them


TERMS = ["mel", "mel_before_postnet", "mel_absolute", "gate", "guide", "order"]


@pytest.mark.parametrize("with_path", [False, True])
def test_terms_are_what_they_are_called(generator: torch.Generator, with_path: bool) -> None:
    """The guide is the path where there is one, else the diagonal."""
    output, mel = draw_output(generator)
    path = draw_path(generator) if with_path else None
    terms = teacher_losses(output, mel, token_lengths, end_weight=7.0, guide_width=0.2, path=path)
    expected = {
        "mel": mel_squared(output.mel, mel, frames),
        "mel_before_postnet": mel_squared(output.mel_before_postnet, mel, frames),
        "mel_absolute": mel_absolute(output.mel, mel, frames),
        "gate": gate(output.gate_logits, frames, 7.0),
        "guide": guided_attention(output.attention, token_lengths, frames, 0.2)
        if path is None
        else path_attention(output.attention, path),
        "order": forward_sum(output.attention, token_lengths, frames),
    }
    assert list(terms) == list(expected) == TERMS
    for name, theirs in expected.items():
        assert torch.equal(terms[name], theirs), name
    assert len({value(term) for term in terms.values()}) == len(TERMS)


@pytest.mark.parametrize("with_path", [False, True])
def test_a_batch_is_the_sum_of_its_utterances(generator: torch.Generator, with_path: bool) -> None:
    output, mel = draw_output(generator)
    path = draw_path(generator) if with_path else None
    options = {"end_weight": 5.0, "guide_width": 0.3}
    together = teacher_losses(output, mel, token_lengths, path=path, **options)
    total = dict.fromkeys(TERMS, 0.0)
    for b in range(B):
        t = FRAMES[b]
        alone = teacher_losses(
            one_of(output, b),
            mel[b : b + 1, :t],
            token_lengths[b : b + 1],
            path=None if path is None else path[b : b + 1, :t],
            **options,
        )
        for name, term in alone.items():
            total[name] += value(term)
    for name, term in together.items():
        assert value(term) == pytest.approx(total[name], rel=1e-5), name


def test_terms_of_half_precision_are_sums_in_single(generator: torch.Generator) -> None:
    output, mel = draw_output(generator)
    low = TeacherOutput(
        mel=output.mel.bfloat16(),
        mel_before_postnet=output.mel_before_postnet.bfloat16(),
        gate_logits=output.gate_logits.bfloat16(),
        attention=output.attention.bfloat16(),
        memory=output.memory,
        frames=output.frames,
        stopped=output.stopped,
    )
    path = draw_path(generator)
    options = {"end_weight": 5.0, "guide_width": 0.3, "path": path}
    exact = teacher_losses(output, mel, token_lengths, **options)  # type: ignore[arg-type]
    for name, term in teacher_losses(low, mel, token_lengths, **options).items():  # type: ignore[arg-type]
        assert value(term) == pytest.approx(value(exact[name]), rel=0.02), name


@pytest.mark.parametrize("with_path", [False, True])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_garbage_beyond_an_utterance_reaches_no_weight(garbage: float, with_path: bool) -> None:
    """Through the whole model: neither the terms nor the gradients know what lies there."""
    generator = torch.Generator().manual_seed(0)
    found = []
    counts, sizes = torch.tensor([12, 20, 3]), torch.tensor([9, 4, 6])  # the last: too short
    clean_mel = torch.randn(3, 20, 80, generator=generator)
    clean_tokens = torch.randint(1, 148, (3, 9), generator=generator)
    outside = ~within(counts, 20)[:, :, None]
    spoiled = [clean_mel.masked_fill(outside, garbage), clean_tokens.clone()]
    spoiled[1][~within(sizes, 9)] = 999_999
    path = torch.where(within(counts, 20), 0, -1) if with_path else None
    for mel, tokens in ((clean_mel.masked_fill(outside, 0.0), clean_tokens), spoiled):
        model = draw_tacotron2()
        output = model(tokens, sizes, mel, counts, prenet_dropout=0, padding_leaks=False)
        terms = teacher_losses(output, mel, sizes, end_weight=5.0, guide_width=0.3, path=path)
        sum(terms.values()).backward()  # type: ignore[union-attr]
        found.append((terms, {name: p.grad for name, p in model.named_parameters()}))
    for name, term in found[0][0].items():
        assert math.isfinite(value(term))
        assert torch.equal(term, found[1][0][name]), name
    for name, grad in found[0][1].items():
        assert grad is not None
        assert grad.isfinite().all(), name
        assert grad.any(), name
        assert torch.equal(grad, found[1][1][name]), name
