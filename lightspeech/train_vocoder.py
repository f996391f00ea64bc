"""Trains a light vocoder on recordings, or on what another vocoder made of a teacher's mels.

python -m lightspeech.train_vocoder --wavs recordings              -> runs/vocoder
python -m lightspeech.train_vocoder --wavs recordings --resume     goes on with a run
python -m lightspeech.train_vocoder --wavs recordings --mels mels --from runs/vocoder --out runs/2
                                        learns the mels of a student too (see vocoder_pairs)
torchrun --nproc-per-node 4 -m lightspeech.train_vocoder --wavs recordings
                                        four processes share every batch

python -m lightspeech.vocoder_pairs makes mels and sound to learn from: of a student along labels
from recordings, or of WaveGlow on a teacher's labels.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from lightspeech import cli
from lightspeech.errors import InputError
from lightspeech.process_group import device_of, joined
from lightspeech.ranks import Ranks
from lightspeech.run_folder import open_run
from lightspeech.settings import load_configuration
from lightspeech.training_command import add_training_options, config_to_resume, end, nothing_to_do
from lightspeech.vocoder_training.clips import find_pairs
from lightspeech.vocoder_training.config import CONFIGS, DEFAULT_CONFIG
from lightspeech.vocoder_training.training import (
    VocoderResult,
    VocoderTraining,
    load_vocoder_state,
)
from lightspeech.vocoders.light import load_light

DEFAULT_RUN = Path("runs/vocoder")


# fmt: off
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.train_vocoder", description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add("--wavs", metavar="DIR", type=Path, nargs="+", required=True,
        help="folders of recordings (.wav, .flac, .mp3 of any sample rate)")
    add("--mels", metavar="DIR", type=Path,
        help="a folder with ID.npy, mels that another made of what ID.wav says, frame by frame; "
             "most clips of those recordings are learned from them")
    add("--out", metavar="RUN", type=Path, default=DEFAULT_RUN, help="folder of the run")
    add("--config", metavar="NAME|FILE",
        help=f"{', '.join(CONFIGS)}, or a JSON file (default: {DEFAULT_CONFIG}); with --from the "
             "layers are the vocoder's")
    add("--from", metavar="VOCODER", dest="origin", type=Path,
        help="begin with the weights of a light vocoder: its file, or the folder of a run")
    add("--batch-size", metavar="N", type=cli.positive_int,
        help="clips a step, all processes' together (default: the configuration's)")
    add("--critic-size", metavar="N", type=cli.positive_int,
        help="channels of the critics' first layers: more hear more and cost more "
             "(default: the configuration's)")
    add_training_options(parser)
    return parser
# fmt: on


def main() -> None:
    args = build_parser().parse_args()
    ranks = Ranks.from_environment()
    device = device_of(ranks, args.device)
    cli.use_threads(args.threads)
    with joined(ranks, device):
        result = train(args, ranks, device)
    program = ["-m", "lightspeech.train_vocoder"]
    end(result, "vocoder", came_of(result, args.out), program, ranks)


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> VocoderResult | None:
    """One sitting; None where there is nothing left to do."""
    if args.resume and args.origin:
        raise InputError("--resume goes on with a run as it was begun: leave out --from")
    beginning = load_light(args.origin) if args.origin else None
    layers = {} if beginning is None else {"network": beginning.network.config}
    wanted = load_configuration(args.config or DEFAULT_CONFIG, CONFIGS, **layers)
    wanted = wanted.override(**overrides(args))
    recordings, problems = find_pairs(args.wavs, args.mels)
    if ranks.rank == 0:
        for problem in problems[:5]:
            print(f"note: {problem}", file=sys.stderr)
        if problems[5:]:
            print(f"note: and {len(problems) - 5} more", file=sys.stderr)
    with open_run(args.out, args.resume, load_vocoder_state, ranks) as place:
        config = wanted
        if place.state:
            own = place.state.config
            layers = {"network": own.network} if place.state.origin else {}
            config = config_to_resume(args, own, CONFIGS, layers, overrides(args))
        training = VocoderTraining(
            recordings,
            place,
            config,
            beginning=beginning,
            ranks=ranks,
            device=device,
            precision=args.precision,
        )
        if training.step >= config.training.steps:
            if ranks.rank == 0:
                print(nothing_to_do(args.out, training.step))
            return None
        if ranks.rank == 0:
            print(training.plan(), flush=True)
        return training.run()


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives; None: not given."""
    names = ("steps", "batch_size", "learning_rate", "critic_size", "seed")
    return {name: getattr(args, name) for name in names}


def came_of(result: VocoderResult | None, out: Path) -> list[str]:
    """What came out of a sitting and what to do with it, for people."""
    if result is None or result.vocoder is None:
        return []
    return [
        f"spectral distance {result.best_loss:.4f}, at step {result.best_step:,}",
        f"vocoder  {result.vocoder}",
        f"listen   {shlex.join(['python', 'synthesize.py', '--vocoder', f'light:{out}'])}",
    ]


if __name__ == "__main__":
    cli.run(main)
