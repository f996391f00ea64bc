"""What the commands that train have in common: options, going on, what they say at the end."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightspeech.cli import add_device_option, positive_float, positive_int
from lightspeech.errors import InputError
from lightspeech.progress import format_time
from lightspeech.ranks import Ranks
from lightspeech.settings import AnyConfig, load_configuration
from lightspeech.training_loop import PRECISIONS


class Sitting(Protocol):
    """How one sitting of a training ended."""

    @property
    def step(self) -> int: ...
    @property
    def best_step(self) -> int | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def skipped(self) -> int: ...
    @property
    def stopped_by(self) -> int | None: ...


# fmt: off
def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options that every training has; those of the configuration are None where not given."""
    add = parser.add_argument
    add("--steps", metavar="N", type=positive_int,
        help="optimiser steps in all (default: the configuration's)")
    add("--learning-rate", metavar="RATE", type=positive_float,
        help="highest learning rate (default: the configuration's)")
    add("--seed", metavar="N", type=int,
        help="of all that is random: weights, split, batches (default: the configuration's)")
    add("--resume", action="store_true", help="go on with the run in --out")
    add_device_option(parser)
    add("--precision", choices=PRECISIONS, default="32-true",
        help="bf16-mixed: products in bfloat16, which newer CPUs and GPUs take faster")
    add("--threads", metavar="N", type=positive_int,
        help="CPU threads of each process (default: all cores, of three or more all but one)")
# fmt: on


def resumed_config(own: AnyConfig, wanted: AnyConfig, steps: int | None) -> AnyConfig:
    """The configuration to go on with: the run's own, and only its length may be another.

    A learning rate that decays is stretched to the new length: from here on it is what it would be
    at this step of a run of that length, so it may rise again. The result is good, but not that of
    a run that had the new length from the start.

    Args:
        own: what the run was started with.
        wanted: what the command line asks for now; its `steps` do not count.
        steps: the length that it asks for, if any.

    Raises:
        InputError: names every setting that differs.
    """
    run: Any = own
    differences = wanted.override(steps=run.training.steps).differences(own)
    if differences:
        raise InputError(
            "--resume goes on with the run's own settings, of which only --steps may change, "
            f"but this asks for {'; '.join(differences)}: leave that out, "
            "or start another run with --out"
        )
    return own.override(steps=steps)


def config_to_resume(
    args: argparse.Namespace,
    own: AnyConfig,
    named: Mapping[str, AnyConfig],
    settled: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> AnyConfig:
    """`resumed_config` for what a command line asks.

    Args:
        args: with `config` and `steps`, None where not given.
        own: what the run was started with.
        named: the configurations that `config` may name.
        settled: the parts that the run did not take from a configuration, but from what it began
            with.
        overrides: the settings that the command line gives; None: not given.

    Raises:
        InputError: as of `load_configuration` and `resumed_config`.
    """
    base = load_configuration(args.config, named, **settled) if args.config else own
    return resumed_config(own, base.override(**overrides), args.steps)


def nothing_to_do(out: Path, step: int) -> str:
    """Why a run that has reached its last step does not go on, for people."""
    return (
        f"the run in {out} has taken its {step:,} steps already; to train further: "
        f"--resume --steps {2 * step}"
    )


def end(
    result: Sitting | None,
    made: str,
    lines: Sequence[str],
    program: Sequence[str],
    ranks: Ranks,
) -> None:
    """Says how a sitting ended, and ends the process if a signal stopped it.

    Args:
        result: None where there was nothing to do.
        made: what comes out of the training, such as `voice`.
        lines: what came out of it, and what to do with it; shown if something did.
        program: what Python was to run: `train.py`, or `-m` and a module.
        ranks: the processes that shared it; the first one speaks.

    Raises:
        InputError: the last step is done, and nothing came out.
    """
    if result is None:
        return
    if ranks.rank == 0:
        if result.best_step is None and result.stopped_by is None:
            raise InputError(
                f"training is through and no validation was finite, so there is no {made}: start "
                "another run with a lower --learning-rate"
            )
        print("\n".join(_summary(result, made, lines, program, ranks)), flush=True)
    if result.stopped_by is not None:
        sys.exit(128 + result.stopped_by)


def _summary(
    result: Sitting, made: str, lines: Sequence[str], program: Sequence[str], ranks: Ranks
) -> list[str]:
    done = "stopped" if result.stopped_by is not None else "finished"
    said = [f"{done} after step {result.step:,}, {format_time(result.seconds)} of training"]
    if result.skipped:
        said.append(f"{result.skipped} steps were left out: their loss was not finite")
    if result.best_step is None:
        said.append(f"no {made} yet: it comes with the first validation")
    else:
        said += lines
    if result.stopped_by is not None:
        said.append(f"go on    {shlex.join(command_to_resume(program, sys.argv[1:], ranks))}")
    return said


_BEGINNING = {"--resume": 0, "--from": 1, "--freeze": math.inf}
"""options of a run's beginning -> the values that each takes"""


def command_to_resume(program: Sequence[str], arguments: Sequence[str], ranks: Ranks) -> list[str]:
    """The words of a command that goes on with the run that a command has begun.

    Args:
        program: what Python was to run: `train.py`, or `-m` and a module.
        arguments: what it was given; --from and --freeze are of the beginning alone.
        ranks: the processes that shared it.
    """
    kept: list[str] = []
    values = 0.0  # how many of the words that follow belong to an option that is left out
    for argument in arguments:
        if argument.startswith("--"):
            name, has_value, _ = argument.partition("=")
            values = 0 if has_value else _BEGINNING.get(name, 0)
            if name not in _BEGINNING:
                kept.append(argument)
        elif values > 0:
            values -= 1
        else:
            kept.append(argument)
    several = ["torchrun", "--nproc-per-node", str(ranks.on_this_machine)]
    return [*(several if ranks.count > 1 else ["python"]), *program, *kept, "--resume"]
