"""Labelling: what is kept, drawn again or rejected, and that nothing but the text makes a label."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from lightspeech import labelling, labelling_queue
from lightspeech.audio import AUDIO_FACTS, mel_spectrogram, read_wav, write_wav
from lightspeech.calibration import UsualLength
from lightspeech.errors import InputError
from lightspeech.labelling import LabellingSummary, label_corpus, store_identity
from lightspeech.labelling_queue import Task, longest_first
from lightspeech.ranks import Ranks
from lightspeech.rejects import read_all_rejects
from lightspeech.renditions import LabellingSettings, utterance_seed
from lightspeech.scoring import SCORES
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import Reject, StoreWriter
from lightspeech.text import Line, encode
from tacotron2 import Request, Spoken, Tacotron2
from tests.tiny_teacher import ANYTHING_GOES, SIZES, tiny_teacher

LINES = [
    Line(f"id{i}", text, f"corpus.txt:{i}")
    for i, text in enumerate(
        ["Yes.", "It is raining.", "What a long way home!", "Four words make this.", "Tea, coffee?",
         "The last of them all is longer than the others."], 1
    )
]  # fmt: skip


Fault = Callable[[Tensor, Tensor], bool | None]


class FakeTeacher:
    """Speaks three frames a token, one token after another, unless `faults` say otherwise.

    `faults` has, for a number of tokens, a function for each try in turn that spoils the rendition:
    it changes mel (T, M) and attention (T, N), and returns whether there is no end to it.
    """

    config = SIZES

    def __init__(
        self, faults: dict[int, Sequence[Callable[..., bool | None] | None]] | None = None
    ):
        self.faults = {n: list(each) for n, each in (faults or {}).items()}
        self.source = {"name": "fake", "sha256": "f" * 64}
        self.audio_facts = dict(AUDIO_FACTS)
        self.requests: list[Request] = []
        self.most_at_once = self.most_tokens = 0

    @property
    def lengths(self) -> list[int]:
        return [len(request.tokens) for request in self.requests]

    @property
    def seeds(self) -> list[int]:
        return [request.seed for request in self.requests]

    def speak(
        self, take: Callable[[], Request | None], *, slots: int = 64,
        on_frame: Callable[[int, int], None] | None = None, **options: Any,
    ) -> Iterator[Spoken]:  # fmt: skip
        busy: list[Request] = []
        while True:
            while len(busy) < slots and (request := take()) is not None:
                busy.append(request)
                self.requests.append(request)
            if not busy:
                return
            self.most_at_once = max(self.most_at_once, len(busy))
            widest = max(len(request.tokens) for request in busy)
            self.most_tokens = max(self.most_tokens, len(busy) * widest)
            if on_frame is not None:
                on_frame(len(self.requests), len(busy))
            busy.sort(key=lambda request: -len(request.tokens))
            yield self.say(busy.pop())  # the shortest is the first to end

    def say(self, request: Request) -> Spoken:
        N = len(request.tokens)
        T = 3 * N
        mel = torch.randn(T, 80, generator=torch.Generator().manual_seed(N)) / 2 - 3
        attention = torch.eye(N).repeat_interleave(3, 0)
        spoil = self.faults[N].pop(0) if self.faults.get(N) else None
        endless = bool(spoil(mel, attention)) if spoil else False
        memory = torch.randn(N, 16, generator=torch.Generator().manual_seed(N))
        return Spoken(request, mel, mel + 1, torch.zeros(T), attention, memory, T, not endless)


def never_stops(mel: Tensor, attention: Tensor) -> bool:
    return True


def half_covered(mel: Tensor, attention: Tensor) -> None:
    attention[: len(attention) // 2] = attention[len(attention) // 2].clone()


def repeats(mel: Tensor, attention: Tensor) -> None:
    N = attention.shape[1]
    attention[:] = torch.cat((torch.eye(N), torch.eye(N).repeat_interleave(2, 0)))


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


def rejects(path: Path) -> dict[str, str]:
    return {id: reject.reason for id, reject in read_all_rejects(path).items()}


def length(line: Line) -> int:
    return len(encode(line.text))


MANY = [
    Line(f"m{i}", f"{first} {second}", f"many.txt:{i}")
    for i, (first, second) in enumerate(
        (a, b)
        for a in ("One", "Another", "Every second", "No")
        for b in ("day.", "long night, at last.", "word that was said.", "tree.", "way to go on?")
    )
]
"""As many as a calibration takes, and more."""


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
        assert found.scores.keys() == SCORES.keys()
        assert found.scores["coverage"] == 1
        assert found.scores["frames_per_token"] == 3
        assert found.scores["draw"] == 1
        assert found.seed == utterance_seed(1234, found.id, 0)
    assert (summary.texts, summary.kept, summary.retried) == (6, 6, 0)
    assert summary.tokens_done == summary.tokens_to_do == sum(map(length, LINES))
    assert summary.frames_spoken == summary.frames == sum(store.frames)
    assert summary.speech_seconds == pytest.approx(sum(store.frames) * 256 / 22050)
    assert "6 of 6 texts labelled, 0 retries" in summary.report()
    assert "3.0 frames a token" in summary.report()


FAULTS = [
    (never_stops, "did not stop"),
    (half_covered, "passed over more than 2 tokens in a row"),
    (repeats, "went back in the text by more than 40 tokens x frames"),
    (not_a_number, "values that are not finite"),
    (too_loud, "values that are not finite"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_bad_rendition_is_drawn_again(tmp_path: Path, fault: Any, reason: str) -> None:
    n = length(LINES[1])
    teacher = FakeTeacher({n: [fault, None]})
    summary = label(tmp_path, teacher)
    store = LabelStore.open(tmp_path)
    assert store.verify() == []
    assert len(store) == 6
    assert (summary.kept, summary.retried, summary.kept_after_retry) == (6, 1, 1)
    assert (dict(summary.rejected), dict(summary.failures)) == ({}, {reason: 1})
    assert f"1 rendition failed: {reason}" in summary.report()
    found = {label.id: label for label in store}
    assert found["id2"].seed == utterance_seed(1234, "id2", 1)
    assert found["id2"].scores["draw"] == 2
    assert found["id1"].seed == utterance_seed(1234, "id1", 0)


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_what_fails_every_time_is_rejected_with_its_reason(
    tmp_path: Path, fault: Any, reason: str
) -> None:
    summary = label(tmp_path, FakeTeacher({length(LINES[1]): [fault] * 3}))
    assert LabelStore.open(tmp_path).ids.count("id2") == 0
    assert len(LabelStore.open(tmp_path)) == 5
    reject = read_all_rejects(tmp_path)["id2"]
    assert reject.reason == reason
    assert reject.seeds == tuple(utterance_seed(1234, "id2", draw) for draw in range(3))
    assert reject.scores.keys() == (set() if "finite" in reason else SCORES.keys())
    assert (summary.rejected, summary.retried) == ({reason: 1}, 2)
    assert f"1 rejected: {reason}" in summary.report()


def test_rejects_are_remembered_and_tried_again_only_when_asked(tmp_path: Path) -> None:
    n = length(LINES[1])
    first = FakeTeacher({n: [never_stops] * 3})
    label(tmp_path, first)
    idle = FakeTeacher()
    summary = label(tmp_path, idle)
    assert idle.requests == []
    assert (summary.already_there, summary.rejected_before, summary.to_do) == (5, 1, 0)
    assert "5 labelled already, 1 rejected before (--retry-rejects" in summary.plan()
    again = FakeTeacher({n: [never_stops, None]})
    assert label(tmp_path, again, retry_rejects=True).kept == 1
    assert not set(again.seeds) & set(first.seeds)
    assert again.seeds == [utterance_seed(1234, "id2", tries) for tries in (3, 4)]
    assert rejects(tmp_path) == {}
    assert len(LabelStore.open(tmp_path)) == 6


def test_a_changed_text_is_another_chance_for_a_reject(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher({length(LINES[0]): [never_stops] * 3}))
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
    assert sorted(teacher.lengths) == sorted(map(length, LINES[4:]))
    assert (summary.already_there, summary.kept) == (4, 2)
    assert summary.plan() == "2 texts to label, 4 labelled already"


class Interrupted(FakeTeacher):
    """Goes wrong when it has said five texts."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.said, self.error = 0, error

    def say(self, request: Request) -> Spoken:
        self.said += 1
        if self.said > 5:
            raise self.error
        return super().say(request)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_error_costs_what_is_being_spoken_and_no_more(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        label(tmp_path, Interrupted(error), LabellingSettings(batch_size=2))
    assert len(LabelStore.open(tmp_path)) == 5
    assert label(tmp_path, FakeTeacher()).kept == 1
    assert LabelStore.open(tmp_path).verify() == []


def test_a_store_that_cannot_be_written_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(self: StoreWriter, labels: Sequence[Label]) -> None:
        if labels:
            calls.append(len(labels))
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        label(tmp_path, FakeTeacher(), LabellingSettings(batch_size=3))
    assert calls == [3]


def test_labels_are_written_by_the_batch(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher(), LabellingSettings(batch_size=4))
    assert [shard["rows"] for shard in LabelStore.open(tmp_path).manifest["shards"]] == [4, 2]


def test_rejects_are_written_by_the_batch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill costs of them would be tried again, and cost as much as labels do."""
    calls = []

    def watched(self: StoreWriter, rejects: Sequence[Reject]) -> None:
        calls.append(len(rejects))

    monkeypatch.setattr(StoreWriter, "reject", watched)
    faults: dict[int, Sequence[Any]] = {length(line): [never_stops] * 4 for line in LINES[:4]}
    label(tmp_path, FakeTeacher(faults), LabellingSettings(batch_size=2, tries=1), LINES[:4])
    assert calls[:2] == [2, 2]


def test_labels_are_written_when_they_have_waited_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "WRITE_EVERY", -1.0)
    label(tmp_path, FakeTeacher())
    assert [shard["rows"] for shard in LabelStore.open(tmp_path).manifest["shards"]] == [1] * 6


def test_the_longest_come_first_and_retries_before_others(tmp_path: Path) -> None:
    longest = length(LINES[-1])
    teacher = FakeTeacher({longest: [never_stops, None]})
    label(tmp_path, teacher, LabellingSettings(batch_size=1))
    expected = sorted(map(length, LINES), reverse=True)
    assert teacher.lengths == [longest, *expected]


def test_the_queue_does_not_depend_on_the_order_of_the_texts() -> None:
    tasks = [Task(Line(f"q{i}", "Text.", ""), [1] * (1 + i % 3)) for i in range(12)]
    assert longest_first(tasks[::-1]) == longest_first(tasks)


def test_batches_keep_to_their_size_and_to_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = FakeTeacher()
    label(tmp_path / "size", teacher, LabellingSettings(batch_size=4))
    assert teacher.most_at_once == 4
    longest = length(LINES[-1])
    for bound in (2 * longest + 1, longest - 1):  # the second is too small for the longest alone
        monkeypatch.setattr(labelling_queue, "MOST_TOKENS", bound)
        teacher = FakeTeacher()
        assert label(tmp_path / str(bound), teacher).kept == 6
        assert teacher.most_tokens <= max(bound, longest)
        assert teacher.most_at_once > 1


def test_progress_counts_up_to_all_texts(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    summary = label(
        tmp_path, FakeTeacher({length(LINES[0]): [never_stops] * 3}),
        on_progress=lambda summary, _, speaking: seen.append(
            (summary.done, summary.tokens_done, speaking)
        ),
    )  # fmt: skip
    assert seen[0] == (0, 0, 0)
    assert (0, 0, 6) in seen
    assert seen[-1] == (6, summary.tokens_to_do, 0)
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)


# What a label depends on


def assert_same_labels(one: Path, other: Path) -> None:
    """The same labels, in whatever order."""
    labels, others = ({label.id: label for label in LabelStore.open(path)} for path in (one, other))
    assert labels.keys() == others.keys()
    for id, expected in labels.items():
        found = others[id]
        assert (found.text, found.seed) == (expected.text, expected.seed)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.durations, expected.durations)
        torch.testing.assert_close(found.mel, expected.mel, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.memory, expected.memory, atol=1e-3, rtol=1e-3)


def small_teacher() -> Tacotron2:
    teacher = tiny_teacher(frames=30)
    teacher.source = FakeTeacher().source
    return teacher


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MANY that was labelled in one go."""
    path = tmp_path_factory.mktemp("whole")
    assert label(path, small_teacher(), LOOSE, MANY).kept == len(MANY)
    return path


LOOSE = LabellingSettings(limits=ANYTHING_GOES, batch_size=7)


@pytest.mark.parametrize("size", [1, 64])
def test_the_batch_does_not_change_a_label(whole: Path, tmp_path: Path, size: int) -> None:
    label(tmp_path, small_teacher(), replace(LOOSE, batch_size=size), MANY)
    assert_same_labels(whole, tmp_path)


def test_the_order_does_not_change_a_label(whole: Path, tmp_path: Path) -> None:
    label(tmp_path, small_teacher(), LOOSE, random.Random(1).sample(MANY, len(MANY)))
    assert_same_labels(whole, tmp_path)
    assert LabelStore.open(tmp_path).calibration == LabelStore.open(whole).calibration


def test_labelling_in_parts_does_not_change_a_label(whole: Path, tmp_path: Path) -> None:
    label(tmp_path, small_teacher(), LOOSE, MANY[:3])
    label(tmp_path, small_teacher(), LOOSE, MANY[::2])
    label(tmp_path, small_teacher(), LOOSE, MANY)
    assert_same_labels(whole, tmp_path)


def test_faults_do_not_depend_on_the_batch_either(tmp_path: Path) -> None:
    """Which draw fails is the text's affair; here the fake teacher's."""
    texts = {len(encode(line.text)): line for line in MANY}  # one of each length
    stores = []
    for size in (1, 7, 64):
        faults = {n: [None, repeats, None, half_covered][n % 4 :] for n in texts}
        settings = LabellingSettings(batch_size=size, tries=2, pick=2)
        label(tmp_path / str(size), FakeTeacher(faults), settings, list(texts.values()))
        stores.append({found.id: found.seed for found in LabelStore.open(tmp_path / str(size))})
        stores[-1] |= {id: -1 for id in rejects(tmp_path / str(size))}
    assert stores[0].keys() == {line.id for line in texts.values()}
    assert stores[0] == stores[1] == stores[2]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_texts_and_change_no_label(whole: Path, tmp_path: Path, ranks: int) -> None:
    teacher = small_teacher()
    kept = []
    for rank in range(ranks):
        with StoreWriter.open(
            tmp_path, store_identity(teacher, LOOSE), rank, ranks, "run"
        ) as writer:
            mine = Ranks(rank, ranks)
            kept.append(label_corpus(MANY, teacher, writer, LOOSE, ranks=mine).kept)
    assert sum(kept) == len(MANY)
    assert min(kept) > 0
    assert_same_labels(whole, tmp_path)
    assert LabelStore.open(tmp_path).verify() == []
    assert LabelStore.open(tmp_path).calibration == LabelStore.open(whole).calibration


# Calibration


def test_the_usual_length_is_measured_once_and_nothing_is_spoken_twice(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    summary = label(tmp_path, teacher, lines=MANY)
    assert len(teacher.requests) == summary.kept == len(MANY)
    figures = LabelStore.open(tmp_path).calibration
    assert figures is not None
    usual = UsualLength.from_dict(figures)
    assert usual.texts == len(MANY)
    assert usual.frames_per_token == pytest.approx(3)
    assert usual.intercept == pytest.approx(0, abs=1e-9)
    more = FakeTeacher()
    label(tmp_path, more, lines=[*MANY, *LINES])
    assert len(more.requests) == len(LINES)
    assert LabelStore.open(tmp_path).calibration == figures


def test_what_was_rejected_is_measured_with_its_first_seed_and_labelled_with_a_new_one(
    tmp_path: Path,
) -> None:
    label(tmp_path, FakeTeacher({length(LINES[5]): [never_stops] * 3}), lines=LINES[5:])
    label(tmp_path, FakeTeacher(), lines=[*MANY, *LINES[5:]], retry_rejects=True)
    assert LabelStore.open(tmp_path).calibration is not None
    seeds = {found.id: found.seed for found in LabelStore.open(tmp_path)}
    assert seeds["id6"] == utterance_seed(1234, "id6", 3)


def test_a_rendition_of_an_odd_length_is_drawn_again(tmp_path: Path) -> None:
    n = length(LINES[-1])

    class Drawl(FakeTeacher):
        def say(self, request: Request) -> Spoken:
            spoken = super().say(request)
            if len(request.tokens) != n or request.seed != utterance_seed(1234, "id6", 0):
                return spoken
            return replace(
                spoken, mel=spoken.mel.repeat_interleave(3, 0),
                attention=spoken.attention.repeat_interleave(3, 0), frames=9 * n,
            )  # fmt: skip

    summary = label(tmp_path, Drawl(), lines=[*MANY, *LINES])
    [(reason, count)] = summary.failures.items()
    assert reason == "much longer than the corpus has such texts (5 spreads or more)"
    assert count == 1
    scores = next(found for found in LabelStore.open(tmp_path) if found.id == "id6").scores
    assert scores["draw"] == 2
    assert abs(scores["length_deviation"]) < 0.1


def test_few_texts_are_judged_by_wide_limits(tmp_path: Path) -> None:
    label(tmp_path, FakeTeacher())
    assert LabelStore.open(tmp_path).calibration is None


# Picking


def test_the_most_typical_of_several_renditions_is_kept(tmp_path: Path) -> None:
    def slow_start(frames: int) -> Callable[[Tensor, Tensor], None]:
        def spoil(mel: Tensor, attention: Tensor) -> None:
            attention[3 : 3 + frames] = attention[0].clone()

        return spoil

    n = length(LINES[3])
    shapes = [slow_start(3), slow_start(2), slow_start(1)]
    teacher = FakeTeacher({n: shapes})
    settings = LabellingSettings(pick=3, alignment="count")
    summary = label(tmp_path, teacher, settings, LINES[3:4])
    assert (summary.kept, summary.retried, summary.kept_after_retry) == (1, 0, 0)
    kept = LabelStore.open(tmp_path)[0]
    assert kept.scores["draw"] == 2
    assert kept.seed == utterance_seed(1234, "id4", 1) == teacher.seeds[1]
    assert kept.durations.tolist() == [5, 1, *[3] * (n - 2)]


def test_picking_goes_on_beyond_failures_and_takes_what_there_is(tmp_path: Path) -> None:
    n = length(LINES[3])
    settings = LabellingSettings(pick=2, tries=2)
    teacher = FakeTeacher({n: [never_stops, None, None]})
    assert label(tmp_path / "a", teacher, settings, LINES[3:4]).kept == 1
    assert len(teacher.requests) == 3
    teacher = FakeTeacher({n: [never_stops, None, never_stops]})
    summary = label(tmp_path / "b", teacher, settings, LINES[3:4])
    assert (summary.kept, summary.failures) == (1, {"did not stop": 2})
    assert LabelStore.open(tmp_path / "b")[0].scores["draw"] == 2


def test_without_drop_out_a_failure_is_not_drawn_again(tmp_path: Path) -> None:
    teacher = FakeTeacher({length(LINES[3]): [never_stops, None]})
    summary = label(tmp_path, teacher, LabellingSettings(prenet_dropout=0), LINES[3:5])
    assert (summary.kept, summary.failures) == (1, {"did not stop": 1})
    assert len(teacher.requests) == 2


# The teacher, and recordings


def test_a_teacher_with_other_mels_is_refused() -> None:
    teacher = FakeTeacher()
    teacher.audio_facts = {**AUDIO_FACTS, "hop_length": 200}
    with pytest.raises(InputError, match=r"the teacher fake.*hop_length is 200, expected 256"):
        store_identity(cast(Tacotron2, teacher), LabellingSettings())


def test_the_teacher_is_asked_as_the_settings_say(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    class Watched(FakeTeacher):
        def speak(self, take: Any, **options: Any) -> Iterator[Spoken]:
            asked.update(options)
            return super().speak(take, **options)

    teacher = Watched()
    settings = LabellingSettings(
        prenet_dropout=0.25, gate_threshold=0.75, batch_size=5, max_frames_per_token=20
    )
    label(tmp_path, teacher, settings)
    assert (asked["prenet_dropout"], asked["gate_threshold"]) == (0.25, 0.75)
    assert asked["slots"] == 5
    for request in teacher.requests:
        assert request.max_frames == 100 + 20 * len(request.tokens)


def test_a_memory_that_16_bits_cannot_hold_is_rejected(tmp_path: Path) -> None:
    class LoudMemory(FakeTeacher):
        def say(self, request: Request) -> Spoken:
            spoken = super().say(request)
            spoken.memory[0, 0] = 1e5
            return spoken

    label(tmp_path, LoudMemory(), LabellingSettings(tries=1, batch_size=1), LINES[:2])
    assert set(rejects(tmp_path).values()) == {"values that are not finite"}


def test_forced_labels_are_the_recordings_and_what_lacks_one_is_rejected(tmp_path: Path) -> None:
    wavs = tmp_path / "wavs"
    wavs.mkdir()
    expected = {}
    for line in LINES[:4]:
        n = 256 * 4 * length(line)
        wav = torch.from_numpy(np.sin(np.arange(n) / 9).astype(np.float32) / 2)
        write_wav(wavs / f"{line.id}.wav", wav)
        expected[line.id] = mel_spectrogram(read_wav(wavs / f"{line.id}.wav"))
    settings = replace(LOOSE, mode="forced")
    summary = label(tmp_path / "store", small_teacher(), settings, wavs=wavs)
    assert summary.kept == 4
    assert summary.rejected == {"no recording by its id (.wav, .flac, .mp3)": 2}
    store = LabelStore.open(tmp_path / "store")
    assert store.verify() == []
    assert {label.id for label in store} | rejects(tmp_path / "store").keys() == {
        line.id for line in LINES
    }
    for found in store:
        torch.testing.assert_close(found.mel, expected[found.id], atol=0.02, rtol=0.01)
    idle = label(tmp_path / "store", small_teacher(), settings, wavs=wavs)
    assert (idle.already_there, idle.rejected_before) == (4, 2)


def record(wavs: Path, lines: Sequence[Line]) -> None:
    """A hum of four frames a token for each line."""
    wavs.mkdir()
    for line in lines:
        hum = np.sin(np.arange(256 * 4 * length(line)) / 9).astype(np.float32) / 2
        write_wav(wavs / f"{line.id}.wav", torch.from_numpy(hum))


def test_a_recording_that_fails_is_rejected_at_once(tmp_path: Path) -> None:
    """It is one rendition; another try would be the same."""
    record(tmp_path / "wavs", LINES[:2])
    settings = replace(LOOSE, mode="forced", limits=replace(ANYTHING_GOES, min_frames_per_token=9))
    summary = label(
        tmp_path / "store", small_teacher(), settings, LINES[:2], wavs=tmp_path / "wavs"
    )
    assert (summary.kept, summary.retried) == (0, 0)
    assert summary.rejected == {"fewer than 9 frames a token": 2}
    assert rejects(tmp_path / "store").keys() == {"id1", "id2"}


def test_lengths_are_measured_on_lines_that_have_a_recording(tmp_path: Path) -> None:
    """However many others the text files hold."""
    record(tmp_path / "wavs", MANY)
    silent = [Line(f"s{i}", "Nobody has said this.", f"more.txt:{i}") for i in range(300)]
    settings = replace(LOOSE, mode="forced")
    label(tmp_path / "store", small_teacher(), settings, [*silent, *MANY], wavs=tmp_path / "wavs")
    figures = LabelStore.open(tmp_path / "store").calibration
    assert figures is not None
    assert UsualLength.from_dict(figures).texts == len(MANY)


def test_speed_is_speech_over_time() -> None:
    summary = LabellingSummary(kept=1, frames=22050, seconds=64.0)
    assert (summary.speech_seconds, summary.times_real_time) == (256.0, 4.0)
