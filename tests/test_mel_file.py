"""Mels in files: what is read, what is written, and one clear line for what is no mel."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from lightspeech.audio import HOP_LENGTH, LONGEST_WAV, mel_spectrogram
from lightspeech.errors import InputError
from lightspeech.evaluation import plots
from lightspeech.evaluation.mel_results import vocode_files
from lightspeech.files import make_folder, single_writer
from lightspeech.mel_file import doubts_about, read_mel, write_mel
from tests.test_synthesis import Loud


def a_mel(frames: int = 30) -> np.ndarray:
    """(80, T) float32, no two values equal, within what mels are."""
    return np.linspace(-11.5, 1.5, 80 * frames, dtype=np.float32).reshape(80, frames)


SHAPES = {
    "channels first": lambda mel: mel,
    "frames first": lambda mel: mel.T,
    "batch, channels first": lambda mel: mel[None],
    "batch, frames first": lambda mel: mel.T[None],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["npy", "pt", "legacy pt"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shapes_types_and_formats(tmp_path: Path, shape: str, kind: str, dtype: type) -> None:
    array = SHAPES[shape](a_mel().astype(dtype))
    path = tmp_path / f"a.{kind[-3:].strip()}"
    if kind == "npy":
        np.save(path, array)
    else:
        torch.save(
            torch.from_numpy(np.ascontiguousarray(array)),
            path,
            _use_new_zipfile_serialization=kind == "pt",
        )
    mel = read_mel(path)
    assert mel.shape == (30, 80)
    np.testing.assert_array_equal(mel.numpy(), a_mel().astype(dtype).T)


@pytest.mark.parametrize("frames", [1, 3])
def test_few_frames(tmp_path: Path, frames: int) -> None:
    np.save(tmp_path / "a.npy", a_mel(frames))
    assert read_mel(tmp_path / "a.npy").shape == (frames, 80)


def test_eighty_frames_are_taken_as_channels_first(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", a_mel(80))
    np.testing.assert_array_equal(read_mel(tmp_path / "a.npy"), a_mel(80).T)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda mel: mel.astype(">f4")])
def test_unusual_arrays(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(tmp_path / "a.npy", change(a_mel()))
    np.testing.assert_array_equal(read_mel(tmp_path / "a.npy"), a_mel().T)


def test_parameters_and_bfloat16_in_torch_files(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.from_numpy(a_mel())), tmp_path / "a.pt")
    mel = read_mel(tmp_path / "a.pt")
    assert not mel.requires_grad
    np.testing.assert_array_equal(mel, a_mel().T)
    torch.save(torch.from_numpy(a_mel()).bfloat16(), tmp_path / "b.pt")
    assert read_mel(tmp_path / "b.pt").dtype == torch.bfloat16


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    with open(tmp_path / "a.pt", "wb") as file:
        np.save(file, a_mel())
    torch.save(torch.from_numpy(a_mel()), tmp_path / "b.npy")
    assert torch.equal(read_mel(tmp_path / "a.pt"), read_mel(tmp_path / "b.npy"))


def test_an_array_is_mapped_and_the_file_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, a_mel())
    before = path.read_bytes()
    mel = read_mel(path)
    mel[0, 0] = 5
    assert path.read_bytes() == before
    with open(path, "r+b") as file:  # a mapping sees what a copy would not
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(0.25).tobytes())
    assert mel[-1, -1] == 0.25


def test_writing_is_channels_first_single_precision(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_mel(path, torch.from_numpy(a_mel().T).double().requires_grad_())
    found = np.load(path, allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (80, 30))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, a_mel())
    np.testing.assert_array_equal(read_mel(path), a_mel().T)
    assert list(tmp_path.iterdir()) == [path]


def test_a_mel_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"before")

    def half(file: BinaryIO, *_: Any, **__: Any) -> None:
        file.write(b"half")
        raise OSError("no room")

    monkeypatch.setattr(np, "save", half)
    with pytest.raises(OSError, match="no room"):
        write_mel(path, torch.from_numpy(a_mel().T))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npy_with_header(header: str) -> bytes:
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    return start + header.encode() + bytes(3000)


def pt(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
BAD = {
    "empty.npy": (b"", "is empty; expected a mel"),
    "empty.pt": (b"", "is empty; expected a mel"),
    "text.npy": (b"hello", "is a text file.* expected a mel"),
    "text.pt": (b"hello", "is a text file.* expected a mel"),
    "page.pt": (b"<html></html>", "is a web page"),
    "cut.npy": (npy(a_mel())[:-1], "cut.npy is cut short or damaged"),
    "header.npy": (npy(a_mel())[:50], "is cut short or damaged"),
    "magic.npy": (npy(a_mel())[:6], "is cut short or damaged"),
    "cut.pt": (pt(torch.from_numpy(a_mel()))[:-100], "is cut short or damaged"),
    "huge.npy": (npy_with_header(HEADER % "(80, 4000000000)"), "is cut short or damaged"),
    "huger.npy": (npy_with_header(HEADER % f"(80, {10**300})"), "is cut short or damaged"),
    "negative.npy": (npy_with_header(HEADER % "(80, -4)"), "is cut short or damaged"),
    "nested.npy": (npy_with_header(HEADER[:-6] + "(" * 2000), "is cut short or damaged"),
    "open.npy": (npy_with_header("{'''"), "is cut short or damaged"),
    "objects.npy": (
        npy(np.array([{}], dtype=object), allow_pickle=True),
        "holds pickled Python objects, which are never loaded; expected a mel",
    ),
    "pickle.npy": (pickle.dumps([1]), "is a pickle that PyTorch did not write"),
    "archive.npz": (b"PK\x05\x06" + bytes(18), "npz is neither|npz is a zip archive"),
    "integers.npy": (npy(np.zeros((80, 4), np.int16)), "holds int16 of shape .80, 4.; expected"),
    "integers.pt": (pt(torch.zeros(80, 4, dtype=torch.int16)), "holds torch.int16 of shape"),
    "complex.npy": (npy(np.zeros((80, 4), complex)), "holds complex128"),
    "texts.npy": (npy(np.array(["a"])), "holds <U1 of shape"),
    "wide.npy": (npy(a_mel()[:79]), r"is of shape \(79, 30\); expected 80 mel bins"),
    "axes.npy": (npy(a_mel().reshape(-1)), r"is of shape \(2400,\)"),
    "scalar.npy": (npy(np.float32(1)), r"is of shape \(\)"),
    "batch.npy": (npy(np.stack([a_mel(), a_mel()])), r"is of shape \(2, 80, 30\)"),
    "batch.pt": (pt(torch.zeros(2, 30, 80)), r"is of shape \(2, 30, 80\)"),
    "none.npy": (npy(np.zeros((80, 0), np.float32)), "at least one frame, got none"),
    "none.pt": (pt(torch.zeros(1, 0, 80)), "at least one frame, got none"),
    "nan.npy": (npy(a_mel() * np.nan), "2400 of the mel's 2400 values are NaN"),
    "infinite.pt": (pt(torch.from_numpy(a_mel()) / 0), "values are NaN or infinite"),
    "decibels.npy": (npy(a_mel() * 7 - 10.5), "the mel reaches -91, .* is it in decibels"),
    "bytes.npy": (npy((a_mel() + 12) * 20), "the mel reaches 270, .* or normalised"),
    "weights.pt": (pt({"a.weight": torch.zeros(3)}), "is a state dict .*1 entries.*, not a mel"),
    "list.pt": (pt([torch.zeros(80, 3)]), "holds a list, not a mel; expected"),
    "numpy.pt": (pt(a_mel()), "asks to run code .*_reconstruct.*save the mel as a plain tensor"),
    "sparse.pt": (pt(torch.zeros(80, 3).to_sparse()), "asks to run code"),
}


def test_an_archive_names_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", mel=a_mel(), text=np.zeros(3))
    message = (
        r"all\.npz is an archive of arrays \(\.npz: mel, text\); .* save it alone, numpy\.save"
    )
    with pytest.raises(InputError, match=message):
        read_mel(tmp_path / "all.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="is a pipe or a device, not a file; expected a mel"):
        read_mel(tmp_path / "pipe.npy")


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_that_names_them(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_mel(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="needs long doubles")
def test_numbers_wider_than_any_tensors(tmp_path: Path) -> None:
    np.save(tmp_path / "long.npy", a_mel().astype(np.longdouble))
    with pytest.raises(InputError, match=r"long\.npy holds float\d+ of shape .80, 30.; expected"):
        read_mel(tmp_path / "long.npy")


@pytest.mark.parametrize("name", ["missing.npy", "missing.pt", "folder.npy", "a\0b.npy"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=r"no file .*; expected a mel|is a folder, not a file"):
        read_mel(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["waveglow_module_zip.pt", "waveglow_module_legacy.pt", "waveglow_ddp_statedict.pt"]
)
def test_checkpoints_are_no_mels(fixtures: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a mel; expected a mel"):
        read_mel(fixtures / name)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trace),)

    torch.save(Malicious(), tmp_path / "a.pt")
    torch.save(Malicious(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "c.npy", np.array([Malicious()], dtype=object), allow_pickle=True)
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Malicious()))
    for path in sorted(tmp_path.glob("?.*")):
        with pytest.raises(InputError, match=path.name):
            read_mel(path)
    assert not trace.exists()


def test_altered_files_are_mels_or_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for content in (npy(a_mel(2)), pt(torch.from_numpy(a_mel(2)))):
        for _ in range(150):
            altered = bytearray(content)
            # The data are the most of it; what is interesting is before them, or after.
            places = rng.integers(0, len(altered), 2).tolist() + rng.integers(0, 128, 2).tolist()
            for place in places:
                altered[place] ^= 1 << int(rng.integers(8))
            if places[0] % 4 == 0:
                del altered[int(rng.integers(1, len(altered))) :]
            path.write_bytes(altered)
            try:
                shape, message = read_mel(path).shape, ""
            except InputError as e:
                shape, message = (2, 80), str(e)
            assert shape[1] == 80
            assert "\n" not in message


def test_longer_than_any_wav(tmp_path: Path) -> None:
    frames = LONGEST_WAV // HOP_LENGTH + 1
    header = (HEADER % f"(80, {frames})").replace("<f4", "<f2")
    path = tmp_path / "a.npy"
    path.write_bytes(npy_with_header(header)[: 10 + len(header)])
    os.truncate(path, path.stat().st_size + 2 * 80 * frames)  # takes no room on the disk
    with pytest.raises(InputError, match=r"8,388,608 frames.* \(27 hours\); divide it"):
        read_mel(path)


# --- doubts


def test_no_doubts_about_speech() -> None:
    noise = torch.rand(20000, generator=torch.Generator().manual_seed(0)) - 0.5
    assert doubts_about(mel_spectrogram(torch.cat([noise, torch.zeros(5000)]))) == ""
    assert doubts_about(torch.zeros(3, 80)) == ""  # too short to tell


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.rand(50, 80), "normalised, or a logarithm to base 10"),
        (torch.rand(50, 80) * 6 - 5, "go down to -5 only"),
        (torch.rand(50, 80) * 20 - 12, "its values reach 8, .* is it normalised"),
    ],
)
def test_doubts(mel: torch.Tensor, message: str) -> None:
    assert re.search(message, doubts_about(mel.round()))


# --- to sound


def test_files_to_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "Mel.one.npy", a_mel())
    made = vocode_files(
        [tmp_path / "a" / "Mel.one.npy", tmp_path / "b" / "Mel.one.npy"], Loud(), tmp_path / "out"
    )
    assert [path.name for path in made.wavs] == ["Mel.one.loud.wav", "Mel.one-2.loud.wav"]
    assert all(path.with_suffix(".png").is_file() for path in made.wavs)
    assert made.seconds == pytest.approx(2 * 30 * 256 / 22050)
    assert made.times_real_time == pytest.approx(made.seconds / made.seconds_spent)
    assert made.failed == []
    out = capsys.readouterr().out
    assert "Mel.one-2.loud.wav  0.35 s, " in out
    assert "2 mels, 0.7 s of sound" in made.summary()
    assert str((tmp_path / "out").resolve()) in made.summary()


def test_the_first_call_of_a_vocoder_does_not_count(tmp_path: Path) -> None:
    lengths = []

    class Counting(Loud):
        def stream(self, mel: torch.Tensor) -> Iterator[torch.Tensor]:
            lengths.append(len(mel))
            return super().stream(mel)

    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, a_mel())
    vocode_files([tmp_path / "a.npy", tmp_path / "b.npy"], Counting(), tmp_path / "out")
    assert lengths == [16, 30, 30]


def test_the_folder_of_the_sound_is_cleared_and_has_one_writer(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    np.save(tmp_path / "a.npy", a_mel())
    out = make_folder(tmp_path / "out")
    (out / ".a.loud.wav.1.tmp").touch()  # of a killed run
    with single_writer(out), pytest.raises(InputError, match="another process is writing to"):
        vocode_files([tmp_path / "a.npy"], Loud(), out)
    assert (out / ".a.loud.wav.1.tmp").exists()
    vocode_files([tmp_path / "a.npy"], Loud(), out)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "a.loud.png", "a.loud.wav"]


def test_only_bad_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*a\.npy; .* \(and 1 more\)"):
        vocode_files([tmp_path / "a.npy", tmp_path / "b.npy"], Loud(), tmp_path / "out")


def test_the_progress_of_a_long_mel_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", a_mel())
    vocode_files([tmp_path / "a.npy"], Loud(), tmp_path / "out")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("lightspeech.evaluation.mel_results._LONG", 0.3)
    vocode_files([tmp_path / "a.npy"], Loud(), tmp_path / "out")
    assert "sound:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["漢字.npy", "$\\frac{.npy", "a\nb.npy", "\udcff.npy"])
def test_files_of_any_name_are_plotted(tmp_path: Path, name: str) -> None:
    plots.plot_mel_and_sound(tmp_path / "a.png", torch.zeros(9, 80), torch.ones(9 * 256) / 2, name)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_plot_of_a_long_mel_is_of_its_beginning() -> None:
    mel = torch.from_numpy(a_mel(plots.MOST_FRAMES + 100).T)
    figure = plots.draw_mel_and_sound(mel, 3 * torch.sin(torch.arange(256.0 * len(mel))), "A")
    given, heard, wav = figure.axes
    assert given.images[0].get_array().shape == (80, plots.MOST_FRAMES)
    assert heard.images[0].get_array().shape == (80, plots.MOST_FRAMES)
    assert wav.get_xlim()[1] == pytest.approx(30, abs=0.01)
    assert figure.get_suptitle() == "A  (the first 30 of 31 s)"


def test_the_plot_shows_the_mel_of_the_sound() -> None:
    wav = torch.sin(torch.arange(256.0 * 20) / 5) * 2  # beyond full scale
    mel = torch.full((20, 80), -5.0)
    figure = plots.draw_mel_and_sound(mel, wav, "A")
    drawn = figure.axes[1].images[0].get_array().data.T
    expected = mel_spectrogram(wav / 2)[:20] + np.log(2)
    np.testing.assert_allclose(drawn, expected.numpy(), atol=0.05)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().data.T, mel)


def test_one_frame_can_be_plotted(tmp_path: Path) -> None:
    plots.plot_mel_and_sound(tmp_path / "a.png", torch.zeros(1, 80), torch.ones(256) / 2, "A $x$")
    assert (tmp_path / "a.png").stat().st_size > 1000
