"""The options of command lines that choose a vocoder."""

from __future__ import annotations

import argparse

from lightspeech.vocoders.choice import VOCODERS
from lightspeech.vocoders.options import DENOISE, PRECISIONS, SIGMA, VocoderOptions
from lightspeech.vocoders.vocoder import Vocoder


def add_vocoder_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--vocoder",
        default="auto",
        metavar="NAME[:PATH]",
        help=f"mel to sound: {', '.join(VOCODERS)}; light, hifigan and waveglow take the "
        "checkpoint that lies in their folder pretrained, or the one at PATH; auto takes the best "
        "that is there and says why",
    )
    add(
        "--sigma",
        type=float,
        help="WaveGlow: standard deviation of the noise that the sound is made from, 0 to 2 "
        f"(default: {SIGMA})",
    )
    add(
        "--denoise",
        type=float,
        metavar="STRENGTH",
        help=f"WaveGlow: how much of its hum is taken off, 0 (none) to 10 (default: {DENOISE})",
    )
    add(
        "--vocoder-precision",
        metavar="TYPE",
        help=f"WaveGlow: {', '.join(PRECISIONS)}; the last two are meant for GPUs "
        f"(default: {PRECISIONS[0]})",
    )


def vocoder_options(options: argparse.Namespace) -> VocoderOptions:
    """What was given; InputError if it is out of range."""
    return VocoderOptions(
        sigma=options.sigma, denoise=options.denoise, precision=options.vocoder_precision
    )


def describe_vocoder(vocoder: Vocoder) -> str:
    """`hifigan (generator_v2; auto: it is the best that is there)`, or `griffin-lim`."""
    details = [vocoder.source.get("name", ""), vocoder.reason]
    said = "; ".join(detail for detail in details if detail)
    return f"{vocoder.name} ({said})" if said else vocoder.name
