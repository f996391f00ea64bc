"""The training of light vocoders: clips, critics, losses, runs that go on, and the pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from lightspeech import cli, train_vocoder, vocoder_pairs
from lightspeech.audio import HOP_LENGTH, mel_spectrogram, read_wav
from lightspeech.errors import InputError
from lightspeech.files import write_json
from lightspeech.mel_file import read_mel, write_mel
from lightspeech.model import LightSpeech
from lightspeech.ranks import Ranks
from lightspeech.run_folder import open_run, read_history
from lightspeech.schedule import learning_rate
from lightspeech.sealed import Sealed
from lightspeech.settings import load_configuration
from lightspeech.vocoder_training import clips
from lightspeech.vocoder_training.clips import ClipBatch, find_pairs, split, training_clips
from lightspeech.vocoder_training.config import (
    CONFIGS,
    VocoderConfig,
    VocoderTrainingConfig,
)
from lightspeech.vocoder_training.critics import PERIODS, RESOLUTIONS, Critics
from lightspeech.vocoder_training.objective import (
    SpectralDistance,
    VocoderObjective,
    pitch_error,
)
from lightspeech.vocoder_training.training import VocoderTraining, load_vocoder_state
from lightspeech.vocoders import load_vocoder
from lightspeech.vocoders.light import load_light
from lightspeech.vocoders.light_network import LightConfig
from tests import waveglow_recipe
from tests.conftest import ROOT
from tests.synthetic_store import make_store

SETTINGS = VocoderTrainingConfig(
    steps=6, batch_size=3, clip_frames=10, warmup_steps=2, critic_start=0.34, critic_size=2,
    ema_decay=0.5, held_out=2, validate_every=3, save_every=2, learning_rate=1e-3,
)  # fmt: skip
TINY = VocoderConfig("tiny", LightConfig(8, 12, 1), SETTINGS)


def hum(seconds: float, hertz: float) -> np.ndarray[Any, Any]:
    """A voice of sorts: harmonics, and some noise."""
    time = np.arange(round(seconds * 22050)) / 22050
    noise = np.random.default_rng(round(hertz)).standard_normal(len(time))
    voice = sum(np.sin(2 * np.pi * k * hertz * time) / k for k in (1, 2, 3))
    return 0.2 * voice + 0.01 * noise  # type: ignore[no-any-return]


@pytest.fixture
def wavs(tmp_path: Path) -> Path:
    """Eight recordings; one is stereo at another rate, one is too short for a clip."""
    folder = tmp_path / "wavs"
    folder.mkdir()
    for number in range(6):
        soundfile.write(folder / f"r{number}.wav", hum(0.3 + 0.05 * number, 100 + number), 22050)
    stereo = np.stack((hum(0.4, 150), hum(0.4, 160)), 1)
    soundfile.write(folder / "r6.flac", stereo, 16000)
    soundfile.write(folder / "short.wav", hum(0.05, 120), 22050)
    return folder


def train(folder: Path, wavs: Path, config: VocoderConfig = TINY, **given: Any) -> VocoderTraining:
    resume = (folder / "last.safetensors").exists()
    recordings, _ = find_pairs([wavs], given.pop("mels", None))
    with open_run(folder, resume, load_vocoder_state) as place:
        training = VocoderTraining(recordings, place, config, **given)
        training.run()
    return training


# --- clips


def test_recordings_are_found_with_their_lengths_and_mels(wavs: Path, tmp_path: Path) -> None:
    (wavs / "broken.wav").write_bytes(b"RIFF")
    write_mel(tmp_path / "r3.npy", torch.zeros(40, 80))
    found, problems = find_pairs([wavs], tmp_path)
    assert [recording.id for recording in found] == [f"r{i}" for i in range(7)] + ["short"]
    assert found[0].frames == round(0.3 * 22050) // 256
    assert found[6].frames == 8820 * 22050 // 16000 // 256
    assert [recording.mel is not None for recording in found].index(True) == 3
    assert len(problems) == 1
    assert "broken.wav cannot be read as sound" in problems[0]


def test_nothing_to_learn_from(tmp_path: Path, wavs: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings in"):
        find_pairs([tmp_path / "empty"], None)
    with pytest.raises(InputError, match=r"no mel in .* belongs to any of the 8 recordings"):
        find_pairs([wavs], tmp_path / "empty")


@pytest.mark.parametrize("id", ["r2", "r6"])
def test_a_clip_is_a_part_of_the_whole(wavs: Path, id: str) -> None:
    """Frame by frame and sample by sample, at both ends too, where the signal is reflected."""
    recording = next(r for r in find_pairs([wavs], None)[0] if r.id == id)
    wav = read_wav(recording.path)
    mel = mel_spectrogram(wav)
    for start in (0, 1, 2, recording.frames - 11, recording.frames - 10):
        clip_mel, clip_wav, pitch = clips._clip(recording, start, 10, True)
        assert pitch.shape == (10,)
        assert torch.equal(clip_wav, wav[start * 256 : (start + 10) * 256])
        assert torch.allclose(clip_mel, mel[start : start + 10], atol=2e-3), start


def test_a_mel_of_another_is_taken_at_the_same_place(wavs: Path, tmp_path: Path) -> None:
    theirs = torch.arange(30 * 80.0).view(30, 80) / 1000
    write_mel(tmp_path / "r2.npy", theirs)
    recording = next(r for r in find_pairs([wavs], tmp_path)[0] if r.id == "r2")
    mel, wav, _ = clips._clip(recording, 5, 10, False)
    assert torch.equal(mel, theirs[5:15])
    assert torch.equal(wav, read_wav(recording.path)[5 * 256 : 15 * 256])
    own, _, _ = clips._clip(recording, 5, 10, True)
    assert not torch.allclose(own, mel)
    np.save(tmp_path / "r2.npy", np.zeros((80, 5), np.float32))
    with pytest.raises(InputError, match=r"r2.npy is \(80, 5\): expected"):
        clips._clip(recording, 0, 10, False)


def test_the_pitch_of_a_clip_is_that_of_its_voice(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", hum(1.0, 180), 22050)
    (recording,), _ = find_pairs([tmp_path], None)
    _, _, pitch = clips._clip(recording, 30, 20, True)
    assert torch.allclose(pitch, torch.full((20,), 180.0), rtol=0.03)


def first_batches(wavs: Path, count: int, first_step: int = 0, **given: Any) -> list[ClipBatch]:
    recordings = [r for r in find_pairs([wavs], None)[0] if r.frames >= 10]
    return list(islice(training_clips(recordings, SETTINGS, first_step, **given), count))


def test_clips_follow_from_the_step_alone(wavs: Path) -> None:
    batches = first_batches(wavs, 4)
    again = first_batches(wavs, 2, first_step=2)
    for batch, same in zip(batches[2:], again, strict=True):
        assert torch.equal(batch.mel, same.mel)
        assert torch.equal(batch.wav, same.wav)
    assert batches[0].mel.shape == (3, 10, 80)
    assert batches[0].wav.shape == (3, 10 * HOP_LENGTH)
    assert not torch.equal(batches[0].wav, batches[1].wav)


def test_processes_share_a_batch(wavs: Path) -> None:
    whole = first_batches(wavs, 1)[0]
    shares = [first_batches(wavs, 1, ranks=Ranks(rank, 2))[0] for rank in range(2)]
    assert [len(share.wav) for share in shares] == [2, 1]
    assert torch.equal(torch.cat((shares[0].wav, shares[1].wav)), whole.wav[[0, 2, 1]])
    assert {share.all_clips for share in shares} == {3}


def test_what_is_held_out_follows_from_the_ids(wavs: Path) -> None:
    recordings = find_pairs([wavs], None)[0]
    members, held_out = split(recordings * 1, 2, 0)
    assert (len(members), len(held_out)) == (8 - 1, 1)  # of few, a tenth
    again, same = split(list(reversed(recordings)), 2, 0)
    assert (members, held_out) == (again, same)


# --- losses


def some_sound(seed: int = 0) -> Tensor:
    return torch.rand(2, 4096, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_spectral_distance() -> None:
    distance, wav = SpectralDistance(), some_sound()
    assert distance(wav, wav).tolist() == [0.0, 0.0]
    # Twice as loud is the logarithm of 2 away in every band of every scale.
    assert torch.allclose(distance(2 * wav, wav), torch.tensor(2.0).log().expand(2), atol=1e-4)


def test_spectral_distance_of_silence_has_a_gradient() -> None:
    made = torch.zeros(1, 4096, requires_grad=True)
    SpectralDistance()(made, some_sound()[:1]).sum().backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()


def test_critics_hear_all_of_a_clip() -> None:
    critics, wav = Critics(2), some_sound().requires_grad_()
    found = critics(wav)
    assert len(found) == len(PERIODS) + len(RESOLUTIONS)
    for layers in found:
        wav.grad = None
        layers[-1].sum().backward(retain_graph=True)
        assert wav.grad is not None
        assert (wav.grad.abs() > 0).float().mean() > 0.9


def batch_of(seed: int = 0) -> ClipBatch:
    wav = 0.1 * some_sound(seed)[:, : 10 * 256]
    pitch = torch.full((2, 10), 150.0)
    pitch[1, 3:] = 0.0
    turned = torch.tensor([0.0, 0.5], dtype=torch.float64)
    return ClipBatch(mel_spectrogram(wav)[:, :10], wav, pitch, turned, 2)


def test_the_error_of_the_pitch_counts_where_there_is_a_voice() -> None:
    found = torch.tensor([[0.0, 100.0, 200.0], [0.0, 0.0, 0.0]])
    said = torch.full((2, 6), 200.0)
    assert pitch_error(said, found).tolist() == [6.0, 0.0]  # an octave in one of two frames
    assert pitch_error(said, torch.full((2, 3), 200.0)).tolist() == [0.0, 0.0]


def gradients(objective: VocoderObjective, term: str) -> tuple[bool, bool]:
    """Whether the network and the critics learn from a term of the loss."""
    objective.zero_grad()
    spectra = objective.network.spectra(batch_of().mel)
    made = objective.network.sound(spectra.real, spectra.imaginary)
    terms = {"spectral": objective.distance(made, batch_of().wav).sum()}
    terms["pitch"] = pitch_error(spectra.pitch, batch_of().pitch).sum()
    terms |= objective._criticise(made, batch_of().wav)
    terms[term].backward()
    return tuple(  # type: ignore[return-value]
        any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())
        for part in (objective.network, objective.critics)
    )


@pytest.mark.parametrize(
    ("term", "learning"),
    [
        ("spectral", (True, False)),
        ("pitch", (True, False)),
        ("adversarial", (True, False)),
        ("features", (True, False)),
        ("critics", (False, True)),
    ],
)
def test_who_learns_from_what(term: str, learning: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    assert gradients(VocoderObjective(TINY), term) == learning


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    objective = VocoderObjective(TINY)
    quiet = objective(Sealed(batch_of()), False)
    assert quiet.keys() == {"loss", "spectral", "pitch"}
    assert torch.allclose(quiet["loss"], 45 * quiet["spectral"] + quiet["pitch"])
    found = objective(Sealed(batch_of()), True)
    expected = 45 * found["spectral"] + found["pitch"] + found["adversarial"]
    expected = expected + 2 * found["features"] + found["critics"]
    assert torch.allclose(found["loss"], expected)
    half = objective(Sealed(replace(batch_of(), all_clips=4)), True)
    assert torch.allclose(2 * half["loss"], found["loss"])


# --- runs


def test_it_learns(wavs: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=60, critic_start=0.5, validate_every=30, learning_rate=3e-3)
    training = train(tmp_path / "run", wavs, replace(TINY, training=settings))
    history = read_history(tmp_path / "run")
    spectral = [line["spectral"] for line in history]
    assert sum(spectral[-10:]) / 10 < 0.7 * spectral[0]
    assert "critics" not in history[29]
    assert "critics" in history[30]
    assert training.best_step == 60  # the first to have listened to the critics, whatever its loss
    vocoder = load_light(tmp_path / "run")
    assert vocoder.facts["step"] == 60
    assert vocoder.facts["data"]["recordings"] == 7
    with torch.no_grad():
        wav = load_vocoder(f"light:{tmp_path / 'run'}")(batch_of().mel[0])
    assert wav.shape == (2560,)


def test_what_it_leaves_out_when_it_speaks_is_no_error(wavs: Path, tmp_path: Path) -> None:
    losses = []
    for softest in (0.0, 1.0):
        config = replace(TINY, network=replace(TINY.network, softest_highest=softest))
        losses.append(train(tmp_path / str(softest), wavs, config).best_loss)
    assert losses[0] == losses[1]
    speaking = [load_light(tmp_path / str(softest)) for softest in (0.0, 1.0)]
    heard = [vocoder(batch_of().mel[0]).square().mean() for vocoder in speaking]
    assert heard[1] < 0.9 * heard[0]


def test_a_stopped_run_goes_on_as_if_it_had_not(wavs: Path, tmp_path: Path) -> None:
    # A rate that decays would be another for another length.
    constant = replace(SETTINGS, final_learning_rate=SETTINGS.learning_rate, critic_start=0.0)
    for name, steps in (("a", (6,)), ("b", (3, 6))):
        for count in steps:
            train(tmp_path / name, wavs, replace(TINY, training=replace(constant, steps=count)))
    a, b = (load_vocoder_state(tmp_path / name)[0] for name in "ab")
    assert a.step == b.step == 6
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name


def test_other_recordings_are_not_gone_on_with(wavs: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", wavs)
    (wavs / "r0.wav").unlink()
    with pytest.raises(InputError, match="was started on other recordings or mels"):
        train(tmp_path / "run", wavs)


def test_too_little_to_learn_from(wavs: Path, tmp_path: Path) -> None:
    long = replace(TINY, training=replace(SETTINGS, clip_frames=1000))
    with pytest.raises(InputError, match="0 of 8 recordings have at least 1000 frames"):
        train(tmp_path / "run", wavs, long)
    with pytest.raises(InputError, match="4 processes cannot share 3 clips"):
        train(tmp_path / "run", wavs, ranks=Ranks(0, 4))


def test_it_begins_with_another_vocoder(wavs: Path, tmp_path: Path) -> None:
    train(tmp_path / "first", wavs)
    first = load_light(tmp_path / "first")
    settings = replace(SETTINGS, steps=1, learning_rate=1e-12, final_learning_rate=1e-12)
    train(tmp_path / "second", wavs, replace(TINY, training=settings), beginning=first)
    second = load_light(tmp_path / "second")
    for name, tensor in first.network.state_dict().items():
        assert torch.allclose(tensor, second.network.state_dict()[name], atol=1e-6), name
    assert second.facts["from"]["sha256"] == first.source["sha256"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(wavs: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "tiny.json", TINY.as_dict())
    command = ["-m", "lightspeech.train_vocoder", "--wavs", str(wavs), "--config", "tiny.json",
               "--device", "cpu", "--threads", "1"]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, words in (("one", command), ("two", [*torchrun, *command])):
        done = subprocess.run(
            [sys.executable, *words, "--out", name],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("finished after step 6") == 1
    one, two = (read_history(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["spectral"] == pytest.approx(theirs["spectral"], rel=1e-3)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


# --- configurations


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", TINY.as_dict())
    assert load_configuration(tmp_path / "c.json", CONFIGS) == TINY
    assert load_configuration("light", CONFIGS) == CONFIGS["light"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected a JSON object"),
        ({"model": {}}, "has unknown settings: model"),
        ({"training": {"stepz": 1}}, "has unknown settings: training.stepz"),
        ({"training": []}, "training must be an object"),
        (
            {"training": {"steps": 0}},
            "vocoder training configuration: steps must be .* at least 1, not 0",
        ),
        ({"training": {"steps": 1.5}}, "steps must be a whole number of at least 1, not 1.5"),
        (
            {"training": {"learning_rate": -1}},
            "learning_rate must be a number above 0, .* not -1",
        ),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate must be .* not nan"),
        ({"training": {"ema_decay": 1}}, "ema_decay must be a number of at least 0 and below 1"),
        (
            {"training": {"mels_share": 1.1}},
            "mels_share must be a number from 0 to 1",
        ),
        (
            {"network": {"blocks": 0}},
            "light vocoder: blocks must be .* 1 to 4096, not 0",
        ),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, values: Any, message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        load_configuration(tmp_path / "c.json", CONFIGS)


def test_no_such_configuration() -> None:
    with pytest.raises(InputError, match="expected one of light, quick, or a JSON file"):
        load_configuration("heavy", CONFIGS)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(SETTINGS, step) for step in range(6)]
    assert rates[:2] == pytest.approx([5e-4, 1e-3])
    assert rates[-1] == pytest.approx(SETTINGS.final_learning_rate)
    assert rates[2:] == sorted(rates[2:], reverse=True)


# --- the commands


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in an empty folder: status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[], None], *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        status = 0
        try:
            cli.run(main)
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_the_command(command: Callable[..., tuple[int, str, str]], wavs: Path) -> None:
    Path("tiny.json").write_text(json.dumps(TINY.as_dict()))
    given = ("--wavs", wavs, "--device", "cpu")
    status, out, err = command(train_vocoder.main, *given, "--config", "tiny.json", "--steps", 4)
    assert status == 0, err
    assert "6 recordings" in out
    assert "1 are shorter than a clip" in out
    assert "listen   python synthesize.py --vocoder light:runs/vocoder" in out
    assert "nothing" not in err
    status, out, err = command(train_vocoder.main, *given)
    assert status == 1
    assert "there is a run in runs/vocoder already: add --resume" in err
    status, out, err = command(train_vocoder.main, *given, "--resume")
    assert status == 0
    assert "has taken its 4 steps already" in out
    status, out, err = command(train_vocoder.main, *given, "--resume", "--batch-size", 9)
    assert status == 1
    assert "of which only --steps may change" in err
    assert "training.batch_size 9, not" in err
    status, out, err = command(train_vocoder.main, *given, "--resume", "--steps", 6)
    assert status == 0, err
    assert "going on after step 4" in out
    status, out, err = command(train_vocoder.main, *given, "--resume", "--from", "runs/vocoder")
    assert status == 1
    assert "leave out --from" in err
    status, out, err = command(
        train_vocoder.main, *given, "--from", "runs/vocoder", "--out", "runs/second", "--steps", 2,
        "--config", "tiny.json", "--learning-rate", 4 * SETTINGS.learning_rate,
    )  # fmt: skip
    assert status == 0, err
    assert "from      tiny" in out
    rates = load_vocoder_state(Path("runs/second"))[0].config.training
    assert rates.final_learning_rate == pytest.approx(4 * SETTINGS.final_learning_rate)
    write_json(Path("wide.json"), {"network": {"size": 16}})
    again = ("--from", "runs/vocoder", "--out", "runs/third", "--config", "wide.json")
    status, out, err = command(train_vocoder.main, *given, *again)
    assert status == 1
    assert "wide.json differs from what to begin with (network.size 16, not 8" in err
    assert not Path("runs/third").exists()


def test_pairs_of_a_student(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    torch.manual_seed(0)
    student = LightSpeech().eval()
    label = store[1]
    mel = vocoder_pairs.spoken(student, label)
    assert mel.shape == label.mel.shape
    assert not torch.allclose(mel, label.mel)
    out = tmp_path / "mels"
    out.mkdir()
    assert vocoder_pairs.make_pairs(store, out, student=student, limit=3) == (3, 0)
    assert torch.equal(read_mel(out / f"{label.id}.npy"), mel)
    assert vocoder_pairs.make_pairs(store, out, student=student, limit=4) == (1, 3)


def test_pairs_of_a_vocoder(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    given = ("--store", "store", "--out", "pairs", "--vocoder", "griffin-lim", "--limit", 2)
    status, _, err = command(vocoder_pairs.main, *given)
    assert status == 0, err
    assert "2 pairs made in pairs" in err
    label = store[0]
    assert torch.equal(read_mel(Path("pairs") / f"{label.id}.npy"), label.mel.float())
    assert len(read_wav(Path("pairs") / f"{label.id}.wav")) == 256 * len(label.mel)
    (Path("pairs") / f"{label.id}.wav").unlink()  # as if it had been killed there
    status, _, err = command(vocoder_pairs.main, *given)
    assert status == 0
    assert "1 pairs made in pairs, 1 were there" in err
    found, _ = find_pairs([Path("pairs")], Path("pairs"))
    assert [recording.mel is not None for recording in found] == [True, True]


def test_a_vocoder_learns_from_waveglow(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    make_store(tmp_path / "store")
    torch.save({"state_dict": waveglow_recipe.draw_weights(waveglow_recipe.SMALL)}, "wg.pt")
    given = ("--store", "store", "--out", "pairs", "--vocoder", "waveglow:wg.pt")
    status, _, err = command(vocoder_pairs.main, *given)
    assert status == 0, err
    write_json(Path("tiny.json"), TINY.as_dict())
    given = ("--wavs", "pairs", "--mels", "pairs", "--config", "tiny.json", "--steps", 2)
    status, out, err = command(train_vocoder.main, *given)
    assert status == 0, err
    assert "with mels of another maker" in out
    vocoder = load_light("runs/vocoder")
    assert vocoder.facts["step"] == 2
    assert vocoder.knows(None) is False


def test_pairs_that_cannot_be_made(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    make_store(tmp_path / "store")
    status, _, err = command(vocoder_pairs.main, "--store", "store", "--out", "pairs")
    assert (status, err) == (1, "error: nothing to make: give --voice, --vocoder or both\n")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "thesis.tex").touch()
    given = ("--store", "store", "--vocoder", "griffin-lim", "--limit", 1)
    status, _, err = command(vocoder_pairs.main, *given, "--out", "pairs")
    assert status == 1
    assert "is not empty, and holds no pairs" in err
    assert command(vocoder_pairs.main, *given, "--out", "good")[0] == 0
    card = json.loads(Path("good/pairs.json").read_text())
    card["of"]["vocoder"] = "waveglow"
    Path("good/pairs.json").write_text(json.dumps(card))
    status, _, err = command(vocoder_pairs.main, *given, "--out", "good")
    assert status == 1
    assert "holds pairs of another store, voice or vocoder" in err
