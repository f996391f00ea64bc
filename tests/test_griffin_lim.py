"""Pitch tracking and Griffin-Lim, held against signals that we plant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from librosa import griffinlim

from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH, SAMPLE_RATE, mel_filters, mel_spectrogram
from lightspeech.errors import InputError
from lightspeech.vocoders import griffin_lim, load_vocoder, pitch
from lightspeech.vocoders.excitation import Excitation
from lightspeech.vocoders.griffin_lim import GriffinLim
from lightspeech.vocoders.pitch import track_pitch

FLOOR = float(np.log(1e-5))


def voice(pitch: np.ndarray, amplitude: float = 0.3) -> torch.Tensor:
    """A harmonic complex below 5 kHz, falling by 6 dB an octave; `pitch` (S,) in Hz, 0 = noise."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    wav = 0.02 * np.random.default_rng(0).standard_normal(len(pitch))
    for harmonic in range(1, 60):
        wav += np.where((pitch > 0) & (harmonic * pitch < 5000), np.sin(harmonic * phase), 0) / (
            harmonic
        )
    return torch.from_numpy(amplitude * wav / np.abs(wav).max()).float()


def glide(first: float, last: float, seconds: float) -> np.ndarray:
    return np.geomspace(first, last, round(seconds * SAMPLE_RATE))


def spoken_like() -> torch.Tensor:
    """A mel (T, M) of 1.2 s: a rising voice, noise, a falling voice, then silence."""
    pitch = np.concatenate([glide(120, 180, 0.4), np.zeros(4000), glide(250, 190, 0.4)])
    return mel_spectrogram(torch.cat([voice(pitch), torch.zeros(5000)]))


# --- what every vocoder keeps to


def test_griffin_lim_keeps_the_contract() -> None:
    vocoder = load_vocoder("griffin-lim")
    assert isinstance(vocoder, GriffinLim)
    assert vocoder.name == "griffin-lim"
    assert vocoder.audio_facts == AUDIO_FACTS
    wav = vocoder(torch.full((7, 80), -4.0))
    assert wav.shape == (7 * HOP_LENGTH,)
    assert wav.dtype == torch.float32


def test_a_bad_mel_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="400 of the mel's 400 values are NaN or infinite"):
        GriffinLim().stream(torch.full((5, 80), float("nan")))  # no piece was asked for yet


def test_iterations_must_not_be_negative() -> None:
    with pytest.raises(InputError, match="0 iterations or more, got -1"):
        GriffinLim(iterations=-1)


# --- pitch


def test_pitch_of_a_glide_is_followed() -> None:
    pitch = glide(110, 300, 1.5)
    found = track_pitch(mel_spectrogram(voice(pitch)))
    inner = slice(4, -4)
    expected = pitch[::HOP_LENGTH][: len(found)]
    off = np.abs(np.log2(found[: len(expected)][inner] / expected[inner]))
    assert off.max() < 0.05  # 3.5%


@pytest.mark.parametrize("hz", [90.0, 150.0, 230.0, 380.0])
def test_steady_pitch_is_found_to_one_percent(hz: float) -> None:
    found = track_pitch(mel_spectrogram(voice(np.full(12000, hz))))[3:-3]
    assert (found > 0).all()
    assert np.median(found) == pytest.approx(hz, rel=0.012)


def test_noise_and_silence_are_unvoiced() -> None:
    assert (track_pitch(mel_spectrogram(voice(np.zeros(12000)))) == 0).mean() > 0.9
    assert (track_pitch(torch.full((9, 80), FLOOR)) == 0).all()


def test_what_is_far_below_the_loudest_is_unvoiced() -> None:
    mel = mel_spectrogram(voice(glide(150, 150, 0.5)))
    for level, voiced in ((-3, True), (-6, False)):
        later = track_pitch(torch.cat([mel, mel + level]))[len(mel) + 3 :]
        assert np.array_equal(later > 0, np.full(len(later), voiced)), level


def test_voicing_follows_the_sound() -> None:
    found = track_pitch(mel_spectrogram(voice(np.r_[np.full(8000, 200.0), np.zeros(8000)])))
    assert (found[4:26] > 0).all()
    assert (found[38:] == 0).mean() > 0.9


def plain_viterbi(scores: np.ndarray) -> np.ndarray:
    """The best path through all the scores (T, C) at once, by a dense table of transitions."""
    n_candidates = scores.shape[1]
    unvoiced = n_candidates
    steps = np.abs(np.arange(n_candidates)[:, None] - np.arange(n_candidates))
    moves = np.full((n_candidates + 1, n_candidates + 1), -0.6)  # [from, to]
    moves[:-1, :-1] = np.where(steps <= 5, -0.02 * steps, -np.inf)
    moves[-1, -1] = 0
    gains = np.pad(scores.astype(np.float64), ((0, 0), (0, 1)), constant_values=0.45)
    total, origins = gains[0], []
    for gain in gains[1:]:
        arrived = total[:, None] + moves
        origins.append(arrived.argmax(axis=0))
        total = arrived.max(axis=0) + gain
    path = [int(total.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    assert unvoiced in path
    return np.array(path[::-1])


def random_scores(n_frames: int) -> np.ndarray:
    """(T, C): a peak that wanders among noise and is there about half of the time."""
    random = np.random.default_rng(7)
    n_candidates = pitch._N_CANDIDATES
    peak = n_candidates / 2 + 40 * np.sin(np.cumsum(random.normal(0, 0.1, n_frames)))
    height = 0.5 + 0.3 * np.sin(np.cumsum(random.normal(0, 0.15, n_frames)))
    away = np.arange(n_candidates) - peak[:, None]
    scores = height[:, None] * np.exp(-0.5 * (away / 3) ** 2)
    return (scores + random.normal(0, 0.1, scores.shape)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 13, 100, 700])
def test_the_path_found_piece_by_piece_is_the_best_of_the_whole(size: int) -> None:
    scores = random_scores(700)
    pieces = [scores[first : first + size] for first in range(0, len(scores), size)]
    found = list(pitch._best_path(pieces))
    np.testing.assert_array_equal(
        np.concatenate([path for _, path in found]), plain_viterbi(scores)
    )
    np.testing.assert_array_equal(np.concatenate([kept for kept, _ in found]), scores)
    if size <= 100:
        assert len(found) > 3  # most of the path is given out before the scores end


def test_a_path_that_stays_open_is_decided_after_a_while() -> None:
    # A voice that is exactly as likely as none: which of the two it is the end alone could tell.
    scores = np.zeros((512, pitch._N_CANDIDATES), dtype=np.float32)
    scores[:, 60] = pitch._UNVOICED_SCORE
    waiting, longest, states = 0, 0, set()

    def pieces() -> Iterator[np.ndarray]:
        nonlocal waiting, longest
        for _ in range(20):
            waiting += len(scores)
            longest = max(longest, waiting)
            yield scores

    for _, path in pitch._best_path(pieces()):
        waiting -= len(path)
        states.update(path.tolist())
    assert waiting == 0
    assert longest <= pitch._LONGEST_WAIT + len(scores)
    assert states <= {60, pitch._UNVOICED}


def test_pitch_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    mel = spoken_like()
    whole = track_pitch(mel)
    assert 0 < (whole > 0).mean() < 1
    monkeypatch.setattr(pitch, "_PIECE", 10)
    np.testing.assert_allclose(track_pitch(mel), whole, rtol=1e-4)
    np.testing.assert_allclose(track_pitch(mel.double()), whole, rtol=1e-4)


# --- excitation


def test_pulses_equal_a_sum_of_cosines() -> None:
    pitch = np.array([100.0, 110.0, 120.0, 120.0, 110.0, 100.0])
    pulses = Excitation(pitch, seed=0).pulses(0, 6).reshape(-1).numpy()
    hz = np.interp(np.arange(-512, 512 + 5 * 256 + 256), 256 * np.arange(6), pitch)
    phase = 2 * np.pi * np.cumsum(np.r_[0, (hz[1:] + hz[:-1]) / 2]) / SAMPLE_RATE
    expected = np.zeros(len(hz))
    for harmonic in range(1, 96):
        expected += np.where(harmonic * hz <= 9500, 2 * np.cos(harmonic * phase), 0)
    expected *= np.sqrt(hz / SAMPLE_RATE)
    inner = slice(512, 512 + 5 * 256)  # the ends are faded, as unvoiced
    # the numbers of harmonics may differ for a sample where one crosses 9.5 kHz
    close = np.abs(pulses[: len(hz)][inner] - expected[inner]) < 1e-3
    assert close.mean() > 0.99


def test_voicing_does_not_fade_at_the_ends() -> None:
    assert Excitation(np.full(4, 100.0), seed=0).voiced_share(0, 4).tolist() == [1, 1, 1, 1]
    share = Excitation(np.array([0.0, 0, 100, 100, 100]), seed=0).voiced_share(0, 5)
    torch.testing.assert_close(share, torch.tensor([0, 1, 2, 3, 3]) / 3)


def test_pulses_are_in_time_after_minutes() -> None:
    """147 samples are a period, so 147 frames later everything is as it was."""
    excitation = Excitation(np.full(20_000, 22050 / 147), seed=0)
    first, later = (excitation.pulses(start, start + 9) for start in (4, 4 + 130 * 147))
    assert first.abs().max() > 5
    torch.testing.assert_close(later, first, rtol=0, atol=1e-3)


def test_pieces_of_the_excitation_fit() -> None:
    excitation = Excitation(np.r_[np.zeros(5), np.linspace(100, 200, 20), np.zeros(5)], seed=3)
    for make in (excitation.pulses, excitation.noise):
        torch.testing.assert_close(make(7, 19), make(0, 30)[7:22], rtol=0, atol=0)


def test_noise_is_white_and_any_of_it_can_be_drawn_alone() -> None:
    silence = np.zeros(4)
    noise = Excitation(silence, seed=3).noise(0, 300)
    torch.testing.assert_close(Excitation(silence, seed=3).noise(190, 200), noise[190:203])
    far = Excitation(silence, seed=3).noise(10**7, 10**7 + 297)  # at once: nothing before is drawn
    others = [far, Excitation(silence, seed=4).noise(0, 297), noise[:300].roll(1)]
    others += [noise[:300].roll(64, dims=0), noise[:300].roll(1, dims=0)]
    assert noise.square().mean() == pytest.approx(1, abs=0.02)
    for other in others:  # 76,800 samples: chance correlations have a deviation of 0.0036
        assert abs((noise[:300] * other).mean()) < 0.02


# --- Griffin-Lim


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 41])
def test_length_and_finiteness(n_frames: int) -> None:
    mel = spoken_like()[10 : 10 + n_frames]
    wav = GriffinLim()(mel)
    assert wav.shape == (256 * n_frames,)
    assert wav.isfinite().all()
    assert wav.abs().max() > 1e-3


def test_same_seed_same_samples() -> None:
    mel = spoken_like()
    torch.testing.assert_close(GriffinLim()(mel), GriffinLim()(mel), rtol=0, atol=0)
    assert not torch.equal(GriffinLim()(mel), GriffinLim(seed=1)(mel))


@pytest.mark.parametrize("chunk", [1, 17, 64, 1000])
def test_result_does_not_depend_on_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mel, vocoder = spoken_like(), GriffinLim(iterations=4)
    monkeypatch.setattr(griffin_lim, "_CHUNK", 50)
    expected = vocoder(mel)
    monkeypatch.setattr(griffin_lim, "_CHUNK", chunk)
    torch.testing.assert_close(vocoder(mel), expected, rtol=0, atol=1e-5)


def test_pieces_come_one_by_one_and_hold_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    mel, vocoder = spoken_like(), GriffinLim(iterations=2)
    monkeypatch.setattr(griffin_lim, "_CHUNK", 40)
    made = []
    invert = vocoder._invert
    monkeypatch.setattr(vocoder, "_invert", lambda *a: made.append(len(a[0])) or invert(*a))
    pieces = []
    for piece in vocoder.stream(mel):
        pieces.append(piece)
        assert len(made) == len(pieces)
        assert piece.untyped_storage().nbytes() == 4 * len(piece)
    assert [len(piece) for piece in pieces] == [40 * 256, 40 * 256, len(mel) % 40 * 256]
    assert max(made) <= 40 + 2 * 3 * (2 + 2)
    torch.testing.assert_close(torch.cat(pieces), vocoder(mel), rtol=0, atol=0)


@pytest.mark.parametrize("hz", [440.0, 1234.0, 3000.0])
def test_a_sine_comes_back(hz: float) -> None:
    wav = torch.sin(2 * torch.pi * hz * torch.arange(16384) / SAMPLE_RATE) * 0.4
    made = GriffinLim()(mel_spectrogram(wav)).numpy()[4096:12288]
    spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made))))
    peak = spectrum.argmax() * SAMPLE_RATE / len(made)
    # as near as the mel filters tell
    assert abs(peak - hz) < max(25.0, 0.03 * hz)
    assert np.abs(made).max() == pytest.approx(0.4, rel=0.6)


def test_harmonics_come_back_above_what_the_mel_resolves() -> None:
    hz = 200.0
    made = GriffinLim()(mel_spectrogram(voice(np.full(20000, hz)))).numpy()[4096:12288]
    power = np.abs(np.fft.rfft(made * np.hanning(len(made)))) ** 2
    width = SAMPLE_RATE / len(made)
    on, between = (
        sum(power[round((n + shift) * hz / width) + np.arange(-4, 5)].sum() for n in range(1, 21))
        for shift in (0.0, 0.5)
    )
    assert on > 30 * between
    high_on, high_between = (
        sum(power[round((n + shift) * hz / width) + np.arange(-4, 5)].sum() for n in range(15, 21))
        for shift in (0.0, 0.5)
    )
    assert high_on > 3 * high_between


def test_mel_of_the_result_is_the_mel() -> None:
    mel = spoken_like()
    sounding = mel[:-20]
    errors = {}
    for iterations in (0, 2, 8, 32):
        found = mel_spectrogram(GriffinLim(iterations)(mel).clamp(-1, 1))[: len(sounding)]
        errors[iterations] = (found - sounding).abs().mean().item()
    assert errors[0] > errors[2] > errors[8] > errors[32]
    assert errors[8] < 0.12
    assert errors[32] < 0.07


def clipped_inverse(target: torch.Tensor) -> torch.Tensor:
    """Mel magnitudes (T, M) -> (T, 513) by the pseudo-inverse of the filters, clipped at zero."""
    return (target @ torch.linalg.pinv(mel_filters()).T).clamp(min=0)


def test_result_is_nearer_to_the_mel_than_sixty_plain_iterations() -> None:
    mel = spoken_like()
    plain = griffinlim(
        clipped_inverse(mel.exp()).T.numpy(), n_iter=60, hop_length=256, momentum=0, random_state=0
    )

    def error(wav: torch.Tensor) -> float:
        found = mel_spectrogram(wav.clamp(-1, 1))[: len(mel)]
        return (found - mel[: len(found)])[:-20].abs().mean().item()

    assert error(GriffinLim(iterations=8)(mel)) < 0.7 * error(torch.from_numpy(plain))


def test_a_flat_vocal_tract_shifts_no_phase() -> None:
    assert GriffinLim()._vocal_tract_phase(torch.full((2, 80), 0.3)).abs().max() < 1e-5


def test_gains_are_bounded_where_there_is_nothing_to_amplify() -> None:
    griffin_lim = GriffinLim()
    n_bins = len(griffin_lim._voiced_bins)
    assert griffin_lim._mel_gain(torch.zeros(1, n_bins), torch.ones(1, 80)).max() < 1001


def test_mel_gains_converge_to_the_mel_and_keep_magnitudes_positive() -> None:
    target = spoken_like()[:-20].exp()
    vocoder = GriffinLim()
    filters = mel_filters()
    magnitude = torch.ones(len(target), vocoder._to_bins.shape[1])
    for _ in range(100):
        magnitude = magnitude * vocoder._mel_gain(magnitude, target)
    assert (magnitude >= 0).all()
    error = (magnitude @ filters[:, : magnitude.shape[1]].T - target).norm()
    assert error < 0.02 * target.norm()
    assert error < 0.5 * (clipped_inverse(target) @ filters.T - target).norm()


def test_silence_is_silent_and_nothing_lies_above_8_khz_or_at_zero() -> None:
    assert GriffinLim()(torch.full((30, 80), FLOOR)).abs().max() == 0
    mel = spoken_like()
    wav = GriffinLim()(mel)
    assert wav[-8 * 256 :].abs().max() < 1e-4
    power = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs().square()
    hz = torch.fft.rfftfreq(len(wav), 1 / SAMPLE_RATE)
    assert power[hz > 8100].sum() < 1e-5 * power.sum()
    assert power[hz < 5].sum() < 1e-4 * power.sum()


def test_any_mel_gives_a_finite_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    mel = torch.rand(60, 80, generator=generator) * 20 - 15
    wav = GriffinLim()(mel)
    assert wav.isfinite().all()
    assert wav.abs().max() < 1000


def test_half_precision_and_gradients_are_accepted() -> None:
    mel = spoken_like()
    wav = GriffinLim()(mel.bfloat16())
    assert wav.dtype == torch.float32
    assert not GriffinLim()(mel.clone().requires_grad_()).requires_grad


@pytest.mark.requires_cuda
def test_cuda_gives_the_same_sound() -> None:
    mel = spoken_like()
    cpu = mel_spectrogram(GriffinLim()(mel).clamp(-1, 1))
    there = GriffinLim(device="cuda")(mel.cuda())
    assert there.is_cuda
    assert (mel_spectrogram(there.cpu().clamp(-1, 1)) - cpu)[:-20].abs().mean() < 0.1


def test_pulses_ring_after_not_before() -> None:

    vocoder = GriffinLim()
    target = torch.full((1, 80), 0.01)
    target[0, 18:22] = 1.0  # one strong resonance
    spectrum = torch.polar(
        (target @ vocoder._to_bins).clamp(min=1e-6), vocoder._vocal_tract_phase(target)
    )
    energy = torch.fft.irfft(spectrum, 1024)[0].square()
    assert energy[:512].sum() > 10 * energy[512:].sum()


def test_the_start_uses_the_vocal_tracts_phase(monkeypatch: pytest.MonkeyPatch) -> None:

    vocoder, mel = GriffinLim(iterations=0), spoken_like()
    target = mel.exp()

    excitation = Excitation(track_pitch(mel), 0)
    with_phase = vocoder._start(target, excitation, 0, len(mel))
    phase = vocoder._vocal_tract_phase(target)
    monkeypatch.setattr(
        GriffinLim, "_vocal_tract_phase", lambda self, target: torch.zeros_like(phase)
    )
    without = vocoder._start(target, excitation, 0, len(mel))
    torch.testing.assert_close(
        with_phase, without * torch.polar(torch.ones_like(phase), phase), rtol=1e-4, atol=1e-5
    )
