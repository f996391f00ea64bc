"""Speaks: a text, a file or standard input -> wavs, plots and a page to listen to.

Each line becomes a wav; a line of many sentences is split, spoken and joined. Where the teacher of
the voice is at hand, it says the same beside it, and so do the voices of --beside.

--save-mel writes the mel spectrograms too: .npy, float32, 80 x T, channels first, as the tools of
NVIDIA's WaveGlow and of HiFi-GAN take them. --from-mel does without a voice: it turns such files
into sound.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import lightspeech.needs_torch  # noqa: F401 - before anything that imports it
from lightspeech import cli
from lightspeech.checkpoint import find_voice, voice_facts
from lightspeech.errors import InputError
from lightspeech.evaluation.mel_results import vocode_files
from lightspeech.evaluation.results import speak_lines
from lightspeech.evaluation.voices import Student, load_students
from lightspeech.files import sha256
from lightspeech.joins import SENTENCE_SILENCE, sentences_of
from lightspeech.synthesis import (
    TeacherSynthesizer,
    default_voice,
    find_teacher,
    labelling_dropout,
    teacher_digest,
)
from lightspeech.text import Line, read_lines
from lightspeech.vocoders import load_vocoder
from lightspeech.vocoders.command_line import (
    add_vocoder_options,
    describe_vocoder,
    vocoder_options,
)

if TYPE_CHECKING:
    import torch

HELD_OUT = Path(__file__).parent / "data" / "heldout.txt"
HELD_OUT_LINES = 20
VOICE_OPTIONS = (
    ("text", "a text"),
    ("text_file", "--text-file"),
    ("voice", "--voice"),
    ("beside", "--beside"),
    ("teacher", "--teacher"),
    ("pace", "--pace"),
    ("sentence_silence", "--sentence-silence"),
    ("show_text", "--show-text"),
    ("save_mel", "--save-mel"),
)
"""what makes no sense with --from-mel, and what it is called"""


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    cli.use_threads()
    if options.from_mel:
        vocode(options, parser)
    else:
        speak(options)


def speak(options: argparse.Namespace) -> None:
    """Texts to sound."""
    device = cli.resolve_device(options.device)
    lines = read_texts(options)
    voice, *beside = load_voices(options, device)
    synthesizer = voice.synthesizer
    print(f"voice: {synthesizer.voice['name']}, {synthesizer.parameters:,} parameters")
    for other in beside:
        print(
            f"beside: {other.synthesizer.voice['name']}, as {other.who}, "
            f"{other.synthesizer.parameters:,} parameters"
        )
    print(f"vocoder: {describe_vocoder(synthesizer.vocoder)}")
    path, note = find_teacher(synthesizer.voice, options.teacher)
    print(f"teacher: {note}")
    teacher = None
    if path:
        dropout = labelling_dropout(synthesizer.voice)
        teacher = TeacherSynthesizer.load(path, synthesizer.vocoder, device, dropout)
    results = speak_lines(
        lines,
        synthesizer,
        teacher,
        options.out,
        beside=beside,
        pace=options.pace,
        sentence_silence=options.sentence_silence,
        teacher_note=note,
        show_text=options.show_text,
        save_mel=options.save_mel,
    )
    print(results.summary())
    refuse_failures(results.failed, len(lines), "texts were not spoken")


def load_voices(options: argparse.Namespace, device: torch.device) -> list[Student]:
    """The voice, and those beside it, with one vocoder.

    One that is the voice itself, or a copy of it, is left out, with a note.
    """
    voice = default_voice() if options.voice is None else Path(options.voice)
    own = sha256(find_voice(voice))
    beside = []
    for other in options.beside or []:
        if sha256(find_voice(other)) == own:
            print(f"beside: without {other}, which is the voice itself")
        else:
            beside.append(other)
    vocoder = load_vocoder(
        options.vocoder,
        device,
        options=vocoder_options(options),
        teacher=teacher_digest(voice_facts(voice)),
    )
    return load_students(voice, beside, vocoder, device)


def vocode(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Mels from files to sound."""
    for name, words in VOICE_OPTIONS:
        if getattr(options, name) not in (parser.get_default(name), []):
            raise InputError(
                f"--from-mel and {words} were both given: --from-mel turns mels into sound and "
                "needs no voice; leave one of them out"
            )
    device = cli.resolve_device(options.device)
    vocoder = load_vocoder(options.vocoder, device, options=vocoder_options(options))
    print(f"vocoder: {describe_vocoder(vocoder)}")
    results = vocode_files(options.from_mel, vocoder, options.out)
    print(results.summary())
    refuse_failures(results.failed, len(options.from_mel), "files were not vocoded")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add(
        "text",
        nargs="*",
        metavar="TEXT",
        help="what to say; - reads standard input, a text a line; nothing: the first "
        f"{HELD_OUT_LINES} lines of data/heldout.txt, which no training sees",
    )
    add("--text-file", metavar="FILE", help="UTF-8, a text a line, or LJSpeech's id|text")
    add(
        "--voice",
        metavar="RUN_OR_VOICE",
        help="run folder of train.py, voice folder or .safetensors file; if not given, "
        "what train.py made in runs/lightspeech, else the bundled voice",
    )
    add(
        "--beside",
        nargs="+",
        action="extend",
        metavar="VOICE",
        help="further voices that say the same, through the same vocoder",
    )
    add_vocoder_options(parser)
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of the results")
    add("--pace", type=float, default=1.0, help="2 is twice as fast, 0.5 half as fast; 0.1 to 10")
    add(
        "--sentence-silence",
        type=float,
        default=SENTENCE_SILENCE,
        metavar="SECONDS",
        help="silence between the sentences of a text, 0 to 10",
    )
    add(
        "--teacher",
        default="auto",
        metavar="CHECKPOINT",
        help="Tacotron 2 that speaks beside the voice; auto: the one it was distilled from, if "
        "that is at hand; none: nobody",
    )
    add("--show-text", action="store_true", help="print what is spoken: numbers in words and so on")
    add(
        "--save-mel",
        action="store_true",
        help="write each mel beside its wav: NAME.npy, float32, (80, T), natural logs",
    )
    add(
        "--from-mel",
        nargs="+",
        metavar="FILE",
        help="no text and no voice: turn these mels, .npy or NVIDIA's .pt, (80, T) or (T, 80), "
        "into DIR/NAME.VOCODER.wav",
    )
    cli.add_device_option(parser)
    return parser


def read_texts(options: argparse.Namespace) -> list[Line]:
    """What is to be spoken."""
    if options.text and options.text_file:
        raise InputError("a text and --text-file were both given: expected one of them")
    # What is not UTF-8 arrives as lone surrogates, which no file or page can hold.
    text = " ".join(options.text).encode("utf-8", "replace").decode()
    if options.text and text != "-":
        sentences_of(text)  # nothing speakable is an error before anything is loaded
        return [Line("text", text, "the command line")]
    # Lines may be as long as they like: they are split into sentences.
    read = read_lines("-" if text == "-" else options.text_file or HELD_OUT, max_characters=None)
    for problem in read.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if read.duplicates:
        print(f"left out: {read.duplicates} lines that repeat an earlier one", file=sys.stderr)
    chosen = options.text or options.text_file
    return read.lines if chosen else read.lines[:HELD_OUT_LINES]


def refuse_failures(failed: list[str], count: int, what: str) -> None:
    """Ends the command with an error if something failed."""
    if failed:
        raise InputError(f"{len(failed)} of {count} {what}: {failed[0]}")


if __name__ == "__main__":
    cli.run(main)
