"""Trains the student on a label store.

python train.py                         the store "store" -> the run "runs/lightspeech"
python train.py --config quick          the same layers in a few minutes on a CPU
python train.py --resume                goes on with a run that was stopped, as if it had not been
python train.py --resume --steps 40000  makes a run longer
python train.py --from VOICE --store NEW_STORE --freeze encoder decoder
                                        adapts a voice to another teacher's labels
torchrun --nproc-per-node 4 train.py    four processes share every batch
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightspeech.needs_torch  # noqa: F401 - before anything that imports it
from lightspeech.checkpoint import DEFAULT_RUN
from lightspeech.cli import (
    HelpFormatter,
    add_device_option,
    positive_float,
    positive_int,
    run,
    use_threads,
)
from lightspeech.config import CONFIGS, DEFAULT_CONFIG, Config, load_config
from lightspeech.dashboard import check_installed
from lightspeech.errors import InputError
from lightspeech.process_group import device_of, joined
from lightspeech.progress import format_time
from lightspeech.ranks import Ranks
from lightspeech.run_folder import command_to_resume, open_run, resumed_config
from lightspeech.shard import MEND
from lightspeech.store import LabelStore
from lightspeech.training import (
    Beginning,
    Training,
    TrainingResult,
    begin_with,
    check_trainable,
    parts_of_the_student,
)
from lightspeech.training_loop import PRECISIONS
from lightspeech.training_state import TrainingState, load_state

if TYPE_CHECKING:
    import torch


# fmt: off
def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}  # the help says what holds instead
    add("--store", metavar="STORE", type=Path, default=Path("store"), help="labels to learn from")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE", **unset,
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: {DEFAULT_CONFIG}); with --from it "
             "says how to train, and the layers are the voice's")
    add("--from", metavar="VOICE", dest="origin", type=Path, **unset,
        help="begin with the weights of a voice: its file, or the folder of a run")
    add("--freeze", metavar="PART", nargs="+", **unset,
        help="with --from: parts that stay as they are, such as "
             f"{', '.join(parts_of_the_student())}")
    add("--steps", metavar="N", type=positive_int, **unset,
        help="optimiser steps in all (default: the configuration's)")
    add("--batch-size", metavar="N", type=positive_int, **unset,
        help="utterances a step, all processes' together (default: the configuration's)")
    add("--learning-rate", metavar="RATE", type=positive_float, **unset,
        help="highest learning rate (default: the configuration's)")
    add("--seed", metavar="N", type=int, **unset,
        help="of initial weights, split and order (default: the configuration's)")
    add("--resume", action="store_true", help="go on with the run in --out")
    add_device_option(parser)
    add("--precision", choices=PRECISIONS, default="32-true",
        help="bf16-mixed: products in bfloat16, which newer CPUs and GPUs take faster")
    add("--threads", metavar="N", type=positive_int, **unset,
        help="CPU threads of each process (default: PyTorch's choice)")
    add("--tensorboard", action="store_true",
        help="write curves, pictures and sounds for TensorBoard into RUN/tensorboard")
    names = ("config", "origin", "freeze", "steps", "batch_size", "learning_rate", "seed",
             "threads")
    return parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(names)))
# fmt: on


def main() -> None:
    args = parse_arguments()
    ranks = Ranks.from_environment()
    device = device_of(ranks, args.device)
    use_threads(args.threads)
    if args.tensorboard:
        check_installed()
    with joined(ranks, device):
        result = train(args, ranks, device)
    if result is None or ranks.rank > 0:
        stopped_by = None if result is None else result.stopped_by
    elif result.voice is None and result.stopped_by is None:
        raise InputError(
            "training is through and no validation was finite, so there is no voice: start "
            "another run with a lower --learning-rate"
        )
    else:
        print(summary(result, args.out, ranks))
        stopped_by = result.stopped_by
    if stopped_by is not None:
        sys.exit(128 + stopped_by)


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> TrainingResult | None:
    """One sitting; None where there is nothing left to do."""
    beginning: Beginning | None = None
    config = load_config(DEFAULT_CONFIG)
    store = LabelStore.open(args.store)
    if args.resume and (args.origin or args.freeze):
        raise InputError("--resume goes on with a run as it was begun: leave out --from, --freeze")
    if not args.resume:
        config, beginning = begin(args)
        check_trainable(store, config)
    if ranks.local == 0 and (problems := store.verify()):
        raise InputError(f"{problems[0]}; {MEND}")
    with open_run(args.out, args.resume, load_state, ranks) as place:
        if place.state:
            config = config_to_resume(args, place.state)
        training = Training(
            store,
            place,
            config,
            beginning=beginning,
            ranks=ranks,
            device=device,
            precision=args.precision,
            tensorboard=args.tensorboard,
        )
        if training.step >= config.training.steps or training.exhausted:
            if ranks.rank == 0:
                print(nothing_to_do(training, args.out))
            return None
        if ranks.rank == 0:
            print(training.plan(), flush=True)
        return training.run()


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives, but for the steps; None: not given."""
    return {name: getattr(args, name) for name in ("batch_size", "learning_rate", "seed")}


def begin(args: argparse.Namespace) -> tuple[Config, Beginning | None]:
    """The configuration of a new run, and what it begins with."""
    name = args.config or DEFAULT_CONFIG
    beginning = None
    if args.origin:
        beginning = begin_with(args.origin, args.freeze or [])
        base = load_config(name, beginning.student.config)
    elif args.freeze:
        raise InputError("--freeze keeps parts of a voice as they are: name it with --from")
    else:
        base = load_config(name)
    return base.override(**overrides(args), steps=args.steps), beginning


def config_to_resume(args: argparse.Namespace, state: TrainingState) -> Config:
    """The configuration of a run that goes on; InputError if the command line asks for another."""
    base = state.config
    if args.config:
        base = load_config(args.config, base.model if state.origin else None)
    return resumed_config(state.config, base.override(**overrides(args)), args.steps)


def nothing_to_do(training: Training, out: Path) -> str:
    """Why a run that is to go on does not, for people."""
    settings = training.config.training
    if training.step >= settings.steps:
        reason, longer = f"has taken its {training.step:,} steps already", 2 * training.step
    else:
        reason = (
            f"has stopped after step {training.step:,}, because {training.waited} validations in a "
            "row had brought nothing better (patience)"
        )
        longer = 2 * settings.steps
    return f"the run in {out} {reason}; to train further: --resume --steps {longer}"


def summary(result: TrainingResult, out: Path, ranks: Ranks) -> str:
    """What came of it and what to do next, for people."""
    done = "stopped" if result.stopped_by is not None else "finished"
    lines = [f"{done} after step {result.step:,}, {format_time(result.seconds)} of training"]
    if result.waited and result.stopped_by is None:
        lines.append(f"{result.waited} validations in a row had brought nothing better (patience)")
    if result.skipped:
        lines.append(f"{result.skipped} steps were left out: their loss was not finite")
    if result.voice:
        lines.append(f"best validation loss {result.best_loss:.4f}, at step {result.best_step:,}")
        lines.append(f"voice    {result.voice}")
        lines.append(f"listen   {shlex.join(['python', 'synthesize.py', '--voice', str(out)])}")
    else:
        lines.append("no voice yet: it comes with the first validation")
    if result.stopped_by is not None:
        again = command_to_resume(["train.py"], sys.argv[1:], ranks)
        lines.append(f"go on    {shlex.join(again)}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
