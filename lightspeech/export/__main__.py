"""Exports a voice: ONNX graphs that speak without PyTorch.

--format lightspeech writes a folder for lightspeech.runtime, and for anything that runs ONNX;
--format piper writes voice.onnx and voice.onnx.json for Piper (pip install piper-tts).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from lightspeech import cli
from lightspeech.checkpoint import VOICE_FILE, find_voice, load_voice
from lightspeech.errors import InputError
from lightspeech.export.card import NO_LICENCE, PRECISIONS, Origin
from lightspeech.files import sha256
from lightspeech.synthesis import PRETRAINED, default_voice, teacher_digest
from lightspeech.vocoders import light, load_vocoder

RUNTIME = "lightspeech.runtime"
FORMATS = ("lightspeech", "piper")
BUNDLED_LICENCE = "BSD-3-Clause"
"""of the bundled voice and vocoder"""


def main() -> None:
    options = build_parser().parse_args()
    require_extras()
    # Only now, as they import those packages.
    from lightspeech.export import folder, piper
    from lightspeech.export.checking import check_voice

    file = find_voice(options.voice or default_voice())
    student, facts = load_voice(file)
    vocoder = load_light_vocoder(options.vocoder)
    licence = options.licence or default_licence(file, vocoder)
    origin = Origin(voice_name(file), licence, {**facts, "sha256": sha256(file)}, vocoder.source)
    print(f"voice: {origin.name} ({file}), vocoder: {vocoder.title}, licence: {licence}")
    if vocoder.facts.get("teachers") and not vocoder.knows(teacher_digest(facts)):
        print(
            f"note: the vocoder {vocoder.title} has learned a voice of another teacher than this "
            "one's: it sounds better through one of your own (python -m lightspeech.train_vocoder, "
            "then --vocoder light:runs/vocoder)",
            file=sys.stderr,
        )
    for_piper = options.format == "piper"
    make = piper.piper_files if for_piper else folder.voice_files
    files = make(student, vocoder.network, origin, options.precision)
    print(check_voice(files["voice.onnx"], student, vocoder.network, options.precision))
    card, kind = (piper.SETTINGS, piper.KIND) if for_piper else (folder.CARD, folder.KIND)
    folder.write_files(options.out, files, card, kind)
    print(f"\n{options.out.resolve()}")
    for name, content in files.items():
        print(f"  {name:16} {len(content):>12,} bytes")
    program = f"piper -m {options.out / 'voice.onnx'}" if for_piper else f"{RUNTIME} {options.out}"
    print(f"Speak: python -m {program} 'Hello there.'")


def require_extras() -> None:
    """InputError if the packages that an export needs are not there."""
    missing = [n for n in ("onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        raise InputError(
            f"an export needs {' and '.join(missing)}: pip install 'lightspeech[export]', "
            "or pip install -e '.[export]' in a checkout"
        )


def load_light_vocoder(spec: str) -> light.LightVocoder:
    """`light` or `light:PATH`; InputError for any other vocoder."""
    if spec.partition(":")[0] != "light":
        raise InputError(
            f"--vocoder {spec}: only the light vocoder can be exported; "
            "expected light, or light:PATH"
        )
    vocoder = load_vocoder(spec)
    assert isinstance(vocoder, light.LightVocoder)
    return vocoder


def voice_name(file: Path) -> str:
    """That of the file, or of the run in whose folder it is."""
    return file.resolve().parent.name if file.name == VOICE_FILE else file.stem


def default_licence(file: Path, vocoder: light.LightVocoder) -> str:
    """Of what comes with the package we know the licence, of others' voices we do not."""
    both = (file.resolve().parent, Path(vocoder.source["path"]).resolve().parent)
    bundled = both == (PRETRAINED.resolve(), light.PRETRAINED.resolve())
    return BUNDLED_LICENCE if bundled else NO_LICENCE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.export",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add(
        "voice",
        nargs="?",
        metavar="VOICE",
        help="run folder of train.py, voice folder or .safetensors file; if not given, "
        "what train.py made in runs/lightspeech, else the bundled voice",
    )
    add(
        "--out",
        type=Path,
        default=Path("voice"),
        metavar="DIR",
        help="folder of the export; an earlier one in it is replaced",
    )
    add(
        "--vocoder",
        default="light",
        metavar="light[:PATH]",
        help="the light vocoder: the bundled one, or the one at PATH",
    )
    add("--format", choices=FORMATS, default=FORMATS[0], help="whose programs are to speak it")
    add(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the large products; int8 is smaller and faster, and a little less exact",
    )
    add(
        "--licence",
        metavar="NAME",
        help="under which the export may be passed on; if not given, "
        f"{BUNDLED_LICENCE} for the bundled voice, else {NO_LICENCE!r}",
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
