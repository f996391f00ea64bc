"""Mel spectrograms in files: NumPy's .npy, and tensors that torch.save wrote (.pt).

Ours are .npy, float32, (80, T), channels first: what the tools of NVIDIA's WaveGlow and of HiFi-GAN
read and write. What is read may also be frames first, and a batch of one.
"""

from __future__ import annotations

import re
import tokenize
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import HOP_LENGTH, LONGEST_WAV, N_MELS
from lightspeech.errors import InputError
from lightspeech.files import atomic_path
from lightspeech.vocoders import check_mel
from safeload import CheckpointError, Kind, PickledObject, first, read_checkpoint_file
from safeload.pickled import Refused
from safeload.torch_file import Unsupported

_EXPECTED = (
    f"expected a mel: floating-point numbers of shape ({N_MELS}, T) or (T, {N_MELS}), as a NumPy "
    "array (.npy) or a tensor of torch.save (.pt)"
)
_KIND = Kind(
    name="mel",
    example="",
    marks=re.compile(r"(?!)"),  # no parameter's name: a mel has no parameters
    modules=frozenset({"glow"}),
    hint=_EXPECTED,
)
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What reading a .npy whose header is altered or that is cut short ends in.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)


def read_mel(path: str | Path) -> Tensor:
    """Reads a mel; which kind of file it is is told by its content, not by its name.

    Takes (80, T), (T, 80) and either with a leading axis of one; (80, 80) is taken as channels
    first. A .npy is mapped into memory, not read.

    Returns:
        (T, M) in the file's own floating-point type, fit for any vocoder; often a view that is not
        contiguous.

    Raises:
        InputError: missing, empty, damaged, something else, another shape, or not a mel that a
            vocoder takes (`check_mel`); one line that begins with the path.
    """
    path = Path(path)
    is_numpy = False
    with suppress(OSError, ValueError):  # such as a NUL in the path; the other reader says it
        if path.is_file():  # opening a pipe could wait for ever
            with open(path, "rb") as file:
                is_numpy = file.read(6) == b"\x93NUMPY"
    mel = _frames_first(_read_numpy(path) if is_numpy else _read_torch(path), path)
    if HOP_LENGTH * len(mel) > LONGEST_WAV:
        raise InputError(
            f"{path} has {len(mel):,} frames, more than the {LONGEST_WAV // HOP_LENGTH:,} whose "
            "sound fits into a WAV file (27 hours); divide it"
        )
    try:
        return check_mel(mel)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def write_mel(path: str | Path, mel: Tensor) -> None:
    """Writes a mel (T, M) as float32 (80, T), whole or not at all; `path` should end in .npy."""
    assert mel.shape[1:] == (N_MELS,), mel.shape
    channels_first = np.ascontiguousarray(mel.detach().float().cpu().numpy().T)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, channels_first, allow_pickle=False)


def doubts_about(mel: Tensor) -> str:
    """What makes a mel (T, M) that any vocoder takes look like no natural log of magnitudes.

    Vocoders make noise of such mels, but no limit tells them apart for certain. Empty if nothing.
    """
    quietest, loudest = mel.amin().item(), mel.amax().item()
    if loudest > 4:
        return (
            f"its values reach {loudest:.3g}, natural logs of magnitudes about 2; "
            "is it normalised? Then what a vocoder makes of it is noise"
        )
    if quietest > -6 and len(mel) > 40:  # half a second without anything soft in it
        return (
            f"its values go down to {quietest:.3g} only, natural logs of magnitudes of speech to "
            "-9 or less; is it normalised, or a logarithm to base 10? Then what a vocoder makes of "
            "it is noise"
        )
    return ""


def _read_numpy(path: Path) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of headers that Python 2 wrote
            # Mode c: were it written to, which nothing does, the file would stay as it is.
            array = np.lib.format.open_memmap(path, mode="c")
    except _DAMAGE as e:
        if "Python objects" in str(e):
            raise InputError(
                f"{path} holds pickled Python objects, which are never loaded; {_EXPECTED}"
            ) from e
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
        raise InputError(
            f"{path} is cut short or damaged ({reason}); copy it again, or make it anew"
        ) from e
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InputError(f"{path} holds {array.dtype} of shape {array.shape}; {_EXPECTED}")
    if array.size == 0:  # of which no memory can be mapped
        return torch.empty(array.shape)
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.type))


def _read_torch(path: Path) -> Tensor:
    try:
        content = read_checkpoint_file(path, _KIND).content
    except CheckpointError as e:
        if isinstance(e.__cause__, Refused):
            raise InputError(
                f"{path} asks to run code while it is read ({e.__cause__.name}), which is refused; "
                "save the mel as a plain tensor, torch.save(mel.cpu(), FILE), or as .npy"
            ) from e
        names = _arrays_in_archive(path) if isinstance(e.__cause__, Unsupported) else []
        if names:
            raise InputError(
                f"{path} is an archive of arrays (.npz: {first(names)}); expected one "
                "mel: save it alone, numpy.save(FILE, numpy.load(ARCHIVE)[NAME])"
            ) from e
        raise InputError(str(e)) from e
    if isinstance(content, Tensor):
        if content.dtype in _TYPES:
            return content
        what = f"holds {content.dtype} of shape {tuple(content.shape)}"
    elif isinstance(content, PickledObject):
        what = f"is a whole model ({content.name}), not a mel"
    elif isinstance(content, dict):
        what = f"is a state dict or another dictionary ({len(content)} entries), not a mel"
    else:
        what = f"holds a {type(content).__name__}, not a mel"
    raise InputError(f"{path} {what}; {_EXPECTED}")


def _arrays_in_archive(path: Path) -> list[str]:
    """The names of the arrays in a .npz; none where the file is something else."""
    with suppress(OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
    return []


def _frames_first(array: Tensor, path: Path) -> Tensor:
    """Any of the shapes of `read_mel` -> (T, M), without a copy."""
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[0] == 1:
        array = array[0]
    if array.ndim == 2 and array.shape[0] == N_MELS:
        return array.T
    if array.ndim == 2 and array.shape[1] == N_MELS:
        return array
    raise InputError(
        f"{path} is of shape {shape}; expected {N_MELS} mel bins: ({N_MELS}, T), (T, {N_MELS}), "
        f"(1, {N_MELS}, T) or (1, T, {N_MELS})"
    )
