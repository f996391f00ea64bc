"""Students beside their teacher: figures agree with naive ones, nothing is judged twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightspeech import evaluate as command
from lightspeech.audio import read_wav
from lightspeech.checkpoint import save_voice
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.evaluation import voice_evaluation, voice_pages
from lightspeech.evaluation.bootstrap import Ratio, RootRatio, interval_text, with_interval
from lightspeech.evaluation.figures import timing_difference
from lightspeech.evaluation.quality import Dnsmos, ErrorRates
from lightspeech.evaluation.seen_texts import among, texts_of, training_store
from lightspeech.evaluation.sound_judging import Judges
from lightspeech.evaluation.tables import Table
from lightspeech.evaluation.voice_evaluation import Panel, evaluate, through, vocoder_names
from lightspeech.evaluation.voice_figures import figures
from lightspeech.evaluation.voice_pages import write_pages
from lightspeech.evaluation.voice_table import tables, text_of
from lightspeech.evaluation.voices import Student, Teacher, load_students
from lightspeech.model import LightSpeech
from lightspeech.synthesis import Synthesizer, TeacherSynthesizer
from lightspeech.text import Line
from lightspeech.vocoders import Vocoder, check_mel, load_vocoder
from tests.synthetic_store import make_store
from tests.test_evaluate_teacher import Listeners
from tests.test_report import Elements
from tests.test_synthesis import TINY, Loud, save_tiny_voice, tiny_student
from tests.tiny_teacher import tiny_teacher

LINES = [
    Line("one", "A small boat went by; nobody saw it.", "x:1"),
    Line("two", "Go.", "x:2"),
    Line("three", "We were late for the small train.", "x:3"),
]


class Soft(Loud):
    """Half as loud, from a checkpoint."""

    name = "soft"
    source = {"path": "a/b c.pt", "name": "b c", "sha256": "5" * 64}  # noqa: RUF012

    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        for piece in check_mel(mel).split(100):
            yield (piece.float().mean(1) / 40).repeat_interleave(256)


def student(who: str = "student", seed: int = 0, sha256: str = "a" * 64) -> Student:
    torch.manual_seed(seed)
    facts = {"name": who, "config": {"name": "tiny"}, "step": 7}
    model = Synthesizer(LightSpeech(TINY), Loud(), facts)
    return Student(who, Path("x"), sha256, model)


def teacher(seed: int = 0, frames: int = 20) -> Teacher:
    model = tiny_teacher(frames, seed)
    model.source = {"path": "x", "name": f"tiny{seed}", "sha256": str(seed)}
    return Teacher(TeacherSynthesizer(model, Loud()))


def panel(listeners: Listeners | None = None, **changes: Any) -> Panel:
    settings: dict[str, Any] = {"sigma": None}
    judges = listeners.judges() if listeners else None
    return replace(
        Panel([student()], teacher(), vocoder_names([Loud()]), judges, settings), **changes
    )


def judged(listeners: Listeners | None, folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return evaluate(LINES, panel(listeners, **changes), folder, {"given": 10, "left_out": []})


def timeless(record: Any) -> Any:
    """A record without what depends on the clock."""
    if isinstance(record, dict):
        clock = ("date", "seconds_spent", "times_real_time")
        return {key: timeless(value) for key, value in record.items() if key not in clock}
    return [timeless(item) for item in record] if isinstance(record, list) else record


# Intervals


def test_the_root_of_a_mean_square_has_the_interval_of_its_square() -> None:
    squares = np.random.default_rng(3).chisquare(1, 200)
    root, square = (with_interval(kind(squares, np.ones(200))) for kind in (RootRatio, Ratio))
    for end in ("value", "low", "high"):
        assert root[end] == pytest.approx(math.sqrt(square[end]))
    assert root["value"] == pytest.approx(1, abs=0.15)  # a standard normal's deviation
    assert root["low"] < 1 < root["high"]
    assert interval_text(root | {"value": 0.5}, "{:.1f} dB", 10).startswith("5.0 dB (")


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        above = generator.normal(1.0, 0.5, 40)
        found = with_interval(Ratio(above, np.ones(40)))
        hits += found["low"] <= 1.0 <= found["high"]
    assert 0.88 <= hits / 200 <= 0.99


# Figures


def heard(p808: float, wrong: int, words: int = 4) -> dict[str, Any]:
    return {
        "seconds": 2.0, "seconds_spent": {"text": 0.0, "mel": 0.1, "vocoder": 0.4}, "cut_off": 0,
        "dnsmos_p808": p808, "dnsmos_overall": p808 - 1, "heard": "", "character_edits": wrong,
        "characters": 5 * words, "word_edits": wrong, "words": words,
    }  # fmt: skip


def compared(scale: float = 1, speech: float = 5) -> dict[str, Any]:
    return {
        "path_steps": 10.0, "distortion": 30.0 * scale, "voicing_differences": 2.0,
        "voiced_steps": 4.0, "cents_squared": 4 * (50.0 * scale) ** 2, "teacher_frames": 8.0,
        "mel_error": 4.0 * scale, "tokens": 4.0, "duration_error": 2.0 * scale,
        "student_frames": 8.0 * scale, "speech_frames": speech, "variance_ratio": 0.5 * scale,
    }  # fmt: skip


def test_figures_add_up() -> None:
    texts = [
        {
            "heard": {"v": {"teacher": heard(4, 0), "student": heard(3, 2), "b": heard(3.5, 1)}},
            "compared": {"student": compared(), "b": compared(0.5)},
        },
        {
            "heard": {"v": {"teacher": heard(3, 1, 8), "student": heard(2, 3, 8),
                            "b": heard(3, 1, 8)}},
            "compared": {"student": compared(2, speech=15), "b": compared()},
        },
    ]  # fmt: skip
    found = figures(texts, ["student", "b"], ["v"])
    assert found["judged"] == 2
    voices = found["heard"]["v"]["voices"]
    assert voices["student"]["dnsmos_p808"]["value"] == 2.5
    assert voices["student"]["word_error"]["value"] == pytest.approx(5 / 12)  # not a mean of rates
    assert voices["student"]["character_error"]["value"] == pytest.approx(5 / 60)
    assert voices["teacher"]["times_real_time"]["mel"] == pytest.approx(20)
    difference = found["heard"]["v"]["difference"]
    assert list(difference) == ["student", "b"]
    assert list(difference["student"]["dnsmos_p808"].values()) == [-1.0] * 3  # paired
    assert difference["b"]["word_error"]["value"] == pytest.approx(2 / 12 - 1 / 12)
    others = found["heard"]["v"]["difference_from_others"]["b"]
    assert others["dnsmos_overall"]["value"] == pytest.approx(2.5 - 3.25)
    ours = {name: figure["value"] for name, figure in found["compared"]["student"].items()}
    assert ours == pytest.approx({
        "mel_cepstral_distortion": (30 + 60) / 20,
        "pitch_error_cents": math.sqrt((50**2 + 100**2) / 2),
        "voicing_error": 0.2,
        "mel_error": 12 / 16,
        "duration_error_frames": 6 / 8,
        "length_ratio": 24 / 16,
        "variance_ratio": (5 * 0.5 + 15 * 1.0) / 20,
    })  # fmt: skip
    less = found["compared_difference"]["b"]
    assert less["mel_cepstral_distortion"]["value"] == pytest.approx(4.5 - 45 / 20)
    assert less["pitch_error_cents"]["low"] == pytest.approx(25)  # half of 50 to 100, text by text
    assert less["pitch_error_cents"]["high"] == pytest.approx(50)
    record = {
        **found, "given": 30, "vocoders": {"v": {}},
        "voices": {who: {"parameters": 1234} for who in ("teacher", "student", "b")},
    }  # fmt: skip
    shown = text_of(record)
    for words in ("2 of 30 texts through v", "2.50 (2.00 to 3.00)", "-1.00 (-1.00 to -1.00)",
                  "student less b", "41.7 (37.5 to 50.0)", "1,234", "79 (50 to 100)"):  # fmt: skip
        assert words in shown, words


def test_texts_without_voice_or_movement_are_left_out_of_those_figures() -> None:
    silent = compared(3) | {"voiced_steps": 0.0, "variance_ratio": None, "cents_squared": 0.0}
    each = {"v": {"student": heard(3, 1), "teacher": heard(3, 1)}}
    texts = [{"heard": each, "compared": {"student": c}} for c in (compared(), silent)]
    found = figures(texts, ["student"], ["v"])["compared"]["student"]
    assert found["pitch_error_cents"]["value"] == pytest.approx(50)
    assert found["variance_ratio"]["value"] == pytest.approx(0.5)
    assert found["mel_error"]["value"] == pytest.approx(1.0)
    nothing = figures(texts[1:], ["student"], ["v"])["compared"]["student"]
    assert nothing["pitch_error_cents"] is None


def test_a_table_is_aligned_and_its_words_are_only_text() -> None:
    table = Table("<b>", ["one", "two"], [("row & co", ["1", "22222"])], ["note"])
    assert table.text().splitlines() == [
        "<b>", "             one     two", "  row & co     1   22222", "  note"
    ]  # fmt: skip
    elements = Elements(table.html())
    assert not elements.all("b")
    assert "row & co" in elements.text


# A run


def test_everybody_is_judged_through_every_vocoder(tmp_path: Path) -> None:
    listeners = Listeners()
    vocoders = vocoder_names([Loud(), Soft()])
    beside = student("old", 1, "b" * 64)
    record = judged(listeners, tmp_path, vocoders=vocoders, students=[student(), beside])
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert listeners.heard == 3 * 3 * 2
    assert list(record["vocoders"]) == ["loud", "soft-b-c"]
    assert [text["id"] for text in record["texts"]] == ["one", "two", "three"]
    first = record["texts"][0]["heard"]
    for who in ("teacher", "student", "old"):
        louder, softer = (first[v][who]["dnsmos_p808"] for v in record["vocoders"])
        assert softer - 1 == pytest.approx((louder - 1) / 2, rel=1e-4)  # Listeners hear the level
        assert first["loud"][who]["word_edits"] == 6  # of 8: they hear "small boat"
        assert first["loud"][who]["seconds_spent"]["mel"] > 0
    assert first["loud"]["student"]["dnsmos_p808"] != first["loud"]["old"]["dnsmos_p808"]
    # Durations are those that both say by themselves.
    ours, theirs = student().speak(LINES[0].text), teacher().speak(LINES[0].text)
    sums = record["texts"][0]["compared"]["student"]
    naive = timing_difference(ours, theirs)
    assert sums["duration_error"] / sums["tokens"] == pytest.approx(naive.error_frames)
    assert sums["student_frames"] / sums["teacher_frames"] == pytest.approx(naive.length_ratio)
    assert record["voices"]["student"]["step"] == 7
    assert record["voices"]["teacher"]["name"] == "tiny0"
    assert record["voices"]["teacher"]["seed"] == 0
    shown = text_of(record)
    assert "3 of 10 texts through loud" in shown
    assert "3 of 10 texts through soft-b-c" in shown
    assert "less the teacher" in shown
    assert "student less old" in shown


def test_alone_and_without_judges(tmp_path: Path) -> None:
    record = judged(None, tmp_path, teacher=None)
    assert list(record["voices"]) == ["student"]
    assert record["compared"] == {}
    assert record["heard"]["loud"]["difference"] == {}
    shown = text_of(record)
    assert "DNSMOS" not in shown
    assert "teacher" not in shown
    assert "text to mel, x real time" in shown
    record["judged"] = record["given"] = 1
    assert "1 text through loud" in text_of(record)


def test_a_teacher_that_was_cut_off_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("lightspeech.synthesis._TEACHER_MAX_FRAMES", 15)
    record = judged(None, tmp_path)
    assert record["cut_off"] == 4  # the first text has two sentences
    assert "did not end 4 sentences by itself" in text_of(record)


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    first = judged(Listeners(), tmp_path)
    again = Listeners()
    second = judged(again, tmp_path)
    assert again.heard == 0
    assert {**second, "date": ""} == {**first, "date": ""}
    other = Listeners()
    vocoders = vocoder_names([Loud(), Soft()])
    assert list(judged(other, tmp_path, vocoders=vocoders)["heard"]) == ["loud", "soft-b-c"]
    assert other.heard == 3 * 2  # the new vocoder's
    trained = Listeners()
    judged(trained, tmp_path, students=[student(sha256="c" * 64)])
    assert trained.heard == 3  # the teacher's were judged before
    taught = Listeners()
    judged(taught, tmp_path, teacher=teacher(1))
    assert taught.heard == 3
    settings = Listeners()
    judged(settings, tmp_path, vocoder_settings={"sigma": 0.7})
    assert settings.heard == 6


def test_the_teachers_rendition_is_the_same_in_every_run(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = judged(Listeners(), tmp_path / "a")
    torch.manual_seed(2)
    second = judged(Listeners(), tmp_path / "b")
    assert timeless(first) == timeless(second)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        judged(Listeners(stop_after=3), tmp_path)
    rest = Listeners()
    record = judged(rest, tmp_path)
    assert rest.heard == 6 - 3
    assert timeless(record) == timeless(judged(Listeners(), tmp_path / "at once"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_journal_that_was_cut_anywhere_is_completed(tmp_path: Path, share: float) -> None:
    expected = judged(Listeners(), tmp_path)
    journal = tmp_path / voice_evaluation.JOURNAL
    content = journal.read_bytes()
    kept = content[: int(share * len(content))]
    journal.write_bytes(kept)
    listeners = Listeners()
    assert timeless(judged(listeners, tmp_path)) == timeless(expected)
    whole = [line for line in kept.splitlines(keepends=True) if line.endswith(b"\n")]
    assert listeners.heard == 6 - sum(b"dnsmos_p808" in line for line in whole)
    done = Listeners()
    judged(done, tmp_path)
    assert done.heard == 0


def test_a_voice_that_fails_on_a_text_is_named(tmp_path: Path) -> None:
    broken = student("broken")
    with torch.no_grad():
        broken.synthesizer.student.output.bias.fill_(math.nan)
    message = r"x:1: broken, on 'A small boat went by; nobody saw it\.': .* NaN or infinite values"
    with pytest.raises(InputError, match=message):
        judged(None, tmp_path, students=[student(), broken])


def test_a_vocoder_that_fails_on_a_text_is_named(tmp_path: Path) -> None:
    class Picky(Soft):
        def stream(self, mel: Tensor) -> Iterator[Tensor]:
            for piece in super().stream(mel):
                yield piece * (math.nan if len(mel) != 20 else 1.0)  # the teacher's are 20 frames

    message = r"x:1: student, on 'A small .*': the vocoder soft:a/b c\.pt made samples that are NaN"
    with pytest.raises(InputError, match=message):
        judged(None, tmp_path, vocoders=vocoder_names([Loud(), Picky()]))
    assert judged(None, tmp_path)["judged"] == 3


def test_the_same_speech_through_the_same_vocoder_is_the_same() -> None:
    speech = Synthesizer(tiny_student(), Loud())("One. Two! Three?", sentence_silence=0.5)
    assert len(speech.pieces) == 3
    again = through(Loud(), speech)
    torch.testing.assert_close(again.wav, speech.wav)
    torch.testing.assert_close(again.mel, speech.mel)
    assert again.timings == speech.timings
    assert again.seconds.keys() == speech.seconds.keys()
    torch.testing.assert_close(through(Soft(), speech).wav, speech.wav / 2)


def test_vocoders_have_names_and_come_once() -> None:
    other = Soft()
    other.source = {"path": "c/b c.pt", "name": "b c", "sha256": "6" * 64}
    given: list[Vocoder] = [Soft(), load_vocoder("griffin-lim"), Loud(), Soft(), other]
    found = vocoder_names(given)
    assert list(found) == ["soft-b-c", "griffin-lim", "loud", "soft-b-c-66666666"]
    assert found["soft-b-c"] is given[0]


# Voices


def test_voices_beside_have_names_that_tell_them_apart(tmp_path: Path) -> None:
    paths = [save_tiny_voice(tmp_path / name, {"name": "t"}) for name in ("a/x", "b/x", "teacher")]
    one = save_tiny_voice(tmp_path / "c", {"name": "t"}) / "best.safetensors"
    renamed = one.rename(tmp_path / "c" / "new.safetensors")
    found = load_students(paths[0], [paths[1], paths[2], renamed], Loud(), "cpu")
    assert [voice.who for voice in found] == [
        "student", "x", str(paths[2] / "best.safetensors"), "new"
    ]  # fmt: skip
    assert len({voice.sha256 for voice in found}) == 1  # the same weights
    with pytest.raises(InputError, match=r"best\.safetensors is named twice"):
        load_students(paths[0], [tmp_path / "a/x/best.safetensors"], Loud(), "cpu")
    both = load_students(paths[2], paths[:2], Loud(), "cpu")
    assert [voice.who for voice in both][1:] == [str(p / "best.safetensors") for p in paths[:2]]


# Texts


def test_texts_that_were_learned_are_found_as_they_are_spoken() -> None:
    lines = [
        Line("a", "Dr. Li owns 2 owls.", "x:1"),
        Line("b", "Who's next?", "x:2"),
        Line("c", "Seven swans swam over the sea.", "x:3"),
    ]
    texts = ["And doctor Li owns two owls, she says.", "Who's next in the queue?",
             "Seven swans swam over the seas."]  # fmt: skip
    assert [line.id for line in among(lines, texts)] == ["a"]
    assert [line.id for line in among(lines, [*texts, "WHO'S NEXT"])] == ["a", "b"]
    assert among(lines, []) == []


def test_the_store_of_a_voice_is_known_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store")
    file = tmp_path / "run" / "best.safetensors"
    monkeypatch.chdir(tmp_path.parent)
    found = training_store({"store": {"digest": store.digest}}, file)
    assert found is not None
    assert found.path == tmp_path.resolve() / "store"
    assert texts_of(found) == [label.text for label in store]
    assert training_store({"store": {"digest": "other"}}, file) is None
    assert training_store({}, file) is None
    (tmp_path / "store" / "manifest.json").write_text("{}", encoding="utf-8")
    assert training_store({"store": {"digest": store.digest}}, file) is None


# Pages


def test_a_page_for_each_vocoder_plays_everybody(tmp_path: Path) -> None:
    vocoders = vocoder_names([Loud(), Soft()])
    run = panel(None, vocoders=vocoders, students=[student(), student("<old>", 1, "b" * 64)])
    record = evaluate(LINES, run, tmp_path, {"given": 3, "left_out": []})
    pages = write_pages(LINES, run, record, tmp_path, "why")
    assert pages == [tmp_path / name / "index.html" for name in ("loud", "soft-b-c")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        elements = Elements(text)
        players = elements.all("audio")
        assert [player["data-who"] for player in players[:3]] == ["student", "teacher", "beside-1"]
        assert len(players) == 9
        assert not elements.all("old")
        assert f"3 texts through {page.parent.name}" in elements.text
        assert "student less <old>" in elements.text
        assert "Each text by 3 voices" in elements.text
        assert len(elements.all("img")) == 4 * (3 + 1)  # of each sentence: mels and attention
        for name in ("002-go.wav", "002-go.teacher.wav", "002-go.beside-1.wav"):
            assert f'href="{name}"' in text
            assert (page.parent / name).is_file()
    wavs = [read_wav(page.with_name("002-go.wav")) for page in pages]
    torch.testing.assert_close(wavs[1], wavs[0] / 2, atol=1e-4, rtol=0)
    with Image.open(tmp_path / "002-go.png") as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_a_page_has_ten_texts_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_pages, "MOST_HEARD", 2)
    monkeypatch.setattr(voice_pages, "plot_mels", lambda *args: None)
    run = panel(None, teacher=None)
    record = evaluate(LINES, run, tmp_path, {"given": 3, "left_out": []})
    (page,) = write_pages(LINES, run, record, tmp_path, "why")
    text = page.read_text(encoding="utf-8")
    assert text.index("A small boat") < text.index(">Go.")  # the longest and the shortest
    assert "We were late" not in text
    assert "2 texts in the voice student" in text
    assert [table.caption for table in tables(record)] == [
        "3 texts through loud, with 95 % intervals:"
    ]


# The command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(run_in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder, with a tiny voice, teacher and text."""
    monkeypatch.chdir(tmp_path)
    save_tiny_voice(tmp_path / "mine" / "run", {"name": "tiny0", "sha256": "0"})
    (tmp_path / "text.csv").write_text(
        "".join(f"{line.id}|{line.text}\n" for line in LINES) + "bad\n", encoding="utf-8"
    )

    def load(path: Path, vocoder: Vocoder, device: Any, dropout: float) -> TeacherSynthesizer:
        return teacher().synthesizer

    monkeypatch.setattr(TeacherSynthesizer, "load", load)

    def run(*options: object) -> tuple[int, str, str]:
        return run_in_process(
            command.main, "evaluate", "mine/run", "--text", "text.csv", "--vocoder", "griffin-lim",
            "--device", "cpu", "--no-speech-quality", "--teacher", "some.pt", *options,
        )  # fmt: skip

    return run


def test_the_command(call: Run, tmp_path: Path) -> None:
    torch.manual_seed(5)
    (tmp_path / "old").mkdir()
    save_voice(
        tmp_path / "old", LightSpeech(TINY), Config(name="tiny", model=TINY), step=3,
        validation={"total": 1.0}, store={"digest": "1"}, teacher={"name": "x", "sha256": "1"},
    )  # fmt: skip
    status, out, err = call("--limit", 2, "--beside", "old", "--vocoder", "griffin-lim")
    assert status == 0, err
    assert "texts: 2 of 3" in out
    assert "beside: old, as old, which learned from another teacher" in out
    assert "what the voice learned from is not at hand" in out
    assert "2 of 3 texts through griffin-lim" in out
    assert "results/evaluation/griffin-lim/index.html" in out
    assert "left out: text.csv:4: 1 column" in err
    record = json.loads((tmp_path / "results/evaluation.json").read_text(encoding="utf-8"))
    assert record["judged"] == 2
    assert list(record["voices"]) == ["teacher", "student", "old"]
    assert len(record["left_out"]) == 1
    assert record["vocoders"].keys() == {"griffin-lim"}
    assert str(tmp_path) not in json.dumps(record)
    folder = tmp_path / "results" / "evaluation"
    assert (folder / "griffin-lim" / "index.html").is_file()
    assert not list(folder.rglob("*.tmp"))
    status, out, err = call("--limit", 3, "--beside", "old")
    assert (status, "2 of 3 texts were judged before" in out) == (0, True)


def test_texts_that_the_voice_learned_from_are_left_out(call: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path / "mine" / "store")
    save_voice(
        tmp_path / "mine" / "run", tiny_student(), Config(name="tiny", model=TINY), step=1,
        validation={"total": 1.0}, store={"digest": store.digest}, teacher={},
    )  # fmt: skip
    (tmp_path / "text.csv").write_text("a|Text 3\nb|Another text.\n", encoding="utf-8")
    status, out, err = call("--out", "new/figures.json")
    assert status == 0, err
    assert "the voice learned from 12 texts in" in out
    assert "left out: text.csv:1: the voice learned from this text: 'Text 3'" in err
    record = json.loads((tmp_path / "new" / "figures.json").read_text(encoding="utf-8"))
    assert [text["id"] for text in record["texts"]] == ["b"]
    assert (tmp_path / "new" / "figures" / "judged.jsonl").is_file()
    (tmp_path / "text.csv").write_text("a|Text three.\n", encoding="utf-8")
    status, _, err = call()
    assert status == 1
    assert err.splitlines()[-1] == (
        "error: no text is left to judge by; give texts that no training has seen"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "mine"), "--out mine is a folder; expected the name of a JSON file"),
        (("--beside", "nowhere"), "no voice at nowhere"),
        (("--beside", "mine/run"), "is named twice; leave it out of --beside"),
        (("--vocoder", "waveglow:nowhere.pt"), "nowhere.pt"),
        (("--sigma", "0.5"), "the vocoder griffin-lim has no sigma to set"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_mistakes_are_one_line(call: Run, options: tuple[str, ...], message: str) -> None:
    status, _, err = call(*options)
    assert status == 1
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err


def test_an_interruption_says_how_to_go_on(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(voice_evaluation, "compare", interrupted)
        status, _, err = call()
    assert status == 130
    assert "what was judged is kept in results/evaluation; the same command goes on" in err
    status, out, _ = call()
    assert status == 0
    assert "3 texts through griffin-lim" in out


def test_two_runs_at_once_are_refused(call: Run, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "evaluation"
    folder.mkdir(parents=True)
    with command.single_writer(folder):
        status, _, err = call()
    assert status == 1
    assert "another process is writing to results/evaluation" in err


@pytest.mark.parametrize(
    ("out", "folder"),
    [("a/b.json", "a/b"), ("b", "b-files"), ("a.b.json", "a.b"), (".json", ".json-files")],
)
def test_the_folder_is_named_after_the_figures(out: str, folder: str) -> None:
    assert command.folder_of(Path(out)) == Path(folder)


def test_settings_of_waveglow_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(spec: str, device: Any, *, options: Any, teacher: str | None) -> Vocoder:
        assert teacher == "whose"
        asked.append((spec, options.sigma))
        return Loud()

    monkeypatch.setattr(command, "load_vocoder", load)
    given = ["evaluate", "--sigma", "0.5", "--vocoder", "griffin-lim", "--vocoder", "waveglow:x"]
    options = command.build_parser().parse_args(given[1:])
    command.load_vocoders(options, torch.device("cpu"), "whose")
    assert asked == [("griffin-lim", None), ("waveglow:x", 0.5)]
    asked.clear()
    command.load_vocoders(command.build_parser().parse_args([]), torch.device("cpu"), "whose")
    assert asked == [("auto", None)]


@pytest.mark.slow
def test_the_bundled_voice_with_the_real_judges(run_in_process: Run, tmp_path: Path) -> None:
    for name in ("speechmos", "pocketsphinx", "jiwer"):
        pytest.importorskip(name, reason="needs the extra eval")
    out = tmp_path / "evaluation.json"
    status, shown, err = run_in_process(
        command.main, "evaluate", command.HELD_OUT.parent.parent / "lightspeech/pretrained",
        "--limit", 1, "--vocoder", "griffin-lim", "--device", "cpu", "--out", out,
    )  # fmt: skip
    assert status == 0, err
    assert "1 of 300 texts through griffin-lim" in shown
    record = json.loads(out.read_text(encoding="utf-8"))
    voices = record["heard"]["griffin-lim"]["voices"]
    assert (
        1 <= voices["student"]["dnsmos_p808"]["value"] <= voices["teacher"]["dnsmos_p808"]["value"]
    )
    ours = {name: figure["value"] for name, figure in record["compared"]["student"].items()}
    assert 0.9 < ours["length_ratio"] < 1.1
    assert 0.5 < ours["variance_ratio"] < 1.1
    assert 1 < ours["mel_cepstral_distortion"] < 5
    assert ours["pitch_error_cents"] < 300
    assert ours["voicing_error"] < 0.2


# Several processes


def level_dnsmos(wav: Tensor) -> Dnsmos:
    return Dnsmos(1 + float(wav.abs().mean()), 1.5)


def hear_nothing(wav: Tensor) -> str:
    return f"{len(wav)} samples"


def all_wrong(said: str, heard: str) -> ErrorRates:
    return ErrorRates(1.0, float(heard.split()[0]) % 2)


def die(wav: Tensor) -> str:
    os._exit(1)


def test_several_processes_hear_what_one_does(tmp_path: Path) -> None:
    judges = Judges(level_dnsmos, hear_nothing, all_wrong)
    records = []
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        run = panel(None, judges=judges, vocoders=vocoder_names([Loud(), Soft()]))
        records.append(evaluate(LINES, run, folder, {"given": 3, "left_out": []}, jobs))
    assert timeless(records[0]) == timeless(records[1])
    assert records[0]["texts"][0]["heard"]["loud"]["student"]["heard"].endswith("samples")


def test_the_death_of_a_listener_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    known = {"given": 3, "left_out": []}
    run = panel(None, judges=Judges(level_dnsmos, die, all_wrong))
    with pytest.raises(InputError, match=r"that listened was ended.*run the same command again"):
        evaluate(LINES, run, tmp_path, known, 2)
    run = replace(run, judges=Judges(level_dnsmos, hear_nothing, all_wrong))
    assert len(evaluate(LINES, run, tmp_path, known, 2)["texts"]) == 3
