"""Labelling: what is kept, drawn again or rejected, and that no batch changes a label."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lightspeech.audio import AUDIO_FACTS
from lightspeech.errors import InputError
from lightspeech.labelling import LabellingSummary, label_corpus, store_identity
from lightspeech.renditions import LabellingSettings, utterance_seed
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter
from lightspeech.text import Line, encode
from tacotron2 import Tacotron2, TeacherOutput
from tests.tiny_teacher import SIZES, tiny_teacher

LINES = [
    Line(f"id{i}", text, f"corpus.txt:{i}")
    for i, text in enumerate(
        ["Yes.", "It rains.", "What a long way home!", "Four words make this.", "Tea, or coffee?",
         "The last of them all is longer than the others."], 1
    )
]  # fmt: skip
LOOSE = LabellingSettings(min_coverage=0, max_backward_jumps=10**6, min_frames_per_token=0.1)


class FakeTeacher:
    """Speaks three frames a token, one token after another, unless `faults` say otherwise.

    `faults` has, for a number of tokens, a function for each try in turn that spoils the rendition:
    it changes mel (T, M), attention (T, N), or returns how many frames it ran for without an end.
    """

    config = SIZES

    def __init__(self, faults: dict[int, Sequence[Callable[..., int | None] | None]] | None = None):
        self.faults = {n: list(each) for n, each in (faults or {}).items()}
        self.config = SIZES
        self.source = {"name": "fake", "sha256": "f" * 64}
        self.audio_facts = dict(AUDIO_FACTS)
        self.batches: list[list[int]] = []
        self.seeds: list[int] = []

    def infer(
        self, tokens: Tensor, token_lengths: Tensor, *, seeds: Sequence[int], max_frames: int,
        on_frame: Callable[[int, int], None] | None = None, **options: Any,
    ) -> TeacherOutput:  # fmt: skip
        lengths = token_lengths.tolist()
        self.batches.append(lengths)
        self.seeds += seeds
        B, N = tokens.shape
        T = max_frames
        mel, attention = torch.zeros(B, T, 80), torch.zeros(B, T, N)
        frames, stopped = [], []
        for row, n in enumerate(lengths):
            count = min(3 * n, T)
            mel[row, :count] = torch.randn(count, 80, generator=torch.Generator().manual_seed(n))
            attention[row, torch.arange(count), torch.arange(count) // 3] = 1.0
            spoil = self.faults[n].pop(0) if self.faults.get(n) else None
            ran = spoil(mel[row, :count], attention[row, :count, :n]) if spoil else None
            frames.append(min(ran or count, T))
            stopped.append((ran or count) < T)
        if on_frame is not None:
            on_frame(1, B)
        return TeacherOutput(
            mel, mel, torch.zeros(B, T), attention, torch.randn(B, N, 16),
            torch.tensor(frames), torch.tensor(stopped),
        )  # fmt: skip


def never_stops(mel: Tensor, attention: Tensor) -> int:
    return 10**6


def babbles(mel: Tensor, attention: Tensor) -> int:
    """Stops, but so late that only a batch with longer texts would let it."""
    return 230


def half_covered(mel: Tensor, attention: Tensor) -> None:
    attention[:, : attention.shape[1] // 2] = 0
    attention[:, -1] = 1


def repeats(mel: Tensor, attention: Tensor) -> None:
    for frame in range(9, 9 + 4 * 4, 4):  # four jumps back to the first token
        attention[frame] = 0
        attention[frame, 0] = 1


def not_a_number(mel: Tensor, attention: Tensor) -> None:
    mel[3, 4] = float("nan")


def too_loud(mel: Tensor, attention: Tensor) -> None:
    mel[3, 4] = 1e5  # a 16-bit float would make it infinite


def label(
    path: Path,
    speaker: FakeTeacher | Tacotron2,
    settings: LabellingSettings = LabellingSettings(),  # noqa: B008 - frozen
    lines: Sequence[Line] = LINES,
    **options: Any,
) -> LabellingSummary:
    teacher = cast(Tacotron2, speaker)  # as far as labelling can see
    with StoreWriter.open(path, store_identity(teacher, settings)) as writer:
        return label_corpus(lines, teacher, writer, settings, **options)


def rejects(path: Path) -> dict[str, Any]:
    identity = store_identity(cast(Tacotron2, FakeTeacher()), LabellingSettings())
    with StoreWriter.open(path, identity) as writer:
        return {id: reject.reason for id, reject in writer.rejects.items()}


def test_good_renditions_become_labels(tmp_path: Path) -> None:
    summary = label(tmp_path, FakeTeacher())
    store = LabelStore.open(tmp_path)
    assert store.verify() == []
    assert sorted(store.ids) == [line.id for line in LINES]
    texts = {line.id: line.text for line in LINES}
    for found in store:
        assert found.text == texts[found.id]
        assert found.tokens.tolist() == encode(found.text)
        assert (found.durations == 3).all()
        assert len(found.mel) == 3 * len(found.tokens)
        assert found.scores["coverage"] == 1
        assert found.scores["frames_per_token"] == 3
        assert found.seed == utterance_seed(1234, found.id, 0)
    assert (summary.texts, summary.kept, summary.retried) == (6, 6, 0)
    assert summary.speech_seconds == pytest.approx(sum(store.frames) * 256 / 22050)
    assert "6 of 6 texts labelled, 0 retries" in summary.report()
    assert "3.0 frames a token" in summary.report()


FAULTS = [
    (never_stops, "did not stop"),
    (babbles, "did not stop"),
    (half_covered, "coverage below 0.85"),
    (repeats, "more than 3 backward jumps"),
    (not_a_number, "values that are not finite"),
    (too_loud, "values that are not finite"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_bad_rendition_is_drawn_again(tmp_path: Path, fault: Any, reason: str) -> None:
    n = len(encode(LINES[1].text))
    teacher = FakeTeacher({n: [fault, None]})
    summary = label(tmp_path, teacher)
    store = LabelStore.open(tmp_path)
    assert store.verify() == []
    assert len(store) == 6
    assert (summary.kept, summary.retried, dict(summary.rejected)) == (6, 1, {})
    assert teacher.batches[1] == [n]
    seeds = {found.id: found.seed for found in store}
    assert seeds["id2"] == utterance_seed(1234, "id2", 1)
    assert seeds["id1"] == utterance_seed(1234, "id1", 0)


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_what_fails_every_time_is_rejected_with_its_reason(
    tmp_path: Path, fault: Any, reason: str
) -> None:
    n = len(encode(LINES[1].text))
    summary = label(tmp_path, FakeTeacher({n: [fault] * 3}))
    assert LabelStore.open(tmp_path).ids.count("id2") == 0
    assert len(LabelStore.open(tmp_path)) == 5
    assert rejects(tmp_path) == {"id2": reason}
    assert summary.rejected == {reason: 1}
    assert f"1 rejected: {reason}" in summary.report()


def test_too_few_frames_a_token_are_rejected(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher(), LabellingSettings(min_frames_per_token=3.5, tries=1))
    assert set(rejects(tmp_path).values()) == {"fewer than 3.5 frames a token"}


def test_rejects_are_remembered_and_tried_again_only_when_asked(tmp_path: Path) -> None:
    n = len(encode(LINES[1].text))
    first = FakeTeacher({n: [never_stops] * 3})
    label(tmp_path, first)
    idle = FakeTeacher()
    summary = label(tmp_path, idle)
    assert idle.batches == []
    assert (summary.already_there, summary.rejected_before, summary.to_do) == (5, 1, 0)
    assert "5 labelled already, 1 rejected before (--retry-rejects" in summary.plan()
    again = FakeTeacher({n: [never_stops, None]})
    assert label(tmp_path, again, retry_rejects=True).kept == 1
    assert not set(again.seeds) & set(first.seeds)
    assert again.seeds == [utterance_seed(1234, "id2", tries) for tries in (3, 4)]
    assert rejects(tmp_path) == {}
    assert len(LabelStore.open(tmp_path)) == 6


def test_a_changed_text_is_another_chance_for_a_reject(tmp_path: Path) -> None:
    n = len(encode(LINES[0].text))
    label(tmp_path, FakeTeacher({n: [never_stops] * 3}))
    changed = [Line("id1", "Yes, indeed.", "corpus.txt:1"), *LINES[1:]]
    assert label(tmp_path, FakeTeacher(), lines=changed).kept == 1
    assert rejects(tmp_path) == {}


def test_a_text_that_changed_under_its_id_is_refused(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher())
    changed = [*LINES[:3], Line("id4", "Something else.", "corpus.txt:4"), Line("new", "New.", "")]
    with pytest.raises(
        InputError, match=r"corpus\.txt:4: the id id4 is in .* with another text \('Four words"
    ):
        label(tmp_path, FakeTeacher(), lines=changed)
    assert len(LabelStore.open(tmp_path)) == 6


def test_more_texts_only_cost_themselves(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher(), lines=LINES[:4])
    teacher = FakeTeacher()
    summary = label(tmp_path, teacher)
    assert sorted(itertools.chain(*teacher.batches)) == sorted(
        len(encode(x.text)) for x in LINES[4:]
    )
    assert (summary.already_there, summary.kept) == (4, 2)
    assert summary.plan() == "2 texts to label, 4 labelled already"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_error_in_one_batch_costs_that_batch_only(tmp_path: Path, error: BaseException) -> None:
    class Failing(FakeTeacher):
        def infer(self, *args: Any, **options: Any) -> TeacherOutput:
            if len(self.batches) == 2:
                raise error
            return super().infer(*args, **options)

    with pytest.raises(type(error)):
        label(tmp_path, Failing(), LabellingSettings(batch_size=2))
    assert len(LabelStore.open(tmp_path)) == 4
    assert label(tmp_path, FakeTeacher()).kept == 2
    assert LabelStore.open(tmp_path).verify() == []


def test_batches_hold_texts_of_like_length(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    label(tmp_path, teacher, LabellingSettings(batch_size=2))
    lengths = sorted(len(encode(line.text)) for line in LINES)
    expected = [lengths[i : i + 2] for i in (0, 2, 4)]
    assert sorted(sorted(batch) for batch in teacher.batches) == expected
    assert sorted(teacher.batches[0]) == expected[0]  # the shortest first: a sign of life


def test_progress_counts_up_to_all_texts(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    n = len(encode(LINES[0].text))
    label(
        tmp_path, FakeTeacher({n: [never_stops] * 3}), LabellingSettings(batch_size=2),
        on_progress=lambda summary, frame, ended: seen.append((summary.done, frame, ended)),
    )  # fmt: skip
    assert seen[0] == (0, 0, 0)
    assert seen[-1] == (6, 0, 0)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert (0, 1, 0) in seen


def test_neither_batch_nor_order_changes_a_label(tmp_path: Path) -> None:
    teacher = tiny_teacher(frames=30)
    teacher.source = FakeTeacher().source
    stores = []
    orders = {1: LINES, 4: LINES[::-1], 64: LINES[3:] + LINES[:3]}
    for size, lines in orders.items():
        settings = LabellingSettings(**{**vars(LOOSE), "batch_size": size})
        assert label(tmp_path / str(size), teacher, settings, lines).kept == 6
        stores.append({found.id: found for found in LabelStore.open(tmp_path / str(size))})
    for other in stores[1:]:
        assert other.keys() == stores[0].keys()
        for id, expected in stores[0].items():
            assert other[id].seed == expected.seed
            assert torch.equal(other[id].durations, expected.durations)
            torch.testing.assert_close(other[id].mel, expected.mel, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(other[id].memory, expected.memory, atol=1e-3, rtol=1e-3)


def test_counted_durations_are_the_argmax_of_the_attention(tmp_path: Path) -> None:
    def wanders(mel: Tensor, attention: Tensor) -> None:
        attention[4] = 0
        attention[4, 0] = 1  # one odd frame

    n = len(encode(LINES[0].text))
    label(tmp_path / "m", FakeTeacher({n: [wanders]}), lines=LINES[:1])
    label(
        tmp_path / "c", FakeTeacher({n: [wanders]}), LabellingSettings(alignment="count"), LINES[:1]
    )  # fmt: skip
    assert LabelStore.open(tmp_path / "m")[0].durations.tolist() == [3] * n
    assert LabelStore.open(tmp_path / "c")[0].durations.tolist() == [4, 2] + [3] * (n - 2)


def test_the_limit_of_frames_follows_the_text() -> None:
    settings = LabellingSettings(max_frames=900, max_frames_per_token=10)
    assert settings.frame_limit(5) == 150
    assert settings.frame_limit(50) == 600
    assert settings.frame_limit(500) == 900


def test_seeds_are_the_same_on_every_machine() -> None:
    # The first four bytes of the SHA-256 of "1234/0/LJ001-0001", computed with sha256sum.
    assert utterance_seed(1234, "LJ001-0001", 0) == 0xC925AD76
    seeds = {utterance_seed(s, id, t) for s in (1, 2) for id in ("a", "b") for t in (0, 1)}
    assert len(seeds) == 8


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("seed", -1, "seed must be a whole number of at least 0, not -1"),
        ("tries", 0, "tries must be a whole number of at least 1"),
        ("batch_size", 2.5, "batch_size must be a whole number"),
        ("prenet_dropout", 1.0, "prenet_dropout must be 0 or more, below 1"),
        ("gate_threshold", 0.0, "gate_threshold must be between 0 and 1"),
        ("alignment", "dtw", "alignment must be one of monotonic, count"),
        ("min_coverage", 85, "min_coverage must be from 0 to 1, not 85"),
        ("min_coverage", float("nan"), "min_coverage must be from 0 to 1"),
        ("min_frames_per_token", 20, "min_frames_per_token must be below max_frames_per_token"),
    ],
)
def test_settings_say_what_is_wrong_with_them(setting: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabellingSettings(**{setting: value})


def test_a_teacher_with_other_mels_is_refused() -> None:
    teacher = FakeTeacher()
    teacher.audio_facts = {**AUDIO_FACTS, "hop_length": 200}
    with pytest.raises(InputError, match=r"the teacher fake.*hop_length is 200, expected 256"):
        store_identity(cast(Tacotron2, teacher), LabellingSettings())


def test_the_teacher_is_asked_as_the_settings_say(tmp_path: Path) -> None:
    asked = {}

    class Watched(FakeTeacher):
        def infer(self, *arguments: Any, **options: Any) -> Any:
            asked.update(options)
            output = super().infer(*arguments, **options)
            return replace(output, mel_before_postnet=output.mel + 1)

    teacher = Watched()
    label(tmp_path, teacher, LabellingSettings(prenet_dropout=0.25, gate_threshold=0.75))
    assert (asked["prenet_dropout"], asked["gate_threshold"]) == (0.25, 0.75)
    n = len(LabelStore.open(tmp_path)[0].tokens)
    expected = torch.randn(3 * n, 80, generator=torch.Generator().manual_seed(n))
    torch.testing.assert_close(
        LabelStore.open(tmp_path)[0].mel, expected, rtol=1e-3, atol=1e-3
    )  # the one after the post-net


def test_a_memory_that_16_bits_cannot_hold_is_rejected(tmp_path: Path) -> None:
    class LoudMemory(FakeTeacher):
        def infer(self, *arguments: Any, **options: Any) -> Any:
            output = super().infer(*arguments, **options)
            output.memory[0, 0, 0] = 1e5
            return output

    label(tmp_path, LoudMemory(), LabellingSettings(tries=1, batch_size=1), LINES[:2])
    assert set(rejects(tmp_path).values()) == {"values that are not finite"}


@pytest.mark.parametrize(
    "change",
    [{"seed": 7}, {"prenet_dropout": 0.1}, {"gate_threshold": 0.6}, {"max_frames": 90},
     {"alignment": "count"}],
)  # fmt: skip
def test_settings_that_change_labels_are_part_of_the_stores_identity(
    change: dict[str, Any],
) -> None:
    assert LabellingSettings(**change).identity() != LabellingSettings().identity()
    assert LabellingSettings(tries=9, batch_size=3).identity() == LabellingSettings().identity()


def test_speed_is_speech_over_time() -> None:
    summary = LabellingSummary(kept=1, frames=22050, seconds=64.0)
    assert (summary.speech_seconds, summary.times_real_time) == (256.0, 4.0)
