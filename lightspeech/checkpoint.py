"""Weights on disk: the form of the files, and the voice that comes out of a training.

Each is one safetensors file: tensors, and one JSON object in its header. A single file that appears
whole or not at all cannot mix two steps, and nothing in it is executed. A checksum over all of it
is verified before anything is believed. The state of a training (training_state.py) is another.

A voice is `best.safetensors`; `voice.json` beside it is a copy of its JSON for people to read.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import lightspeech
from lightspeech.audio import AUDIO_FACTS, check_audio_facts
from lightspeech.config import Config
from lightspeech.errors import InputError
from lightspeech.files import write_bytes, write_json
from lightspeech.model import LightSpeech
from lightspeech.text import SYMBOLS

Network = TypeVar("Network", bound=nn.Module)

FORMAT_VERSION = 1
VOICE_FILE = "best.safetensors"
VOICE_CARD = "voice.json"
STATE_FILE = "last.safetensors"
PREVIOUS_STATE_FILE = "previous.safetensors"
DEFAULT_RUN = Path("runs/lightspeech")

_KINDS = {
    "voice": "a LightSpeech voice",
    "training": "the state of a LightSpeech training",
    "teacher training": "the state of a Tacotron 2 training",
    "aligner": "the state of an aligner's training",
    "light vocoder": "a light vocoder",
    "vocoder training": "the state of a light vocoder's training",
}


# --------------------------------------------------------------------------- one file, any content


def _checksum(facts: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the JSON object and every tensor with its name, type and shape."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encode_file(facts: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """The content of a file. The facts name their `format` and `kind`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"checksum": _checksum(facts, tensors), "facts": facts})
    return save(tensors, metadata={"lightspeech": header})


def read_file(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a file that `encode_file` made; InputError for any other."""
    what = _KINDS[kind]
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, found no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get("lightspeech")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError, RuntimeError, ValueError) as e:
        raise InputError(f"{path} is damaged, or no safetensors file: expected {what} ({e})") from e
    if header is None:
        raise InputError(f"{path} holds tensors but not {what}: it was not written by LightSpeech")
    try:
        content = json.loads(header)
        facts, checksum = content["facts"], content["checksum"]
        version, found_kind = facts["format"], facts["kind"]
        intact = checksum == _checksum(facts, tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise InputError(f"{path} is damaged: its header is not what LightSpeech writes") from e
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {version!r}, and this version {lightspeech.__version__} reads "
            f"format {FORMAT_VERSION}: use the version that wrote it, or train again"
        )
    if not intact:
        raise InputError(
            f"{path} is damaged: its checksum does not match; make it or copy it again"
        )
    if found_kind != kind:
        raise InputError(f"{path} is of the kind {found_kind!r}, expected {what}")
    return facts, tensors


def fact(facts: dict[str, Any], name: str, kind: type | tuple[type, ...], where: Path) -> Any:
    """One value of the JSON object, of the type it must have."""
    value = facts.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where} is damaged: its field {name!r} is {value!r}")
    return value


def with_weights(build: Callable[[], Network], weights: dict[str, Tensor], where: Path) -> Network:
    """A network with the weights of a file.

    Args:
        build: makes the network, as the file's configuration says.
        where: the file, for the messages.

    Raises:
        InputError: names or shapes that are not the network's, or weights that are not finite.
    """
    with torch.device("meta"):  # shapes only: nothing is allocated for what a file merely claims
        expected = {name: tuple(v.shape) for name, v in build().state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"{where} does not fit its own configuration: {name} is "
                f"{found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
            )
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise InputError(f"{where} has weights that are not finite: train again with a lower rate")
    network = build()
    network.load_state_dict(weights)
    return network


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, and the commit where it runs from a git checkout of its own."""
    root = Path(lightspeech.__file__).parent.parent
    if not (root / ".git").exists():
        return lightspeech.__version__
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return lightspeech.__version__
    return f"{lightspeech.__version__}+{commit}"


# ----------------------------------------------------------------------------------------- a voice


def save_voice(
    folder: Path,
    student: LightSpeech,
    config: Config,
    *,
    step: int,
    validation: dict[str, float],
    store: dict[str, Any],
    teacher: dict[str, Any],
    origin: dict[str, Any] | None = None,
) -> None:
    """Writes a student that can speak: `best.safetensors`, and its facts once more as voice.json.

    Args:
        folder: an existing folder, usually that of the run.
        config, step, validation: what it is, when it was taken, what it lost on held-out text.
        store, teacher: what it learned from (digest, name and the like), for the record.
        origin: the voice whose weights it began with and the parts that were `frozen`, if any.
    """
    facts = {
        "format": FORMAT_VERSION,
        "kind": "voice",
        "config": config.as_dict(),
        "symbols": list(SYMBOLS),
        "audio": AUDIO_FACTS,
        "step": step,
        "validation": validation,
        "store": store,
        "teacher": teacher,
        "from": origin or {},
        "code_version": code_version(),
    }
    write_bytes(folder / VOICE_FILE, encode_file(facts, student.state_dict()))
    write_json(folder / VOICE_CARD, {"weights": VOICE_FILE, **facts})


def find_voice(path: str | Path) -> Path:
    """The file of a voice: `path` itself, a run's, or the only one in another folder."""
    path = Path(path)
    if not path.exists():
        hint = "train one first (python train.py)" if path == DEFAULT_RUN else "give a run's folder"
        raise InputError(f"no voice at {path}: {hint}, or name a voice with --voice")
    if path.is_file():
        return path
    if (path / VOICE_FILE).is_file():
        return path / VOICE_FILE
    if (path / STATE_FILE).is_file():
        raise InputError(
            f"the run {path} has no voice yet: its first validation has not come; go on with "
            f"python train.py --out {path} --resume"
        )
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(
            f"expected a voice in {path} ({VOICE_FILE}, or a single *.safetensors), found {names}; "
            "train one first (python train.py), or name a voice's file"
        )
    return found[0]


def voice_facts(path: str | Path) -> dict[str, Any]:
    """The facts of a voice alone; the path and the errors are those of `load_voice`."""
    return read_file(find_voice(path), "voice")[0]


def load_voice(
    path: str | Path = DEFAULT_RUN, device: torch.device | str = "cpu"
) -> tuple[LightSpeech, dict[str, Any]]:
    """A trained student in evaluation mode, and its facts (the content of voice.json).

    Args:
        path: the folder of a run, a folder with one voice, or a voice's .safetensors file.
        device: where the weights go.

    Raises:
        InputError: nothing there, a damaged file, one of another kind or format version, made for
            other audio or other symbols, weights that do not fit their configuration.
    """
    file = find_voice(path)
    facts, tensors = read_file(file, "voice")
    check_audio_facts(facts.get("audio"), str(file))
    symbols = facts.get("symbols")
    if symbols != list(SYMBOLS):
        count = len(symbols) if isinstance(symbols, list) else "no"
        raise InputError(
            f"{file} was trained with {count} symbols that are not this version's {len(SYMBOLS)}: "
            "use the version that it was trained with, or train again"
        )
    config = Config.from_dict(facts.get("config"), str(file))
    student = with_weights(lambda: LightSpeech(config.model), tensors, file)
    return student.to(device).eval(), facts
