"""Judges a voice beside its teacher: both speak held-out text through the same vocoder.

    python -m lightspeech.evaluate VOICE --text FILE

For each text and each voice: DNSMOS (1 to 5, higher is better), the share of characters and words
that a recogniser gets wrong (lower is better; it mishears clean recordings too), speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

import lightspeech
from lightspeech import cli
from lightspeech.errors import InputError
from lightspeech.evaluation.figures import (
    STAGES,
    Work,
    times_real_time,
    timing_difference,
    undisturbed,
)
from lightspeech.evaluation.quality import (
    Dnsmos,
    dnsmos,
    error_rates,
    plain_words,
    recognise,
    require_extras,
)
from lightspeech.evaluation.results import describe_device, vocoder_record
from lightspeech.files import make_folder, write_json
from lightspeech.speech import Speech
from lightspeech.synthesis import Synthesizer, TeacherSynthesizer, find_teacher
from lightspeech.text import Line, read_lines
from lightspeech.vocoders.command_line import (
    add_vocoder_options,
    describe_vocoder,
    vocoder_options,
)

HELD_OUT = Path(__file__).parent.parent / "data" / "heldout.txt"
RECORD_VERSION = 1


@dataclass(frozen=True)
class Judgement:
    """One text by one voice."""

    said: str
    """plain words of the text, as the voice read it"""
    heard: str
    """what the recogniser made of it"""
    scores: Dnsmos
    work: Work


def main() -> None:
    options = build_parser().parse_args()
    require_extras()
    device = cli.resolve_device(options.device)
    read = read_lines(options.text or HELD_OUT, max_characters=None)
    for problem in read.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if options.out.is_dir():
        raise InputError(f"--out {options.out} is a folder; expected the name of a JSON file")
    make_folder(options.out.parent)
    synthesizer = Synthesizer.load(
        options.voice, options.vocoder, device, vocoder_options=vocoder_options(options)
    )
    path, note = find_teacher(synthesizer.voice, options.teacher)
    print(f"voice: {synthesizer.voice['name']}\nteacher: {note}")
    print(f"vocoder: {describe_vocoder(synthesizer.vocoder)}")
    teacher = TeacherSynthesizer.load(path, synthesizer.vocoder, device) if path else None
    record = evaluate(read.lines[: options.limit], synthesizer, teacher)
    write_json(options.out, record)
    print(table(record))
    print(f"Every text, with what was heard: {options.out}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.evaluate",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
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
    add_vocoder_options(parser)
    add(
        "--teacher",
        default="auto",
        metavar="CHECKPOINT",
        help="Tacotron 2 to compare with; auto: the one that the voice was distilled from, if that "
        "is at hand; none: nobody",
    )
    add("--out", type=Path, default=Path("results/evaluation.json"), metavar="FILE", help="figures")
    cli.add_device_option(parser)
    return parser


def evaluate(
    lines: Sequence[Line], synthesizer: Synthesizer, teacher: TeacherSynthesizer | None
) -> dict[str, Any]:
    """Speaks and judges each text; returns what evaluation.json holds.

    Raises:
        InputError: a voice that cannot speak one of the texts, or says nothing that has words.
    """
    synthesizer(
        "This is test number 1."
    )  # the first sentence pays for caches, and would bend the speeds
    judged: dict[str, list[Judgement]] = {"student": []}
    if teacher is not None:
        judged["teacher"] = []
    differences = []
    texts: list[dict[str, Any]] = []
    for line in tqdm(lines, "judging", unit=" texts"):
        with undisturbed():
            spoken = {"student": synthesizer(line.text)}
            if teacher is not None:
                spoken["teacher"] = teacher(line.text)
        text: dict[str, Any] = {"id": line.id, "text": line.text}
        for who, speech in spoken.items():
            judged[who].append(judge(speech))
            text[who] = _figures(judged[who][-1:])
            text[who]["heard"] = judged[who][-1].heard
        if teacher is not None:
            differences.append(timing_difference(spoken["student"], spoken["teacher"]))
            text["duration_error_frames"] = differences[-1].error_frames
            text["length_ratio"] = differences[-1].length_ratio
        texts.append(text)
    record: dict[str, Any] = {
        "version": RECORD_VERSION,
        "lightspeech": lightspeech.__version__,
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "voice": synthesizer.voice.get("name"),
        **vocoder_record(synthesizer.vocoder),
        "device": describe_device(synthesizer.device),
        "parameters": {"student": synthesizer.parameters},
        "mean": {who: _figures(judgements) for who, judgements in judged.items()},
    }
    if teacher is not None:
        record["teacher"] = teacher.identity
        record["parameters"]["teacher"] = teacher.parameters
        count = len(differences)
        record["mean"]["duration_error_frames"] = sum(d.error_frames for d in differences) / count
        record["mean"]["length_ratio"] = sum(d.length_ratio for d in differences) / count
    return {**record, "texts": texts}


def judge(speech: Speech) -> Judgement:
    """Listens to one speech; InputError where there is no word to listen for."""
    said = plain_words(speech.spoken)
    if not said:
        raise InputError(f"no word to listen for in {speech.spoken[:60]!r}: leave that text out")
    return Judgement(
        said=said,
        heard=recognise(speech.wav),
        scores=dnsmos(speech.wav),
        work=Work(speech.duration, speech.seconds),
    )


def _figures(judgements: list[Judgement]) -> dict[str, Any]:
    """Means over texts; error rates over all their characters and words together."""
    count = len(judgements)
    errors = error_rates([j.said for j in judgements], [j.heard for j in judgements])
    return {
        "dnsmos_p808": sum(j.scores.p808 for j in judgements) / count,
        "dnsmos_overall": sum(j.scores.overall for j in judgements) / count,
        "character_error": errors.character,
        "word_error": errors.word,
        "seconds": sum(j.work.duration for j in judgements),
        "times_real_time": times_real_time([j.work for j in judgements]),
    }


def table(record: dict[str, Any]) -> str:
    """The figures of `evaluate` side by side."""
    voices = [who for who in ("student", "teacher") if who in record["mean"]]
    means = [record["mean"][who] for who in voices]
    rows = [
        ("parameters", [f"{record['parameters'][who]:,}" for who in voices]),
        ("DNSMOS P.808 (1 to 5)", [f"{mean['dnsmos_p808']:.2f}" for mean in means]),
        ("DNSMOS overall (1 to 5)", [f"{mean['dnsmos_overall']:.2f}" for mean in means]),
        ("character error", [f"{mean['character_error']:.1%}" for mean in means]),
        ("word error", [f"{mean['word_error']:.1%}" for mean in means]),
        ("seconds of speech", [f"{mean['seconds']:.1f}" for mean in means]),
    ]
    for stage, words in STAGES.items():
        rows.append(
            (f"{words}, x real time", [f"{m['times_real_time'][stage]:.1f}" for m in means])
        )
    lines = [f"{len(record['texts'])} texts through {record['vocoder']}:"]
    lines.append(f"  {'':38}" + "".join(f"{who:>12}" for who in voices))
    lines += [f"  {name:38}" + "".join(f"{value:>12}" for value in values) for name, values in rows]
    if "duration_error_frames" in record["mean"]:
        lines.append(
            f"  Durations differ by {record['mean']['duration_error_frames']:.2f} frames a symbol; "
            f"the student takes {record['mean']['length_ratio']:.0%} of the teacher's time."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
