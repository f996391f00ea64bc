"""The losses against loops over utterances, and padding that must not count."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightspeech.config import TrainingConfig
from lightspeech.data import Whole
from lightspeech.losses import DistillationLoss
from lightspeech.model import TrainingOutput

TOKENS, FRAMES = [4, 2, 3], [9, 5, 12]
N, T, M, H = 4, 12, 5, 8
TERMS = ("mel_squared", "mel_absolute", "duration", "memory")
CONFIG = TrainingConfig(
    mel_squared_weight=1.0, mel_absolute_weight=0.5, duration_weight=0.25, memory_weight=2.0
)


def example(memory_size: int = H, padding: float = 0.0) -> tuple[TrainingOutput, Any]:
    """A student's output and a batch of three utterances, with `padding` beyond the targets."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    output = TrainingOutput(random(3, T, M), random(3, N).abs() * 5, random(3, N, H))
    padded_frames = torch.arange(T) >= torch.tensor(FRAMES).unsqueeze(1)
    padded_tokens = torch.arange(N) >= torch.tensor(TOKENS).unsqueeze(1)
    batch = SimpleNamespace(
        tokens=torch.ones(3, N, dtype=torch.long),
        token_lengths=torch.tensor(TOKENS),
        durations=torch.randint(0, 9, (3, N), generator=generator),
        mel=random(3, T, M).masked_fill(padded_frames.unsqueeze(2), padding),
        frames=torch.tensor(FRAMES),
        memory=random(3, N, memory_size).masked_fill(padded_tokens.unsqueeze(2), padding),
        whole=Whole(sum(FRAMES), sum(TOKENS), 3),
    )
    return output, batch


def utterance(
    output: TrainingOutput, batch: Any, i: int, whole: Whole
) -> tuple[TrainingOutput, Any]:
    """The output and batch of one utterance alone, as a share of `whole`."""
    n_tokens, n_frames = TOKENS[i], FRAMES[i]
    one = TrainingOutput(
        output.mel[i : i + 1, :n_frames],
        output.durations[i : i + 1, :n_tokens],
        output.memory[i : i + 1, :n_tokens],
    )
    target = SimpleNamespace(
        tokens=batch.tokens[i : i + 1, :n_tokens],
        token_lengths=batch.token_lengths[i : i + 1],
        durations=batch.durations[i : i + 1, :n_tokens],
        mel=batch.mel[i : i + 1, :n_frames],
        frames=batch.frames[i : i + 1],
        memory=batch.memory[i : i + 1, :n_tokens],
        whole=whole,
    )
    return one, target


def make_loss(memory_size: int = H, config: TrainingConfig = CONFIG) -> DistillationLoss:
    torch.manual_seed(1)
    return DistillationLoss(config, memory_size, projection_size=H).double()


def naive_terms(output: TrainingOutput, batch: Any, loss: DistillationLoss) -> dict[str, float]:
    """Each term summed up value by value, utterance by utterance."""
    sums = dict.fromkeys(TERMS, 0.0)
    counts = dict.fromkeys(TERMS, 0)
    for i, (n_tokens, n_frames) in enumerate(zip(TOKENS, FRAMES, strict=True)):
        for frame in range(n_frames):
            for bin_ in range(M):
                error = float(output.mel[i, frame, bin_] - batch.mel[i, frame, bin_])
                sums["mel_squared"] += error**2
                sums["mel_absolute"] += abs(error)
                counts["mel_squared"] += 1
                counts["mel_absolute"] += 1
        for token in range(n_tokens):
            sums["duration"] += abs(float(output.durations[i, token] - batch.durations[i, token]))
            counts["duration"] += 1
            memory = loss.memory_adapter(output.memory[i, token])
            for mine, theirs in zip(memory.tolist(), batch.memory[i, token].tolist(), strict=True):
                sums["memory"] += abs(mine - theirs)
                counts["memory"] += 1
    return {name: sums[name] / counts[name] for name in TERMS}


@pytest.mark.parametrize("memory_size", [H, 3])
def test_equals_a_loop(memory_size: int) -> None:
    output, batch = example(memory_size)
    loss = make_loss(memory_size)
    losses = loss(output, batch)
    expected = naive_terms(output, batch, loss)
    assert tuple(losses.terms) == TERMS
    for name in TERMS:
        assert float(losses.terms[name]) == pytest.approx(expected[name], rel=1e-12), name
    total = sum(
        weight * expected[name] for name, weight in zip(TERMS, (1, 0.5, 0.25, 2), strict=True)
    )
    assert float(losses.total.detach()) == pytest.approx(total, rel=1e-12)


def test_a_batch_is_the_weighted_mean_of_its_utterances() -> None:
    output, batch = example()
    loss = make_loss()
    together = loss(output, batch).terms
    alone = []
    for i, (n_tokens, n_frames) in enumerate(zip(TOKENS, FRAMES, strict=True)):
        one, target = utterance(output, batch, i, Whole(n_frames, n_tokens, 1))
        alone.append(loss(one, target).terms)
    for name in TERMS:
        weights = FRAMES if name.startswith("mel") else TOKENS
        mean = sum(w * float(terms[name]) for w, terms in zip(weights, alone, strict=True))
        assert float(together[name]) == pytest.approx(mean / sum(weights), rel=1e-12), name


def test_the_shares_of_a_whole_add_up_to_its_mean() -> None:
    """Losses and gradients of utterances one by one, as shares of all three."""
    whole_output, whole_batch = example(3)
    loss = make_loss(3)
    whole_output.mel.requires_grad_()
    whole = loss(whole_output, whole_batch)
    whole.total.backward()
    expected = [p.grad.clone() for p in loss.parameters() if p.grad is not None]
    loss.zero_grad()
    totals = dict.fromkeys(TERMS, 0.0)
    output, batch = example(3)
    output.mel.requires_grad_()
    for i in range(len(TOKENS)):
        one, target = utterance(output, batch, i, Whole(sum(FRAMES), sum(TOKENS), 3))
        share = loss(one, target)
        share.total.backward()
        for name in TERMS:
            totals[name] += float(share.terms[name])
    for name in TERMS:
        assert totals[name] == pytest.approx(float(whole.terms[name]), rel=1e-12), name
    assert output.mel.grad is not None
    torch.testing.assert_close(output.mel.grad, whole_output.mel.grad)
    for parameter, gradient in zip(loss.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("memory_size", [H, 3])
@pytest.mark.parametrize("padding", [1e9, float("nan"), float("inf")])
def test_padding_never_counts(padding: float, memory_size: int) -> None:
    results = []
    for filling in (0.0, padding):
        output, batch = example(memory_size, filling)
        # The student's own padding must not matter either.
        output.memory[1, TOKENS[1] :] = filling
        output.durations[1, TOKENS[1] :] = filling
        output.mel[1, FRAMES[1] :] = filling
        leaves = [output.mel, output.durations, output.memory]
        for leaf in leaves:
            leaf.requires_grad_()
        loss = make_loss(memory_size)
        losses = loss(output, batch)
        losses.total.backward()
        gradients = [leaf.grad for leaf in leaves] + [p.grad for p in loss.parameters()]
        results.append([losses.total.detach(), *losses.terms.values(), *gradients])
    assert len(results[0]) == (8 if memory_size == H else 10)
    for clean, filled in zip(*results, strict=True):
        assert torch.isfinite(filled).all()
        assert torch.equal(clean, filled)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_weight_zero_is_reported_and_costs_nothing(name: str) -> None:
    output, batch = example(3)
    expected = make_loss(3)(output, batch).terms
    weights: dict[str, Any] = {f"{name}_weight": 0.0}
    loss = make_loss(3, dataclasses.replace(CONFIG, **weights))
    if name == "memory":
        for parameter in loss.parameters():
            parameter.requires_grad_(False)
    leaves = {"mel": output.mel, "duration": output.durations, "memory": output.memory}
    for leaf in leaves.values():
        leaf.requires_grad_()
    losses = loss(output, batch)
    assert losses.terms == expected
    losses.total.backward()
    for key, leaf in leaves.items():
        assert (leaf.grad is None) == (key == name), key
    assert not any(term.requires_grad for term in losses.terms.values())


def test_the_gradient_is_that_of_the_weighted_terms() -> None:
    output, batch = example(3)
    output.memory.requires_grad_()
    output.durations.requires_grad_()
    loss = make_loss(3)
    loss(output, batch).total.backward()
    signs = torch.sign(output.durations.detach() - batch.durations) * 0.25 / sum(TOKENS)
    assert output.durations.grad is not None
    for i, n in enumerate(TOKENS):
        torch.testing.assert_close(output.durations.grad[i, :n], signs[i, :n])
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


def test_the_adapter_is_there_only_where_sizes_differ() -> None:
    assert not make_loss(H).state_dict()
    shapes = {name: tuple(v.shape) for name, v in make_loss(3).state_dict().items()}
    assert shapes == {"memory_adapter.weight": (3, H), "memory_adapter.bias": (3,)}


def test_mels_of_different_lengths_are_a_mistake_of_ours() -> None:
    output, batch = example()
    batch.mel = batch.mel[:, :-1]
    with pytest.raises(AssertionError):
        make_loss()(output, batch)
