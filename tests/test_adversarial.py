"""The critic: whose gradient each term is, where patches lie, and that it can tell mels apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightspeech.adversarial import PATCH_FRAMES, AdversarialLoss, _patches
from lightspeech.audio import N_MELS
from lightspeech.checkpoint import load_voice
from lightspeech.config import Config
from lightspeech.data import validation_batches
from lightspeech.distillation import Distillation, validate
from lightspeech.errors import InputError
from lightspeech.run_folder import open_run, read_history
from lightspeech.store import LabelStore
from lightspeech.training import Training
from lightspeech.training_state import load_state
from tests.synthetic_store import make_store, tiny_config
from tests.test_training import plan_validations, stop_in_step, train


def mels(B: int, T: int, seed: int) -> Tensor:
    return torch.randn(B, T, N_MELS, generator=torch.Generator().manual_seed(seed)) * 2 - 5


@pytest.mark.parametrize(
    ("term", "learner"),
    [("critic", "critic"), ("adversarial", "student"), ("features", "student")],
)
def test_each_term_teaches_one_side_only(term: str, learner: str) -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss()
    spoken = mels(2, 40, 1).requires_grad_()
    loss(spoken, mels(2, 40, 2), torch.tensor([40, 33]))[term].backward()
    of_critic = [p.grad for p in loss.parameters() if p.grad is not None]
    assert (spoken.grad is not None and bool(spoken.grad.any())) == (learner == "student")
    assert (bool(of_critic) and all(bool(g.any()) for g in of_critic)) == (learner == "critic")


def test_patches_lie_within_each_utterance_and_reach_both_ends() -> None:
    torch.manual_seed(0)
    frames = torch.tensor([PATCH_FRAMES + 2, PATCH_FRAMES, 400])
    starts = set()
    for _ in range(200):
        found = _patches(frames)
        assert found.shape == (3, PATCH_FRAMES)
        assert bool((found.diff() == 1).all())
        assert bool((found >= 0).all() and (found < frames.unsqueeze(1)).all())
        starts.add(int(found[0, 0]))
    assert starts == {0, 1, 2}
    assert _patches(torch.tensor([5, 300])).shape == (2, 5)


def test_the_terms_of_a_batch_are_the_sums_of_its_utterances() -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss().double()
    spoken, real = mels(3, PATCH_FRAMES, 1).double(), mels(3, PATCH_FRAMES, 2).double()
    frames = torch.full((3,), PATCH_FRAMES)  # one patch is all there is
    together = loss(spoken, real, frames)
    alone = [loss(spoken[i : i + 1], real[i : i + 1], frames[:1]) for i in range(3)]
    for name, value in together.items():
        torch.testing.assert_close(value, sum((terms[name] for terms in alone), torch.tensor(0.0)))


def test_smooth_mels_are_told_from_sharp_ones_and_the_student_is_shown_the_way() -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss()
    adam = torch.optim.Adam(loss.parameters(), lr=2e-3)
    frames = torch.full((4,), 40)
    for step in range(60):
        real = mels(4, 40, step)
        smooth = real.unfold(1, 5, 1).mean(3)
        smooth = torch.nn.functional.pad(smooth, (0, 0, 2, 2), value=-5.0)
        terms = loss(smooth, mels(4, 40, 1000 + step), frames)
        adam.zero_grad()
        terms["critic"].backward()
        adam.step()
    assert terms["critic"].item() / 4 < 0.2  # 0.5 is what guessing gives
    sharp = loss(mels(4, 40, 5000), mels(4, 40, 5001), frames)
    assert sharp["adversarial"].item() < 0.3 * terms["adversarial"].item()


# In a training


def with_critic(**training: int | float) -> Config:
    settings = {"adversarial_weight": 0.1, "features_weight": 0.2, "adversarial_start": 0.5}
    config = tiny_config(**{**settings, **training})
    refined = replace(config.model, refiner_blocks=1, refiner_size=8, refiner_hidden=8)
    return replace(config, model=refined)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return make_store(tmp_path_factory.mktemp("labels") / "store")


def test_the_critic_comes_in_at_its_step_and_is_no_part_of_the_voice(
    store: LabelStore, tmp_path: Path
) -> None:
    result = train(store, tmp_path / "run", with_critic(steps=12))
    terms = ("critic", "adversarial", "features")
    for line in read_history(tmp_path / "run"):
        assert all((name in line) == (line["step"] > 6) for name in terms), line
    student, facts = load_voice(tmp_path / "run")
    assert not any("critic" in name for name in student.state_dict())
    assert student.refiner is not None
    assert facts["step"] == result.best_step > 6
    validation = facts["validation"]
    assert "critic" not in validation
    assert 0 < validation["variance_ratio"] < 2


def test_the_voice_is_the_best_of_those_that_listened_to_the_critic(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_validations(monkeypatch, {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5, 10: 2.2, 12: 2.3})
    for steps, best in ((6, 4), (8, 8), (12, 10)):  # sittings: the rule outlives each of them
        config = with_critic(steps=steps, validate_every=2, adversarial_start=6 / steps - 1e-3)
        assert train(store, tmp_path / "run", config, resume=steps > 6).best_step == best
        assert load_voice(tmp_path / "run")[1]["step"] == best


def test_what_the_critic_says_is_weighed(store: LabelStore, tmp_path: Path) -> None:
    train(store, tmp_path / "run", with_critic(steps=12))
    for line in read_history(tmp_path / "run")[6:]:
        own = line["mel_squared"] + line["duration"] + line["memory"]
        said = line["critic"] + 0.1 * line["adversarial"] + 0.2 * line["features"]
        assert line["loss"] == pytest.approx(own + said, rel=1e-5)


def test_a_run_with_a_critic_goes_on_as_if_never_stopped(store: LabelStore, tmp_path: Path) -> None:
    config = with_critic(steps=12, ema_decay=0.9)
    train(store, tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 9)
        assert train(store, tmp_path / "parts", config).step == 9
    train(store, tmp_path / "parts", config, resume=True)
    ours, theirs = (load_state(tmp_path / name)[0].tensors for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert any("critic" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_settings_that_need_a_critic_or_cannot_go_with_one() -> None:
    with pytest.raises(InputError, match=r"features_weight must be 0 without a critic"):
        with_critic(adversarial_weight=0.0)
    with pytest.raises(InputError, match=r"patience must be 0 with a critic"):
        with_critic(patience=3)


def test_the_variance_ratio_is_that_of_the_movement(store: LabelStore) -> None:
    module = Distillation(tiny_config(), store.memory_size).eval()
    batches = list(validation_batches(store, [0, 1, 2], 2))
    own = theirs = 0.0
    for i in range(3):
        label = store[i]
        with torch.no_grad():
            output = module.student(
                label.tokens[None].long(),
                torch.tensor([len(label.tokens)]),
                label.durations[None].long(),
            )
        own += float(output.mel[0].var(0, unbiased=False).sum()) * len(label.mel)
        theirs += float(label.mel.float().var(0, unbiased=False).sum()) * len(label.mel)
    found = validate(module, iter(batches), torch.device("cpu"))
    assert found["variance_ratio"] == pytest.approx(own / theirs, rel=1e-4)


def test_the_critic_learns_at_its_share_of_the_rate(store: LabelStore, tmp_path: Path) -> None:
    config = with_critic(steps=8, critic_rate=0.25)
    with open_run(tmp_path / "run", False, load_state) as run:
        training = Training(store, run, config)
        training.run()
    ours, of_critic = training.adam.param_groups
    names = {id(parameter): name for name, parameter in training.module.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in ours["params"]} == {"student", "loss"}
    assert {names[id(p)].split(".")[0] for p in of_critic["params"]} == {"adversarial"}
    assert of_critic["lr"] == pytest.approx(0.25 * ours["lr"])
    assert sum(len(group["params"]) for group in training.adam.param_groups) == len(names)
