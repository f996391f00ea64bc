"""Prepared features: right, kept, and made anew exactly where something has changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import librosa
import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from lightspeech.dataset import features as module
from lightspeech.dataset.features import CARD, FOLDER, Features, prepare_features
from lightspeech.dataset.folder import Utterance, read_dataset
from lightspeech.errors import InputError
from lightspeech.text import SYMBOLS
from tests.conftest import ROOT
from tests.tiny_dataset import make_dataset, sentence

UTTERANCES = 10
SHARD = 4
"""utterances a shard in these tests: 3 shards"""


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "SHARD", SHARD)
    return make_dataset(tmp_path / "dataset", UTTERANCES)


def prepare(dataset: Path, jobs: int = 1) -> tuple[Features, list[tuple[int, int]]]:
    """The features, and what was reported while they were made."""
    made: list[tuple[int, int]] = []
    sources, _ = read_dataset(dataset)
    found = prepare_features(dataset / FOLDER, sources, jobs, lambda *at: made.append(at))
    return found, made


def shards(dataset: Path) -> list[Path]:
    return sorted((dataset / FOLDER).glob("*.arrow"))


def stamps(dataset: Path) -> dict[str, int]:
    """What tells a shard that was written again from one that was left alone."""
    return {path.name: path.stat().st_ino for path in shards(dataset)}


def remade(before: dict[str, int], dataset: Path) -> set[str]:
    after = stamps(dataset)
    return {name for name in after if before.get(name) != after[name]}


def hold(dataset: Path) -> dict[str, int]:
    """Stamps whose files live on under another name, so that no new one gets their number."""
    for path in shards(dataset):
        os.link(path, path.with_name(f"held-{time.monotonic_ns()}"))
    return stamps(dataset)


def mel_by_hand(path: Path) -> np.ndarray:
    """(T, 80): the published mel from the samples of a WAV, in double precision."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    padded = np.pad(samples, 512, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([padded[at : at + 1024] for at in range(0, len(padded) - 1023, 256)])
    spectrum = np.abs(np.fft.rfft(frames * window, axis=1))
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0.0, fmax=8000.0)
    return np.log(np.maximum(spectrum @ filters.T, 1e-5))


def test_they_are_what_an_independent_computation_gives(dataset: Path) -> None:
    found, _ = prepare(dataset)
    assert found.ids == [f"u{number:02d}" for number in range(UTTERANCES)]
    assert len(found) == UTTERANCES
    for i in range(UTTERANCES):
        example, expected = found[i], mel_by_hand(dataset / "wavs" / f"u{i:02d}.wav")
        assert example.id == f"u{i:02d}"
        assert example.mel.shape == expected.shape
        # 16 bits of float: half of 2^-10 of the value, and what single precision adds
        np.testing.assert_allclose(example.mel.numpy(), expected, rtol=1e-3, atol=1e-3)
        assert example.tokens.tolist() == [SYMBOLS.index(symbol) for symbol in sentence(i)]
        assert (example.mel.dtype, example.tokens.dtype) == (torch.float32, torch.int64)
        assert (found.frames[i], found.token_counts[i]) == (len(expected), len(sentence(i)))


def test_the_numbers_and_characters_of_a_text_are_written_out(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "dataset", 2)
    table = "u00|Dr. 5|Doctor five!\nu01|Mrs. Bär, 12th\n"
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    found, _ = prepare(folder)
    spoken = ["".join(SYMBOLS[t] for t in found[i].tokens.tolist()) for i in (0, 1)]
    assert spoken == ["doctor five!", "misess bar, twelfth"]


def test_they_are_mapped_and_not_read(dataset: Path) -> None:
    before = pa.total_allocated_bytes()
    found, _ = prepare(dataset)
    assert pa.total_allocated_bytes() - before < 2000
    for values, *_ in found._columns:
        assert values.dtype == np.float16
        assert not values.flags.owndata
        assert not values.flags.writeable
    example = found[0]
    example.mel.zero_()  # a copy: the next reader is not touched
    assert found[0].mel.abs().sum() > 0


def test_the_second_time_nothing_is_made(dataset: Path) -> None:
    first, made = prepare(dataset)
    assert made == [(1, 3), (2, 3), (3, 3)]
    before = hold(dataset)
    again, made = prepare(dataset)
    assert made == []
    assert not remade(before, dataset)
    assert again.digest == first.digest
    assert Features.open(dataset / FOLDER).digest == first.digest


def test_a_path_says_the_token_of_each_frame(dataset: Path) -> None:
    found, _ = prepare(dataset)
    assert found[0].path is None
    found.durations = [np.zeros(0, np.int16)] * UTTERANCES
    found.durations[1] = np.array([2, 1, 3], np.int16)
    assert found[0].path is None  # not known of this one
    path = found[1].path
    assert path is not None
    assert path.tolist() == [0, 0, 1, 2, 2, 2]
    assert path.dtype == torch.int64


def later(path: Path) -> None:
    """Gives a file a date of its own, however coarse the file system's are."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


def change_wav(dataset: Path) -> None:
    wav = dataset / "wavs" / "u05.wav"
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples / 2, rate, subtype="PCM_16")
    later(wav)


def change_text(dataset: Path) -> None:
    table = dataset / "metadata.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    rows[5] = "u05|now this"
    table.write_text("\n".join(rows), encoding="utf-8")


def change_id(dataset: Path) -> None:
    table = dataset / "metadata.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("u05|", "v05|"), encoding="utf-8")
    (dataset / "wavs" / "u05.wav").rename(dataset / "wavs" / "v05.wav")


@pytest.mark.parametrize("change", [change_wav, change_text, change_id])
def test_only_the_shard_of_what_changed_is_made_again(dataset: Path, change) -> None:  # type: ignore[no-untyped-def]
    first, _ = prepare(dataset)
    mel, tokens = first[5].mel, first[5].tokens
    before = hold(dataset)
    change(dataset)
    second, made = prepare(dataset)
    assert made == [(3, 3)]
    assert remade(before, dataset) == {"00001.arrow"}
    assert second.digest != first.digest
    changed = (
        torch.equal(second[5].mel, mel), torch.equal(second[5].tokens, tokens), second.ids[5]
    )  # fmt: skip
    assert (
        changed
        == {
            change_wav: (False, True, "u05"),
            change_text: (True, False, "u05"),
            change_id: (True, True, "v05"),
        }[change]
    )


def test_a_dataset_that_grows_and_shrinks(dataset: Path) -> None:
    prepare(dataset)
    before = hold(dataset)
    table = dataset / "metadata.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(rows[:7]), encoding="utf-8")
    found, made = prepare(dataset)
    assert (len(found), made) == (7, [(2, 2)])
    assert remade(before, dataset) == {"00001.arrow"}
    assert [path.name for path in shards(dataset) if path.name[0] == "0"] == [
        "00000.arrow", "00001.arrow",
    ]  # fmt: skip
    table.write_text("\n".join(rows), encoding="utf-8")
    found, made = prepare(dataset)
    assert (len(found), made) == (10, [(2, 3), (3, 3)])


def test_a_shard_that_was_deleted_or_cut_is_made_again(dataset: Path) -> None:
    first, _ = prepare(dataset)
    content = [path.read_bytes() for path in shards(dataset)]
    mels = [first[i].mel for i in range(len(first))]
    del first
    shards(dataset)[0].unlink()
    shards(dataset)[0].write_bytes(content[1][: len(content[1]) // 2])
    shards(dataset)[1].write_bytes(b"")
    with pytest.raises(InputError, match="is missing or damaged: run the command again to mend it"):
        Features.open(dataset / FOLDER)
    again, made = prepare(dataset)
    assert len(made) == 3
    assert [path.read_bytes() for path in shards(dataset)] == content
    assert all(torch.equal(again[i].mel, mel) for i, mel in enumerate(mels))


@pytest.mark.parametrize("place", [0.1, 0.25, 0.5, 0.75, 0.9, 0.97])
def test_a_wrong_bit_changes_nothing(dataset: Path, place: float) -> None:
    """Wherever it is: the shard is made again, or nothing that is read depends on it."""
    first, _ = prepare(dataset)
    expected = [(first[i].id, first[i].tokens, first[i].mel) for i in range(len(first))]
    path = shards(dataset)[1]
    content = bytearray(path.read_bytes())
    path.unlink()  # the old one stays mapped as it is
    content[int(len(content) * place)] ^= 64
    path.write_bytes(bytes(content))
    again, _ = prepare(dataset)
    for i, (id, tokens, mel) in enumerate(expected):
        assert again[i].id == id
        assert torch.equal(again[i].tokens, tokens)
        assert torch.equal(again[i].mel, mel)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"version": 1}', '{"shards": 3}'])
def test_a_damaged_card_is_refused_and_written_again(dataset: Path, content: str) -> None:
    prepare(dataset)
    card = dataset / FOLDER / CARD
    whole = card.read_text(encoding="utf-8")
    card.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"features\.json is (not a readable card|damaged)"):
        Features.open(dataset / FOLDER)
    prepare(dataset)
    assert card.read_text(encoding="utf-8") == whole
    card.unlink()
    with pytest.raises(InputError, match="no card of prepared features at"):
        Features.open(dataset / FOLDER)


@pytest.mark.parametrize("name", ["version", "audio", "symbols"])
def test_features_of_another_kind_are_refused(dataset: Path, name: str) -> None:
    prepare(dataset)
    card = dataset / FOLDER / CARD
    values = json.loads(card.read_text(encoding="utf-8"))
    values[name] = {"sample_rate": 16000} if name == "audio" else "other"
    card.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="made by another version: delete that folder"):
        Features.open(dataset / FOLDER)


@pytest.mark.parametrize("name", ["VERSION", "AUDIO_FACTS", "SYMBOLS_DIGEST"])
def test_what_decides_them_makes_them_anew(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first, _ = prepare(dataset)
    monkeypatch.setattr(module, name, {"VERSION": 2, "AUDIO_FACTS": {"n": 1}}.get(name, "other"))
    second, made = prepare(dataset)
    assert len(made) == 3
    assert second.digest != first.digest


def test_several_processes_make_the_same_bytes(dataset: Path) -> None:
    _, made = prepare(dataset)
    content = [path.read_bytes() for path in shards(dataset)]
    for path in shards(dataset):
        path.unlink()
    _, made = prepare(dataset, jobs=2)
    assert made == [(1, 3), (2, 3), (3, 3)]
    assert [path.read_bytes() for path in shards(dataset)] == content


def test_preparing_leaves_the_threads_of_this_process_alone(dataset: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        prepare(dataset)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("content", "jobs"), [(b"", 1), (b"RIFF....WAVE and no more", 1), (b"\0" * 5000, 2)]
)
def test_a_recording_that_cannot_be_read_is_named(dataset: Path, content: bytes, jobs: int) -> None:
    wav = dataset / "wavs" / "u06.wav"
    whole = wav.read_bytes()
    wav.write_bytes(content)
    with pytest.raises(InputError) as caught:
        prepare(dataset, jobs)
    assert str(wav) in str(caught.value)
    assert "\n" not in str(caught.value)
    wav.write_bytes(whole)
    assert len(prepare(dataset)[0]) == UTTERANCES
    assert not list((dataset / FOLDER).glob(".*.tmp"))


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the recording .*gone\.wav"):
        prepare_features(tmp_path / FOLDER, [Utterance("a", "yes", tmp_path / "gone.wav")])


def test_a_dataset_without_utterances(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no utterances: expected at least two"):
        prepare_features(tmp_path / FOLDER, [])
    assert not (tmp_path / FOLDER).exists()


def test_a_folder_that_cannot_be_written(dataset: Path) -> None:
    (dataset / FOLDER).write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write into the folder"):
        prepare(dataset)


KILLED = """
import sys, time
from pathlib import Path
from lightspeech.dataset import features
from lightspeech.dataset.folder import read_dataset

make = features._make_shard

def slowly(work):
    make(work)
    if work[0].name == "00001.arrow":
        work[0].with_name(f".{work[0].name}.{1}.tmp").write_bytes(b"half")
        print("two", flush=True)
        time.sleep(60)

features.SHARD, features._make_shard = 4, slowly
features.prepare_features(Path(sys.argv[1]) / "features", read_dataset(sys.argv[1])[0])
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_what_a_kill_left_is_kept(dataset: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(dataset)], stdout=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, text=True,
    ) as victim:  # fmt: skip
        assert victim.stdout is not None
        assert victim.stdout.readline() == "two\n"
        victim.kill()
    assert victim.returncode == -signal.SIGKILL
    before = hold(dataset)
    found, made = prepare(dataset)
    assert made == [(3, 3)]
    assert remade(before, dataset) == {"00002.arrow"}
    assert len(found) == UTTERANCES
    assert not list((dataset / FOLDER).glob(".*.tmp"))
