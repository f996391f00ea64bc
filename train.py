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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightspeech.needs_torch  # noqa: F401 - before anything that imports it
from lightspeech.checkpoint import DEFAULT_RUN
from lightspeech.cli import (
    HelpFormatter,
    positive_int,
    run,
    use_threads,
)
from lightspeech.config import CONFIGS, DEFAULT_CONFIG, Config
from lightspeech.dashboard import check_installed
from lightspeech.errors import InputError
from lightspeech.process_group import device_of, joined
from lightspeech.ranks import Ranks
from lightspeech.run_folder import open_run
from lightspeech.settings import load_configuration
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
from lightspeech.training_command import add_training_options, config_to_resume, end, nothing_to_do
from lightspeech.training_state import load_state

if TYPE_CHECKING:
    import torch


# fmt: off
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--store", metavar="STORE", type=Path, default=Path("store"), help="labels to learn from")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE",
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: {DEFAULT_CONFIG}); with --from it "
             "says how to train, and the layers are the voice's")
    add("--from", metavar="VOICE", dest="origin", type=Path,
        help="begin with the weights of a voice: its file, or the folder of a run")
    add("--freeze", metavar="PART", nargs="+",
        help="with --from: parts that stay as they are, such as "
             f"{', '.join(parts_of_the_student())}")
    add("--batch-size", metavar="N", type=positive_int,
        help="utterances a step, all processes' together (default: the configuration's)")
    add_training_options(parser)
    add("--tensorboard", action="store_true",
        help="write curves, pictures and sounds for TensorBoard into RUN/tensorboard")
    return parser
# fmt: on


def main() -> None:
    args = build_parser().parse_args()
    ranks = Ranks.from_environment()
    device = device_of(ranks, args.device)
    use_threads(args.threads)
    if args.tensorboard:
        check_installed()
    with joined(ranks, device):
        result = train(args, ranks, device)
    end(result, "voice", came_of(result, args.out), ["train.py"], ranks)


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> TrainingResult | None:
    """One sitting; None where there is nothing left to do."""
    beginning: Beginning | None = None
    config = CONFIGS[DEFAULT_CONFIG]
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
            own = place.state.config
            layers = {"model": own.model} if place.state.origin else {}
            config = config_to_resume(args, own, CONFIGS, layers, overrides(args))
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
                print(why_not(training, args.out))
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
        base = load_configuration(name, CONFIGS, model=beginning.student.config)
    elif args.freeze:
        raise InputError("--freeze keeps parts of a voice as they are: name it with --from")
    else:
        base = load_configuration(name, CONFIGS)
    return base.override(**overrides(args), steps=args.steps), beginning


def why_not(training: Training, out: Path) -> str:
    """Why a run that is to go on does not, for people."""
    if training.step >= training.config.training.steps:
        return nothing_to_do(out, training.step)
    return (
        f"the run in {out} has stopped after step {training.step:,}, because {training.waited} "
        "validations in a row had brought nothing better (patience); to train further: "
        f"--resume --steps {2 * training.config.training.steps}"
    )


def came_of(result: TrainingResult | None, out: Path) -> list[str]:
    """What came out of a sitting and what to do with it, for people."""
    if result is None or result.voice is None:
        return []
    lines = [
        f"best validation loss {result.best_loss:.4f}, at step {result.best_step:,}",
        f"voice    {result.voice}",
        f"listen   {shlex.join(['python', 'synthesize.py', '--voice', str(out)])}",
    ]
    if result.waited and result.stopped_by is None:
        waited = f"{result.waited} validations in a row had brought nothing better (patience)"
        lines.insert(0, waited)
    return lines


if __name__ == "__main__":
    run(main)
