"""python -m tacotron2.convert OLD NEW: a checkpoint of any layout -> safetensors and its JSON.

The result holds the weights alone, in the precision of the original, under NVIDIA's names; the JSON
beside it holds the configuration, the audio facts, where the weights are from, their licence, and
the SHA-256 of the safetensors file, which is verified when it is loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from tacotron2.checkpoint_file import FORMAT, VERSION, description_path, read_checkpoint_file
from tacotron2.errors import CheckpointError
from tacotron2.load import build_tacotron2, find_weights


def convert(
    old: str | Path,
    new: str | Path,
    *,
    provenance: str = "",
    licence: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes NEW.safetensors and NEW.json from the checkpoint `old`; returns the JSON's content.

    Raises CheckpointError if `old` cannot be loaded as a Tacotron 2, if `new` does not end in
    .safetensors, or if it or its JSON exists and `overwrite` is not set.
    """
    new = Path(new)
    beside = description_path(new)
    if new.suffix != ".safetensors":
        raise CheckpointError(f"{new}: expected a name that ends in .safetensors")
    existing = [str(path) for path in (new, beside) if path.exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{' and '.join(existing)} exist; choose another name or --overwrite")
    file = read_checkpoint_file(old, hint="expected the Tacotron 2 checkpoint to convert")
    model = build_tacotron2(file)  # checks everything; the weights below keep their precision
    names = model.state_dict().keys()
    weights = {n: w.contiguous().clone() for n, w in find_weights(file).items() if n in names}
    content = save(weights, metadata={"format": "pt"})
    description = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": model.config.as_dict(),
        "audio": model.audio_facts,
        "provenance": provenance,
        "licence": licence,
        "converted_from": {"name": file.path.name, "sha256": file.sha256},
    }
    try:
        _write(new, content)
        _write(beside, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as e:
        raise CheckpointError(f"cannot write {new}: {e.strerror or e}") from e
    return description


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tacotron2.convert",
        description="Converts a Tacotron 2 checkpoint to safetensors with a JSON beside it.",
    )
    parser.add_argument("old", metavar="OLD", help="NVIDIA's checkpoint, or one in its layout")
    parser.add_argument("new", metavar="NEW", help="name of the new file, ending in .safetensors")
    parser.add_argument("--provenance", default="", help="where the weights are from (a sentence)")
    parser.add_argument("--licence", default="", help="terms under which they may be used")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing NEW")
    options = parser.parse_args()
    try:
        description = convert(
            options.old,
            options.new,
            provenance=options.provenance,
            licence=options.licence,
            overwrite=options.overwrite,
        )
    except CheckpointError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    print(
        f"wrote {options.new} ({description['parameters']:,} parameters, "
        f"SHA-256 {description['sha256']}) and {description_path(Path(options.new))}"
    )


if __name__ == "__main__":
    main()
