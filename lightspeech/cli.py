"""What the command lines share: one clear line on failure, the choice of a device, help texts."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from lightspeech.errors import InputError
from lightspeech.files import is_full_disk

if TYPE_CHECKING:
    import torch  # the runtime's command line does without


def run(main: Callable[[], None]) -> None:
    """Runs a command; what the user got wrong, or the system refused, ends in one line and exit 1.

    LIGHTSPEECH_TRACEBACK=1 in the environment shows the traceback instead.
    """
    if sys.stderr is None:  # closed by who started us
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not all terminals and logs can show all text
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, say) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except _foreseen_errors() as e:
        if os.environ.get("LIGHTSPEECH_TRACEBACK"):
            raise
        message = str(e)
        if is_full_disk(e):
            message = (
                f"the disk is full ({e}); make room and run the command again: what was saved "
                "before is kept"
            )
        elif isinstance(e, _full_memory()):
            message = (
                "the memory is full; take a smaller --batch-size where the command has one, "
                "shorter texts or mels, or --device cpu"
            )
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(1)


def _foreseen_errors() -> tuple[type[BaseException], ...]:
    """What ends in one line; unusable checkpoints only where anything that reads them is in use."""
    safeload = sys.modules.get("safeload")
    checkpoint_errors = (safeload.CheckpointError,) if safeload else ()
    return (InputError, OSError, *checkpoint_errors, *_full_memory())


def _full_memory() -> tuple[type[BaseException], ...]:
    """What a full memory raises; PyTorch's own error only where PyTorch is in use."""
    torch = sys.modules.get("torch")
    return (MemoryError, torch.OutOfMemoryError) if torch else (MemoryError,)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows each option's default, where it has one, and keeps descriptions' line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA where there is one), cpu, cuda or cuda:N"
    )


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that is there; InputError if it is not."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from e
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"--device {name}: PyTorch {torch.__version__} sees no CUDA device here; "
            "use --device cpu, or install a CUDA build of PyTorch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def use_threads(count: int | None = None) -> None:
    """Has PyTorch use so many CPU threads; InputError for far too many.

    None, where OMP_NUM_THREADS does not say how many: all cores, and where there are three or more,
    all but one. The threads wait for each other some thousand times a second; where something else
    keeps one core busy, they would wait for the one that shares it, and labelling would take twenty
    times as long. One core less costs a tenth where nothing else runs.
    """
    import torch

    if count is None:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(_own_cores(_all_cores()))
        return
    most = 4 * (os.cpu_count() or 1)
    if count > most:
        raise InputError(f"--threads {count}: expected at most {most} on this machine")
    torch.set_num_threads(count)


@cache
def _all_cores() -> int:
    """PyTorch's own choice of threads, asked for before anybody changes it."""
    import torch

    return torch.get_num_threads()


def _own_cores(cores: int) -> int:
    return cores - 1 if cores > 2 else cores


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from e
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from e
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value
