"""Labels texts with a Tacotron 2 teacher: mels, durations and encoder memory for training.

No recordings are needed: the teacher reads every text itself. Labels are kept in a store as they
come; run the same command again after an interruption, or with more texts, and it goes on.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from lightspeech import cli
from lightspeech.alignment import ALIGNMENTS
from lightspeech.errors import InputError
from lightspeech.labelling import ProgressBar, label_corpus, store_identity
from lightspeech.renditions import LabellingSettings
from lightspeech.store_writer import StoreWriter
from lightspeech.text import UnknownCharacters, read_lines
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
        help="UTF-8 files, a sentence a line or LJSpeech's id|text; - is standard input "
        "(default: data/corpus.txt)")
    add("--teacher", metavar="CHECKPOINT", type=Path, default=argparse.SUPPRESS,
        help="Tacotron 2 checkpoint (default: one in tacotron2/pretrained, else the bundled one)")
    add("--out", metavar="STORE", type=Path, default=Path("store"), help="folder of the labels")
    add("--limit", metavar="N", type=cli.positive_int, default=argparse.SUPPRESS,
        help="label the first N texts only (default: all)")
    add("--batch-size", metavar="N", type=cli.positive_int, default=DEFAULTS.batch_size,
        help="utterances that the teacher speaks at once; take fewer if memory runs out")
    cli.add_device_option(parser)
    add("--seed", metavar="N", type=int, default=DEFAULTS.seed,
        help="another seed gives another rendition of every text")
    add("--alignment", choices=ALIGNMENTS, default=DEFAULTS.alignment,
        help="durations from the best monotonic path, or from counting frames as published")
    add("--tries", metavar="N", type=cli.positive_int, default=DEFAULTS.tries,
        help="renditions to draw of a text before it is rejected")
    add("--retry-rejects", action="store_true", help="try again what earlier runs rejected")
    add("--min-coverage", metavar="SHARE", type=float, default=DEFAULTS.min_coverage,
        help="reject a rendition that attends to a smaller share of its tokens")
    add("--max-backward-jumps", metavar="N", type=int, default=DEFAULTS.max_backward_jumps,
        help="reject a rendition whose attention goes back more often")
    return parser.parse_args()
# fmt: on


def main() -> None:
    args = options()
    given = vars(args)
    settings = LabellingSettings(**{k: given[k] for k in vars(DEFAULTS).keys() & given.keys()})
    texts = given.get("text") or [str(CORPUS)]
    device = cli.resolve_device(args.device)
    read = read_lines(texts, max_characters=LONGEST_TEXT)
    lines = read.lines[: given.get("limit")]
    unknown = UnknownCharacters()
    for line in lines:
        unknown.add(line.text, line.where)
    warnings = [f"left out: {problem}" for problem in read.problems]
    if read.duplicates:
        warnings.append(f"left out: {read.duplicates:,} lines that repeat an earlier one")
    for warning in warnings + unknown.summary():
        print(f"warning: {warning}", file=sys.stderr)
    checkpoint = given.get("teacher") or default_checkpoint()
    why = "as asked" if "teacher" in given else "by default; --teacher takes another"
    print(f"labelling {len(lines):,} texts from {', '.join(texts)} into {args.out}")
    print(f"teacher: {checkpoint} ({why}), on {device}", flush=True)
    teacher = load_tacotron2(checkpoint, device)
    with StoreWriter.open(args.out, store_identity(teacher, settings)) as writer:
        for repair in writer.repairs:
            print(f"warning: {repair}", file=sys.stderr)
        with closing(ProgressBar()) as progress:  # which sums up, however this ends
            try:
                label_corpus(
                    lines, teacher, writer, settings, device=device,
                    retry_rejects=args.retry_rejects, on_progress=progress.show,
                )  # fmt: skip
            except KeyboardInterrupt:
                print(
                    f"\nwhat was labelled is kept in {args.out}; the same command goes on",
                    file=sys.stderr,
                )
                raise
        held = len(writer.texts)
        if not held:
            raise InputError(
                f"none of the {len(lines):,} texts was labelled; the reasons are above"
            )
    print(f"{args.out} holds {held:,} labels; next: python train.py --store {args.out}")


if __name__ == "__main__":
    cli.run(main)
