"""A teacher's evaluation: planted failures are found, figures agree with naive ones, it resumes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from lightspeech import cli, evaluate_teacher
from lightspeech.audio import FRAME_SECONDS, SAMPLE_RATE, read_wav
from lightspeech.dataset.folder import Utterance
from lightspeech.evaluation import teacher_evaluation
from lightspeech.evaluation.bootstrap import Ratio, with_interval
from lightspeech.evaluation.journal import Journal, journal_key
from lightspeech.evaluation.mel_distance import mel_cepstra, mel_cepstral_distortion
from lightspeech.evaluation.quality import Dnsmos, ErrorRates
from lightspeech.evaluation.sampling import spread
from lightspeech.evaluation.sound_judging import Judges, judge_sound, said_words
from lightspeech.evaluation.teacher_evaluation import evaluate, match_recordings
from lightspeech.evaluation.teacher_figures import figures, group_name, grouped_figures
from lightspeech.evaluation.teacher_judging import judge_attention
from lightspeech.evaluation.teacher_plots import Panel, plot_attentions, plot_mels
from lightspeech.evaluation.teacher_table import table
from lightspeech.renditions import LabellingSettings, Rendition
from lightspeech.synthesis import TeacherSynthesizer
from lightspeech.text import Line, encode
from tests.test_synthesis import Loud
from tests.tiny_teacher import tiny_teacher

SETTINGS = LabellingSettings()
KNOWN: dict[str, Any] = {"vocoder_settings": {}, "recordings": None}
TEXT = "a small boat"  # 12 tokens, one for each character


# Attention


def reading(path: Sequence[int], n_tokens: int = 12, stopped: bool = True) -> Rendition:
    """A rendition whose frames attend most to these tokens, with some weight on the others."""
    attention = torch.full((len(path), n_tokens), 0.3 / n_tokens)
    attention[torch.arange(len(path)), torch.tensor(path)] += 0.7
    mel = torch.rand(len(path), 80, generator=torch.Generator().manual_seed(0)) - 3
    return Rendition(mel, attention, torch.zeros(n_tokens, 4), stopped, seed=0)


def verdict(rendition: Rendition) -> dict[str, Any]:
    found = judge_attention(Line("x", TEXT, "x:1"), encode(TEXT), rendition, SETTINGS)
    assert json.loads(json.dumps(found)) == found
    return found


STRAIGHT = [n for n in range(12) for _ in range(5)]


def test_a_straight_reading_is_sound() -> None:
    found = verdict(reading(STRAIGHT))
    assert found["stopped"]
    assert found["covered"]
    assert found["no_jump"]
    assert found["sound"]
    assert found["reason"] is None
    assert found["labelling"] is None
    assert found["scores"]["coverage"] == 1
    assert found["scores"]["focus_rate"] == pytest.approx(0.7 + 0.3 / 12)
    assert found["characters"] == found["tokens"] == 12
    assert found["seconds"] == pytest.approx(60 * 256 / 22050)


def test_a_token_that_is_passed_over_is_named() -> None:
    path = [n for n in STRAIGHT if n not in (3, 4, 10)]
    found = verdict(reading(path))
    assert not found["covered"]
    assert not found["sound"]
    assert found["stopped"]
    assert found["no_jump"]
    assert found["reason"] == "passed over 3 of 12 symbols: a s[ma]ll boat, small bo[a]t"


def test_a_jump_back_is_named_with_its_place() -> None:
    path = [*STRAIGHT[:40], *STRAIGHT[25:]]  # after token 7 comes token 5
    found = verdict(reading(path))
    assert not found["no_jump"]
    assert not found["sound"]
    assert found["covered"]
    assert found["reason"] == (
        f"jumped back once: 2 symbols at {40 * FRAME_SECONDS:.2f} s (over 'll')"
    )


def test_a_step_back_by_one_token_is_no_jump() -> None:
    assert verdict(reading([*STRAIGHT[:40], *STRAIGHT[30:]]))["sound"]


def test_an_end_that_never_comes_is_told() -> None:
    found = verdict(reading(STRAIGHT, stopped=False))
    assert not found["stopped"]
    assert not found["sound"]
    assert found["reason"] == "did not stop by itself within 60 frames"
    assert found["labelling"] == "did not stop"


@pytest.mark.parametrize("field", ["mel", "attention"])
def test_values_that_are_not_finite_are_no_reading(field: str) -> None:
    rendition = reading(STRAIGHT)
    getattr(rendition, field)[3] = math.nan
    found = verdict(rendition)
    assert found["reason"] == "values that are not finite"
    assert not found["sound"]
    assert found["scores"] is None


def test_verdicts_agree_with_naive_ones() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        path = np.sort(generator.integers(12, size=70))
        for place in generator.integers(69, size=generator.integers(3)):
            path[place + 1 :] = np.clip(path[place + 1 :] - generator.integers(3), 0, 11)
        stopped = bool(generator.integers(4))
        found = verdict(reading(path.tolist(), stopped=stopped))
        covered = all(any(p == n for p in path) for n in range(12))
        no_jump = not any(after < before - 1 for before, after in pairwise(path.tolist()))
        assert (found["covered"], found["no_jump"]) == (covered, no_jump)
        assert found["sound"] == (covered and no_jump and stopped) == (found["reason"] is None)
        seen.add((covered, no_jump, stopped))
    assert len(seen) == 8


# Sound


class Listeners:
    """Judges that are easy to predict, and count what they have heard."""

    def __init__(self, stop_after: float = math.inf) -> None:
        self.heard = 0
        self._stop_after = stop_after

    def judges(self) -> Judges:
        return Judges(self.dnsmos, lambda wav: "small boat", self.error_rates)

    def dnsmos(self, wav: Tensor) -> Dnsmos:
        if self.heard >= self._stop_after:
            raise KeyboardInterrupt
        self.heard += 1
        level = float(wav.abs().mean())
        return Dnsmos(1 + level, 1 + level / 2)

    @staticmethod
    def error_rates(said: str, heard: str) -> ErrorRates:
        """Every word that was not heard, with its characters."""
        missed = [word for word in said.split() if word not in heard.split()]
        return ErrorRates(len("".join(missed)) / len(said), len(missed) / len(said.split()))


def test_sound_that_cannot_be_judged_counts_as_unheard() -> None:
    listeners = Listeners()
    silence = torch.zeros(9, 80)  # Loud makes zeros of it
    found, wav = judge_sound(silence, "a small boat", Loud(), listeners.judges())
    assert wav is None
    assert "silence" in found["problem"]
    assert found["dnsmos_p808"] is None
    assert found["character_edits"] == len("asmallboat")
    assert found["word_edits"] == found["words"] == 3
    assert found["seconds"] == pytest.approx(9 * 256 / 22050)
    assert listeners.heard == 0


def test_the_shortest_sound_is_judged() -> None:
    found, wav = judge_sound(torch.full((1, 80), -3.0), "a", Loud(), Listeners().judges())
    assert wav is not None
    assert len(wav) == 256
    assert found["dnsmos_p808"] > 1
    assert found["problem"] is None


def test_without_words_nothing_is_recognised() -> None:
    assert said_words("Well, $5!", encode("Well, $5!")) == "well five dollars"
    found, _ = judge_sound(torch.full((5, 80), -3.0), "", Loud(), Listeners().judges())
    assert "characters" not in found
    assert found["dnsmos_p808"] is not None
    found, _ = judge_sound(torch.full((5, 80), -3.0), "a", Loud(), None)
    assert found.keys() == {"seconds", "vocoder_seconds", "problem"}


@pytest.mark.parametrize("order", [1, 7, 24])
def test_mel_cepstral_distortion_is_the_spectral_distance(order: int) -> None:
    mel = torch.rand(40, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ripple = 0.3 * torch.cos(math.pi * order * (torch.arange(80) + 0.5) / 80)
    decibels = 20 / math.log(10) * ripple  # of magnitudes, whose natural logarithm a mel is
    expected = float(decibels.square().mean().sqrt())
    assert mel_cepstral_distortion(mel * 1e-6, mel * 1e-6 + ripple) == pytest.approx(
        expected, rel=1e-3
    )
    cepstra = mel_cepstra(ripple[None].numpy())[0]
    assert cepstra[order - 1] == pytest.approx(0.3, rel=1e-6)
    assert np.abs(np.delete(cepstra, order - 1)).max() < 1e-6


def test_neither_level_nor_pace_nor_finest_detail_is_distortion() -> None:
    mel = torch.rand(30, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    detail = 0.3 * torch.cos(math.pi * 30 * (torch.arange(80) + 0.5) / 80)
    assert mel_cepstral_distortion(mel, mel + 1.5) == pytest.approx(0, abs=1e-9)
    assert mel_cepstral_distortion(mel, mel + detail) == pytest.approx(0, abs=1e-5)
    slow = mel.repeat_interleave(torch.arange(30) % 3 + 1, 0)
    assert mel_cepstral_distortion(mel, slow) == pytest.approx(0, abs=1e-9)
    other = torch.rand(20, 80, generator=torch.Generator().manual_seed(2))
    assert mel_cepstral_distortion(mel, other) == pytest.approx(mel_cepstral_distortion(other, mel))
    assert mel_cepstral_distortion(mel, other) > 1


# Figures


def test_intervals_are_those_of_theory() -> None:
    values = np.random.default_rng(5).standard_normal(400)
    found = with_interval(Ratio(values, np.ones(400)))
    error = values.std() / 20
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert with_interval(Ratio(values, np.ones(400))) == found


def test_a_difference_is_paired() -> None:
    values = np.random.default_rng(5).standard_normal(50)
    one, other = Ratio(values + 0.5, np.ones(50)), Ratio(values, np.ones(50))
    found = with_interval(one, other)
    assert list(found.values()) == pytest.approx([0.5, 0.5, 0.5])
    single = with_interval(Ratio(np.array([3.0]), np.array([4.0])))
    assert list(single.values()) == [0.75] * 3


@pytest.mark.parametrize(
    ("characters", "name"),
    [(1, "up to 20"), (20, "up to 20"), (21, "21-60"), (120, "61-120"), (200, "121-200"),
     (201, "over 200")],
)  # fmt: skip
def test_groups(characters: int, name: str) -> None:
    assert group_name(characters) == name


def judged(
    characters: int,
    path: Sequence[int] = STRAIGHT,
    edits: tuple[int, int] = (1, 0),
    p808: float = 3,
) -> dict[str, Any]:
    """An utterance as `evaluate` records it, and the recording's edits."""
    entry = verdict(reading(path)) | {"characters": characters, "speaking_seconds": 0.5}
    sides = [
        {
            "seconds": seconds, "vocoder_seconds": 0.1, "problem": None, "dnsmos_p808": score,
            "dnsmos_overall": score, "heard": "", "character_edits": wrong, "words": 1,
            "characters": characters, "word_edits": wrong,
        }
        for seconds, wrong, score in ((1.5, edits[0], p808), (1.0, edits[1], p808 + 0.25))
    ]  # fmt: skip
    pair = {"teacher": sides[0], "recording": sides[1]}
    return entry | pair | {"mel_cepstral_distortion": 6.0, "length_ratio": 1.5}


def test_figures_add_up() -> None:
    jumping = [*STRAIGHT[:40], *STRAIGHT[25:]]
    found = figures([judged(10), judged(30), judged(60, jumping, (7, 2), 4)])
    assert found["counts"] == {
        "stopped": 3, "covered": 3, "no_jump": 2, "sound": 2, "labelling": 3
    }  # fmt: skip
    assert found["shares"]["sound"] == pytest.approx(2 / 3)
    assert found["means"]["backward_jumps"] == pytest.approx(1 / 3)
    quality = found["quality"]
    # All edits over all characters, not a mean of rates.
    assert quality["teacher"]["character_error"]["value"] == pytest.approx(9 / 100)
    assert quality["recording"]["character_error"]["value"] == pytest.approx(2 / 100)
    assert quality["difference"]["character_error"]["value"] == pytest.approx(7 / 100)
    assert list(quality["difference"]["dnsmos_p808"].values()) == pytest.approx([-0.25] * 3)
    assert quality["teacher"]["dnsmos_p808"]["value"] == pytest.approx(10 / 3)
    assert found["length_ratio"]["value"] == pytest.approx(1.5)
    assert found["mel_cepstral_distortion"]["value"] == pytest.approx(6)
    assert found["seconds_per_character"]["teacher"] == pytest.approx(4.5 / 100)
    seconds = (2 * 60 + 75) * FRAME_SECONDS
    assert found["times_real_time"]["teacher"] == pytest.approx(seconds / 1.5)
    assert found["times_real_time"]["vocoder"] == pytest.approx(seconds / 0.3)


def test_only_pairs_are_compared() -> None:
    alone = judged(50, edits=(50, 0))
    del alone["recording"]
    unscored = judged(30)
    unscored["teacher"]["dnsmos_p808"] = None
    found = figures([judged(10), alone, unscored])
    assert found["utterances"] == 3
    assert found["quality"]["judged"]["dnsmos_p808"] == 1
    assert found["quality"]["judged"]["character_error"] == 2
    assert found["quality"]["teacher"]["character_error"]["value"] == pytest.approx(2 / 40)
    teacher_only = figures([alone])["quality"]
    assert teacher_only["teacher"]["character_error"]["value"] == 1
    assert "difference" not in teacher_only
    groups = grouped_figures([judged(150), judged(10), alone, judged(12)])
    assert [(name, group["utterances"]) for name, group in groups.items()] == [
        ("up to 20", 2), ("21-60", 1), ("121-200", 1)
    ]  # fmt: skip


# Texts, recordings, journal


def test_recordings_are_found_by_what_is_read() -> None:
    lines = [Line("a", "He paid $5.", "x:1"), Line("b", "Go.", "x:2"), Line("c", "None.", "x:3")]
    utterances = [
        Utterance("z", "he paid five dollars.", Path("z.wav")),
        Utterance("y", "Go.", Path("y.wav")),
        Utterance("b", "go.", Path("b.wav")),
        Utterance("c", "Something else.", Path("c.wav")),
    ]
    found = match_recordings(lines, utterances)
    assert {id: utterance.id for id, utterance in found.items()} == {"a": "z", "b": "b"}


def test_what_is_pictured_is_spread_over_the_lengths() -> None:
    lines = [Line(f"l{n}", "x" * ((7 * n) % 50 + 1), "") for n in range(50)]
    assert [len(line.text) for line in spread(lines, 8)] == [1, 8, 15, 22, 29, 36, 43, 50]
    assert [len(line.text) for line in spread(lines[:3], 8)] == [1, 8, 15]


def test_a_journal_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", {"value": 1})
        journal.add("b", {"value": 2})
    path.write_bytes(path.read_bytes()[:-5] + b'\n[1]\nnull\n{"key')
    with Journal(path) as journal:
        assert journal.get("a") == {"value": 1}
        assert journal.get("b") is None
        journal.add("b", {"value": 3})
        journal.add("a", {"value": 4})
    with Journal(path) as journal:
        assert (journal.get("a"), journal.get("b")) == ({"value": 4}, {"value": 3})
    assert journal_key("a", {"x": 1, "y": 2}) == journal_key("a", {"y": 2, "x": 1})
    assert journal_key("a", None) != journal_key("a", "None")


# The whole


LINES = [
    Line("one", "Go.", "x:1"),
    Line("two", "A small boat went by, and $5 \u4f60 \\frac{ more.", "x:2"),
    Line("three", "We were late for the train.", "x:3"),
]


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Utterance]:
    """Hums of a second each, for all lines but the first."""
    folder = tmp_path / "recordings"
    (folder / "wavs").mkdir(parents=True)
    rows = []
    for number, line in enumerate(LINES[1:], start=1):
        times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        sound = 0.3 * np.sin(2 * np.pi * 200 * number * times)
        soundfile.write(folder / "wavs" / f"{line.id}.wav", sound, SAMPLE_RATE)
        rows.append(f"{line.id}|{line.text}\n")
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    found, problems = evaluate_teacher.read_dataset(folder)
    assert not problems
    return match_recordings(LINES, found)


def synthesizer(seed: int = 0, frames: int = 20) -> TeacherSynthesizer:
    teacher = tiny_teacher(frames, seed)
    teacher.source = {"path": "x", "name": f"tiny{seed}", "sha256": str(seed)}
    return TeacherSynthesizer(teacher, Loud())


Evaluate = Callable[..., dict[str, Any]]


def no_plot(*args: object) -> None:
    """In place of a plot, which takes longer than all the rest."""


@pytest.fixture
def run(
    tmp_path: Path, recordings: dict[str, Utterance], monkeypatch: pytest.MonkeyPatch
) -> Evaluate:
    def evaluate_tiny(
        listeners: Listeners, seed: int = 0, plots: bool = False, **changes: Any
    ) -> dict[str, Any]:
        if not plots:
            monkeypatch.setattr(teacher_evaluation, "plot_attentions", no_plot)
            monkeypatch.setattr(teacher_evaluation, "plot_mels", no_plot)
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        given = {"recordings": recordings, "judges": listeners.judges(), "frames": 20} | changes
        return evaluate(
            LINES, synthesizer(seed, given["frames"]), given["recordings"], out, SETTINGS,
            given["judges"], KNOWN,
        )  # fmt: skip

    return evaluate_tiny


def test_a_teacher_beside_recordings(run: Evaluate, tmp_path: Path) -> None:
    record = run(Listeners(), plots=True)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [utterance["id"] for utterance in record["utterances"]] == ["one", "two", "three"]
    assert record["all"]["quality"]["judged"]["character_error"] == 2
    assert record["all"]["shares"]["stopped"] == 1
    # It says nothing, and so reads next to nothing.
    assert [failing["id"] for failing in record["failing"]] == ["one", "two", "three"]
    assert all("passed over" in failing["reason"] for failing in record["failing"])
    second = record["utterances"][1]
    assert second["frames"] == 20
    assert second["recording"]["seconds"] == pytest.approx(87 * 256 / 22050)
    assert second["length_ratio"] == pytest.approx(20 / 87)
    assert "recording" not in record["utterances"][0]
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"attention.png", "failing.png", "judged.jsonl", "001-go.png"} <= names
    assert "001-go.teacher.wav" in names
    assert "001-go.recording.wav" not in names
    wav = read_wav(out / "003-we-were-late-for-the-train.recording.wav")
    assert len(wav) == 87 * 256
    with Image.open(out / "attention.png") as image:
        assert np.asarray(image.convert("L")).std() > 10
    shown = table(record)
    for words in ("stopped by themselves", "3 (100.0%)", "DNSMOS P.808", " points (", "3 failed:",
                  "up to 20", "passed over"):  # fmt: skip
        assert words in shown, words


def test_pictures_of_earlier_failures_are_gone(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    stale = tmp_path / "out" / "failing.png"
    stale.write_bytes(b"an earlier run's")
    run(Listeners())  # plots nothing
    assert not stale.exists()


def test_the_table_gives_differences_in_points() -> None:
    utterances = [judged(10, edits=(4, 1)), judged(10, edits=(6, 3)), judged(10, edits=(5, 2))]
    everybody = figures(utterances)
    record = {
        "all": everybody, "by_length": grouped_figures(utterances), "teacher": {"name": "t"},
        "vocoder": "v", "settings": {"batch_size": 8},
        "failing": [{"text": f"text {n}", "characters": 6, "reason": "why"} for n in range(25)],
    }  # fmt: skip
    shown = table(record)
    assert "+30.0 points (+30.0 to +30.0)" in shown
    assert "-0.25 (-0.25 to -0.25)" in shown
    assert "1.500 (1.500 to 1.500)" in shown
    assert "text 19" in shown
    assert "text 20" not in shown
    assert "and 5 more, in the JSON file" in shown


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "date"}


def test_what_was_judged_is_not_judged_again(run: Evaluate) -> None:
    first = run(Listeners())
    again = Listeners()
    assert without_times(run(again)) == without_times(first)
    assert again.heard == 0
    other = Listeners()
    assert run(other, seed=1)["teacher"]["name"] == "tiny1"
    assert other.heard == 3  # the recordings were judged before


def test_an_interrupted_run_goes_on(run: Evaluate) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Listeners(stop_after=2))
    rest = Listeners()
    record = run(rest)
    assert rest.heard == 5 - 2
    assert len(record["utterances"]) == 3


def test_another_recording_is_judged_anew(run: Evaluate, recordings: dict[str, Utterance]) -> None:
    before = run(Listeners())
    content = recordings["three"].path.read_bytes()
    soundfile.write(recordings["three"].path, 0.1 * np.ones(5000), SAMPLE_RATE)
    again = Listeners()
    record = run(again)
    assert again.heard == 2
    assert record["utterances"][:2] == before["utterances"][:2]
    assert record["utterances"][2]["length_ratio"] == pytest.approx(1.0)
    recordings["three"].path.write_bytes(content)
    assert without_times(run(again)) == without_times(before)
    assert again.heard == 2


def test_a_bad_recording_does_not_stop_the_rest(
    run: Evaluate, recordings: dict[str, Utterance]
) -> None:
    recordings["two"].path.write_bytes(b"no sound")
    record = run(Listeners())
    assert len(record["left_out"]) == 1
    assert "two.wav: cannot read" in record["left_out"][0]
    assert record["all"]["quality"]["judged"]["dnsmos_p808"] == 1
    recordings["three"].path.unlink()
    record = run(Listeners())
    assert len(record["left_out"]) == 2
    assert "three.wav" in record["left_out"][0]
    assert "difference" not in record["all"]["quality"]
    assert "recordings" not in table(record)


def test_a_silent_recording_is_compared_with_nobody(
    run: Evaluate, recordings: dict[str, Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = Loud.stream

    def stream(self: Loud, mel: Tensor) -> Iterator[Tensor]:
        for piece in loud(self, mel):
            yield piece * float(mel.max() > -11)

    monkeypatch.setattr(Loud, "stream", stream)
    soundfile.write(recordings["two"].path, np.zeros(5000), SAMPLE_RATE)
    for _ in range(2):  # judged, and then taken from the journal as far as it is there
        record = run(Listeners())
        assert len(record["left_out"]) == 1
        assert "two.wav: the vocoder loud made silence" in record["left_out"][0]
        assert "recording" not in record["utterances"][1]
        assert record["utterances"][1]["length_ratio"] is None
        assert record["all"]["quality"]["judged"]["character_error"] == 1


def test_alone_and_without_judges(run: Evaluate) -> None:
    listeners = Listeners()
    record = run(listeners, recordings=None, judges=None)
    assert listeners.heard == 0
    assert record["all"]["quality"]["judged"]["dnsmos_p808"] == 0
    assert record["all"]["counts"]["stopped"] == 3
    assert "DNSMOS" not in table(record)
    assert run(listeners, recordings=None)["all"]["quality"]["judged"]["dnsmos_p808"] == 3


def test_a_teacher_that_never_stops_is_cut(run: Evaluate) -> None:
    record = run(Listeners(), frames=100_000, judges=None)
    assert record["all"]["counts"]["stopped"] == 0
    frames = [utterance["frames"] for utterance in record["utterances"]]
    assert frames == [SETTINGS.frame_limit(len(encode(line.text))) for line in LINES]
    assert "did not stop by itself" in record["failing"][0]["reason"]


def test_renditions_do_not_depend_on_the_batch(run: Evaluate, tmp_path: Path) -> None:
    expected = run(Listeners(), recordings=None)["utterances"]
    (tmp_path / "alone").mkdir()
    record = evaluate(
        LINES[::-1], synthesizer(), None, tmp_path / "alone", replace(SETTINGS, batch_size=1),
        Listeners().judges(), KNOWN,
    )  # fmt: skip
    for one, other in zip(expected, record["utterances"][::-1], strict=True):
        assert one["scores"] == other["scores"]
        assert one["teacher"]["dnsmos_p808"] == other["teacher"]["dnsmos_p808"]


def test_plots_take_any_text(tmp_path: Path) -> None:
    panel = Panel("costs $5 and $6, \\frac{ \u4f60\u597d " * 5, "note", torch.rand(5, 3))
    plot_attentions(tmp_path / "a.png", [panel] * 4, "$x")
    plot_mels(tmp_path / "m.png", [("teacher", torch.rand(5, 80))], "$5 \\frac{ \u4f60" * 30)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "m.png"}
    with Image.open(tmp_path / "a.png") as four, Image.open(tmp_path / "m.png") as one:
        assert four.size == (1500, 680)
        assert one.size[0] == 700


# The command


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recordings: dict[str, Utterance]
) -> Callable[..., None]:
    text = tmp_path / "text.csv"
    rows = [f"{line.id}|{line.text}\n" for line in LINES]
    text.write_text("".join([*rows, f"long|{'a ' * 200}\n"]), encoding="utf-8")
    monkeypatch.setattr(TeacherSynthesizer, "load", lambda *args: synthesizer())
    monkeypatch.setattr(teacher_evaluation, "plot_attentions", no_plot)
    monkeypatch.setattr(teacher_evaluation, "plot_mels", no_plot)

    def call(*options: str) -> None:
        arguments = ["evaluate_teacher", "--text", str(text), "--vocoder", "griffin-lim"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "out"), *options])
        cli.run(evaluate_teacher.main)

    return call


def test_the_command(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "recordings")
    command("--no-speech-quality", "--recordings", folder, "--device", "cpu")
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert record["all"]["utterances"] == 3
    assert len(record["left_out"]) == 1
    shown = capsys.readouterr()
    assert "recordings: 2 of 3 texts" in shown.out
    assert "3 texts by tiny0 through loud" in shown.out
    assert "text.csv:4: 399 characters" in shown.err
    assert folder not in json.dumps(record)


def test_foreign_recordings_are_refused(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recordings"
    (folder / "metadata.csv").write_text("two|Something else.\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        command("--no-speech-quality", "--recordings", str(folder))
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "holds none of the 3 texts" in message


def test_a_missing_extra_is_told(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", None)
    with pytest.raises(SystemExit):
        command()
    assert "pip install -c constraints.txt -e '.[eval]'" in capsys.readouterr().err
    command("--no-speech-quality")
    assert "all three" in capsys.readouterr().out


def test_an_interruption_says_how_to_go_on(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher_evaluation, "judge_sound", interrupted)
    with pytest.raises(SystemExit) as stop:
        command("--no-speech-quality")
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_teacher_with_the_real_judges(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("speechmos", "pocketsphinx", "jiwer"):
        pytest.importorskip(name, reason="needs the extra eval")
    text = tmp_path / "text.txt"
    text.write_text("Hi.\nWe were late for the train.\n", encoding="utf-8")
    arguments = ["--text", str(text), "--vocoder", "griffin-lim", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evaluate_teacher", *arguments, "--device", "cpu"])
    cli.run(evaluate_teacher.main)
    record = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    for utterance in record["utterances"]:
        assert utterance["stopped"]
        assert 1 <= utterance["teacher"]["dnsmos_p808"] <= 5
    assert record["utterances"][0]["teacher"]["seconds"] < 1
    assert record["all"]["quality"]["judged"]["character_error"] == 2
    assert "1 text takes less than 1 s" in capsys.readouterr().out
