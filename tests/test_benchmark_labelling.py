"""What the part labelling counts and compares."""

from __future__ import annotations

import pytest
import torch

from lightspeech.benchmark import __main__ as command
from lightspeech.benchmark import labelling
from lightspeech.benchmark.labelling import (
    FRAMES_A_TOKEN,
    LONGEST,
    SHORTEST,
    Machine,
    Work,
    drawn_teacher,
    measure,
    requests,
    speak_all,
)
from lightspeech.benchmark.rows import Row
from lightspeech.benchmark.settings import Settings
from tacotron2 import Request, Spoken, Tacotron2, Tacotron2Config
from tests.tacotron2_recipe import MINI, draw_weights
from tests.tiny_teacher import SIZES, tiny_teacher


def test_the_drawn_weights_are_those_of_the_recipe() -> None:
    expected = draw_weights(MINI)
    bias = "decoder.gate_layer.linear_layer.bias"
    for name, weight in drawn_teacher(MINI).state_dict().items():
        if name != bias:  # the recipe sets it by hand
            torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=0)


def test_the_texts_have_fixed_lengths() -> None:
    lengths = [len(request.tokens) for request in requests(9)]
    assert (lengths[0], lengths[-1]) == (LONGEST, SHORTEST)
    assert lengths == sorted(lengths, reverse=True)
    assert len({request.seed for request in requests(9)}) == 9
    for request in requests(9):
        assert request.max_frames == round(FRAMES_A_TOKEN * len(request.tokens))
    assert len(requests(1)) == 1


def test_the_gate_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[Spoken] = []
    original = Tacotron2.speak

    def watched(self: Tacotron2, *arguments: object, **options: object) -> object:
        for one in original(self, *arguments, **options):  # type: ignore[arg-type]
            spoken.append(one)
            yield one

    monkeypatch.setattr(Tacotron2, "speak", watched)
    texts = requests(4)
    speak_all(tiny_teacher(frames=3), texts, 2)
    assert sorted(one.frames for one in spoken) == sorted(text.max_frames for text in texts)
    assert not any(one.stopped for one in spoken)


@pytest.mark.parametrize("config", [MINI, SIZES, Tacotron2Config()])
def test_the_weights_are_all_counted_once(config: Tacotron2Config) -> None:
    with torch.device("meta"):
        model = Tacotron2(config)
    work = Work(config)

    def matrices(*names: str) -> int:
        return sum(
            p.numel()
            for name, p in model.named_parameters()
            if p.dim() >= 2 and any(name.startswith(start) for start in names)
        )

    memory_layer = matrices("decoder.attention_layer.memory_layer")
    looking = matrices("decoder.attention_layer.location_layer", "decoder.attention_layer.v")
    assert work.step == matrices("decoder.") - memory_layer - looking
    assert work.encoder == matrices("encoder.") + memory_layer
    assert work.postnet == matrices("postnet.")


def test_the_floor() -> None:
    work = Work(MINI)
    texts = [Request(torch.ones(10, dtype=torch.int64), 0, 50)] * 8
    inside = 400 * (work.step + 10 * work.look)
    outside = 80 * work.encoder + 400 * work.postnet
    assert work.of(texts) == inside + outside
    # Much bandwidth: the multiply-adds decide, whatever the slots.
    quick = Machine(rate=1e9, bandwidth=1e15)
    assert work.floor(texts, 1, quick) == pytest.approx((inside + outside) / 1e9)
    assert work.floor(texts, 8, quick) == work.floor(texts, 1, quick)
    # Little: the weights are read 400 times for one slot and 50 times for eight.
    slow = Machine(rate=1e15, bandwidth=1e6)
    assert work.floor(texts, 1, slow) == pytest.approx(400 * work.step / 1e6, rel=1e-3)
    assert work.floor(texts, 8, slow) == pytest.approx(50 * work.step / 1e6, rel=1e-3)


def test_the_machine_at_its_best() -> None:
    assert Machine(1, 4).better(Machine(3, 2)) == Machine(3, 4)
    measured = Machine.measured(2048)
    assert measured.rate > 0
    assert measured.bandwidth > 0


def test_a_row_for_each_number_of_slots() -> None:
    rows = measure("tiny", tiny_teacher(frames=3), (1, 2, 3), 1)
    assert [row.what.split(":")[0] for row in rows] == [
        "labelling, tiny, one at a time",
        "labelling, tiny, 2 slots",
        "labelling, tiny, 3 slots",
    ]
    assert [row.beside for row in rows] == ["", "one at a time", "one at a time"]
    first, second = rows[:2]
    assert first.speech_seconds is not None
    assert second.speech_seconds is not None
    rate = first.speech_seconds / first.seconds
    assert second.ratio == pytest.approx(second.speech_seconds / second.seconds / rate)
    for row in rows:
        assert row.multiply_adds
        assert row.floor_share


def test_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, Tacotron2Config, tuple[int, ...]]] = []
    monkeypatch.setattr(labelling, "drawn_teacher", lambda config: tiny_teacher(3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def measure(name: str, teacher: Tacotron2, slots: tuple[int, ...], turns: int) -> list[Row]:
        measured.append((name, teacher.config, slots))
        return []

    monkeypatch.setattr(labelling, "measure", measure)
    findings = command.PARTS["labelling"](Settings())
    assert [name for name, _, _ in measured] == ["published sizes", "tacotron2_slt"]
    assert measured[0][2] == (16, 64, 256)
    assert "floor of labelling" in findings.notes[0]
