"""How fast the parts are on this machine, beside what they replace, and in how much memory.

Parts: voice, training, teacher-training, student, teacher, labelling, vocoders; none means all.
Comparisons alternate their two sides in one run and take each side's best time, so the ratios hold
even where times drift.

The voice is the bundled one, exported, beside its layers in PyTorch. The vocoders are the light
one, Griffin-Lim, librosa's beside it, HiFi-GAN V1, V2 and V3, and WaveGlow. Weights decide neither
speed nor memory, so the large ones have random weights at their published sizes; your own, if named
by --vocoder or found in their folders, are measured too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from lightspeech import cli
from lightspeech.benchmark.labelling import bench_labelling
from lightspeech.benchmark.rows import Findings, Row, record, table
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.student import bench_student
from lightspeech.benchmark.teacher import bench_teacher
from lightspeech.benchmark.teacher_training import bench_teacher_training
from lightspeech.benchmark.training import bench_training
from lightspeech.benchmark.vocoders import LONGEST_SECONDS, bench_vocoders
from lightspeech.benchmark.voice import bench_voice
from lightspeech.errors import InputError
from lightspeech.evaluation.results import describe_device
from lightspeech.files import make_folder, write_json

PARTS: dict[str, Callable[[Settings], Findings]] = {
    "voice": bench_voice,
    "training": bench_training,
    "teacher-training": bench_teacher_training,
    "student": bench_student,
    "teacher": bench_teacher,
    "labelling": bench_labelling,
    "vocoders": bench_vocoders,
}


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    parts = dict.fromkeys(options.parts or PARTS)
    if "vocoders" not in parts and (options.mel or options.vocoder or options.quality):
        parser.error("--mel, --vocoder and --quality belong to the part vocoders: name it too")
    if options.json:
        if options.json.is_dir():
            raise InputError(f"--json {options.json} is a folder; expected the name of a file")
        make_folder(options.json.parent)  # before minutes have passed
    torch.set_num_threads(options.threads)
    print(describe_device(torch.device("cpu")), flush=True)
    settings = Settings(
        repeats=options.repeats,
        threads=options.threads,
        mel=options.mel,
        vocoders=tuple(options.vocoder or ()),
        quality=options.quality,
    )
    rows: list[Row] = []
    notes: list[str] = []
    with tqdm(parts, "measuring", unit=" parts", leave=False) as progress:
        for part in progress:
            findings = PARTS[part](settings)
            rows += findings.rows
            notes += findings.notes
    print(table(rows))
    for note in notes:
        print(note)
    if options.json:
        write_json(options.json, record(rows, notes))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.benchmark",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", type=part_name, metavar="PART", help=f"{', '.join(PARTS)} (all)")
    add("--threads", type=cli.positive_int, default=1, metavar="N", help="CPU threads")
    add(
        "--repeats",
        type=cli.positive_int,
        default=9,
        metavar="N",
        help="calls of which the best counts; slow vocoders have fewer",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add(
        "--mel",
        type=Path,
        metavar="FILE",
        help="what the vocoders are given, (frames, 80) or (80, frames); its first "
        f"{LONGEST_SECONDS:g} s are timed (default: the teacher's reading of a sentence)",
    )
    add(
        "--vocoder",
        action="append",
        metavar="NAME:PATH",
        help="measure your own too, hifigan:PATH or waveglow:PATH; may be given several times",
    )
    add(
        "--quality",
        action="store_true",
        help="judge what the vocoders that have their weights say (DNSMOS, needs the extra eval)",
    )
    return parser


def part_name(text: str) -> str:
    """An argparse type. (Its `choices` would refuse the empty list.)"""
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {text!r}: expected {', '.join(PARTS)}")
    return text


if __name__ == "__main__":
    cli.run(main)
