"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

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
