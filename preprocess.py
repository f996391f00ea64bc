"""Labels texts with a Tacotron 2 teacher: mels, durations and encoder memory for training.

No recordings are needed: the teacher reads every text itself. Labels are kept in a store as they
come; run the same command again after an interruption, or with more texts, and it goes on. A
rendition that is not sound (skipped or repeated words, babble, silence, no end) is drawn again, and
never becomes a label. STORE/report.html shows what came out.

    torchrun --nproc-per-node 4 preprocess.py ...      four processes share the work
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import closing
from pathlib import Path

import lightspeech.needs_torch  # noqa: F401 - before anything that imports it
from lightspeech import cli
from lightspeech.alignment import ALIGNMENTS
from lightspeech.errors import InputError
from lightspeech.labelling import ProgressBar, label_corpus, store_identity
from lightspeech.labelling_end import conclude
from lightspeech.ranks import Ranks
from lightspeech.renditions import MODES, TARGETS, LabellingSettings
from lightspeech.scoring import Limits, changed_limits, forced_limits
from lightspeech.store_writer import StoreWriter
from lightspeech.text import Line, UnknownCharacters, read_lines
from tacotron2 import default_checkpoint, load_tacotron2

CORPUS = Path(__file__).parent / "data" / "corpus.txt"
DEFAULTS = LabellingSettings()
LONGEST_TEXT = 350
"""characters; teachers lose their way in longer ones, which were rare where they learned"""


# fmt: off
def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--text", nargs="+", metavar="FILE", default=argparse.SUPPRESS,
        help="UTF-8 files, a sentence a line or LJSpeech's id|text; - is standard input; lines of "
        f"more than {LONGEST_TEXT} characters are split into sentences (default: data/corpus.txt)")
    add("--teacher", metavar="CHECKPOINT", type=Path, default=argparse.SUPPRESS,
        help="Tacotron 2 checkpoint (default: one in tacotron2/pretrained, else the bundled one)")
    add("--out", metavar="STORE", type=Path, default=Path("store"), help="folder of the labels")
    add("--limit", metavar="N", type=cli.positive_int, default=argparse.SUPPRESS,
        help="label the first N texts only (default: all)")
    add("--batch-size", metavar="N", type=cli.positive_int, default=DEFAULTS.batch_size,
        help="most utterances that the teacher speaks at once; take fewer if memory runs out")
    cli.add_device_option(parser)
    add("--seed", metavar="N", type=int, default=DEFAULTS.seed,
        help="another seed gives another rendition of every text")
    add("--alignment", choices=ALIGNMENTS, default=DEFAULTS.alignment,
        help="durations from the best monotonic path, or from counting frames as published")
    add("--pick", metavar="K", type=cli.positive_int, default=DEFAULTS.pick,
        help="sound renditions to draw of a text; the one nearest their median durations is kept")
    add("--prenet-dropout", metavar="SHARE", type=float, default=DEFAULTS.prenet_dropout,
        help="of the teacher's pre-net while it speaks, 0 to 1: 0.5 as published, each rendition "
        "another draw; 0, where the teacher still speaks well, one rendition that a student can "
        "learn more sharply")
    add("--tries", metavar="N", type=cli.positive_int, default=DEFAULTS.tries,
        help="renditions of a text that may fail before it is rejected")
    add("--retry-rejects", action="store_true", help="try again what earlier runs rejected")
    add("--mode", choices=MODES, default=DEFAULTS.mode,
        help="the teacher speaks by itself, or forced along with recordings")
    add("--wavs", metavar="DIR", type=Path, default=argparse.SUPPRESS,
        help="forced: folder with a recording ID.wav (.flac, .mp3) of every text")
    add("--targets", choices=TARGETS, default=DEFAULTS.targets,
        help="forced: train on the recordings' mels, or on what the teacher makes of them")
    add("--threshold", nargs="+", metavar="NAME=VALUE", default=argparse.SUPPRESS,
        help="other limits of what makes a rendition unsound, such as max_longest_skip=4; none "
        "sets no limit (default: those in lightspeech/scoring.py, which each run prints)")
    add("--no-report", action="store_true", help="do not write STORE/report.html and report.json")
    return parser.parse_args()
# fmt: on


def settings_of(args: argparse.Namespace) -> LabellingSettings:
    """The options as settings; InputError says which make no sense together."""
    given = vars(args)
    if (args.mode == "forced") != ("wavs" in given):
        raise InputError("--mode forced and --wavs DIR go together: give both, or neither")
    if args.mode != "forced" and args.targets != DEFAULTS.targets:
        raise InputError(
            f"--targets {args.targets} is for recordings; give --mode forced and --wavs DIR with "
            "it, or leave it out"
        )
    limits = forced_limits() if args.mode == "forced" else Limits()
    limits = changed_limits(limits, given.get("threshold", []))
    names = vars(DEFAULTS).keys() & given.keys()
    return LabellingSettings(**{name: given[name] for name in names}, limits=limits)


def texts_of(args: argparse.Namespace, ranks: Ranks) -> list[Line]:
    """The lines to label; says what is odd about them, once for all processes."""
    texts = vars(args).get("text") or [str(CORPUS)]
    if "-" in texts and ranks.count > 1:
        raise InputError("several processes cannot share standard input; give --text a file")
    # The recordings of forced labels are of whole rows.
    read = read_lines(texts, LONGEST_TEXT, split_long=args.mode == "inference")
    lines = read.lines[: vars(args).get("limit")]
    if ranks.rank > 0:
        return lines
    unknown = UnknownCharacters()
    for line in lines:
        unknown.add(line.text, line.where)
    warnings = [f"left out: {problem}" for problem in read.problems]
    if read.duplicates:
        warnings.append(f"left out: {read.duplicates:,} lines that repeat an earlier one")
    if read.split:
        warnings.append(f"split into sentences: {read.split:,} lines that were too long")
    for warning in warnings + unknown.summary():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"labelling {len(lines):,} texts from {', '.join(texts)} into {args.out}", flush=True)
    return lines


def main() -> None:
    args = options()
    settings, ranks = settings_of(args), Ranks.from_environment()
    cli.use_threads()
    device = cli.resolve_device(args.device)
    if ranks.count > 1 and args.device in ("auto", "cuda") and device.type == "cuda":
        device = cli.resolve_device(f"cuda:{ranks.local}")
    lines = texts_of(args, ranks)
    checkpoint = vars(args).get("teacher") or default_checkpoint()
    why = "as asked" if "teacher" in args else "by default; --teacher takes another"
    print(f"{ranks.prefix}teacher: {checkpoint} ({why}), on {device}", flush=True)
    teacher = load_tacotron2(checkpoint, device)
    identity = store_identity(teacher, settings)
    with StoreWriter.open(args.out, identity, ranks.rank, ranks.count) as writer:
        for repair in writer.repairs:
            print(f"warning: {repair}", file=sys.stderr)
        with closing(ProgressBar(ranks.prefix, visible=ranks.rank == 0)) as progress:
            try:
                summary = label_corpus(
                    lines, teacher, writer, settings, device=device, ranks=ranks,
                    wavs=vars(args).get("wavs"), retry_rejects=args.retry_rejects,
                    on_progress=progress.show,
                )  # fmt: skip
            except KeyboardInterrupt:
                print(
                    f"\nwhat was labelled is kept in {args.out}; the same command goes on",
                    file=sys.stderr,
                )
                raise
    if writer.left_last:  # and has joined what all have done
        conclude(args.out, lines, summary, settings, teacher, device, ranks, not args.no_report)


if __name__ == "__main__":
    # Schedulers, and torchrun when another rank has died, ask so: end as after Ctrl-C, and save.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli.run(main)
