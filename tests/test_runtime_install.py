"""The runtime installs into an empty virtual environment, without PyTorch, and speaks there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from lightspeech.runtime import Voice
from tests.fake_voice import save_fake_voice

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
PACKAGES = ("lightspeech", "safeload", "tacotron2", "waveglow")
TEXT = "Hello there. It is the 3rd of 12."


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True, cwd=cwd, check=False, env=environment, timeout=600,
    )  # fmt: skip


def skip_without_index(folder: Path) -> None:
    """Skips where pip can download nothing: no test needs a network."""
    finished = run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--no-cache-dir", "--retries", "0", "--timeout", "10",
        "--constraint", ROOT / "constraints.txt", "--dest", folder, "Unidecode", "setuptools",
        cwd=folder,
    )  # fmt: skip
    if finished.returncode:
        errors = finished.stderr.decode(errors="replace").splitlines()
        reason = next((line for line in errors if line.startswith("ERROR")), "pip failed")
        pytest.skip(f"needs a package index that pip can download from; {reason}")


def copy_of_the_sources(folder: Path) -> Path:
    """A build in the checkout itself would leave files there."""
    folder.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.pt")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.mark.slow
def test_an_empty_environment_speaks_without_torch(tmp_path: Path) -> None:
    skip_without_index(tmp_path)
    sources = copy_of_the_sources(tmp_path / "sources")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--constraint", "constraints.txt", ".[runtime]",
        cwd=sources,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr.decode()
    shutil.rmtree(sources)

    listed = run(python, "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).stdout.decode()
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert {"lightspeech", "onnxruntime", "numpy", "inflect", "unidecode"} <= names
    assert not names & {"torch", "librosa", "safetensors", "pyarrow", "matplotlib", "scipy"}
    assert run(python, "-c", "import torch", cwd=tmp_path).returncode != 0

    voice = save_fake_voice(tmp_path / "voice")
    spoken = run(python, "-m", "lightspeech.runtime", voice, TEXT, "--raw", cwd=tmp_path)
    assert spoken.stderr == b""
    assert spoken.returncode == 0
    assert spoken.stdout == Voice.load(voice)(TEXT).pcm16

    refused = run(python, ROOT / "synthesize.py", "Hello.", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"error: this command needs PyTorch")
