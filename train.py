"""Trains the student on a label store.

python train.py                         the store "store" -> the run "runs/lightspeech"
python train.py --config quick          the same layers in a few minutes on a CPU
python train.py --resume                goes on with a run that was stopped, as if it had not been
python train.py --resume --steps 40000  makes a run longer
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from lightspeech.checkpoint import DEFAULT_RUN, load_state
from lightspeech.cli import (
    HelpFormatter,
    add_device_option,
    positive_float,
    positive_int,
    resolve_device,
    run,
    use_threads,
)
from lightspeech.config import CONFIGS, load_config
from lightspeech.dashboard import check_installed
from lightspeech.errors import InputError
from lightspeech.progress import format_time
from lightspeech.run_folder import open_run, resumed_config
from lightspeech.shard import MEND
from lightspeech.store import LabelStore
from lightspeech.training import PRECISIONS, Training, TrainingResult, check_trainable


# fmt: off
def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}  # the help says what holds instead
    add("--store", metavar="STORE", type=Path, default=Path("store"), help="labels to learn from")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE", **unset,
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: lightspeech)")
    add("--steps", metavar="N", type=positive_int, **unset,
        help="optimiser steps in all (default: the configuration's)")
    add("--batch-size", metavar="N", type=positive_int, **unset,
        help="utterances a step (default: the configuration's)")
    add("--learning-rate", metavar="RATE", type=positive_float, **unset,
        help="highest learning rate (default: the configuration's)")
    add("--seed", metavar="N", type=int, **unset,
        help="of initial weights, split and order (default: the configuration's)")
    add("--resume", action="store_true", help="go on with the run in --out")
    add_device_option(parser)
    add("--precision", choices=PRECISIONS, default="32-true", help="bf16-mixed is for GPUs")
    add("--threads", metavar="N", type=positive_int, **unset,
        help="CPU threads (default: PyTorch's choice)")
    add("--tensorboard", action="store_true",
        help="write curves and pictures for TensorBoard into RUN/tensorboard")
    names = ("config", "steps", "batch_size", "learning_rate", "seed", "threads")
    return parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(names)))
# fmt: on


def main() -> None:
    args = parse_arguments()
    device = resolve_device(args.device)
    use_threads(args.threads)
    if args.tensorboard:
        check_installed()
    given = {"batch_size": args.batch_size, "learning_rate": args.learning_rate, "seed": args.seed}
    base = load_config(args.config or "lightspeech")
    config = base.override(**given, steps=args.steps)
    store = LabelStore.open(args.store)
    check_trainable(store, config, device, args.precision)
    if problems := store.verify():
        raise InputError(f"{problems[0]}; {MEND}")
    with open_run(args.out, args.resume, load_state) as place:
        if place.state:
            own = place.state.config
            config = resumed_config(
                own, (base if args.config else own).override(**given), args.steps
            )
        training = Training(
            store,
            place,
            config,
            device=device,
            precision=args.precision,
            tensorboard=args.tensorboard,
        )
        if training.step >= config.training.steps:
            print(
                f"the run in {args.out} has taken its {training.step:,} steps already; "
                f"to train further: --resume --steps {2 * training.step}"
            )
            return
        print(training.plan(), flush=True)
        result = training.run()
    if result.voice is None and result.stopped_by is None:
        raise InputError(
            "training is through and no validation was finite, so there is no voice: start "
            "another run with a lower --learning-rate"
        )
    print(summary(result, args.out))
    if result.stopped_by is not None:
        sys.exit(128 + result.stopped_by)


def summary(result: TrainingResult, out: Path) -> str:
    """What came of it and what to do next, for people."""
    done = "stopped" if result.stopped_by is not None else "finished"
    lines = [f"{done} after step {result.step:,}, {format_time(result.seconds)} of training"]
    if result.skipped:
        lines.append(f"{result.skipped} steps were left out: their loss was not finite")
    if result.voice:
        lines.append(f"best validation loss {result.best_loss:.4f}, at step {result.best_step:,}")
        lines.append(f"voice    {result.voice}")
        lines.append(f"listen   {shlex.join(['python', 'synthesize.py', '--voice', str(out)])}")
    else:
        lines.append("no voice yet: it comes with the first validation")
    if result.stopped_by is not None:
        given = [argument for argument in sys.argv[1:] if argument != "--resume"]
        lines.append(f"go on    {shlex.join(['python', 'train.py', *given, '--resume'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
