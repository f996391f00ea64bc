"""Settings, seeds, limits, the usual length and the choice among renditions."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightspeech.audio import FFT_SIZE, hann_window, mel_filters, mel_spectrogram
from lightspeech.calibration import (
    FEWEST_TEXTS,
    MOST_TEXTS,
    WIDE,
    UsualLength,
    calibration_lines,
    fit_length,
)
from lightspeech.errors import InputError
from lightspeech.ranks import Ranks
from lightspeech.renditions import (
    Failure,
    LabellingSettings,
    Rendition,
    judge,
    most_typical,
    sound_length,
    utterance_seed,
)
from lightspeech.scoring import (
    LOUDEST_SOUND,
    SCORES,
    Limits,
    changed_limits,
    fault,
    forced_limits,
    score_mel,
    scores_under,
)
from lightspeech.shard import Label
from lightspeech.text import Line

LINE = Line("id", "Some text.", "corpus.txt:1")


def rendition(N: int = 12, frames: int = 4) -> Rendition:
    """A sound one: each token is read for some frames."""
    mel = torch.full((N * frames, 80), -3.0)
    attention = torch.eye(N).repeat_interleave(frames, 0)
    return Rendition(mel, attention, torch.zeros(N, 16), stopped=True, seed=5)


def judged(rendition: Rendition, limits: Limits = Limits(), **changes: Any) -> Label | Failure:  # noqa: B008
    N = rendition.attention.shape[1]
    return judge(LINE, [1] * N, rendition, LabellingSettings(limits=limits), **changes)


# Settings and seeds


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
        ("pick", 0, "pick must be a whole number of at least 1"),
        ("batch_size", 2.5, "batch_size must be a whole number"),
        ("prenet_dropout", 1.0, "prenet_dropout must be a number of at least 0 and below 1"),
        ("gate_threshold", 0.0, "gate_threshold must be a number above 0 and below 1"),
        ("max_frames_per_token", 0, "max_frames_per_token must be a number above 0"),
        ("alignment", "dtw", "alignment must be one of monotonic, count"),
        ("mode", "free", "mode must be one of inference, forced"),
        ("targets", "both", "targets must be one of recording, teacher"),
    ],
)
def test_settings_say_what_is_wrong_with_them(setting: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabellingSettings(**{setting: value})


def test_a_recording_is_not_picked() -> None:
    with pytest.raises(InputError, match="pick must be 1 in forced mode"):
        LabellingSettings(mode="forced", pick=2)


def test_what_is_the_same_every_time_is_not_drawn_twice() -> None:
    with pytest.raises(InputError, match="pick must be 1 where prenet_dropout is 0"):
        LabellingSettings(prenet_dropout=0, pick=2)
    assert LabellingSettings(tries=5).chances == 5
    assert LabellingSettings(tries=5, prenet_dropout=0).chances == 1
    assert LabellingSettings(tries=5, mode="forced").chances == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 7}, {"prenet_dropout": 0.1}, {"gate_threshold": 0.6}, {"max_frames": 90},
     {"alignment": "count"}, {"mode": "forced"}, {"pick": 3}],
)  # fmt: skip
def test_settings_that_change_labels_are_part_of_the_stores_identity(
    change: dict[str, Any],
) -> None:
    assert LabellingSettings(**change).identity() != LabellingSettings().identity()
    forced = LabellingSettings(mode="forced")
    assert replace(forced, targets="teacher").identity() != forced.identity()
    others = LabellingSettings(tries=9, batch_size=3, limits=forced_limits())
    assert others.identity() == LabellingSettings().identity()


# Limits


def test_every_limit_is_of_a_score_and_stands_in_scores() -> None:
    for name, value in vars(Limits()).items():
        side, score = name.split("_", 1)
        found = SCORES[score]
        assert (found.low if side == "min" else found.high) == value
        assert found.too_low if side == "min" else found.too_high
    assert (SCORES["length_deviation"].low, SCORES["length_deviation"].high) == (-5, 5)
    for score in SCORES.values():
        assert score.title
        assert score.meaning.endswith(".")


def sound_scores() -> dict[str, float]:
    result = judged(rendition())
    assert isinstance(result, Label)
    return result.scores


@pytest.mark.parametrize("name", [name for name, s in SCORES.items() if s.low or s.high])
def test_a_score_beyond_its_limit_is_a_fault_and_one_on_it_is_not(name: str) -> None:
    limits = Limits()
    for limit, step, reason in (
        (SCORES[name].low, -1e-6, SCORES[name].too_low),
        (SCORES[name].high, 1e-6, SCORES[name].too_high),
    ):
        if limit is not None:
            assert fault({**sound_scores(), name: limit}, limits) is None
            found = fault({**sound_scores(), name: limit + step}, limits)
            assert found == reason.format(f"{limit:g}")


def test_recordings_are_given_more_room_than_the_teacher_nowhere_less() -> None:
    free, forced = scores_under(Limits()), scores_under(forced_limits())
    wider = set()
    for name in free:
        assert forced[name].low == free[name].low or name == "length_deviation"
        high, room = free[name].high, forced[name].high
        if high is not None and room is not None:
            assert room >= high
            wider |= {name} if room > high else set()
    # Readers pause, and a teacher that is led along another voice looks about.
    assert wider >= {"longest_pause", "longest_stay", "said_again", "backward_distance"}


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("min_coverage", 85, "min_coverage must be from 0 to 1, not 85"),
        (
            "min_coverage",
            float("nan"),
            "min_coverage must be a finite number, .* not nan",
        ),
        ("max_longest_skip", -1, "max_longest_skip must be at least 0, not -1"),
        ("max_longest_skip", "2", "max_longest_skip must be a finite number, .* not '2'"),
    ],
)
def test_limits_say_what_is_wrong_with_them(limit: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**{limit: value})


def test_limits_are_changed_by_words() -> None:
    changed = changed_limits(Limits(), ["max_longest_skip=4", "min_coverage=none"])
    assert changed == replace(Limits(), max_longest_skip=4, min_coverage=None)
    assert set(vars(changed_limits(Limits(), ["all=none"])).values()) == {None}
    only = changed_limits(Limits(), ["all=none", "max_peak=1.5"])
    assert scores_under(only)["peak"].high == 1.5
    with pytest.raises(InputError, match="--threshold skip=4: expected NAME=VALUE with one of"):
        changed_limits(Limits(), ["skip=4"])
    with pytest.raises(InputError, match="expected max_peak=NUMBER or max_peak=none"):
        changed_limits(Limits(), ["max_peak=loud"])


# Scores


def test_no_sound_is_louder_than_the_loudest() -> None:
    # Cauchy and Schwarz: a filter's output is at most its norm times that of the spectrum's one
    # half, and by Parseval that is at most sqrt(FFT size / 2 x sum of the squared window).
    spectrum = math.sqrt(FFT_SIZE / 2 * float(hann_window().square().sum()))
    bound = math.log(float(mel_filters().norm(dim=1).max()) * spectrum)
    assert bound <= LOUDEST_SOUND < bound + 0.01
    time = torch.arange(4096) / 22050
    loudest = max(
        float(mel_spectrogram(torch.sin(2 * math.pi * f * time).sign() * 0.99).max())
        for f in range(100, 1000, 30)
    )
    assert bound - 0.5 < loudest < bound


def test_silence_is_measured_from_the_loudest_frame() -> None:
    mel = torch.full((50, 80), -11.0)
    mel[[3, 20, 49], 7] = 1.0
    mel[30, 7] = -4.9  # not yet silent
    mel[40, 7] = -5.1
    assert score_mel(mel) == {"peak": 1.0, "longest_pause": 18.0}
    assert score_mel(mel - 3) == {"peak": -2.0, "longest_pause": 18.0}


def test_the_scores_of_a_sound_rendition() -> None:
    label = judged(rendition(), usual=UsualLength(0.0, 4.0, 0.1, 64), draw=3)
    assert isinstance(label, Label)
    assert label.scores.keys() == SCORES.keys()
    assert label.scores["frames_per_token"] == 4
    assert label.scores["length_deviation"] == 0
    assert label.scores["draw"] == 3
    assert label.seed == 5


def test_failures_have_scores_and_a_reason() -> None:
    cut = judged(replace(rendition(), stopped=False))
    assert isinstance(cut, Failure)
    assert cut.reason == "did not stop"
    assert cut.scores.keys() == SCORES.keys()
    hurried = judged(rendition(frames=1))
    assert isinstance(hurried, Failure)
    assert hurried.reason == "fewer than 2 frames a token"
    hoarse = rendition()
    hoarse.mel[3, 4] = float("inf")
    assert judged(hoarse) == Failure("values that are not finite", {})
    lost = rendition()
    lost.attention[3] = float("nan")
    assert judged(lost) == Failure("values that are not finite", {})


# The usual length


def spoken_lengths(count: int, seed: int = 0, spread: float = 0.06) -> list[tuple[int, int]]:
    """12 frames and 5 a token, spread by so much for long texts and by more for short ones."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(8, 160, count)
    factors = np.exp(spread * np.sqrt(1 + 40 / tokens) * rng.normal(size=count))
    return [(round(t), int(n)) for t, n in zip((12 + 5 * tokens) * factors, tokens, strict=True)]


def test_the_usual_length_is_recovered_whatever_the_order_and_some_nonsense() -> None:
    lengths = spoken_lengths(64)
    usual = fit_length(lengths)
    assert usual is not None
    assert usual.frames_per_token == pytest.approx(5, rel=0.06)
    assert usual.intercept == pytest.approx(12, abs=8)
    assert usual.spread == pytest.approx(0.06, rel=0.35)
    assert usual.texts == 64
    assert fit_length(random.Random(1).sample(lengths, 64)) == usual
    nonsense = [(2000, n) if i % 6 == 0 else (t, n) for i, (t, n) in enumerate(lengths)]
    spoilt = fit_length(nonsense)
    assert spoilt is not None
    for tokens in (40, 80, 150):
        assert abs(spoilt.deviation(round(12 + 5 * tokens), tokens)) < 1.5
        assert spoilt.deviation(2 * round(12 + 5 * tokens), tokens) > 4


@pytest.mark.parametrize("spread", [0.08, 0.2])
def test_the_spread_of_a_speaker_is_recovered(spread: float) -> None:
    usual = fit_length(spoken_lengths(600, spread=spread))
    assert usual is not None
    assert usual.spread == pytest.approx(spread, rel=0.1)


def test_few_utterances_of_a_speaker_are_beyond_the_limit() -> None:
    usual = fit_length(spoken_lengths(64))
    assert usual is not None
    deviations = [abs(usual.deviation(t, n)) for t, n in spoken_lengths(5000, seed=1)]
    limit = Limits().max_length_deviation
    assert np.mean(np.array(deviations) > limit) < 0.001


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([(70, n) for n in range(10, 30)], (70.0, 0.0)),  # the same length always
        ([(100 - n, n) for n in range(10, 30)], (80.5, 0.0)),  # nonsense
        ([(5 * n - 20, n) for n in range(10, 30)], (0.0, (5 - 20 / 19 + 4) / 2)),
        ([(40 + i, 10) for i in range(20)], (0.0, 4.95)),  # one number of tokens
    ],
)
def test_a_usual_length_is_never_negative(
    lengths: list[tuple[int, int]], expected: tuple[float, float]
) -> None:
    usual = fit_length(lengths)
    assert usual is not None
    assert (usual.intercept, usual.frames_per_token) == pytest.approx(expected)
    assert usual.spread >= 0.05
    for tokens in (1, 1000):
        assert math.isfinite(usual.deviation(1, tokens))


def test_few_texts_say_nothing_about_lengths() -> None:
    assert fit_length(spoken_lengths(FEWEST_TEXTS - 1)) is None
    assert fit_length(spoken_lengths(FEWEST_TEXTS)) is not None
    limit = Limits().max_length_deviation
    assert limit is not None
    for frames, tokens in ((15, 5), (70, 5), (300, 100), (1200, 100)):
        assert abs(WIDE.deviation(frames, tokens)) < limit


def test_the_same_texts_are_measured_in_whatever_order_they_come() -> None:
    lines = [Line(f"u{i}", "Text.", f"c:{i}") for i in range(500)]
    chosen = calibration_lines(lines, 1234)
    assert len({line.id for line in chosen}) == MOST_TEXTS
    assert calibration_lines(lines[::-1], 1234) == chosen
    assert calibration_lines(lines, 7) != chosen
    assert calibration_lines(lines[:40], 1234) != lines[:40]
    assert set(calibration_lines(lines[:40], 1234)) == set(lines[:40])
    assert len(calibration_lines(lines[:FEWEST_TEXTS], 1234)) == FEWEST_TEXTS
    assert calibration_lines(lines[: FEWEST_TEXTS - 1], 1234) == []


def test_only_sound_renditions_are_measured() -> None:
    settings = LabellingSettings()
    assert sound_length(rendition(), settings) == (48, 12)
    assert sound_length(rendition(N=12, frames=20), settings) == (240, 12)  # slow, but sound
    drawl = rendition(N=100, frames=20)  # it is by lengths such as this that lengths are judged
    assert isinstance(judged(drawl), Failure)
    assert sound_length(drawl, settings) == (2000, 100)
    assert sound_length(replace(rendition(), stopped=False), settings) is None
    assert sound_length(replace(rendition(), mel=torch.full((48, 80), -11.0)), settings) is None


def test_a_calibration_survives_the_store_and_another_is_refused() -> None:
    usual = fit_length(spoken_lengths(64))
    assert usual is not None
    assert UsualLength.from_dict(usual.as_dict()) == usual
    for broken in ({}, {"length": {"spread": 1}}, {"length": {**vars(usual), "spread": 0}}):
        with pytest.raises(InputError, match="the store's calibration is not one of lengths"):
            UsualLength.from_dict(broken)


# Picking


def with_durations(*durations: int) -> Label:
    values = torch.tensor(durations)
    T, N = int(values.sum()), len(values)
    return Label("id", "t", values, values, torch.zeros(T, 80), torch.zeros(N, 4), {"a": 1.0})


def test_the_rendition_nearest_the_median_durations_is_typical() -> None:
    fast, usual, slow = (with_durations(*d) for d in ([2, 3, 2], [4, 4, 3], [9, 8, 9]))
    odd = with_durations(4, 30, 3)
    for order in ([fast, usual, slow, odd], [odd, slow, usual, fast]):
        assert most_typical(order) is usual
    outliers = [with_durations(frames) for frames in (3, 4, 5, 7, 300)]
    assert most_typical(outliers) is outliers[2]
    assert most_typical([odd]) is odd
    assert most_typical([fast, slow]) is fast  # both are equally near: the first


def test_long_tokens_do_not_outweigh_the_others() -> None:
    # Three frames more on a pause of 40 matter less than one more on a short token.
    renditions = [with_durations(2, 2, 2, 40), with_durations(2, 2, 2, 46),
                  with_durations(3, 2, 2, 43)]  # fmt: skip
    assert most_typical(renditions) is not renditions[2]


# Several processes


def test_every_text_is_for_one_rank() -> None:
    ids = [f"u{i}" for i in range(1000)]
    assert all(Ranks().has(id) for id in ids)
    for count in (2, 3, 8):
        shares = [{id for id in ids if Ranks(rank, count).has(id)} for rank in range(count)]
        assert sum(map(len, shares)) == len(set().union(*shares)) == 1000
        assert min(map(len, shares)) > 1000 / count * 0.7


def test_torchrun_says_which_process_this_is() -> None:
    assert Ranks.from_environment({}) == Ranks(0, 1, 0)
    assert Ranks.from_environment({"LOCAL_RANK": "3"}) == Ranks(0, 1, 0)
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert Ranks.from_environment(told) == Ranks(5, 8, 1, on_this_machine=8)
    told["LOCAL_WORLD_SIZE"] = "4"
    assert Ranks.from_environment(told) == Ranks(5, 8, 1, on_this_machine=4)
    assert Ranks.from_environment(told).prefix == "rank 5: "
    assert Ranks().prefix == ""


@pytest.mark.parametrize(
    "told",
    [
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-3"},
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"RANK .* WORLD_SIZE .*: expected a RANK below"):
        Ranks.from_environment(told)
