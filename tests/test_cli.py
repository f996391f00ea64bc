"""One clear line and a non-zero exit, whatever goes wrong."""

from __future__ import annotations

import argparse
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from lightspeech import cli
from lightspeech.errors import InputError
from tacotron2 import CheckpointError


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("expected this,\n  got that"), "error: expected this, got that\n"),
        (CheckpointError("not a checkpoint"), "error: not a checkpoint\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full"),
        (MemoryError(), "error: the memory is full; take a smaller --batch-size where"),
        (OSError(errno.EACCES, "Permission denied", "x.wav"), "Permission denied: 'x.wav'"),
    ],
)
def test_user_errors_end_in_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(raising(error))
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSPEECH_TRACEBACK", "1")
    with pytest.raises(InputError):
        cli.run(raising(InputError("expected this")))


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(AssertionError):
        cli.run(raising(AssertionError("a bug")))


def test_text_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    cli.run(lambda: print("café 😀", flush=True))
    assert raw.getvalue().split() == [b"caf\xe9", b"\\U0001f600"]


def test_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(raising(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_devices() -> None:
    assert cli.resolve_device("cpu") == torch.device("cpu")
    assert cli.resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "meta", "cuda:x"):
        with pytest.raises(InputError, match="expected auto, cpu, cuda or cuda:N"):
            cli.resolve_device(name)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no CUDA device here; use --device cpu"):
        cli.resolve_device("cuda")


def test_numbers() -> None:
    assert cli.positive_int("3") == 3
    assert cli.positive_float("0.5") == 0.5
    for text, message in [("x", "whole number"), ("0", "at least 1"), ("2.5", "whole number")]:
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            cli.positive_int(text)
    for text in ("0", "-1", "nan", "inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
            cli.positive_float(text)
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number"):
        cli.positive_float("x")


def threads_after(calls: str, **environment: str) -> list[int]:
    """PyTorch's CPU threads before and after some calls, in a process of its own."""
    code = (
        "import torch; from lightspeech import cli; before = torch.get_num_threads(); "
        f"{calls}; print(before, torch.get_num_threads())"
    )
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(count) for count in done.stdout.split()]


def test_one_core_of_three_or_more_is_left_to_others() -> None:
    before, after = threads_after("cli.use_threads(); cli.use_threads()")
    assert after == (before - 1 if before > 2 else before)
    assert [cli._own_cores(cores) for cores in (1, 2, 3, 8)] == [1, 2, 2, 7]


def test_threads_that_are_asked_for() -> None:
    assert threads_after("cli.use_threads()", OMP_NUM_THREADS="1") == [1, 1]
    assert threads_after("cli.use_threads(); cli.use_threads(1)")[1] == 1
    with pytest.raises(InputError, match="--threads 99999: expected at most"):
        cli.use_threads(99999)
