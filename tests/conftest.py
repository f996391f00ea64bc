"""Fixtures that several test files use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

from lightspeech import cli

FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    # Worker processes share the cores; several threads each would only fight.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "requires_cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference arrays that are part of the repository."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the checkout: other people's data, which is not committed."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data in ../shared, which is not part of the repository")
    return folder


@pytest.fixture
def run_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the `main` of a command, called with words, the first of which is the command's name.

    The result is the exit status, standard output and standard error.
    """

    def run(main: Callable[[], None], *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        capsys.readouterr()  # what came before is not of this call
        status = 0
        try:
            cli.run(main)
        except SystemExit as e:
            status = int(e.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
