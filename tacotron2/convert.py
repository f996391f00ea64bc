"""python -m tacotron2.convert OLD NEW: a checkpoint of any layout -> safetensors and its JSON.

The result holds the weights alone, in the precision of the original, under NVIDIA's names; the JSON
beside it holds the configuration, the audio facts, where the weights are from, their licence, and
the SHA-256 of the safetensors file, which is verified when it is loaded.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from safeload import (
    CheckpointError,
    check_target,
    description_path,
    find_state_dict,
    read_checkpoint_file,
    write_checkpoint,
)
from tacotron2.load import KIND, build_tacotron2


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
    check_target(new, overwrite)
    file = read_checkpoint_file(
        old, replace(KIND, hint="expected the Tacotron 2 checkpoint to convert")
    )
    model = build_tacotron2(file)  # checks everything; the weights below keep their precision
    names = model.state_dict().keys()
    description = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": model.config.as_dict(),
        "audio": model.audio_facts,
        "provenance": provenance,
        "licence": licence,
        "converted_from": {"name": file.path.name, "sha256": file.sha256},
    }
    weights = {n: w for n, w in find_state_dict(file).items() if n in names}
    return write_checkpoint(new, weights, description, KIND, overwrite)


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
