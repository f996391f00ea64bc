"""The end of a labelling run: what the store holds now, by which limits, and its report."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightspeech.audio import FRAME_SECONDS
from lightspeech.calibration import UsualLength
from lightspeech.errors import InputError
from lightspeech.label_report import write_report
from lightspeech.labelling_progress import LabellingSummary
from lightspeech.manifest import read_whole
from lightspeech.ranks import Ranks
from lightspeech.rejects import read_all_rejects
from lightspeech.renditions import LabellingSettings
from lightspeech.respeaking import TeacherAttention
from lightspeech.scoring import Score, scores_under
from lightspeech.store import LabelStore
from lightspeech.text import Line

if TYPE_CHECKING:
    import torch

    from tacotron2 import Tacotron2


def conclude(
    path: Path,
    lines: Sequence[Line],
    summary: LabellingSummary,
    settings: LabellingSettings,
    teacher: Tacotron2,
    device: torch.device,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    report: bool = True,
) -> None:
    """Prints what came of `lines` in the store `path`, and, if `report`, writes the store's report.

    Of several processes, whoever leaves the store last does this for all of them; call it when the
    store is closed. A report that cannot be drawn is said and is no error: the labels are there.

    Raises:
        InputError: the store holds no label at all.
    """
    manifest = read_whole(path)
    scores = scores_under(settings.limits)
    print(limits_in_words(scores, manifest.calibration))
    page = None
    if report:
        # Of several processes the summary tells of this one alone, and the report is of the run.
        page = _report(path, summary if ranks.count == 1 else None, settings, teacher, device)
    if not manifest.shards:
        raise InputError(
            f"none of the {len(lines):,} texts has a label; see why with: "
            f"python -m lightspeech.store info {path}"
        )
    _print_holdings(path, lines)
    if page is not None:
        print(f"report: {page}")
    print(f"next: python train.py --store {path}")


def _report(
    path: Path,
    summary: LabellingSummary | None,
    settings: LabellingSettings,
    teacher: Tacotron2,
    device: torch.device,
) -> Path | None:
    """Writes the report; says so, and no more, if it cannot be written."""
    # Along with a recording the teacher cannot say a label again.
    respeak = TeacherAttention(teacher, settings.identity()) if settings.mode != "forced" else None
    scores = scores_under(settings.limits)
    try:
        return write_report(path, summary, respeak, scores=scores, device=str(device))
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError) as e:
        what = " ".join(str(e).split()) or type(e).__name__
        print(f"warning: the labels are kept, their report failed: {what}", file=sys.stderr)
        return None


def _print_holdings(path: Path, lines: Sequence[Line]) -> None:
    """What the store holds of the lines, and what is missing."""
    store = LabelStore.open(path)
    held, rejects = set(store.ids), read_all_rejects(path)
    rejected = sum(line.id in rejects and line.id not in held for line in lines)
    missing = sum(line.id not in held for line in lines) - rejected
    hours = sum(store.frames) * FRAME_SECONDS / 3600
    print(f"{path} holds {len(store):,} labels, {hours:.2f} hours; {rejected:,} texts are rejected")
    if missing:
        print(
            f"warning: {missing:,} texts are neither labelled nor rejected, so a process of this "
            "run must have died; the same command labels them",
            file=sys.stderr,
        )


def limits_in_words(scores: Mapping[str, Score], calibration: Mapping[str, object] | None) -> str:
    """The limits in force and the usual length, in a few lines."""
    parts = []
    for name, score in scores.items():
        if score.low is not None and score.high is not None:
            parts.append(f"{name} {score.low:g} to {score.high:g}")
        elif score.low is not None:
            parts.append(f"{name} {score.low:g} or more")
        elif score.high is not None:
            parts.append(f"{name} {score.high:g} or less")
    if calibration is None:
        length = "no usual length was measured, for want of texts: its limits are wide"
    else:
        usual = UsualLength.from_dict(calibration)
        length = (
            f"usual length: {usual.intercept:.0f} frames + {usual.frames_per_token:.2f} a token, "
            f"spread {100 * usual.spread:.0f} % (of {usual.texts} texts)"
        )
    limits = "limits: " + (", ".join(parts) or "none")
    return textwrap.fill(limits, 100, subsequent_indent="  ") + f"\n{length}"
