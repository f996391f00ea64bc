"""Writes weights as safetensors with a JSON beside them that describes and vouches for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from safeload.checkpoint_file import Kind, description_path
from safeload.errors import CheckpointError


def check_target(new: str | Path, overwrite: bool) -> Path:
    """`new` as a path; CheckpointError if its name is wrong, its folder is missing, or it exists
    and must not."""
    new = Path(new)
    if new.suffix != ".safetensors":
        raise CheckpointError(f"{new}: expected a name that ends in .safetensors")
    if not new.parent.is_dir():
        raise CheckpointError(f"cannot write {new}: there is no folder {new.parent}; make it first")
    existing = [str(path) for path in (new, description_path(new)) if path.exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{' and '.join(existing)} exist; choose another name or --overwrite")
    for path in (new, description_path(new)):
        if path.is_dir():
            raise CheckpointError(f"cannot write {path}, which is a folder; choose another name")
    return new


def write_checkpoint(
    new: str | Path,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    kind: Kind,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes NEW.safetensors and NEW.json; returns the JSON's content.

    Killed between the two, it leaves weights without a JSON, never with another's. Where there is
    no room for both, existing files stay as they are.

    Args:
        new: the name, which ends in .safetensors.
        description: what the JSON says beside format, version and SHA-256.
        kind: whose format and version that are.
        overwrite: replace existing files.

    Raises:
        CheckpointError: the name is wrong, exists, or cannot be written to.
    """
    new = check_target(new, overwrite)
    inside = {"format": "pt"}
    if "audio" in description:  # in the file itself too, where its checksum covers them; alone, as
        # safetensors would write two entries in an order that changes from run to run
        inside = {"audio": json.dumps(description["audio"], sort_keys=True)}
    content = save({n: w.contiguous().clone() for n, w in weights.items()}, inside)
    whole = {
        "format": kind.format,
        "version": kind.version,
        "sha256": hashlib.sha256(content).hexdigest(),
        **description,
    }
    try:
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        with (
            _temporary(new, content) as weights_file,
            _temporary(description_path(new), text.encode()) as description_file,
        ):  # both are on the disk before anything that was there goes
            description_path(new).unlink(missing_ok=True)
            os.replace(weights_file, new)
            os.replace(description_file, description_path(new))
    except OSError as e:
        raise CheckpointError(f"cannot write {new}: {e.strerror or e}") from e
    return whole


@contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` with that content, to be renamed to it, or gone in the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
