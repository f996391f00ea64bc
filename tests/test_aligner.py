"""The aligner: it finds planted boundaries, pads without harm, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightspeech.dataset.features import Example
from lightspeech.errors import InputError
from lightspeech.teacher import aligning
from lightspeech.teacher.aligner import Aligner, alignment_loss, best_durations, log_prior
from lightspeech.teacher.aligning import ALIGNER_FILE, ALIGNMENT_FILE, align, steps_for
from tacotron2.losses import forward_sum

SYMBOLS = 26


class Planted:
    """Stands in for Features: each symbol has a spectrum of its own, and lasts 2 to 9 frames."""

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        spectra = torch.randn(SYMBOLS, 80, generator=generator) * 2 - 5
        self.examples, self.planted = [], []
        for i in range(count):
            N = int(torch.randint(8, 31, (1,), generator=generator))
            tokens = torch.randint(SYMBOLS, (N,), generator=generator) + 38
            # Twice the same in a row has no boundary that anybody could find.
            while (tokens[1:] == tokens[:-1]).any():
                tokens = torch.randint(SYMBOLS, (N,), generator=generator) + 38
            durations = torch.randint(2, 10, (N,), generator=generator)
            mel = spectra[(tokens - 38).repeat_interleave(durations)]
            mel = mel + 0.3 * torch.randn(mel.shape, generator=generator)
            self.examples.append(Example(f"u{i}", tokens, mel))
            self.planted.append(durations.numpy())
        self.ids = [example.id for example in self.examples]
        self.digest = f"planted-{seed}"

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Example:
        return self.examples[i]

    @property
    def frames(self) -> list[int]:
        return [len(example.mel) for example in self.examples]

    @property
    def token_counts(self) -> list[int]:
        return [len(example.tokens) for example in self.examples]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligning, "FEWEST_STEPS", 60)
    monkeypatch.setattr(aligning, "SAVE_EVERY", 20)
    monkeypatch.setattr("lightspeech.teacher.aligner.SIZE", 16)


def boundary_errors(found: list[np.ndarray], planted: list[np.ndarray]) -> np.ndarray:
    """Frames between each boundary found and the one that was planted."""
    return np.concatenate(
        [
            np.abs(np.cumsum(ours) - np.cumsum(theirs))[:-1]
            for ours, theirs in zip(found, planted, strict=True)
        ]
    )


def note_step(steps: list[int], done: int, total: int, loss: float) -> None:
    steps.append(done)


def stopping_at(step: int) -> Callable[[int, int, float], None]:
    def on_step(done: int, total: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def test_planted_boundaries_are_found_stored_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aligning, "FRAMES_PER_STEP", 4_000)
    monkeypatch.setattr(aligning, "_PLAN", replace(aligning._PLAN, frames_per_step=4_000))
    monkeypatch.setattr("lightspeech.teacher.aligner.SIZE", 128)
    features = Planted(300)
    count = steps_for(sum(features.frames))
    assert 60 < count < 100
    random = torch.get_rng_state()
    steps: list[int] = []
    found = align(tmp_path, features, partial(note_step, steps))  # type: ignore[arg-type]
    assert steps == list(range(1, count + 1))
    assert torch.equal(torch.get_rng_state(), random)
    errors = boundary_errors(found, features.planted)
    straight = [np.diff(np.linspace(0, d.sum(), len(d) + 1).round()) for d in features.planted]
    assert errors.mean() < 2
    assert errors.mean() < boundary_errors(straight, features.planted).mean() / 2
    assert (tmp_path / ALIGNMENT_FILE).is_file()
    assert not (tmp_path / ALIGNER_FILE).exists()

    def never(*_: object) -> Aligner:
        raise AssertionError("it is known already")

    monkeypatch.setattr(aligning, "train_aligner", never)
    for ours, again in zip(found, align(tmp_path, features), strict=True):  # type: ignore[arg-type]
        assert ours.tolist() == again.tolist()


@pytest.mark.parametrize("harm", ["other recordings", "cut short", "not there"])
def test_what_does_not_fit_is_made_anew(harm: str, tmp_path: Path) -> None:
    features = Planted(6)
    align(tmp_path, features)  # type: ignore[arg-type]
    path = tmp_path / ALIGNMENT_FILE
    if harm == "cut short":
        path.write_bytes(path.read_bytes()[:-7])
    elif harm == "not there":
        path.unlink()
    else:
        features = Planted(6, seed=1)
    steps: list[int] = []
    found = align(tmp_path, features, partial(note_step, steps))  # type: ignore[arg-type]
    assert len(steps) == 60
    assert [int(d.sum()) for d in found] == features.frames


@pytest.mark.parametrize("stop", [7, 20, 47])
def test_goes_on_where_it_was_stopped(stop: int, tmp_path: Path) -> None:
    features = Planted(12)
    whole = align(tmp_path / "..", features)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        align(tmp_path, features, stopping_at(stop))  # type: ignore[arg-type]
    assert (tmp_path / ALIGNER_FILE).is_file() == (stop >= 20)
    steps: list[int] = []
    found = align(tmp_path, features, partial(note_step, steps))  # type: ignore[arg-type]
    assert steps[0] == stop // 20 * 20 + 1
    assert [d.tolist() for d in found] == [d.tolist() for d in whole]


def test_a_state_that_is_damaged_or_of_other_recordings_is_not_used(tmp_path: Path) -> None:
    for harm in (b"nonsense", None):
        with pytest.raises(KeyboardInterrupt):
            align(tmp_path, Planted(6), stopping_at(30))  # type: ignore[arg-type]
        if harm:
            (tmp_path / ALIGNER_FILE).write_bytes(harm)
        steps: list[int] = []
        features = Planted(6, seed=0 if harm else 2)
        align(tmp_path, features, partial(note_step, steps))  # type: ignore[arg-type]
        assert steps[0] == 1
        (tmp_path / ALIGNMENT_FILE).unlink()


def test_fewer_frames_than_symbols_have_no_path(tmp_path: Path) -> None:
    features = Planted(5)
    short = features.examples[2]
    features.examples[2] = Example(short.id, short.tokens, short.mel[:3])
    found = align(tmp_path, features)  # type: ignore[arg-type]
    assert [len(d) for d in found] == [
        0 if i == 2 else len(example.tokens) for i, example in enumerate(features.examples)
    ]
    features.examples = features.examples[2:3]
    with pytest.raises(InputError, match="no utterance has at most 1000 frames, and no fewer"):
        align(tmp_path, features)  # type: ignore[arg-type]


def batch_of(features: Planted) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = torch.nn.utils.rnn.pad_sequence([e.tokens for e in features.examples], True)
    mel = torch.nn.utils.rnn.pad_sequence([e.mel for e in features.examples], True)
    return tokens, torch.tensor(features.token_counts), mel, torch.tensor(features.frames)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    aligner, features = Aligner().eval(), Planted(4)
    tokens, token_lengths, mel, frames = batch_of(features)
    for i in range(4):
        mel[i, frames[i] :] = 1e3
        tokens[i, token_lengths[i] :] = 99
    logs = aligner(tokens, token_lengths, mel, frames)
    for i, example in enumerate(features.examples):
        T, N = len(example.mel), len(example.tokens)
        alone = aligner(
            example.tokens[None], torch.tensor([N]), example.mel[None], torch.tensor([T])
        )
        torch.testing.assert_close(logs[i, :T, :N], alone[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logs[i, :T].exp().sum(1), torch.ones(T))
        durations = best_durations(logs.detach(), token_lengths, frames)[i]
        assert durations.sum() == T
        assert durations.min() >= 1


def test_the_loss_is_the_sum_over_paths_a_frame() -> None:
    torch.manual_seed(0)
    token_lengths, frames = torch.tensor([3, 2]), torch.tensor([6, 4])
    logs = torch.randn(2, 6, 3).masked_fill(torch.tensor([[[0, 0, 0]], [[0, 0, 1]]]).bool(), -1e4)
    logs = logs.log_softmax(2).requires_grad_()
    loss = alignment_loss(logs, token_lengths, frames)
    # The same by the teacher's loss, whose blank weighs less: with its weight they are equal.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tacotron2.losses.BLANK", -1.0)
        patch.setattr("tacotron2.losses.SMALLEST", 0.0)
        expected = forward_sum(logs.detach().exp().clamp(min=1e-38), token_lengths, frames) / 10
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert logs.grad is not None
    assert bool(logs.grad.isfinite().all())
    assert not logs.grad[1, 4:].any()


def test_the_prior_is_a_broad_diagonal() -> None:
    prior = log_prior(torch.tensor([5, 10]), torch.tensor([20, 10]), 20, 10)
    assert prior.shape == (2, 20, 10)
    assert prior[0, :, :5].argmax(1).tolist() == [t // 4 for t in range(20)]
    assert prior[1, :10].argmax(1).tolist() == list(range(10))
    assert float(prior.max()) <= 0
    # One standard deviation, 0.15 of the text, off the diagonal.
    assert float(log_prior(torch.tensor([100]), torch.tensor([100]), 100, 100)[0, 50, 65]) == (
        pytest.approx(-0.5)
    )


def test_small_datasets_take_fewer_steps() -> None:
    assert steps_for(10**8) == 500
    assert steps_for(24_000 * 10) == 200  # ten epochs of 12,000 frames a step
    assert steps_for(1) == 60
