"""What the commands `python -m tacotron2.convert` and `python -m waveglow.convert` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from safeload.checkpoint_file import CheckpointFile, Kind, description_path
from safeload.errors import CheckpointError


def describe_conversion(
    file: CheckpointFile,
    model: nn.Module,
    config: dict[str, Any],
    audio_facts: dict[str, Any],
    provenance: str,
    licence: str,
) -> dict[str, Any]:
    """What the JSON beside converted weights says of the `model` that was read from `file`."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": config,
        "audio": audio_facts,
        "provenance": provenance,
        "licence": licence,
        "converted_from": {"name": file.path.name, "sha256": file.sha256},
    }


def run_converter(kind: Kind, convert: Callable[..., dict[str, Any]]) -> None:
    """The command line: OLD NEW -> convert(OLD, NEW, provenance, licence, overwrite).

    A checkpoint that cannot be converted ends in one line and exit 1.
    """
    parser = argparse.ArgumentParser(
        prog=kind.converter,
        description=f"Converts a {kind.name} checkpoint to safetensors with a JSON beside it.",
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
