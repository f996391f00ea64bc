"""What the README tells people to type exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python (?:-m )?[\w./]+.*?(?=`|$|\s+#)", README, re.MULTILINE)))


@lru_cache
def help_text(program: tuple[str, ...]) -> str:
    finished = subprocess.run(
        [sys.executable, *program, "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 6, COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command: str) -> None:
    words = command.split()[1:]
    program = tuple(words[:2] if words[0] == "-m" else words[:1])
    known = help_text(program)
    if (subcommands := re.search(r"\{([a-z,]+)\} \.\.\.|^ +COMMAND$", known, re.MULTILINE)) and (
        rest := words[len(program) :]
    ):
        assert re.search(rf"^ +{rest[0]} ", known, re.MULTILINE), f"{program} has no {rest[0]}"
        known = help_text((*program, rest[0])) if subcommands else known
    for option in re.findall(r"(?<!\S)--[a-z-]+", command):
        assert option in known, f"{program} has no {option}"


def test_every_option_in_the_prose_exists() -> None:
    modules = ("train_vocoder", "export", "runtime")
    scripts = ("preprocess.py", "train.py", "synthesize.py")
    programs = [(s,) for s in scripts] + [("-m", f"lightspeech.{m}") for m in modules]
    known = "".join(help_text(program) for program in programs)
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known, option


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(
        re.findall(r"make ([a-z-]+)\b", " ".join(re.findall(r"`[^`]+`|^    .*", README, re.M)))
    )
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_files_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def example(importing: str) -> str:
    """The only Python example that begins with this import."""
    codes = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = (code for code in codes if code.startswith(importing))
    return str(code)


def test_the_python_example_runs() -> None:
    code = example("from lightspeech import Synthesizer")
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "22050" in finished.stdout


def test_the_python_example_of_the_runtime_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra export")
    export = [sys.executable, "-m", "lightspeech.export", "--out", str(tmp_path / "voice")]
    subprocess.run(export, cwd=ROOT, check=True, capture_output=True)
    code = "def play(pcm, rate): print(len(pcm), rate)\n" + example("from lightspeech.runtime")
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("22050") == 2
    assert (tmp_path / "hello.wav").stat().st_size > 20_000
