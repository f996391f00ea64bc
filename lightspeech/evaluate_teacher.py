"""Judges a Tacotron 2 teacher that speaks held-out text by itself.

    python -m lightspeech.evaluate_teacher [CHECKPOINT] --text FILE [--recordings DATASET]

How many texts end by themselves, with every symbol attended to and no jump back; how it sounds
(DNSMOS, 1 to 5, higher is better); what a recogniser gets wrong (it mishears clean recordings
too). With recordings of the same sentences, all of it beside them, through the same vocoder. What
was judged is kept as it comes: run the same command again after an interruption, and it goes on.
Recordings that were judged before need not be judged again for another checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lightspeech import cli
from lightspeech.dataset.folder import read_card, read_dataset
from lightspeech.errors import InputError
from lightspeech.evaluate import HELD_OUT
from lightspeech.evaluation.quality import require_extras
from lightspeech.evaluation.sound_judging import Judges
from lightspeech.evaluation.teacher_evaluation import evaluate, match_recordings
from lightspeech.evaluation.teacher_table import table
from lightspeech.files import make_folder, remove_leftovers, sha256, single_writer, write_json
from lightspeech.renditions import LabellingSettings
from lightspeech.synthesis import TeacherSynthesizer
from lightspeech.text import read_lines
from lightspeech.vocoders import load_vocoder
from lightspeech.vocoders.command_line import (
    add_vocoder_options,
    describe_vocoder,
    vocoder_options,
)
from tacotron2 import default_checkpoint

RECORD = "evaluation.json"
LONGEST_TEXT = 350
"""characters, as in labelling; longer lines are left out"""

_DEFAULTS = LabellingSettings()


def main() -> None:
    options = build_parser().parse_args()
    judges = None if options.no_speech_quality else Judges()
    if judges is not None:
        require_extras()
    settings = LabellingSettings(seed=options.seed, batch_size=options.batch_size)
    cli.use_threads()
    device = cli.resolve_device(options.device)
    read = read_lines(options.text or HELD_OUT, LONGEST_TEXT)
    problems = read.problems
    lines = read.lines[: options.limit]
    recordings = None
    if options.recordings is not None:
        utterances, unusable = read_dataset(options.recordings)
        recordings = match_recordings(lines, utterances)
        problems = problems + unusable
        if not recordings:
            raise InputError(
                f"{options.recordings} holds none of the {len(lines):,} texts to judge; expected "
                "recordings of the same sentences, such as those that python -m "
                "lightspeech.dataset speak --text makes of the same file"
            )
    out = make_folder(options.out)
    checkpoint = options.checkpoint or default_checkpoint()
    vocoder = load_vocoder(
        options.vocoder,
        device,
        options=vocoder_options(options),
        teacher=sha256(checkpoint) if Path(checkpoint).is_file() else None,
    )
    teacher = TeacherSynthesizer.load(checkpoint, vocoder, device)
    print(f"teacher: {checkpoint} ({teacher.parameters:,} parameters), on {device}")
    print(f"vocoder: {describe_vocoder(vocoder)}")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if recordings is not None:
        print(f"recordings: {len(recordings):,} of {len(lines):,} texts in {options.recordings}")
    with single_writer(out):
        remove_leftovers(out)
        try:
            record = evaluate(lines, teacher, recordings, out, settings, judges, about(options))
        except KeyboardInterrupt:
            kept = f"\nwhat was judged is kept in {out}; the same command goes on"
            print(kept, file=sys.stderr)
            raise
        record["left_out"] = problems + record["left_out"]
        write_json(out / RECORD, record)
    print(table(record))
    print(f"Every utterance, with what was heard: {out / RECORD}; plots and wavs beside it")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.evaluate_teacher",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        nargs="?",
        type=Path,
        metavar="CHECKPOINT",
        help="Tacotron 2 (default: one in tacotron2/pretrained, else the bundled one)",
    )
    add(
        "--text",
        metavar="FILE",
        help="texts that no training has seen, a sentence a line or id|text; lines of more than "
        f"{LONGEST_TEXT} characters are left out (default: data/heldout.txt)",
    )
    add(
        "--recordings",
        type=Path,
        metavar="DATASET",
        help="folder with metadata.csv and wavs/, recordings of the same sentences: made with "
        "python -m lightspeech.dataset speak, or anybody's; what only one side has is not compared",
    )
    add_vocoder_options(parser)
    add(
        "--out", type=Path, default=Path("results/teacher"), metavar="DIR",
        help="folder of the figures, plots and wavs",
    )  # fmt: skip
    add("--limit", type=cli.positive_int, metavar="N", help="judge the first N texts (default all)")
    add(
        "--batch-size", type=cli.positive_int, default=_DEFAULTS.batch_size, metavar="N",
        help="most utterances that the teacher speaks at once; take fewer if memory runs out",
    )  # fmt: skip
    add(
        "--seed", type=int, default=_DEFAULTS.seed, metavar="N",
        help="another seed gives another rendition of every text",
    )  # fmt: skip
    add(
        "--no-speech-quality",
        action="store_true",
        help="leave out DNSMOS and recognition, which need the extra eval and most of the time",
    )
    cli.add_device_option(parser)
    return parser


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What the record says of the command: the vocoder's settings, and where the recordings are
    from. Names of folders are not part of it, so that records can be shared."""
    found: dict[str, Any] = {
        "vocoder_settings": {
            name: getattr(options, name) for name in ("sigma", "denoise", "vocoder_precision")
        },
        "recordings": None,
    }
    if options.recordings is not None:
        card = read_card(options.recordings) or {}
        found["recordings"] = {key: card[key] for key in ("made_by", "source") if key in card}
    return found


if __name__ == "__main__":
    cli.run(main)
