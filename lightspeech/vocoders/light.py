"""The light vocoder behind the interface of all vocoders, and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightspeech.audio import AUDIO_FACTS, HOP_LENGTH, check_audio_facts
from lightspeech.checkpoint import (
    FORMAT_VERSION,
    code_version,
    encode_file,
    read_file,
    with_weights,
)
from lightspeech.errors import InputError
from lightspeech.files import sha256, write_bytes, write_json
from lightspeech.settings import settings_from
from lightspeech.vocoders.chunks import windows
from lightspeech.vocoders.light_network import (
    FRAMES_BEFORE,
    Anchor,
    LightConfig,
    LightNetwork,
)
from lightspeech.vocoders.vocoder import Vocoder, check_mel

PRETRAINED = Path(__file__).parent / "pretrained" / "light"
"""where the bundled light vocoder is"""
FILE = "vocoder.safetensors"
"""what a run of its training calls it"""
CARD = "vocoder.json"
CHUNK_FRAMES = 512
"""how many frames are made at a time: 6 s of speech"""
KIND = "light vocoder"


class LightVocoder(Vocoder):
    """The light vocoder, run piece by piece.

    Args:
        network: on the device on which it is to run; it is put into evaluation mode.
        source: its file's `path`, `name` and `sha256`.
        chunk_frames: how many frames are made at a time; the samples do not depend on it.
    """

    name = "light"

    def __init__(
        self,
        network: LightNetwork,
        source: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        chunk_frames: int = CHUNK_FRAMES,
    ) -> None:
        if chunk_frames < 1:
            raise InputError(f"the light vocoder needs chunks of at least 1 frame: {chunk_frames}")
        self.network = network.eval()
        self.audio_facts = dict(AUDIO_FACTS)
        self.source = dict(source or {})
        self.facts = dict(facts or {})
        self.chunk_frames = chunk_frames

    def knows(self, teacher: str | None) -> bool:
        """Whether it has learned the voice of this teacher, as far as its file says."""
        teachers = self.facts.get("teachers")
        return isinstance(teachers, list) and teacher in teachers

    @torch.no_grad()
    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        """(T, M) natural log magnitudes -> pieces (s,) float32, 256 T samples in all."""
        mel = check_mel(mel)
        weight = self.network.spectrum.weight
        turned: Tensor | None = None  # how often the pitch has, by the last frame that was kept
        for window in windows(len(mel), self.chunk_frames, self.network.context_frames):
            part = mel[window.start : window.stop].to(weight.device, weight.dtype)
            kept = window.kept
            anchor = None if turned is None else Anchor(kept.start - 1, turned)
            spectra = self.network.spectra(part[None], anchor)
            turned = spectra.turned[:, kept.stop - 1 + FRAMES_BEFORE]
            wav = self.network.sound(spectra.real, spectra.imaginary)[0]
            yield wav[kept.start * HOP_LENGTH : kept.stop * HOP_LENGTH].float()


def load_light(path: str | Path = PRETRAINED, device: str | torch.device = "cpu") -> LightVocoder:
    """Loads a light vocoder.

    Args:
        path: its .safetensors file, or a folder with one, such as a run of its training.
        device: where it is to run.

    Raises:
        InputError: nothing there, a damaged file, one of another kind, made for other audio, or
            whose weights do not fit its configuration.
    """
    path = Path(path)
    if path.is_dir():
        file = default_file(path)
        if file is None:
            raise InputError(
                f"no light vocoder in the folder {path}: expected {FILE}; "
                "train one with python -m lightspeech.train_vocoder"
            )
        path = file
    facts, tensors = read_file(path, KIND)
    check_audio_facts(facts.get("audio"), str(path))
    config = settings_from(LightConfig, facts.get("network"), str(path))
    network = with_weights(lambda: LightNetwork(config), tensors, path)
    source = {"path": str(path), "name": facts.get("name") or path.stem, "sha256": sha256(path)}
    return LightVocoder(network.requires_grad_(False).to(device), source, facts)


def save_light(folder: Path, network: LightNetwork, facts: dict[str, Any]) -> None:
    """Writes a vocoder that `load_light` reads: `vocoder.safetensors`, its facts as vocoder.json.

    Args:
        facts: how it came about (`name`, `step`, `data` and the like), fit for JSON.
    """
    facts = {
        "format": FORMAT_VERSION,
        "kind": KIND,
        "network": asdict(network.config),
        "audio": AUDIO_FACTS,
        **facts,
        "code_version": code_version(),
    }
    write_bytes(folder / FILE, encode_file(facts, network.state_dict()))
    write_json(folder / CARD, {"weights": FILE, **facts})


def default_file(folder: Path = PRETRAINED) -> Path | None:
    """The vocoder in a folder: `vocoder.safetensors`, or the only .safetensors file; else None."""
    if (folder / FILE).is_file():
        return folder / FILE
    found = sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None
