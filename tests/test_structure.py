"""The import rules that keep the parts apart, and what no file may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lightspeech", "safeload", "tacotron2", "waveglow")


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "may_use"),
    [("tacotron2", {"safeload"}), ("waveglow", {"safeload"}), ("safeload", set())],
)
def test_teachers_and_vocoders_stand_alone(package: str, may_use: set[str]) -> None:
    assert sources(package)
    others = set(PACKAGES) - {package} - may_use
    for path in sources(package):
        if path == ROOT / "tacotron2" / "train.py":  # an entry point, like the three scripts
            continue
        foreign = {name for name in imported_modules(path) if name.split(".")[0] in others}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_nothing_in_tacotron2_needs_its_entry_point() -> None:
    for path in sources("tacotron2"):
        assert "tacotron2.train" not in imported_modules(path), path


def test_the_model_knows_neither_data_nor_training() -> None:
    allowed = {"config", "convnext", "errors", "gru", "length_regulator", "recurrence", "refiner"}
    for name in ("model", "gru", "recurrence", "refiner"):
        ours = {
            module.split(".")[1]
            for module in imported_modules(ROOT / "lightspeech" / f"{name}.py")
            if module.startswith("lightspeech.")
        }
        assert ours <= allowed, f"{name}.py imports {ours - allowed}"


def unsafe_calls(tree: ast.AST) -> list[int]:
    """Lines that call exec, eval or pickle, or load with weights_only=False."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        unsafe_option = any(
            option.arg == "weights_only" and ast.unparse(option.value) == "False"
            for option in node.keywords
        )
        unsafe_names = ("exec", "eval", "pickle.load", "pickle.loads", "yaml.load")
        if called in unsafe_names or unsafe_option:
            lines.append(node.lineno)
    return lines


def test_nothing_loads_code_from_files() -> None:
    assert unsafe_calls(ast.parse("eval('1'); torch.load(f, weights_only=False)")) == [1, 1]
    files = [path for package in PACKAGES for path in sources(package)] + sorted(ROOT.glob("*.py"))
    assert len(files) > 10
    for path in files:
        assert unsafe_calls(ast.parse(path.read_text(encoding="utf-8"))) == [], path


def test_text_does_not_wait_for_torch() -> None:
    program = "import sys, lightspeech, lightspeech.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["LightSpeech", "LabelStore", "ModelConfig", "Synthesizer"])
def test_public_names_resolve(name: str) -> None:
    import lightspeech

    assert getattr(lightspeech, name).__name__ == name


def test_modules_of_the_public_functions_resolve() -> None:
    program = (
        "import lightspeech; lightspeech.text.normalize('a'); lightspeech.audio.mel_spectrogram;"
        "lightspeech.alignment.durations_from_attention"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import lightspeech

    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = lightspeech.Missing
