"""Speaks: a text, a file or standard input -> wavs, plots and a page to listen to.

Each line becomes a wav; a line of many sentences is split, spoken and joined. Where the teacher of
the voice is at hand, it says the same beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightspeech import cli
from lightspeech.errors import InputError
from lightspeech.evaluation.figures import STAGES
from lightspeech.evaluation.results import Results, speak_lines
from lightspeech.synthesis import (
    SENTENCE_SILENCE,
    Synthesizer,
    TeacherSynthesizer,
    find_teacher,
    sentences_of,
)
from lightspeech.text import Line, read_lines
from lightspeech.vocoders import VOCODERS

HELD_OUT = Path(__file__).parent / "data" / "heldout.txt"
HELD_OUT_LINES = 20


def main() -> None:
    options = build_parser().parse_args()
    device = cli.resolve_device(options.device)
    lines = read_texts(options)
    synthesizer = Synthesizer.load(options.voice, options.vocoder, device)
    print(f"voice: {synthesizer.voice['name']}, {synthesizer.parameters:,} parameters")
    path, note = find_teacher(synthesizer.voice, options.teacher)
    print(f"teacher: {note}")
    teacher = TeacherSynthesizer.load(path, synthesizer.vocoder, device) if path else None
    results = speak_lines(
        lines,
        synthesizer,
        teacher,
        options.out,
        pace=options.pace,
        sentence_silence=options.sentence_silence,
        teacher_note=note,
        show_text=options.show_text,
    )
    print_summary(results, options.vocoder)
    if results.failed:
        raise InputError(
            f"{len(results.failed)} of {len(lines)} texts were not spoken: {results.failed[0]}"
        )


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
    add("--vocoder", default="griffin-lim", help=f"mel to sound: {', '.join(VOCODERS)}")
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


def print_summary(results: Results, vocoder: str) -> None:
    texts = "1 text" if results.spoken == 1 else f"{results.spoken} texts"
    print(f"\n{texts}, {results.seconds:.1f} s of speech. Speed, in times real time:")
    print(f"  {'':26}" + "".join(f"{who:>10}" for who in results.speeds))
    for stage, words in STAGES.items():
        values = "".join(f"{speed[stage]:>10.1f}" for speed in results.speeds.values())
        print(f"  {words:26}{values}")
    print(f"Wavs:   {results.page.parent.resolve()}")
    print(f"Listen: {results.page.resolve().as_uri()} (vocoder {vocoder})")


if __name__ == "__main__":
    cli.run(main)
