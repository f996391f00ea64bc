"""The largest resident memory of this process. Nothing here needs PyTorch, which would be in it."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_FORGET_PEAK = Path("/proc/self/clear_refs")


def peak_resident() -> int | None:
    """The largest resident memory of this process so far, in bytes; None if nobody knows."""
    if _STATUS.is_file():
        # Not getrusage: on Linux a new process inherits the peak of the one that started it.
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Starts the peak anew at what is resident now, where the system lets us (Linux)."""
    try:
        _FORGET_PEAK.write_text("5", encoding="ascii")
    except OSError:  # then what vocoding added is counted from the peak of loading
        return
