"""Which vocoder: by its name, with its file, or the best that is there.

Who puts a HiFi-GAN into its folder wants to hear it: it is the best of them, and faster than real
time on one CPU core (DNSMOS P.808 / overall of a Tacotron 2 mel: 4.18 / 3.28, WaveGlow's 4.06 /
3.27). WaveGlow reaches 0.2 times real time there, so `auto` takes it on a GPU only. The light
vocoder is bundled and hundreds of times faster than real time, but knows one voice: on recordings
of another (LJSpeech) it has 3.58 / 2.17 where Griffin-Lim, which needs no file, has 3.86 / 3.06.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightspeech.audio import AUDIO_FACTS
from lightspeech.errors import InputError
from lightspeech.vocoders.options import VocoderOptions
from lightspeech.vocoders.vocoder import Vocoder, check_fits
from safeload import CheckpointError

VOCODERS: tuple[str, ...] = ("auto", "light", "waveglow", "hifigan", "griffin-lim")
"""the names that load_vocoder knows"""


def load_vocoder(
    spec: str = "auto",
    device: str | torch.device = "cpu",
    *,
    options: VocoderOptions = VocoderOptions(),  # noqa: B008 - frozen
    audio_facts: Mapping[str, Any] = AUDIO_FACTS,
    teacher: str | None = None,
) -> Vocoder:
    """A vocoder, ready on `device`.

    Args:
        spec: `light:PATH`, `waveglow:PATH` or `hifigan:PATH`; one of these names alone, with the
            checkpoint that lies in its folder `pretrained`; `griffin-lim`; or `auto`, the best that
            is there: a HiFi-GAN, else on a GPU WaveGlow, else the light vocoder, else Griffin-Lim.
            What `auto` finds and cannot use it passes over, with a note on standard error; its
            choice says why in `reason`.
        device: where it is to run.
        options: its settings.
        audio_facts: the mels that it will be given.
        teacher: SHA-256 of the teacher whose voice they speak with, if that is known. A light
            vocoder knows the voices that it learned from, and `auto` takes it for no others.

    Raises:
        InputError: no such vocoder, no checkpoint, settings that it lacks, or one that was made for
            other mels.
        CheckpointError: the checkpoint cannot be used.
    """
    device = torch.device(device)
    name, has_path, path = spec.partition(":")
    if name not in VOCODERS:
        if spec and os.path.exists(spec):  # not Path's, which fails on impossible names
            raise InputError(
                f"--vocoder {spec} does not say what that file is: "
                f"write light:{spec}, hifigan:{spec} or waveglow:{spec}"
            )
        raise InputError(f"no vocoder {name!r}: expected one of {', '.join(VOCODERS)}")
    if has_path and name not in _NEURAL:
        raise InputError(
            f"{name} takes no file: write {name} alone, or one of "
            + ", ".join(f"{neural}:PATH" for neural in _NEURAL)
        )
    if has_path and not path:
        raise InputError(f"--vocoder {spec} names no file: expected {name}:PATH, or {name} alone")
    if name == "auto":
        vocoder = _best(device, options, audio_facts, teacher)
        _refuse_foreign_settings(options, f"{vocoder.name}, which auto took,", vocoder.name)
        return vocoder
    _refuse_foreign_settings(options, name, name)
    if name in _NEURAL:
        neural = _NEURAL[name]
        file = Path(path) if path else neural.file()
        if file is None:
            raise InputError(
                f"no {neural.title} checkpoint in {neural.folder()}: put one there (the README in "
                f"that folder says which), or name one with --vocoder {name}:PATH"
            )
        vocoder = neural.load(file, device, options)
    else:
        vocoder = _griffin_lim(device, options)
    check_fits(vocoder, audio_facts)
    return vocoder


def _best(
    device: torch.device,
    options: VocoderOptions,
    audio_facts: Mapping[str, Any],
    teacher: str | None,
) -> Vocoder:
    """What `auto` stands for; see the module's docstring."""
    against: list[str] = []  # what speaks against the better ones
    for name, neural in _NEURAL.items():
        try:
            file = neural.file()
            if file is None:
                against.append(f"no {neural.title} in {_shown(neural.folder())}")
                continue
            if neural.only_on_gpu and device.type == "cpu":
                against.append(
                    f"{neural.title} is there but takes several times real time on a CPU"
                )
                continue
            vocoder = neural.load(file, device, options)
            check_fits(vocoder, audio_facts)
            if not vocoder.knows(teacher):
                where = _shown(neural.folder())
                against.append(f"the {neural.title} in {where} has learned other voices")
                continue
        except (CheckpointError, InputError) as e:
            print(f"note: --vocoder auto passes over {neural.title}: {e}", file=sys.stderr)
            against.append(f"the {neural.title} in {_shown(neural.folder())} cannot be used")
            continue
        vocoder.reason = "auto: " + "; ".join([*against, f"{name} is the best that is there"])
        return vocoder
    vocoder = _griffin_lim(device, options)
    check_fits(vocoder, audio_facts)
    vocoder.reason = "auto: " + "; ".join(against)
    return vocoder


def _refuse_foreign_settings(options: VocoderOptions, who: str, name: str) -> None:
    if options.of_waveglow and name != "waveglow":
        settings = " or ".join(options.of_waveglow)
        raise InputError(
            f"the vocoder {who} has no {settings} to set: leave that out, or take waveglow"
        )


def _shown(folder: Path) -> str:
    """A folder as one finds it from here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _griffin_lim(device: torch.device, options: VocoderOptions) -> Vocoder:
    from lightspeech.vocoders.griffin_lim import GriffinLim

    return GriffinLim(seed=options.seed, device=device)


@dataclass(frozen=True)
class _Neural:
    """How a vocoder that needs a checkpoint is found and loaded; its module is imported late."""

    title: str
    only_on_gpu: bool
    """whether `auto` leaves it alone on a CPU"""
    folder: Callable[[], Path]
    """where users put checkpoints"""
    file: Callable[[], Path | None]
    """the one that is there"""
    load: Callable[[Path, torch.device, VocoderOptions], Vocoder]


def _hifigan_folder() -> Path:
    from lightspeech.vocoders import hifigan

    return hifigan.PRETRAINED


def _hifigan_file() -> Path | None:
    from lightspeech.vocoders import hifigan

    return hifigan.default_checkpoint(hifigan.PRETRAINED)


def _load_hifigan(path: Path, device: torch.device, options: VocoderOptions) -> Vocoder:
    from lightspeech.vocoders import hifigan

    return hifigan.load_hifigan(path, device)


def _light_folder() -> Path:
    from lightspeech.vocoders import light

    return light.PRETRAINED


def _light_file() -> Path | None:
    from lightspeech.vocoders import light

    return light.default_file(light.PRETRAINED)


def _load_light(path: Path, device: torch.device, options: VocoderOptions) -> Vocoder:
    from lightspeech.vocoders import light

    return light.load_light(path, device)


def _waveglow_folder() -> Path:
    from waveglow import load

    return load.PRETRAINED


def _waveglow_file() -> Path | None:
    from waveglow import load

    there = load.checkpoints(load.PRETRAINED)
    return load.default_checkpoint(load.PRETRAINED) if there else None


def _load_waveglow(path: Path, device: torch.device, options: VocoderOptions) -> Vocoder:
    from lightspeech.vocoders.waveglow import load_waveglow_vocoder

    return load_waveglow_vocoder(path, device, options)


_NEURAL = {
    "hifigan": _Neural("HiFi-GAN", False, _hifigan_folder, _hifigan_file, _load_hifigan),
    "waveglow": _Neural("WaveGlow", True, _waveglow_folder, _waveglow_file, _load_waveglow),
    "light": _Neural("light vocoder", False, _light_folder, _light_file, _load_light),
}
"""in the order in which `auto` looks for them"""
