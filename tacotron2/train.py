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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lightspeech.cli import (
    HelpFormatter,
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
from lightspeech.ranks import Ranks
from lightspeech.run_folder import Run
from lightspeech.settings import load_configuration
from lightspeech.teacher.aligning import align
from lightspeech.teacher.config import CONFIGS, TeacherConfig
from lightspeech.teacher.parts import PARTS
from lightspeech.teacher.run import open_teacher_run
from lightspeech.teacher.state import TeacherState
from lightspeech.teacher.training import TeacherResult, TeacherTraining
from lightspeech.training_command import add_training_options, config_to_resume, end, nothing_to_do
from tacotron2.load import load_tacotron2
from tacotron2.model import Tacotron2

DEFAULT_RUN = Path("runs/teacher")


# fmt: off
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tacotron2.train", description=__doc__, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("dataset", metavar="DATASET", type=Path, help="folder with metadata.csv and wavs/")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE",
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: small; with --from, the checkpoint's "
             "own layers)")
    add("--from", metavar="CHECKPOINT", dest="origin", type=Path,
        help="begin with the weights of a checkpoint, in any layout that preprocess.py takes")
    add("--freeze", metavar="PART", nargs="+", choices=list(PARTS),
        help=f"with --from: parts that stay as they are, of {', '.join(PARTS)}")
    add("--frames-per-step", metavar="N", type=positive_int,
        help="frames a step, padding included; 86 make a second (default: the configuration's)")
    add_training_options(parser)
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
    end(result, "teacher", came_of(result), ["-m", "tacotron2.train"], ranks)


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
            tell(ranks, nothing_to_do(args.out, training.step))
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
        layers = {"model": own.model} if place.state.origin else {}
        config = config_to_resume(args, own, CONFIGS, layers, given)
        return Tacotron2(config.model), config, place.state.origin
    name = args.config or "small"
    if args.origin is None:
        config = load_configuration(name, CONFIGS).override(**given)
        torch.manual_seed(config.training.seed)
        return Tacotron2(config.model), config, {}
    model = load_tacotron2(args.origin)
    model.requires_grad_(True)
    config = load_configuration(name, CONFIGS, model=model.config).override(**given)
    origin = {name: model.source[name] for name in ("name", "sha256")}
    frozen = sorted(args.freeze or [])
    return model, config, {**origin, "frozen": frozen}


def provenance(dataset: Path) -> dict[str, Any]:
    """What the dataset's card says of its voice, for the teacher's JSON."""
    card = read_card(dataset)
    return {} if card is None else {"dataset": card}


def came_of(result: TeacherResult | None) -> list[str]:
    """What came out of a sitting and what to do with it, for people."""
    if result is None or result.teacher is None or result.best_score is None:
        return []
    label = ["python", "preprocess.py", "--teacher", str(result.teacher)]
    return [
        f"best at step {result.best_step:,}: loss {-result.best_score[1]:.4f}, at least "
        f"{result.best_score[0]:.0%} of what it spoke freely can be used",
        f"teacher  {result.teacher}",
        f"label    {shlex.join(label)}",
    ]


if __name__ == "__main__":
    run(main)
