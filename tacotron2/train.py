"""Trains a Tacotron 2 teacher on recordings, from scratch or from a checkpoint.

python -m tacotron2.train DATASET                              -> runs/teacher/teacher.safetensors
python -m tacotron2.train DATASET --from tacotron2_statedict.pt --freeze embedding encoder
python -m tacotron2.train DATASET --resume                     goes on with a run that was stopped
torchrun --nproc-per-node 4 -m tacotron2.train DATASET         four processes share every batch

DATASET is a folder in LJSpeech's layout: metadata.csv (id|text, or id|text|normalised text) and
wavs/. python -m lightspeech.dataset import makes a checked one of recordings as they come, and
python -m lightspeech.dataset speak one without any recordings. What comes out is used by
python preprocess.py --teacher runs/teacher/teacher.safetensors.
"""

# The entry point of what `lightspeech.teacher` does; nothing else in this package imports
# lightspeech.

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lightspeech.cli import (
    HelpFormatter,
    add_device_option,
    positive_float,
    positive_int,
    run,
    use_threads,
)
from lightspeech.dashboard import check_installed
from lightspeech.dataset.features import FOLDER, Features, prepare_features
from lightspeech.dataset.folder import read_card, read_dataset
from lightspeech.errors import InputError
from lightspeech.parts import check_frozen
from lightspeech.process_group import device_of, joined, wait_for_all
from lightspeech.progress import format_time
from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run, command_to_resume
from lightspeech.teacher.aligning import align
from lightspeech.teacher.config import CONFIGS, TeacherConfig, load_teacher_config
from lightspeech.teacher.parts import PARTS
from lightspeech.teacher.run import open_teacher_run
from lightspeech.teacher.state import TeacherState
from lightspeech.teacher.training import TeacherResult, TeacherTraining
from lightspeech.training_loop import PRECISIONS
from tacotron2.load import load_tacotron2
from tacotron2.model import Tacotron2

DEFAULT_RUN = Path("runs/teacher")


# fmt: off
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tacotron2.train", description=__doc__, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    unset: dict[str, Any] = {"default": None}
    add("dataset", metavar="DATASET", type=Path, help="folder with metadata.csv and wavs/")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE", **unset,
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: small; with --from, the checkpoint's "
             "own layers)")
    add("--from", metavar="CHECKPOINT", dest="origin", type=Path, **unset,
        help="begin with the weights of a checkpoint, in any layout that preprocess.py takes")
    add("--freeze", metavar="PART", nargs="+", choices=list(PARTS), **unset,
        help=f"with --from: parts that stay as they are, of {', '.join(PARTS)}")
    add("--steps", metavar="N", type=positive_int, **unset,
        help="optimiser steps in all (default: the configuration's)")
    add("--frames-per-step", metavar="N", type=positive_int, **unset,
        help="frames a step, padding included; 86 make a second (default: the configuration's)")
    add("--learning-rate", metavar="RATE", type=positive_float, **unset,
        help="highest learning rate (default: the configuration's)")
    add("--seed", metavar="N", type=int, **unset,
        help="of initial weights, split, order and drop-out (default: the configuration's)")
    add("--resume", action="store_true", help="go on with the run in --out")
    add_device_option(parser)
    add("--precision", choices=PRECISIONS, default="32-true",
        help="bf16-mixed: products in bfloat16, which newer CPUs and GPUs take twice as fast")
    add("--threads", metavar="N", type=positive_int, **unset,
        help="CPU threads of each process (default: PyTorch's choice)")
    add("--jobs", metavar="N", type=positive_int, default=os.cpu_count() or 1,
        help="processes that prepare the recordings")
    add("--tensorboard", action="store_true",
        help="write curves and pictures for TensorBoard into RUN/tensorboard")
    return parser
# fmt: on


def main() -> None:
    args = build_parser().parse_args()
    ranks = Ranks.from_environment()
    device = device_of(ranks, args.device)
    use_threads(args.threads)
    if args.tensorboard:
        check_installed()
    if args.freeze and not (args.origin or args.resume):
        raise InputError("--freeze keeps parts of a checkpoint as they are: name it with --from")
    check_frozen(args.freeze or [], PARTS)
    with joined(ranks, device):
        result = train(args, ranks, device)
    if result is None:
        return
    if result.teacher is None and result.stopped_by is None and ranks.rank == 0:
        raise InputError(
            "training is through and no validation was finite, so there is no teacher: start "
            "another run with a lower --learning-rate"
        )
    tell(ranks, summary(result, args.out, ranks))
    if result.stopped_by is not None:
        sys.exit(128 + result.stopped_by)


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> TeacherResult | None:
    """One sitting; None where there is nothing left to do."""
    features = prepare(args.dataset, args.jobs, ranks)
    with open_teacher_run(args.out, args.resume, ranks) as place:
        model, config, origin = begin(args, place)
        if config.training.guide == "path":
            features.durations = find_paths(args.dataset / FOLDER, features, args.jobs, ranks)
        training = TeacherTraining(
            features,
            args.out,
            config,
            model,
            state=place.state,
            origin=origin,
            provenance=provenance(args.dataset),
            ranks=ranks,
            device=device,
            precision=args.precision,
            tensorboard=args.tensorboard,
        )
        if place.note:
            training.notes.append(place.note)
        if training.step >= config.training.steps:
            tell(
                ranks,
                f"the run in {args.out} has taken its {training.step:,} steps already; "
                f"to train further: --resume --steps {2 * training.step}",
            )
            return None
        tell(ranks, training.plan())
        return training.run()


def tell(ranks: Ranks, text: str) -> None:
    """Prints `text` in one of the processes."""
    if ranks.rank == 0:
        print(text, flush=True)


def prepare(dataset: Path, jobs: int, ranks: Ranks) -> Features:
    """The features of a dataset; one process of each machine computes what is missing of them."""
    utterances, problems = read_dataset(dataset)
    folder = dataset / FOLDER
    if ranks.local == 0:
        for problem in problems[:20] if ranks.rank == 0 else []:
            print(f"left out: {problem}", file=sys.stderr)
        if len(problems) > 20 and ranks.rank == 0:
            print(f"left out: {len(problems) - 20} more rows", file=sys.stderr)
        with progress("recordings", "shard") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            features = prepare_features(folder, utterances, jobs, show)
    wait_for_all(ranks)
    if ranks.local:
        features = Features.open(folder)
    return features


def progress(what: str, unit: str) -> tqdm[Any]:
    """A bar on standard error; in a log file a line now and then."""
    interval = 0.5 if sys.stderr.isatty() else 15.0
    return tqdm(
        desc=what, unit=unit, leave=False, mininterval=interval, dynamic_ncols=True, delay=1e-9
    )


def find_paths(folder: Path, features: Features, jobs: int, ranks: Ranks) -> list[np.ndarray]:
    """Frames a symbol of every utterance; one process of each machine finds what is not known."""
    if ranks.local == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(max(jobs, threads))  # the other processes wait
        with progress("aligning", "step") as bar:

            def show(done: int, total: int, loss: float) -> None:
                bar.total = total
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(done - bar.n)

            durations = align(folder, features, show)
        torch.set_num_threads(threads)
    wait_for_all(ranks)
    if ranks.local:
        durations = align(folder, features)
    return durations


def begin(
    args: argparse.Namespace, place: Run[TeacherState]
) -> tuple[Tacotron2, TeacherConfig, dict[str, Any]]:
    """The model, its configuration, and what it begins with."""
    given = {
        "steps": args.steps,
        "frames_per_step": args.frames_per_step,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
    }
    if place.state:
        if args.origin or args.freeze:
            raise InputError(
                "--resume goes on with a run as it was begun: leave out --from, --freeze"
            )
        own = place.state.config
        base = load_teacher_config(args.config) if args.config else own
        wanted = base.override(**given | {"steps": own.training.steps})
        differences = wanted.differences(own)
        if differences:
            raise InputError(
                "--resume goes on with the run's own settings, of which only --steps may change, "
                f"but this asks for {'; '.join(differences)}: leave that out, or start another "
                "run with --out"
            )
        config = own.override(steps=args.steps)
        return Tacotron2(config.model), config, place.state.origin
    config = load_teacher_config(args.config or "small").override(**given)
    if args.origin is None:
        torch.manual_seed(config.training.seed)
        return Tacotron2(config.model), config, {}
    model = load_tacotron2(args.origin)
    model.requires_grad_(True)
    if args.config and model.config != config.model:
        raise InputError(
            f"{args.origin} has other layers than the configuration {config.name!r}: leave out "
            "--config, or its model"
        )
    origin = {name: model.source[name] for name in ("name", "sha256")}
    frozen = sorted(args.freeze or [])
    return model, replace(config, model=model.config), {**origin, "frozen": frozen}


def provenance(dataset: Path) -> dict[str, Any]:
    """What the dataset's card says of its voice, for the teacher's JSON."""
    card = read_card(dataset)
    return {} if card is None else {"dataset": card}


def summary(result: TeacherResult, out: Path, ranks: Ranks) -> str:
    """What came of it and what to do next, for people."""
    done = "stopped" if result.stopped_by is not None else "finished"
    lines = [f"{done} after step {result.step:,}, {format_time(result.seconds)} of training"]
    if result.skipped:
        lines.append(f"{result.skipped} steps were left out: their loss was not finite")
    if result.teacher and result.best_score:
        lines.append(
            f"best at step {result.best_step:,}: loss {-result.best_score[1]:.4f}, at least "
            f"{result.best_score[0]:.0%} of what it spoke freely can be used"
        )
        lines.append(f"teacher  {result.teacher}")
        lines.append(
            f"label    {shlex.join(['python', 'preprocess.py', '--teacher', str(result.teacher)])}"
        )
    else:
        lines.append("no teacher yet: it comes with the first validation")
    if result.stopped_by is not None:
        again = command_to_resume(["-m", "tacotron2.train"], sys.argv[1:], ranks)
        lines.append(f"go on    {shlex.join(again)}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
