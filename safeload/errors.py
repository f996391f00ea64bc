"""The one exception for a checkpoint that cannot be used."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file that does not hold what it was loaded for.

    The message is one line: what was expected, what was found and what to do next.
    """
