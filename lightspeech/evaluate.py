"""Judges a voice beside its teacher: both speak held-out text through the same vocoders.

    python -m lightspeech.evaluate VOICE --text FILE

How it sounds (DNSMOS, 1 to 5, higher is better), the share of characters and words that a
recogniser gets wrong (lower is better; it mishears clean recordings too), how spectrum, pitch and
durations differ from the teacher's, and speed; with 95 % intervals (bootstrap over the texts).
Other voices can be judged beside it. What was judged is kept as it comes: run the same command
again after an interruption, and it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lightspeech import cli
from lightspeech.checkpoint import voice_facts
from lightspeech.dataset.pool import available_cores
from lightspeech.errors import InputError
from lightspeech.evaluation.quality import require_extras
from lightspeech.evaluation.seen_texts import among, texts_of, training_store
from lightspeech.evaluation.sound_judging import Judges
from lightspeech.evaluation.voice_evaluation import Panel, evaluate, vocoder_names
from lightspeech.evaluation.voice_pages import write_pages
from lightspeech.evaluation.voice_table import text_of
from lightspeech.evaluation.voices import STUDENT, Student, Teacher, load_students
from lightspeech.files import make_folder, remove_leftovers, single_writer, write_json
from lightspeech.synthesis import (
    TeacherSynthesizer,
    find_teacher,
    labelling_dropout,
    teacher_digest,
)
from lightspeech.text import Line, read_lines
from lightspeech.vocoders import Vocoder, VocoderOptions, load_vocoder
from lightspeech.vocoders.command_line import (
    add_vocoder_options,
    describe_vocoder,
    vocoder_options,
)

HELD_OUT = Path(__file__).parent.parent / "data" / "heldout.txt"


def main() -> None:
    options = build_parser().parse_args()
    judges = None if options.no_speech_quality else Judges()
    if judges is not None and options.jobs > 1:
        # Threads that wait for a core that a listener has cost more than they bring.
        torch.set_num_threads(max(1, available_cores() - options.jobs))
    else:
        cli.use_threads()
    if judges is not None:
        require_extras()
    device = cli.resolve_device(options.device)
    read = read_lines(options.text or HELD_OUT, max_characters=None)
    if options.out.is_dir():
        raise InputError(f"--out {options.out} is a folder; expected the name of a JSON file")
    folder = make_folder(folder_of(options.out))
    panel, note = load_panel(options, device, judges)
    lines, seen = unseen_texts(read.lines[: options.limit], panel.students)
    left_out = read.problems + seen
    for problem in left_out:
        print(f"left out: {problem}", file=sys.stderr)
    if not lines:
        raise InputError("no text is left to judge by; give texts that no training has seen")
    print(f"texts: {len(lines):,} of {len(read.lines):,}", flush=True)
    with single_writer(folder):
        remove_leftovers(folder)
        try:
            record = evaluate(
                lines,
                panel,
                folder,
                {"given": len(read.lines), "left_out": left_out},
                options.jobs,
            )
            pages = write_pages(lines, panel, record, folder, note)
        except KeyboardInterrupt:
            kept = f"\nwhat was judged is kept in {folder}; the same command goes on"
            print(kept, file=sys.stderr)
            raise
        write_json(options.out, record)
    print(f"\n{text_of(record)}\n")
    print(f"Every text, with what was heard: {options.out}; plots in {folder}")
    for page in pages:
        print(f"Listen: {page.resolve().as_uri()}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.evaluate",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
        conflict_handler="resolve",  # --vocoder may be given several times here
    )
    add = parser.add_argument
    add(
        "voice",
        nargs="?",
        metavar="VOICE",
        help="run folder of train.py, voice folder or .safetensors file; if not given, "
        "what train.py made in runs/lightspeech, else the bundled voice",
    )
    add(
        "--text",
        metavar="FILE",
        help="texts that no training has seen (default: data/heldout.txt)",
    )
    add("--limit", type=cli.positive_int, default=20, help="how many of its texts, from the first")
    add(
        "--beside", nargs="+", action="extend", metavar="VOICE",
        help="further voices to judge in the same way, each compared with the same teacher",
    )  # fmt: skip
    add_vocoder_options(parser)
    add(
        "--vocoder", action="append", metavar="NAME[:PATH]",
        help="mel to sound, as for synthesize.py; give it several times to judge through several "
        "(default: auto, the best that is there)",
    )  # fmt: skip
    add(
        "--teacher",
        default="auto",
        metavar="CHECKPOINT",
        help="Tacotron 2 to compare with; auto: the one that the voice was distilled from, if that "
        "is at hand; none: nobody",
    )
    add(
        "--out", type=Path, default=Path("results/evaluation.json"), metavar="FILE",
        help="figures, as JSON; pages, wavs and plots go into a folder of the same name beside it",
    )  # fmt: skip
    add(
        "--no-speech-quality",
        action="store_true",
        help="leave out DNSMOS and recognition, which need the extra eval and most of the time",
    )
    add(
        "--jobs", type=cli.positive_int, default=max(1, available_cores() - 1), metavar="N",
        help="processes that listen while this one speaks",
    )  # fmt: skip
    cli.add_device_option(parser)
    return parser


def folder_of(out: Path) -> Path:
    """Where pages, wavs, plots and journal go: `results/evaluation` for results/evaluation.json."""
    return out.with_suffix("") if out.suffix else out.with_name(f"{out.name}-files")


def load_panel(
    options: argparse.Namespace, device: torch.device, judges: Judges | None
) -> tuple[Panel, str]:
    """Who is judged, through what and by whom, and why by this teacher; tells all of it."""
    teacher_of_voice = teacher_digest(voice_facts(options.voice))
    vocoders = load_vocoders(options, device, teacher_of_voice)
    own = next(iter(vocoders.values()))
    students = load_students(options.voice, options.beside or [], own, device)
    facts = students[0].synthesizer.voice
    path, note = find_teacher(facts, options.teacher)
    teacher = None
    if path:
        teacher = Teacher(TeacherSynthesizer.load(path, own, device, labelling_dropout(facts)))
    print(f"voice: {facts['name']}\nteacher: {note}")
    for other in students[1:]:
        print(
            f"beside: {other.synthesizer.voice['name']}, as {other.who}{_foreign(other, teacher)}"
        )
    for vocoder in vocoders.values():
        print(f"vocoder: {describe_vocoder(vocoder)}")
    settings = {name: getattr(options, name) for name in ("sigma", "denoise", "vocoder_precision")}
    return Panel(students, teacher, vocoders, judges, settings), note


def _foreign(student: Student, teacher: Teacher | None) -> str:
    """A remark on a student that learned from another teacher than the one it is compared with."""
    digest = teacher_digest(student.synthesizer.voice)
    is_foreign = teacher is not None and digest != teacher.sha256
    return ", which learned from another teacher" if is_foreign else ""


def load_vocoders(
    options: argparse.Namespace, device: torch.device, teacher: str | None
) -> dict[str, Vocoder]:
    """All that were asked for; settings of WaveGlow's go to it alone, if it is among them."""
    specs = options.vocoder or ["auto"]
    settings = vocoder_options(options)
    has_waveglow = any(spec.partition(":")[0] == "waveglow" for spec in specs)
    loaded = []
    for spec in specs:
        takes_them = not has_waveglow or spec.partition(":")[0] == "waveglow"
        own = settings if takes_them else VocoderOptions()
        loaded.append(load_vocoder(spec, device, options=own, teacher=teacher))
    return vocoder_names(loaded)


def unseen_texts(
    lines: Sequence[Line], students: Sequence[Student]
) -> tuple[list[Line], list[str]]:
    """The lines that no student learned from, as far as that is known, and why each other is out.

    Prints of each student whether it is known.
    """
    seen: dict[str, str] = {}
    for student in students:
        whose = "the voice" if student.who == STUDENT else student.who
        store = training_store(student.synthesizer.voice, student.file)
        if store is None:
            print(f"what {whose} learned from is not at hand, so these texts may be among it")
            continue
        found = among(lines, texts_of(store))
        count = f"{len(found):,}" if found else "none"
        print(f"{whose} learned from {len(store):,} texts in {store.path}: {count} of these")
        for line in found:
            seen.setdefault(
                line.id, f"{line.where}: {whose} learned from this text: {line.text[:60]!r}"
            )
    return [line for line in lines if line.id not in seen], list(seen.values())


if __name__ == "__main__":
    cli.run(main)
