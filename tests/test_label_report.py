"""The report of a label store: right figures, the worst found, and a page that is safe to open."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightspeech import label_report
from lightspeech.errors import InputError
from lightspeech.evaluation.plots import draw_label
from lightspeech.label_figures import nearness, worst_labels
from lightspeech.label_report import PAGE, write_report
from lightspeech.labelling_progress import LabellingSummary
from lightspeech.manifest import StoreIdentity
from lightspeech.rejects import Reject
from lightspeech.renditions import utterance_seed
from lightspeech.respeaking import TeacherAttention, attention_of, find_checkpoint
from lightspeech.scoring import SCORES, Score
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_writer import StoreWriter
from tests.synthetic_store import MEMORY_SIZE, make_label
from tests.tiny_teacher import tiny_teacher

LABELLING = {"seed": 7, "prenet_dropout": 0.5, "gate_threshold": 0.5}
SUMMARY = LabellingSummary(
    texts=40, already_there=5, kept=30, retried=4, rejected={"did not stop": 5},
    failures={"coverage below 0.85": 3, "did not stop": 16}, tokens=300, frames=3000, seconds=10.0,
)  # fmt: skip
MARKUP = "<script>alert('x')</script> & {{sections}}"


def sound_scores(number: int) -> dict[str, float]:
    """Values well inside every limit, a little different for each label."""
    random = np.random.default_rng(number)
    scores = {}
    for name, score in SCORES.items():
        low = score.low if score.low is not None else 0.0
        high = score.high if score.high is not None else low + 1.0
        scores[name] = low + (high - low) * random.uniform(0.4, 0.6)
    return scores


def labels_of(count: int) -> list[Label]:
    """Labels with all scores; every fourth is the second rendition of its text."""
    labels = []
    for number in range(count):
        label = make_label(number, 4 + number % 9)
        seed = utterance_seed(LABELLING["seed"], label.id, int(number % 4 == 0))  # type: ignore[arg-type]
        labels.append(replace(label, scores=sound_scores(number), seed=seed))
    return labels


def reject(number: int, reason: str = "did not stop", text: str = "a text") -> Reject:
    return Reject(f"r{number:05d}", text, reason, {"coverage": 0.5, "frames": 900.0}, (1, 2, 3))


def make_store(
    path: Path, labels: list[Label], rejects: Sequence[Reject] = (), **labelling: Any
) -> Path:
    """Labels in shards of five."""
    identity = StoreIdentity("their voice", "c" * 64, MEMORY_SIZE, {**LABELLING, **labelling})
    with StoreWriter.open(path, identity) as writer:
        for start in range(0, len(labels), 5):
            writer.append(labels[start : start + 5])
        writer.reject(rejects)
    return path


def diagonal(label: Label) -> torch.Tensor:
    """The attention that the durations follow."""
    token = torch.repeat_interleave(torch.arange(len(label.tokens)), label.durations)
    return torch.nn.functional.one_hot(token, len(label.tokens)).float()


def report_of(store: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (store / "report.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


class Page(HTMLParser):
    """A page's tags, ids and words; fails on tags that are not closed in order."""

    VOID = ("meta", "img")

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.source = (store / PAGE).read_text(encoding="utf-8")
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def check_page(store: Path) -> Page:
    """A page that stands alone: nothing from outside, no script, no id twice, nothing unfilled."""
    page = Page(store)
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.found:
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:image/png;base64,", "#")), (tag, name)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "url(" not in page.source
    assert "http:" not in page.source
    assert "https:" not in page.source
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [e["href"] for e in page.all("a")]
    assert {f"#{id}" for id in ids} >= set(targets)
    assert not re.search(r"\bnan\b|\binf\b", page.words.lower())
    return page


def test_the_figures_are_those_of_the_labels(tmp_path: Path) -> None:
    rejects = [reject(0), reject(1), reject(2, "coverage below 0.85")]
    store = make_store(tmp_path / "s", labels_of(23), rejects)
    assert write_report(store, SUMMARY, None, device="a CPU") == store / "report.html"
    report = report_of(store)
    labels = list(LabelStore.open(store))
    frames, tokens = sum(len(x.mel) for x in labels), sum(len(x.tokens) for x in labels)
    assert (report["format"], report["version"]) == ("lightspeech-label-report", 1)
    assert (report["kept"], report["rejected"]) == (23, 3)
    assert report["kept_after_retry"] == 6  # numbers 0, 4, ..., 20
    assert report["reasons"] == {"did not stop": 2, "coverage below 0.85": 1}
    assert [r["id"] for r in report["rejects"]] == ["r00000", "r00001", "r00002"]
    assert report["rejects"][2] == {
        "id": "r00002", "text": "a text", "reason": "coverage below 0.85", "tries": 3,
        "scores": {"coverage": 0.5, "frames": 900.0},
    }  # fmt: skip
    assert (report["frames"], report["tokens"]) == (frames, tokens)
    assert report["hours"] == pytest.approx(frames * 256 / 22050 / 3600)
    pace = [len(x.mel) / len(x.tokens) for x in labels]
    assert report["frames_per_token"]["mean_of_all"] == pytest.approx(frames / tokens)
    assert report["frames_per_token"]["median"] == pytest.approx(np.median(pace))
    assert report["seconds"]["max"] == pytest.approx(max(len(x.mel) for x in labels) * 256 / 22050)
    assert report["teacher"] == {"name": "their voice", "sha256": "c" * 64}
    assert report["labelling"] == LABELLING
    assert report["calibration"] is None
    assert report["digest"] == LabelStore.open(store).digest
    assert report["run"]["utterances_per_second"] == pytest.approx(3.0)
    assert report["run"]["times_real_time"] == pytest.approx(3000 * 256 / 22050 / 10)
    assert report["run"]["hours"] == pytest.approx(3000 * 256 / 22050 / 3600)
    assert (report["run"]["retried"], report["run"]["device"]) == (4, "a CPU")
    assert report["run"]["rejected"] == {"did not stop": 5}
    assert list(report["run"]["failures"].items()) == [
        ("did not stop", 16),
        ("coverage below 0.85", 3),
    ]
    assert "Why it drew renditions again" in check_page(store).words


def test_the_calibration_is_shown(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", labels_of(2))
    identity = StoreIdentity("their voice", "c" * 64, MEMORY_SIZE, LABELLING)
    with StoreWriter.open(store, identity) as writer:
        writer.set_calibration({"median": 4.25, "texts": 200})
    write_report(store, None, None)
    assert report_of(store)["calibration"] == {"median": 4.25, "texts": 200}
    assert "Calibration" in check_page(store).words


def test_histograms_count_as_numpy_does(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", labels_of(37), [reject(n) for n in range(4)])
    write_report(store, None, None)
    figures = report_of(store)["scores"]
    labels = list(LabelStore.open(store))
    assert list(figures) == list(SCORES)  # in the order in which they are checked
    for name, score in SCORES.items():
        values = np.array([label.scores[name] for label in labels])
        found, shape = figures[name], figures[name]["histogram"]
        assert np.histogram(values, shape["edges"])[0].tolist() == shape["counts"]
        assert sum(shape["counts"]) == len(values) == found["count"]
        assert len(shape["edges"]) == len(shape["counts"]) + 1 <= 42
        assert (found["min"], found["max"]) == (values.min(), values.max())
        assert found["median"] == pytest.approx(np.median(values))
        assert found["mean"] == pytest.approx(values.mean())
        assert (found["low"], found["high"]) == (score.low, score.high)
        assert (found["title"], found["meaning"]) == (score.title, score.meaning)
        rejected = 4 if name == "coverage" else 0
        everywhere = shape["rejected_below"] + sum(shape["rejected"]) + shape["rejected_above"]
        assert everywhere == rejected


def test_the_planted_worst_come_first(tmp_path: Path) -> None:
    limits = {
        "coverage": Score("share attended to", "", "high", low=0.85),
        "longest_stay": Score("longest stay", "frames", "low", high=60),
    }
    random = np.random.default_rng(0)
    labels = [
        replace(x, scores={"coverage": 0.95 + c / 20, "longest_stay": 15.0 + s, "other": s})
        for x, c, s in zip(labels_of(40), random.random(40), random.random(40), strict=True)
    ]
    for label in labels[:21]:
        label.scores["longest_stay"] = 20.0  # the median
    labels[17].scores["coverage"] = 0.85  # on the limit, and still kept
    labels[31].scores["longest_stay"] = 56.0
    store = make_store(tmp_path / "s", labels)
    asked: list[str] = []

    def respeak(label: Label) -> torch.Tensor:
        asked.append(label.id)
        return diagonal(label)

    write_report(store, None, respeak, scores=limits)
    worst = report_of(store)["worst"]
    assert [w["rank"] for w in worst] == list(range(1, 21))
    assert [w["id"] for w in worst[:2]] == ["u017", "u031"]
    assert worst[0]["text"] == "text 17"
    assert (worst[0]["score"], worst[1]["score"]) == ("coverage", "longest_stay")
    assert worst[0]["nearness"] == 1.0
    assert worst[0]["causes"][0].startswith("share attended to: 0.85, on the limit of 0.85 (typ")
    assert worst[1]["causes"] == [
        "longest stay: 56 frames, 90% of the way from the typical 20 to the limit of 60"
    ]
    assert worst[1]["nearness"] == pytest.approx(0.9)
    assert worst[0]["scores"] == labels[17].scores
    assert (worst[0]["frames"], worst[0]["tokens"]) == (
        len(labels[17].mel),
        len(labels[17].tokens),
    )
    assert [w["nearness"] for w in worst] == sorted((w["nearness"] for w in worst), reverse=True)
    assert asked == [w["id"] for w in worst]  # and no others
    assert "index" not in worst[0]
    page = check_page(store)
    images = page.all("img")
    assert len(images) == 20
    assert all("attention over time" in (image["alt"] or "") for image in images)
    assert page.words.index("text 17") < page.words.index("text 31")


def test_nearness_is_the_share_of_the_way_from_the_median_to_the_limit() -> None:
    values = np.array([5.0, 5.0, 5.0, 4.0, 2.0, 9.0, 1.0, np.nan])
    assert nearness(values, Score("t", "", "middle", low=2, high=10)).tolist() == pytest.approx(
        [0, 0, 0, 1 / 3, 1.0, 0.8, 4 / 3, 0]
    )
    assert nearness(values, Score("t", "", "high", low=2)).tolist() == pytest.approx(
        [0, 0, 0, 1 / 3, 1.0, 0, 4 / 3, 0]
    )
    assert not nearness(values, Score("t", "", "high")).any()
    assert not nearness(values, None).any()
    assert not nearness(np.full(3, np.nan), SCORES["coverage"]).any()


def test_a_median_on_its_limit_ranks_only_what_is_beyond() -> None:
    values = np.array([0.0, 0.0, 0.0, 2.0])
    assert nearness(values, Score("t", "", "low", high=0)).tolist() == [0, 0, 0, 1]


def test_equals_rank_by_all_their_scores_and_then_in_order() -> None:
    scores = {
        "a": np.array([0.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0]),
        "b": np.array([0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]),
    }
    definitions = {name: Score(name, "", "low", high=10) for name in scores}
    ranked = worst_labels(scores, definitions)
    assert [worst.index for worst in ranked] == [3, 1, 2, 0, 4, 5, 6]
    assert [len(worst.causes) for worst in ranked[:2]] == [2, 1]
    assert ranked[-1].score is None
    assert ranked[-1].causes == ("None of its scores is worse than the typical one.",)
    assert worst_labels({}, definitions) == []
    slightly = worst_labels({"a": np.array([0.0, 0.0, 1.0])}, definitions, 1)[0]
    assert slightly.causes == ("a: 1, 10% of the way from the typical 0 to the limit of 10",)


def test_one_score_near_its_limit_ranks_before_several_that_are_half_way() -> None:
    scores = {name: np.array([0.0, 5.0, 0.0, 0.0, 0.0]) for name in "abc"}
    scores["d"] = np.array([0.0, 0.0, 9.0, 0.0, 0.0])
    definitions = {name: Score(name, "", "low", high=10) for name in scores}
    assert [worst.index for worst in worst_labels(scores, definitions, 2)] == [2, 1]


def test_what_texts_and_reasons_say_is_only_text(tmp_path: Path) -> None:
    labels = [replace(label, text=MARKUP) for label in labels_of(3)]
    rejects = [reject(0, reason=MARKUP, text=MARKUP)]
    store = make_store(tmp_path / "s", labels, rejects, note=MARKUP)
    write_report(store, None, diagonal)
    page = check_page(store)
    # of three labels; the rejected text, its reason, the table of reasons and the card; a setting
    assert page.words.count(MARKUP) == 3 + 1 + 1 + 1 + 1 + 1
    assert "<script" not in page.source


def test_a_page_of_thousands_of_long_rejects_is_small(tmp_path: Path) -> None:
    rejects = [reject(n, f"reason {n % 70}: " + "r" * 500, "\u00e9&" * 2000) for n in range(5000)]
    store = make_store(tmp_path / "s", labels_of(1), rejects)
    write_report(store, SUMMARY, None)
    assert (store / PAGE).stat().st_size < 1_000_000
    page = check_page(store)
    assert len(page.all("tr")) == 1 + 30 + 1 + 1 + 200
    assert "And 4,800 more" in page.words
    assert len(report_of(store)["rejects"]) == 5000


def test_pictures_without_room_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_report, "_MOST_PICTURE_BYTES", 60_000)
    store = make_store(tmp_path / "s", labels_of(12))
    write_report(store, None, diagonal)
    page = check_page(store)
    shown = len(page.all("img"))
    assert 1 <= shown < 12
    assert page.words.count("No picture: the page would grow too large.") == 12 - shown


@pytest.mark.parametrize("count", [1, 2])
def test_few_labels_and_no_rejects(tmp_path: Path, count: int) -> None:
    store = make_store(tmp_path / "s", labels_of(count))
    write_report(store, None, None)
    page = check_page(store)
    assert "no text failed" in page.words
    assert "Nothing: the teacher read every text well enough." in page.words
    assert len(page.all("img")) == count
    assert all("attention" not in (image["alt"] or "") for image in page.all("img"))
    assert "is not drawn, because it was not at hand" in page.words
    assert report_of(store)["run"] is None


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e6, 0.1 + 0.2])
def test_scores_that_are_all_equal(tmp_path: Path, value: float) -> None:
    labels = [replace(x, scores=dict.fromkeys(SCORES, value)) for x in labels_of(6)]
    store = make_store(tmp_path / "s", labels)
    write_report(store, None, None)
    check_page(store)
    for figures in report_of(store)["scores"].values():
        assert sum(figures["histogram"]["counts"]) == 6
        assert max(figures["histogram"]["counts"]) == 6


def test_unknown_missing_and_infinite_scores(tmp_path: Path) -> None:
    labels = labels_of(11)
    for label in labels[:5]:  # a shard of an older program
        del label.scores["coverage"]
        label.scores["a_score_of_theirs"] = 1.5
    labels[7].scores["coverage"] = math.inf
    labels[8].scores["coverage"] = math.nan
    rejects = [replace(reject(0), scores={"coverage": math.nan, "frames": math.inf, "peak": 1.0})]
    store = make_store(tmp_path / "s", labels, rejects)
    write_report(store, None, None)
    report = report_of(store)  # which refuses NaN and Infinity
    assert report["scores"]["coverage"]["count"] == 4
    assert report["scores"]["a_score_of_theirs"]["count"] == 5
    assert report["scores"]["a_score_of_theirs"]["title"] == "a score of theirs"
    assert list(report["scores"])[-1] == "a_score_of_theirs"
    assert report["rejects"][0]["scores"] == {"peak": 1.0}
    check_page(store)


def test_a_store_without_labels_shows_its_rejects(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [], [reject(0, "silent")])
    page_path = write_report(store, replace(SUMMARY, kept=0, frames=0, tokens=0), None)
    assert page_path == store / PAGE
    page = check_page(store)
    assert "No labels yet" in page.words
    assert "silent" in page.words
    assert not page.all("img")
    report = report_of(store)
    assert (report["kept"], report["rejected"], report["worst"]) == (0, 1, [])
    assert report["scores"] == {}
    assert report["frames_per_token"] is None


def test_a_store_without_anything_says_so(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [])
    write_report(store, None, None)
    assert "Nothing is in it; run preprocess.py" in check_page(store).words


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", labels_of(3), [reject(0)])
    write_report(store, SUMMARY, None)
    identity = StoreIdentity("their voice", "c" * 64, MEMORY_SIZE, LABELLING)
    with StoreWriter.open(store, identity) as writer:  # the report is no foreign file
        writer.append([replace(labels_of(9)[8], id="r00000")])
    write_report(store, None, None)
    report = report_of(store)
    assert (report["kept"], report["rejected"], report["run"]) == (4, 0, None)
    assert "4 texts labelled, 0 rejected" in check_page(store).words
    assert not list(store.glob("*.tmp"))
    assert LabelStore.open(store).verify() == []


def test_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label store at"):
        write_report(tmp_path, None, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"pick": 3}, {"mode": "forced"}])
def test_seeds_that_do_not_tell_of_retries(tmp_path: Path, settings: dict[str, Any]) -> None:
    store = make_store(tmp_path / "s", labels_of(4), **settings)
    write_report(store, None, None)
    assert report_of(store)["kept_after_retry"] is None
    check_page(store)


def test_the_limits_in_force_are_those_given(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", labels_of(4))
    stricter = {**SCORES, "coverage": replace(SCORES["coverage"], low=0.99)}
    write_report(store, None, None, scores=stricter)
    report = report_of(store)
    assert report["scores"]["coverage"]["low"] == 0.99
    assert report["scores"]["focus_rate"]["low"] == SCORES["focus_rate"].low


def test_an_attention_that_is_not_the_labels_is_not_drawn(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", labels_of(4))
    write_report(store, None, lambda label: diagonal(label)[int(label.id == "u002") :])
    page = check_page(store)
    with_attention = ["attention" in (image["alt"] or "") for image in page.all("img")]
    assert sorted(with_attention) == [False, True, True, True]
    assert "For 1 of them the attention is missing" in page.words


def test_the_teacher_says_labels_again() -> None:
    teacher = tiny_teacher(frames=9)

    def spoken(seed: int, *tokens: int) -> tuple[Label, torch.Tensor]:
        output = teacher.infer(torch.tensor([tokens]), torch.tensor([len(tokens)]), seeds=[seed])
        durations = torch.ones(len(tokens), dtype=torch.int64)
        durations[0] += len(output.mel[0]) - len(tokens)
        memory = output.memory[0]
        label = Label(
            "a", "abc", torch.tensor(tokens), durations, output.mel[0], memory,
            {"focus_rate": 1.0}, seed,
        )  # fmt: skip
        return label, output.attention[0]

    pairs = [spoken(5, 12, 13, 14, 15), spoken(6, 20, 21)]
    respeak = TeacherAttention(teacher, {"prenet_dropout": 0.5, "gate_threshold": 0.5})
    together = attention_of(respeak, [label for label, _ in pairs])
    for (label, attention), again in zip(pairs, together, strict=True):
        assert again is not None
        torch.testing.assert_close(again, attention, rtol=0, atol=1e-6)
        torch.testing.assert_close(respeak(label), attention, rtol=0, atol=1e-6)
    other = respeak(replace(pairs[0][0], seed=7))
    assert not torch.allclose(other, pairs[0][1], rtol=0, atol=1e-6)
    assert attention_of(respeak, []) == []


@pytest.mark.parametrize(
    ("text", "rows"), [("ab c", ["a", "b", "\u2423", "c"]), ("ab c" * 9, None)]
)
def test_symbols_stand_beside_the_attention_where_they_fit(
    text: str, rows: list[str] | None
) -> None:
    durations = torch.full((len(text),), 3)
    label = replace(labels_of(1)[0], tokens=torch.zeros(len(text)), durations=durations)
    mel = torch.zeros(3 * len(text), 80)
    figure = draw_label(list(text), durations, mel, diagonal(label))
    attention, spectrogram = figure.axes
    shown = [tick.get_text() for tick in attention.get_yticklabels()]
    assert shown == (rows or ["ab", *["cab"] * 8, "c"])
    assert attention.get_xlim() == spectrogram.get_xlim()
    assert len(draw_label(list(text), durations, mel, None).axes) == 1


def test_only_the_labels_own_teacher_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "voice.pt"
    file.write_bytes(b"weights")
    digest = "9ebf3b8bc8ff6bbfa0f9e6bb3b4b6a04d1dc1a7a9f7a2a1c8c6f9b1f8b8d9d5c"
    assert find_checkpoint("none", digest) is None
    assert find_checkpoint("auto", digest) is None
    with pytest.raises(InputError, match="is not the teacher of these labels"):
        find_checkpoint(str(file), digest)
    with pytest.raises(InputError, match="no teacher at"):
        find_checkpoint(str(tmp_path / "absent.pt"), digest)


def test_the_command_writes_a_report_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "s", labels_of(2))
    monkeypatch.setattr("sys.argv", ["label_report", str(store)])
    label_report.main()
    captured = capsys.readouterr()
    assert captured.out == f"report: {store / PAGE}\n"
    assert "the teacher their voice is not at hand; name its file with --teacher" in captured.err
    check_page(store)
