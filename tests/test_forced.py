"""Labels from recordings: the right ones, the same in every batch; a bad one ends no run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightspeech import forced
from lightspeech.alignment import durations_from_attention, score_alignment
from lightspeech.audio import HOP_LENGTH, SAMPLE_RATE, mel_spectrogram, read_wav, write_wav
from lightspeech.errors import InputError
from lightspeech.forced import find_recordings, forced_renditions
from lightspeech.renditions import LabellingSettings, Rendition
from lightspeech.text import Line, encode, read_lines
from lightspeech.vocoders.griffin_lim import GriffinLim
from tacotron2 import Tacotron2, default_checkpoint, load_tacotron2
from tacotron2.attention_frames import Looked
from tests.tiny_teacher import tiny_teacher

SETTINGS = LabellingSettings(batch_size=4)
TEXTS = ("Yes.", "Come in, please.", "We were late for the train.", "Why?", "A day or two later.")
LINES = [Line(f"id{i}", text, f"table.txt:{i}") for i, text in enumerate(TEXTS, start=1)]


def tone(n_frames: int, seed: int = 0) -> Tensor:
    """A signal whose mel has so many frames: a swept tone in some noise."""
    time = torch.arange((n_frames - 1) * HOP_LENGTH) / SAMPLE_RATE
    noise = torch.rand(len(time), generator=torch.Generator().manual_seed(seed)) - 0.5
    return 0.3 * torch.sin(2000 * (seed + 1) * time**1.5) + 0.1 * noise


@pytest.fixture
def wavs(tmp_path: Path) -> Path:
    """A recording for each of LINES, of 60 to 140 frames."""
    for i, line in enumerate(LINES):
        write_wav(tmp_path / f"{line.id}.wav", tone(140 - 20 * i, seed=i))
    return tmp_path


def force(
    lines: Sequence[Line],
    wavs: Path,
    teacher: Tacotron2,
    settings: LabellingSettings = SETTINGS,
    targets: str = "recording",
) -> tuple[dict[str, Rendition], dict[str, str]]:
    """Renditions and problems by id."""
    problems: dict[str, str] = {}

    def note(line: Line, problem: str) -> None:
        assert problems.setdefault(line.id, problem) is problem

    found = list(forced_renditions(lines, wavs, teacher, settings, "cpu", note, targets=targets))
    renditions = {line.id: rendition for line, rendition in found}
    assert len(renditions) == len(found)
    return renditions, problems


def assert_same(found: dict[str, Rendition], expected: dict[str, Rendition]) -> None:
    assert found.keys() == expected.keys()
    for id, rendition in found.items():
        for name in ("mel", "attention", "memory"):
            ours, theirs = getattr(rendition, name), getattr(expected[id], name)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_rendition_is_its_recording(wavs: Path) -> None:
    renditions, problems = force(LINES, wavs, tiny_teacher(20))
    assert problems == {}
    assert list(renditions) == ["id5", "id4", "id3", "id2", "id1"]  # the shortest first
    for line in LINES:
        rendition, N = renditions[line.id], len(encode(line.text))
        mel = mel_spectrogram(read_wav(wavs / f"{line.id}.wav"))
        assert torch.equal(rendition.mel, mel)
        assert rendition.attention.shape == (len(mel), N)
        torch.testing.assert_close(rendition.attention.sum(1), torch.ones(len(mel)))
        assert rendition.memory.shape == (N, 16)
        assert (rendition.stopped, rendition.seed) == (True, 0)
        for values in (rendition.mel, rendition.attention, rendition.memory):
            assert values.dtype == torch.float32
            assert values.untyped_storage().nbytes() == 4 * values.numel()  # keeps no batch alive


def test_neither_batch_nor_order_nor_memory_changes_a_rendition(
    wavs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_teacher(20)
    alone, _ = force(LINES, wavs, teacher, replace(SETTINGS, batch_size=1), "teacher")
    before = torch.get_rng_state()
    assert_same(force(LINES, wavs, teacher, SETTINGS, "teacher")[0], alone)
    assert_same(force(LINES[::-1], wavs, teacher, SETTINGS, "teacher")[0], alone)
    monkeypatch.setattr(forced, "_BATCH_NUMBERS", 200 * 130)
    assert_same(force(LINES, wavs, teacher, SETTINGS, "teacher")[0], alone)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_teachers_mels_as_targets(wavs: Path) -> None:
    teacher = tiny_teacher(20)
    renditions, _ = force(LINES[:1], wavs, teacher, targets="teacher")
    tokens = torch.tensor([encode(TEXTS[0])])
    mel = mel_spectrogram(read_wav(wavs / "id1.wav"))[None]
    with torch.no_grad():
        output = teacher(
            tokens, torch.tensor([tokens.shape[1]]), mel, torch.tensor([140]), prenet_dropout=0
        )
    torch.testing.assert_close(renditions["id1"].mel, output.mel[0])
    assert not torch.allclose(renditions["id1"].mel, mel[0], atol=0.1)
    with pytest.raises(InputError, match="targets must be one of recording, teacher, not 'both'"):
        force(LINES, wavs, teacher, targets="both")


def planted_look(
    projected: Tensor, memory: Tensor, keys: Tensor, padded_tokens: Tensor, *rest: Any
) -> Looked:
    """Looks at token n for 2 + n % 3 frames, then at the next, and stays on the last."""
    (T, B, gates), N = projected.shape, memory.shape[1]
    done = torch.cumsum(2 + torch.arange(N) % 3, 0)  # frames after which token n has been read
    reading = (done <= torch.arange(T)[:, None]).sum(1)  # (T,)
    last = (~padded_tokens).sum(1) - 1
    attention = F.one_hot(torch.minimum(reading[:, None], last), N).to(memory.dtype)
    contexts = torch.einsum("tbn,bne->tbe", attention, memory)
    return Looked(memory.new_zeros(T, B, gates // 4), contexts, attention)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_planted_durations_are_recovered(
    wavs: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_teacher(20)
    monkeypatch.setattr("tacotron2.decoder.look_over_frames", planted_look)
    renditions, _ = force(LINES, wavs, teacher, replace(SETTINGS, batch_size=batch_size))
    for i, line in enumerate(LINES):
        T, N = 140 - 20 * i, len(encode(line.text))
        planted = [2 + n % 3 for n in range(N - 1)]
        planted.append(T - sum(planted))
        for method in ("monotonic", "count"):
            durations = durations_from_attention(renditions[line.id].attention, method)
            assert durations.tolist() == planted


def test_the_bundled_teacher_finds_its_own_words_again(tmp_path: Path) -> None:
    teacher = load_tacotron2(default_checkpoint())
    texts = ["The train was late.", "She asked him twice."]
    tokens = [torch.tensor(encode(text)) for text in texts]
    lengths = torch.tensor([len(ids) for ids in tokens])
    spoken = teacher.infer(pad_sequence(tokens, batch_first=True), lengths, seeds=[1, 3])
    assert spoken.stopped.all()
    lines = [Line(f"own{i}", text, "") for i, text in enumerate(texts)]
    for i, line in enumerate(lines):
        wav = GriffinLim(iterations=4)(spoken.mel[i, : spoken.frames[i]])
        write_wav(tmp_path / f"{line.id}.wav", wav)
    renditions, problems = force(lines, tmp_path, teacher)
    assert problems == {}
    for i, line in enumerate(lines):
        T, N = int(spoken.frames[i]), int(lengths[i])
        expected = durations_from_attention(spoken.attention[i, :T, :N])
        durations = durations_from_attention(renditions[line.id].attention)
        assert durations.sum() == len(renditions[line.id].mel) == T + 1
        distance = np.abs(np.cumsum(durations) - np.cumsum(expected))[:-1]  # of boundaries, frames
        assert distance.mean() < 2
        assert distance.max() < 10


def test_silence_around_a_recording_stays(tmp_path: Path) -> None:
    wav = F.pad(tone(60), (20 * HOP_LENGTH, 30 * HOP_LENGTH))
    write_wav(tmp_path / "id1.wav", wav)
    renditions, _ = force(LINES[:1], tmp_path, tiny_teacher(20))
    loud = renditions["id1"].mel.mean(1) > -11
    assert len(loud) == 110
    assert not loud[:17].any()
    assert not loud[-27:].any()
    assert loud[23:76].all()


def test_bad_recordings_are_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["good", "gone", "broken", "empty", "silent", "day", "long", "short", "mute"]
    lines = [Line(name, "Come in, please.", f"t:{i}") for i, name in enumerate(names)]
    lines[-1] = replace(lines[-1], text="\N{GRINNING FACE}")
    for name in ("good", "mute"):
        write_wav(tmp_path / f"{name}.wav", tone(100))
    write_wav(tmp_path / "long.wav", tone(202))
    write_wav(tmp_path / "short.wav", tone(15))
    write_wav(tmp_path / "day.wav", tone(5000))
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but no more")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(tmp_path / "silent.wav", np.full(30000, 5e-5), SAMPLE_RATE)
    read: list[str] = []
    monkeypatch.setattr(forced, "read_wav", lambda path: read.append(path.stem) or read_wav(path))
    renditions, problems = force(
        lines, tmp_path, tiny_teacher(20), replace(SETTINGS, max_frames=200)
    )
    assert list(renditions) == ["good"]
    assert "day" not in read  # nor is memory taken for it
    assert problems.pop("broken").startswith("cannot read its recording as sound (")
    too_long = "a recording of more than 200 frames (2 s)"
    assert problems == {
        "gone": "no recording by its id (.wav, .flac, .mp3)",
        "empty": "its recording holds no samples",
        "silent": "a silent recording",
        "day": too_long,
        "long": too_long,
        "short": "a recording of fewer frames than its text has symbols",
        "mute": "nothing in it can be spoken",
    }


def test_the_longest_and_the_shortest_that_are_allowed(tmp_path: Path) -> None:
    N = len(encode(TEXTS[1]))
    write_wav(tmp_path / "id1.wav", tone(200))
    write_wav(tmp_path / "id2.wav", tone(N))
    settings = replace(SETTINGS, max_frames=200)
    renditions, problems = force(LINES[:2], tmp_path, tiny_teacher(20), settings)
    assert problems == {}
    assert len(renditions["id1"].mel) == 200
    assert (durations_from_attention(renditions["id2"].attention) == 1).all()


def test_other_kinds_of_files(tmp_path: Path) -> None:
    wav = tone(100)
    write_wav(tmp_path / "id1.WAV", wav)
    soundfile.write(tmp_path / "id1.flac", np.zeros(9000), SAMPLE_RATE)  # id1.WAV goes first
    soundfile.write(tmp_path / "id2.flac", wav.numpy(), SAMPLE_RATE)
    soundfile.write(tmp_path / "id3.mp3", wav.numpy(), SAMPLE_RATE)
    twice = np.stack([wav.numpy().repeat(2)] * 2, axis=1)
    soundfile.write(tmp_path / "id4.wav", twice, 2 * SAMPLE_RATE)
    (tmp_path / "id5.txt").write_text("no sound")
    (tmp_path / "deeper").mkdir()
    assert set(find_recordings(tmp_path)) == {"id1", "id2", "id3", "id4"}
    renditions, problems = force(LINES, tmp_path, tiny_teacher(20))
    assert problems == {"id5": "no recording by its id (.wav, .flac, .mp3)"}
    lengths = {id: len(rendition.mel) for id, rendition in renditions.items()}
    assert (lengths["id1"], lengths["id2"], lengths["id4"]) == (100, 100, 100)
    assert lengths["id3"] == pytest.approx(100, abs=10)  # MP3 adds silence at the ends
    for id in ("id2", "id4"):
        difference = (renditions["id1"].mel - renditions[id].mel).abs()[2:-2]
        assert difference.mean() < 0.05


def test_a_folder_without_any_of_the_recordings(wavs: Path) -> None:
    others = [Line("LJ001-0001", "Yes.", "meta.csv:1"), Line("LJ001-0002", "No.", "meta.csv:2")]
    message = (
        "none of the 5 sound files in .* belongs to any of the 2 texts; expected the texts' ids "
        r"as names, such as LJ001-0001.wav \(or .flac, .mp3\) for meta.csv:1; give the texts as id"
    )
    with pytest.raises(InputError, match=message):  # at once, not with the first rendition
        forced_renditions(others, wavs, tiny_teacher(20), SETTINGS, "cpu", lambda *_: None)
    assert force([], wavs, tiny_teacher(20)) == ({}, {})
    # A process whose share has no recordings reports them, if the rest has some.
    problems: list[str] = []
    share = forced_renditions(
        others,
        wavs,
        tiny_teacher(20),
        SETTINGS,
        "cpu",
        lambda line, _: problems.append(line.id),
        corpus=LINES + others,
    )
    assert list(share) == []
    assert problems == ["LJ001-0001", "LJ001-0002"]


def test_what_is_no_folder(wavs: Path) -> None:
    for path, why in ((wavs / "gone", "No such file"), (wavs / "id1.wav", "Not a directory")):
        with pytest.raises(InputError, match=rf"cannot read the recordings in .* \({why}.*folder"):
            force(LINES, path, tiny_teacher(20))


def test_recordings_are_read_a_few_batches_ahead(tmp_path: Path) -> None:
    write_wav(tmp_path / "id.wav", tone(40))
    lines = [Line("id", "Yes.", f"t:{i}") for i in range(20)] + [Line("gone", "No.", "t:20")]
    problems: list[str] = []
    settings = replace(SETTINGS, batch_size=2)
    renditions = forced_renditions(
        lines, tmp_path, tiny_teacher(20), settings, "cpu", lambda line, _: problems.append(line.id)
    )
    for _ in range(16):
        next(renditions)
    assert problems == []
    assert len(list(renditions)) == 4
    assert problems == ["gone"]


def test_batches_stay_within_memory() -> None:
    generator = np.random.default_rng(0)
    items = [
        forced._Recorded(LINES[0], [1] * int(n), torch.zeros(int(t), 1))
        for t, n in zip(
            generator.integers(1, 3000, 200), generator.integers(1, 9000, 200), strict=True
        )
    ]
    items.sort(key=lambda item: len(item.mel))
    batches = list(forced._batches(items, 16, 1616))
    assert [item for batch in batches for item in batch] == items
    sizes = [
        len(batch)
        * max(len(item.mel) for item in batch)
        * (1616 + max(len(item.tokens) for item in batch))
        for batch in batches
    ]
    assert max(sizes) <= forced._BATCH_NUMBERS
    assert max(len(batch) for batch in batches) == 16
    # No batch could take the next recording as well.
    for batch, after in pairwise(batches):
        more = [*batch, after[0]]
        widest = 1616 + max(len(item.tokens) for item in more)
        room = len(more) * len(after[0].mel) * widest <= forced._BATCH_NUMBERS
        assert len(batch) == 16 or not room


def test_a_recording_too_large_for_any_batch_goes_alone(
    wavs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forced, "_BATCH_NUMBERS", 1)
    renditions, _ = force(LINES, wavs, tiny_teacher(20))
    assert len(renditions) == 5


def test_real_recordings_of_another_voice(shared: Path) -> None:
    """The bundled teacher never heard this voice, and follows it all the same."""
    wavs = shared / "data" / "ljspeech_wavs"
    ids = {"LJ001-0002", "LJ001-0008", "LJ001-0013"}
    read = read_lines(shared / "data" / "ljspeech_transcripts.txt")
    lines = [line for line in read.lines if line.id in ids]
    renditions, problems = force(lines, wavs, load_tacotron2(default_checkpoint()))
    assert (set(renditions), problems) == (ids, {})
    for line in lines:
        rendition = renditions[line.id]
        durations = durations_from_attention(rendition.attention)
        assert durations.sum() == len(rendition.mel)
        assert durations.min() >= 1
        assert len(durations) == len(encode(line.text))
        scores = score_alignment(rendition.attention, durations)
        assert scores.coverage > 0.75
        assert scores.monotonicity > 0.97
        assert scores.backward_jumps == 0
