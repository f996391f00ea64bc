"""HiFi-GAN behind the interface of all vocoders: published generators, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lightspeech.audio import check_audio_facts
from lightspeech.errors import InputError
from lightspeech.vocoders.chunks import windows
from lightspeech.vocoders.hifigan_config import CONFIG_FILE, HifiGanConfig
from lightspeech.vocoders.hifigan_generator import Generator, context_frames
from lightspeech.vocoders.vocoder import Vocoder, check_mel
from safeload import (
    CheckpointFile,
    Kind,
    check_shapes,
    find_state_dict,
    read_checkpoint_file,
    single_precision,
)

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where a user drops a generator with its `config.json`."""

CHUNK_FRAMES = 128
"""How many frames are made at a time: 1.5 s of speech.

Measured on one thread of an AMD EPYC (Zen 4), for 780 frames (9 s): speed relative to plain
channels-first PyTorch with the whole mel at once, which is 1.5 (V1), 16 (V2) and 13 (V3) times real
time; and how far the process grew, in MB. The medians of several turns in one process.

    frames    V1           V2           V3
    32        0.9   106    0.9    36    1.2    38
    64        1.1   123    1.2    46    1.4    56
    128       1.2   182    1.4    70    1.6    90
    256       1.3   292    1.5   121    1.6   146
    all 780   1.2   470    1.5   204    1.6   264     grows with the mel

A piece of 128 frames is computed from up to 26 more (22 in V3), most of them in the cheap first
layers only.
"""

KIND = Kind(
    name="HiFi-GAN",
    example="generator_v1 of the published LJ_V1",
    marks=re.compile(r"(conv_pre|ups\.\d+)\."),
    hint=(
        "expected a HiFi-GAN generator such as generator_v1 of the published LJ_V1, beside its "
        f"{CONFIG_FILE}: give its path, or put both into {PRETRAINED}"
    ),
)

# A weight under weight norm is stored as its magnitude and its direction, under these names; the
# second pair is that of PyTorch 2's parametrizations.
_WEIGHT_NORM = {
    ".weight_g": ".weight_v",
    ".parametrizations.weight.original0": ".parametrizations.weight.original1",
}


class HifiGan(Vocoder):
    """A HiFi-GAN generator, run piece by piece.

    HiFi-GAN pads the signals under its mels by half a hop less than Tacotron 2 does. A generator
    that was trained on such mels makes speech that is 128 samples (6 ms) behind ours: frame t is
    centred on sample 256 t + 128.

    Args:
        generator: on the device on which it is to run; it is put into evaluation mode.
        source: its checkpoint's `path`, `name` and `sha256`.
        chunk_frames: how many frames are made at a time; the samples do not depend on it.
    """

    name = "hifigan"

    def __init__(
        self,
        generator: Generator,
        source: Mapping[str, str] | None = None,
        chunk_frames: int = CHUNK_FRAMES,
    ) -> None:
        if chunk_frames < 1:
            raise InputError(f"HiFi-GAN needs chunks of at least 1 frame, not {chunk_frames}")
        self.generator = generator.eval()
        self.audio_facts = generator.config.audio_facts
        self.source = dict(source or {})
        self.chunk_frames = chunk_frames
        self.context_frames = context_frames(generator.config)

    @torch.no_grad()
    def stream(self, mel: Tensor) -> Iterator[Tensor]:
        """(T, M) natural log magnitudes -> pieces (s,) float32, 256 T samples in all."""
        check_audio_facts(self.audio_facts, f"the vocoder {self.title}")
        mel = check_mel(mel)
        weight = self.generator.conv_pre.weight
        for window in windows(len(mel), self.chunk_frames, self.context_frames):
            part = mel[window.start : window.stop].to(weight.device, weight.dtype)
            wav = self.generator(part[None], window.kept.start, window.kept.stop)
            yield wav[0].float()  # (1, s) -> (s,)


def load_hifigan(path: str | Path, device: str | torch.device = "cpu") -> HifiGan:
    """Loads a generator of any version (V1, V2, V3) in single precision, with weight norm folded.

    Args:
        path: the generator's file, in any of PyTorch's formats or as safetensors, with its
            `config.json` beside it; or a folder that holds one generator and its `config.json`.
        device: where it is to run.

    The result's `source` has the `path`, the `name` (the file's name without its suffix) and the
    `sha256` of the file; its `audio_facts` are what the configuration says. Nothing in a file is
    ever executed.

    Raises:
        CheckpointError: the file is missing, damaged, something else, or does not fit its
            configuration.
        InputError: no configuration, or an impossible one; a folder without exactly one generator.
    """
    path = Path(path)
    if path.is_dir():
        file = default_checkpoint(path)
        if file is None:
            raise InputError(
                f"no HiFi-GAN generator in the folder {path}: expected a file whose name begins "
                f"with generator or g_, or ends in .safetensors, beside its {CONFIG_FILE}"
            )
        path = file
    checkpoint = read_checkpoint_file(path, KIND)
    weights = find_state_dict(checkpoint)  # before the configuration: perhaps it is no HiFi-GAN
    config = HifiGanConfig.from_json(path.with_name(CONFIG_FILE))
    with torch.device("meta"):
        generator = Generator(config)
    generator.load_state_dict(_folded(checkpoint, weights, generator), assign=True)
    source = {"path": str(path), "name": path.stem, "sha256": checkpoint.sha256}
    return HifiGan(generator.requires_grad_(False).to(device), source)


def default_checkpoint(folder: Path = PRETRAINED) -> Path | None:
    """The generator in `folder`, or in a folder there that has a configuration; None without one.

    Generators are told by their names: `generator...` and `g_...`, as they are published and as
    training writes them, and `....safetensors`.

    Raises:
        InputError: several; it names them.
    """
    places = [folder, *(config.parent for config in folder.glob(f"*/{CONFIG_FILE}"))]
    found = sorted(
        path
        for place in places
        for path in place.glob("*")
        if path.is_file()
        and (path.name.startswith(("generator", "g_")) or path.suffix == ".safetensors")
    )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise InputError(
            f"several HiFi-GAN generators in {folder}: {names}; keep one there with its "
            f"{CONFIG_FILE}, or name the file to use"
        )
    return found[0] if found else None


def _folded(
    file: CheckpointFile, weights: Mapping[str, Tensor], generator: Generator
) -> dict[str, Tensor]:
    """The weights, float32, under the generator's names, which are those without weight norm.

    Raises CheckpointError where they do not fit the generator, or are not finite.
    """
    expected: dict[str, Tensor] = {}  # under the file's names
    pairs: dict[str, tuple[str, str]] = {}
    for name, weight in generator.state_dict().items():
        layer = name.removesuffix(".weight")
        for magnitude, direction in _WEIGHT_NORM.items():
            if layer + direction in weights:
                pairs[name] = layer + magnitude, layer + direction
                expected[layer + magnitude] = weight.new_empty(len(weight), 1, 1)
                expected[layer + direction] = weight
                break
        else:
            expected[name] = weight
    check_shapes(
        file,
        weights,
        expected,
        advice=f"it or the {CONFIG_FILE} beside it has been changed, or they belong to different "
        "generators: use the two that were published together",
    )
    given = single_precision(file, weights)
    for name, (magnitude, direction) in pairs.items():
        length = torch.linalg.vector_norm(given[direction], dim=(1, 2), keepdim=True)
        given[name] = given.pop(direction) * (given.pop(magnitude) / length)
    return single_precision(file, given)  # a direction without a length gives NaN
