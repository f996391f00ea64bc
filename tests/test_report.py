"""The listening page and the plots: complete, self-contained, safe against what a text contains."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.collections import LineCollection
from matplotlib.text import Annotation
from PIL import Image

from lightspeech.evaluation import plots, report
from lightspeech.evaluation.figures import Work, times_real_time, timing_difference, undisturbed
from lightspeech.evaluation.report import Entry, Facts, Page, entry_record
from lightspeech.evaluation.strips import Beside
from lightspeech.speech import Reading, Speech, join_readings

SPEEDS = {"mel": 214.0, "vocoder": 21.0, "all": 19.1}
FACTS = Facts(
    voice="runs/<mine>",
    voice_details=["configuration quick, step 600"],
    student_parameters=1_867_089,
    vocoder="griffin-lim",
    device="CPU",
    pace=1.0,
    date="2026-01-01 12:00",
    teacher="tacotron2_slt",
    teacher_parameters=4_796_673,
    teacher_note="the voice's own teacher",
)


def speech(*sentences: str, teacher: bool = False, stopped: bool = True) -> Speech:
    """Each symbol takes 2 frames of a student and 3 of a teacher."""
    readings, wavs = [], []
    for sentence in sentences:
        durations = torch.full((len(sentence),), 3 if teacher else 2)
        frames = int(durations.sum())
        tokens = torch.repeat_interleave(torch.arange(len(sentence)), durations)
        attention = torch.nn.functional.one_hot(tokens, len(sentence)).float() if teacher else None
        mel = torch.linspace(-11, 2, frames * 80).view(frames, 80)
        readings.append(
            Reading(sentence, list(sentence.lower()), mel, durations, attention, stopped)
        )
        wavs.append(0.5 * torch.sin(torch.arange(256 * frames) / 20))
    seconds = {"text": 0.001, "mel": 0.01, "vocoder": 0.1}
    return join_readings(readings, wavs, 17, seconds)


def entry(text: str = "Hello you.", sentences: tuple[str, ...] = ("Hello you.",)) -> Entry:
    return Entry("001-hello", text, [], speech(*sentences), speech(*sentences, teacher=True))


def rendered(*entries: Entry, facts: Facts = FACTS) -> str:
    page = Page(facts)
    for each in entries:
        page.add(each)
    voices = ("student", "teacher") if facts.teacher else ("student",)
    return page.render({who: SPEEDS for who in voices})


class Elements(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    VOID = ("meta", "img", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_holds_everything_it_needs() -> None:
    page = rendered(entry())
    elements = Elements(page)
    sources = [e["src"] for e in elements.all("audio") + elements.all("img")]
    assert len(sources) == 2 + 3  # two players; two mels and an attention
    assert all(source and source.startswith("data:") for source in sources)
    assert not elements.all("link")
    assert "src" not in elements.all("script")[0]
    assert "http:" not in page
    assert "https:" not in page
    assert "{{" not in page
    assert all(image["alt"] for image in elements.all("img"))
    assert all(player["aria-label"] for player in elements.all("audio"))


def test_the_sound_in_the_page_is_the_speech() -> None:
    given = entry()
    source = Elements(rendered(given)).all("audio")[0]["src"]
    assert source is not None
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert rate == 22050
    np.testing.assert_allclose(samples, given.student.wav.numpy(), atol=1 / 32768)


def test_the_picture_is_the_mel_with_low_bins_at_the_bottom() -> None:
    given = entry()
    source = Elements(rendered(given)).all("img")[0]["src"]
    assert source is not None
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert image.size == (len(given.student.mel), 80)
    levels = np.asarray(image).astype(float)[::-1].T  # (T, M)
    expected = (given.student.mel.numpy() + 11.513) / 13.513 * 64
    assert np.abs(levels - expected).max() <= 1.01


def test_texts_are_only_text() -> None:
    nasty = '<script>alert("x")</script> & {{entries}} \' onload="'
    page = rendered(replace(entry(nasty), dropped=["U+003C LESS-THAN SIGN '<'"]))
    elements = Elements(page)
    assert len(elements.all("script")) == 1
    assert nasty in elements.text
    assert "runs/<mine>" in elements.text
    assert "U+003C LESS-THAN SIGN '<'" in elements.text
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)


def test_the_policy_allows_just_our_script() -> None:
    page = rendered(entry())
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(e["content"] for e in Elements(page).all("meta") if "http-equiv" in e)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_symbols_stand_under_their_frames() -> None:
    given = entry()
    rows = re.findall(
        r'<div class="symbols of-(\w+)".*?data-seconds="([^"]+)" data-start="([^"]+)">(.*?)</div>',
        rendered(given),
    )
    for (who, seconds, start, cells), spoken in zip(
        rows, (given.student, given.teacher), strict=True
    ):
        assert spoken is not None
        assert who in ("student", "teacher")
        ends = float(start) + np.cumsum([float(x) for x in seconds.split()])
        np.testing.assert_allclose(ends, [end for _, _, end in spoken.timings], atol=1e-3)
        symbols = re.findall(r"<b[^>]*>(.*?)</b>", cells)
        assert symbols == list("hello you.")
        # The teacher takes 3 frames a symbol and fills the width; the student 2.
        share = 10.0 if who == "teacher" else 100 * 2 / 30
        places = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", cells)
        np.testing.assert_allclose(
            [float(left) for left, _ in places], share * np.arange(10), atol=0.006
        )
        assert {float(width) for _, width in places} == {round(share, 2)}


def test_the_header_tells_what_one_hears() -> None:
    text = Elements(rendered(entry())).text
    for fact in (
        "1,867,089 parameters", "4,796,673 parameters, 2.6 times the student's", "griffin-lim",
        "step 600", "2026-01-01 12:00", "214 \u00d7", "21 \u00d7", "19 \u00d7",
        "text to sound, everything",
    ):  # fmt: skip
        assert fact in text, fact


def test_a_student_alone() -> None:
    facts = replace(FACTS, teacher=None, teacher_note="the voice's teacher (x) is not at hand")
    page = rendered(replace(entry(), teacher=None), facts=facts)
    elements = Elements(page)
    assert len(elements.all("audio")) == len(elements.all("img")) == 1
    assert "is not at hand" in elements.text
    assert "Durations differ" not in elements.text


def test_sentences_of_a_long_text_are_folded_away() -> None:
    sentences = tuple(f"Sentence {word}." for word in ["a", "b", "c", "d", "e"])
    elements = Elements(rendered(entry(" ".join(sentences), sentences)))
    assert "2 more sentences" in elements.text
    assert len(elements.all("details")) == 1
    assert len(elements.all("audio")) == 2
    assert len(elements.all("img")) == 3 * 5


def test_a_teacher_that_was_cut_off_is_told() -> None:
    cut = replace(entry(), teacher=speech("Hello you.", teacher=True, stopped=False))
    assert "did not stop by itself" in Elements(rendered(cut)).text
    assert entry_record(cut)["teacher"]["stopped"] is False


def test_a_page_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_ENTRIES", 2)
    text = Elements(rendered(entry(), entry(), entry(), entry())).text
    assert "4 texts in the voice" in text
    assert "2 more texts were spoken" in text


def test_differences_of_timing() -> None:
    given = entry()
    assert given.teacher is not None
    difference = timing_difference(given.student, given.teacher)
    assert difference.error_frames == 1
    assert difference.length_ratio == pytest.approx(2 / 3)


def test_speeds_are_totals_over_totals() -> None:
    works = [
        Work(10.0, {"text": 0.5, "mel": 0.5, "vocoder": 1.0}),
        Work(2.0, {"text": 0.5, "mel": 0.5, "vocoder": 3.0}),
    ]
    assert times_real_time(works) == {"mel": 6.0, "vocoder": 3.0, "all": 2.0}


def test_timing_is_undisturbed() -> None:
    with undisturbed():
        assert not gc.isenabled()
        with undisturbed():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_plots(tmp_path: Path) -> None:
    given = entry("a $5 ^ {\\bad math}")
    path = tmp_path / "plot.png"
    plots.plot_speech(path, given.student, given.teacher, "costs $5 and $6, \\frac{")
    with Image.open(path) as image:
        assert image.size[0] >= 700
        assert np.asarray(image.convert("L")).std() > 10
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]


def test_a_plot_writes_symbols_between_their_boundaries() -> None:
    given = entry()
    figure = plots.draw_speech(given.student, given.teacher, "title")
    student, teacher, attention = figure.axes
    for ax, width in ((student, 2), (teacher, 3)):
        labels = [
            (text.get_text(), text.xy[0]) for text in ax.texts if isinstance(text, Annotation)
        ]
        frame = 256 / 22050
        expected = [
            (symbol, (i + 0.5) * width * frame) for i, symbol in enumerate("hello\u2423you.")
        ]
        assert [text for text, _ in labels] == [text for text, _ in expected]
        np.testing.assert_allclose([x for _, x in labels], [x for _, x in expected])
        boundaries = ax.collections[0]
        assert isinstance(boundaries, LineCollection)
        np.testing.assert_allclose(
            [segment[0][0] for segment in boundaries.get_segments()],
            np.arange(1, 10) * width * frame,
        )
    assert [label.get_text() for label in attention.get_yticklabels()] == ["hello", "you."]


def test_a_plot_of_a_long_text_says_what_it_leaves_out() -> None:
    figure = plots.draw_speech(speech(*["Hi you."] * 5), None, "title")
    assert len(figure.axes) == plots.MOST_PIECES
    assert "(and 2 more sentences)" in figure.get_suptitle()


def test_the_path_through_an_attention() -> None:
    assert plots.attention_path(np.array([2, 0, 3])).tolist() == [0, 0, 2, 2, 2]


def test_markup_in_any_field_is_only_text() -> None:
    nasty = '<i class="x">&amp;</i>"\''
    said = speech(nasty, nasty)
    facts = replace(
        FACTS, voice=nasty, voice_details=[nasty], vocoder=nasty, device=nasty, date=nasty,
        teacher=nasty, teacher_note=nasty,
    )  # fmt: skip
    given = replace(entry(nasty), student=said, teacher=speech(nasty, nasty, teacher=True))
    for shown in (given, replace(given, text="other")):
        for each in (facts, replace(facts, teacher=None)):
            elements = Elements(
                rendered(shown if each.teacher else replace(shown, teacher=None), facts=each)
            )
            assert not elements.all("i")
            assert all(
                set(p) <= {"controls", "preload", "data-who", "aria-label", "src"}
                for p in elements.all("audio")
            )
    assert nasty.lower() in Elements(rendered(replace(given, text="other"))).text
    assert f"student: {nasty}" in [p["aria-label"] for p in Elements(rendered(given)).all("audio")]


def test_sound_beyond_full_scale_is_scaled_not_clipped() -> None:

    given = entry()
    loud = replace(given, student=replace(given.student, wav=4 * given.student.wav))
    source = Elements(rendered(loud)).all("audio")[0]["src"]
    assert source is not None
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    expected = given.student.wav / given.student.wav.abs().max()
    np.testing.assert_allclose(samples, expected.numpy(), atol=1e-4)


def test_one_sentence_that_was_cut_off_is_enough_to_tell() -> None:
    given = entry("A. B.", ("A.", "B."))
    assert given.teacher is not None
    first, second = given.teacher.pieces
    cut = replace(given.teacher, pieces=[replace(first, stopped=False), second])
    cut_entry = replace(given, teacher=cut)
    assert "did not stop by itself" in Elements(rendered(cut_entry)).text

    assert entry_record(cut_entry)["teacher"]["stopped"] is False


def test_durations_are_compared_at_the_voices_own_pace_only() -> None:
    assert "Durations differ" in Elements(rendered(entry())).text
    assert (
        "Durations differ" not in Elements(rendered(entry(), facts=replace(FACTS, pace=1.5))).text
    )


def test_voices_beside_have_players_facts_and_files() -> None:
    said = speech("Hello you.")
    beside = (Beside("beside-1", "slt", said, "slt"), Beside("beside-2", "a <b>", said))
    given = replace(entry(), beside=beside)
    facts = replace(
        FACTS, beside=(("beside-1", "slt", 1234), ("beside-2", "a <b>", 56)),
        beside_details={"beside-1": ["step <9,000>"]},
    )  # fmt: skip
    elements = Elements(rendered(given, facts=facts))
    players = elements.all("audio")
    assert [p["data-who"] for p in players] == ["student", "teacher", "beside-1", "beside-2"]
    assert [p["aria-label"] for p in players[2:]] == ["slt: Hello you.", "a <b>: Hello you."]
    links = [link["href"] for link in elements.all("a")]
    assert links[-2:] == ["001-hello.slt.wav", "001-hello.beside-2.wav"]
    for fact in ("1,234 parameters", "step <9,000>", "56 parameters", "by 4 voices"):
        assert fact in elements.text, fact
    record = entry_record(given, has_mels=True)["beside"]
    assert record["slt"]["wav"] == "001-hello.slt.wav"
    assert record["a <b>"]["mel"] == "001-hello.beside-2.npy"
    assert "beside" not in entry_record(entry())
