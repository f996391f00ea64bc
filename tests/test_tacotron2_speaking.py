"""Continuous batching: what an utterance becomes is what it becomes alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from lightspeech.text import encode
from tacotron2 import Request, Spoken, Tacotron2, TeacherOutput, load_tacotron2, packed
from tacotron2.load import BUNDLED, PRETRAINED
from tacotron2.packed import PackedLinear, falling_sigmoid_, round_up
from tacotron2.slots import LOOKING, Slots
from tests.tacotron2_recipe import draw_tacotron2

GATE = -0.3  # of the bias; ends some within their limits
LENGTHS = [1, 60, 17, 2, 33, 16, 48, 5, 60, 29, 1, 40]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def teacher() -> Tacotron2:
    """Small; most of its utterances end by themselves, between 1 frame and some forty."""
    model = draw_tacotron2()
    with torch.no_grad():
        model.decoder.gate_layer.linear_layer.bias.fill_(GATE)
    return model


@lru_cache(maxsize=1)
def utterances() -> list[Request]:
    """Of mixed lengths, seeds and limits; the tag is the place in this list."""
    generator = torch.Generator().manual_seed(3)
    return [
        Request(
            torch.randint(1, 148, (length,), generator=generator),
            seed=100 + i,
            max_frames=(7, 45, 70, 1)[i % 4],
            tag=i,
        )
        for i, length in enumerate(LENGTHS)
    ]


def alone(model: Tacotron2, request: Request, **options: float) -> TeacherOutput:
    N = len(request.tokens)
    return model.infer(
        request.tokens[None],
        torch.tensor([N]),
        seeds=[request.seed],
        max_frames=request.max_frames,
        **options,  # type: ignore[arg-type]
    )


@lru_cache(maxsize=1)
def expected() -> list[TeacherOutput]:
    return [alone(teacher(), request) for request in utterances()]


def speak_all(
    model: Tacotron2, requests: Sequence[Request], slots: int, **options: float
) -> list[Spoken]:
    waiting = iter(requests)
    return list(model.speak(lambda: next(waiting, None), slots=slots, **options))  # type: ignore[arg-type]


def assert_same(spoken: Spoken, output: TeacherOutput) -> None:
    assert spoken.frames == int(output.frames[0]) == len(spoken.mel)
    assert spoken.stopped == bool(output.stopped[0])
    for name in ("mel", "mel_before_postnet", "gate_logits", "attention", "memory"):
        ours, theirs = getattr(spoken, name), getattr(output, name)[0]
        assert ours.shape == theirs.shape, name
        assert (ours - theirs).abs().max() <= 1e-6, name


def test_the_utterances_are_a_fair_sample() -> None:
    frames = [int(output.frames[0]) for output in expected()]
    stopped = [bool(output.stopped[0]) for output in expected()]
    assert len(set(frames)) > 5
    assert True in stopped
    assert False in stopped


@pytest.mark.parametrize("slots", [1, 2, 7, 9, 64])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_each_is_what_it_is_alone(slots: int, order: int) -> None:
    requests = utterances()[:]
    random.Random(order).shuffle(requests)
    spoken = speak_all(teacher(), requests, slots)
    assert sorted(one.request.tag for one in spoken) == list(range(len(LENGTHS)))
    for one in spoken:
        assert_same(one, expected()[one.request.tag])


def test_none_is_longer_than_its_limit_and_those_that_are_cut_are_as_long() -> None:
    for spoken in speak_all(teacher(), utterances(), 7):
        assert spoken.frames <= spoken.request.max_frames
        assert spoken.stopped or spoken.frames == spoken.request.max_frames


def test_a_longer_one_may_join_those_that_are_being_spoken() -> None:
    lengths_and_limits = ((5, 20), (4, 3), (60, 9))  # the last takes the second one's place
    requests = [
        Request(torch.arange(1, length + 1), seed, limit)
        for seed, (length, limit) in enumerate(lengths_and_limits)
    ]
    for spoken in speak_all(teacher(), requests, 2, gate_threshold=1.0):
        assert_same(spoken, alone(teacher(), spoken.request, gate_threshold=1.0))


@pytest.mark.parametrize("slots", [3, 5, 11])
def test_each_is_what_it_is_alone_with_two_threads(two_threads: None, slots: int) -> None:
    # Two threads share the rows of a product, and each may have a remainder of few rows.
    for one in speak_all(teacher(), utterances(), slots):
        assert_same(one, alone(teacher(), one.request))


def test_each_is_what_it_is_alone_without_packed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_HAS_PACKING", False)
    for one in speak_all(teacher(), utterances(), 7):
        assert_same(one, alone(teacher(), one.request))


def test_the_bundled_teacher_is_the_same_for_hundreds_of_frames() -> None:
    # Free running amplifies: one rounding in a product of other shape has changed durations.
    model = load_tacotron2(PRETRAINED / BUNDLED)
    lines = (Path(__file__).parent.parent / "data" / "heldout.txt").read_text().splitlines()
    requests = [
        Request(torch.tensor(encode(line)), seed=i, max_frames=1000, tag=i)
        for i, line in enumerate(lines[:7])
    ]
    spoken = speak_all(model, requests, 5)
    assert max(one.frames for one in spoken) > 300
    for one in spoken:
        assert_same(one, alone(model, one.request))


def test_nothing_is_computed_for_those_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, steps = [], []
    step = Slots.step

    def counted(self: Slots, busy: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        computed.append(busy)
        return step(self, busy, longest)

    monkeypatch.setattr(Slots, "step", counted)
    waiting = iter(utterances())
    spoken = list(
        teacher().speak(
            lambda: next(waiting, None),
            slots=3,
            on_frame=lambda number, going_on: steps.append((number, going_on)),
        )
    )
    assert sum(computed) == sum(one.frames for one in spoken)
    assert [number for number, _ in steps] == list(range(1, len(computed) + 1))
    # A slot is free only when nothing is waiting.
    first_gap = next(i for i, busy in enumerate(computed) if busy < 3)
    assert computed[first_gap:] == sorted(computed[first_gap:], reverse=True)
    for (_, going_on), busy in zip(steps, computed[1:], strict=False):
        assert going_on <= busy
    assert steps[-1][1] == 0


def test_asks_again_after_an_utterance_when_there_was_nothing() -> None:
    requests = utterances()
    waiting: list[Request] = [requests[1], requests[4]]
    asked: list[int] = []
    done: list[int] = []

    def take() -> Request | None:
        asked.append(len(done))
        return waiting.pop(0) if waiting else None

    for one in teacher().speak(take, slots=4):
        assert_same(one, expected()[one.request.tag])
        done.append(one.request.tag)
        if len(done) <= 3:  # what failed is tried again
            waiting.append(requests[5 + len(done)])
    assert done[:2] in ([1, 4], [4, 1])
    assert sorted(done) == [1, 4, 6, 7, 8]
    assert asked[:3] == [0, 0, 0]
    assert asked.count(1) <= 2


def test_nothing_to_say() -> None:
    assert speak_all(teacher(), [], 3) == []


def test_an_utterance_that_ends_with_its_first_frame() -> None:
    spoken = speak_all(teacher(), utterances()[:5], 2, gate_threshold=0.0)
    assert [(one.frames, one.stopped) for one in spoken] == [(1, True)] * 5
    for one in spoken:
        assert_same(one, alone(teacher(), one.request, gate_threshold=0.0))


def test_without_dropout_the_seed_does_not_matter() -> None:
    tokens = utterances()[1].tokens
    requests = [Request(tokens, seed, 20) for seed in (1, 2)]
    first, second = speak_all(teacher(), requests, 2, prenet_dropout=0.0)
    assert torch.equal(first.mel, second.mel)


def test_in_double_precision() -> None:
    model = copy.deepcopy(teacher()).double()
    for one in speak_all(model, utterances()[:6], 4):
        assert one.mel.dtype == torch.float64
        output = alone(model, one.request)
        torch.testing.assert_close(one.mel, output.mel[0], rtol=0, atol=1e-10)


def test_gives_ordinary_tensors() -> None:
    (one,) = speak_all(teacher(), [Request(torch.tensor([5, 6]), 1, 3)], 1)
    for tensor in (one.mel, one.mel_before_postnet, one.gate_logits, one.attention, one.memory):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        assert tensor.is_contiguous()


def test_a_consumer_may_compute_gradients_between_utterances() -> None:
    for one in teacher().speak(iter([*utterances()[:2], None]).__next__, slots=1):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert one.frames


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(1, 3, dtype=torch.int64)}, r"expected tokens \(N,\).*got \(1, 3\)"),
        ({"tokens": torch.zeros(0, dtype=torch.int64)}, r"at least 1, got \(0,\)"),
        ({"tokens": torch.ones(3)}, "of int64, at least 1, got .* torch.float32"),
        ({"tokens": torch.tensor([1, 148])}, "symbol ids must be 0 to 147, got 1 to 148"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"max_frames": 0}, "max_frames must be at least 1, not 0"),
    ],
)
def test_refuses_requests_that_make_no_sense(change: dict[str, object], message: str) -> None:
    values = {"tokens": torch.tensor([1, 2]), "seed": 1, "max_frames": 5, **change}
    with pytest.raises(ValueError, match=message):
        speak_all(teacher(), [Request(**values)], 2)  # type: ignore[arg-type]


def test_refuses_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="slots must be at least 1, not 0"):
        teacher().speak(lambda: None, slots=0)
    with pytest.raises(ValueError, match="gate_threshold must be 0 to 1, not 2"):
        teacher().speak(lambda: None, gate_threshold=2)
    with pytest.raises(ValueError, match="prenet_dropout must be"):
        teacher().speak(lambda: None, prenet_dropout=1)
    with pytest.raises(ValueError, match="training mode"):
        copy.deepcopy(teacher()).train().speak(lambda: None)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("shape", [(96, 160), (62, 128), (160, 81)])
def test_a_row_of_a_product_does_not_depend_on_the_others(
    monkeypatch: pytest.MonkeyPatch, packing: bool, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(packed, "_HAS_PACKING", packed._HAS_PACKING and packing)
    torch.manual_seed(0)
    size_in, size_out = shape
    weight, bias, x = (
        torch.randn(size_out, size_in),
        torch.randn(size_out),
        torch.randn(80, size_in),
    )
    linear = PackedLinear(weight, bias)
    together = linear(x)
    torch.testing.assert_close(together, x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    for rows in range(packed.ROWS, 80, packed.ROWS):
        assert torch.equal(linear(x[:rows].clone()), together[:rows])
        assert torch.equal(linear(x[-rows:].clone()), together[-rows:])


def test_the_falling_sigmoid() -> None:
    x = torch.tensor([-1e4, -80.0, -1.0, 0.0, 0.3, 20.0, 1e4])
    exact = torch.sigmoid(-x.double())
    torch.testing.assert_close(falling_sigmoid_(x.clone()).double(), exact, rtol=1e-6, atol=1e-7)
    many = torch.randn(1003)
    together = falling_sigmoid_(many.clone())
    assert all(torch.equal(falling_sigmoid_(many[:n].clone()), together[:n]) for n in range(1, 70))


def test_more_utterances_than_are_looked_for_together() -> None:
    assert len(LENGTHS) > LOOKING  # so that 64 slots above take two turns
    assert [round_up(n, 4) for n in (1, 4, 5)] == [4, 4, 8]
