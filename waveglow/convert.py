"""python -m waveglow.convert OLD NEW: a checkpoint of any layout -> safetensors and its JSON.

The result holds the weights alone, in single precision, with the weight norm folded, under the
names of this package's model; the JSON beside it holds the configuration, the audio facts, where
the weights are from, their licence, and the SHA-256 of the safetensors file, which is verified when
it is loaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safeload import (
    CheckpointError,
    check_target,
    description_path,
    read_checkpoint_file,
    write_checkpoint,
)
from waveglow.load import KIND, build_waveglow


def convert(
    old: str | Path,
    new: str | Path,
    *,
    provenance: str = "",
    licence: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes NEW.safetensors and NEW.json from the checkpoint `old`; returns the JSON's content.

    Raises CheckpointError if `old` cannot be loaded as a WaveGlow, if `new` does not end in
    .safetensors, or if it or its JSON exists and `overwrite` is not set.
    """
    new = check_target(new, overwrite)
    file = read_checkpoint_file(old, KIND)
    model = build_waveglow(file)
    description = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": model.config.as_dict(),
        "audio": model.audio_facts,
        "provenance": provenance,
        "licence": licence,
        "converted_from": {"name": file.path.name, "sha256": file.sha256},
    }
    return write_checkpoint(new, model.state_dict(), description, KIND, overwrite)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m waveglow.convert",
        description="Converts a WaveGlow checkpoint to safetensors with a JSON beside it.",
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
