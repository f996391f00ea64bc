"""python -m tacotron2.convert OLD NEW: a checkpoint of any layout -> safetensors and its JSON.

The result holds the weights alone, in the precision of the original, under NVIDIA's names; the JSON
beside it holds the configuration, the audio facts, where the weights are from, their licence, and
the SHA-256 of the safetensors file, which is verified when it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safeload import (
    check_target,
    describe_conversion,
    find_state_dict,
    read_checkpoint_file,
    run_converter,
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
    description = describe_conversion(
        file, model, model.config.as_dict(), model.audio_facts, provenance, licence
    )
    weights = {n: w for n, w in find_state_dict(file).items() if n in names}
    return write_checkpoint(new, weights, description, KIND, overwrite)


def main() -> None:
    run_converter(KIND, convert)


if __name__ == "__main__":
    main()
