"""python -m waveglow.convert OLD NEW: a checkpoint of any layout -> safetensors and its JSON.

The result holds the weights alone, in single precision, with the weight norm folded, under the
names of this package's model; the JSON beside it holds the configuration, the audio facts, where
the weights are from, their licence, and the SHA-256 of the safetensors file, which is verified when
it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safeload import (
    check_target,
    describe_conversion,
    read_checkpoint_file,
    run_converter,
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
    description = describe_conversion(
        file, model, model.config.as_dict(), model.audio_facts, provenance, licence
    )
    return write_checkpoint(new, model.state_dict(), description, KIND, overwrite)


def main() -> None:
    run_converter(KIND, convert)


if __name__ == "__main__":
    main()
