"""Judgements of one utterance of a Tacotron 2 teacher that speaks freely.

Did its attention read the text from start to end? The judgement is a plain dict that JSON can hold;
`lightspeech.evaluation.teacher_figures` adds many of them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lightspeech.audio import FRAME_SECONDS
from lightspeech.renditions import LabellingSettings, Rendition, judge
from lightspeech.shard import Label
from lightspeech.text import Line, decode

_MOST_SHOWN = 4  # places of one kind that a reason names
_CONTEXT = 8  # symbols shown on either side of one


def judge_attention(
    line: Line, tokens: Sequence[int], rendition: Rendition, settings: LabellingSettings
) -> dict[str, Any]:
    """How the teacher's attention read a text of N tokens in T frames.

    Args:
        line, tokens: what it was given to speak.
        rendition: how it did.
        settings: those of labelling, whose scores and limits count here too.

    Returns:
        `characters`, `tokens`, `frames`, `seconds` of the utterance; whether it `stopped` by
        itself, is `covered` (coverage 1.0), has `no_jump` (no backward jump beyond one token), and
        is `sound` (all three); the `reason` where it is not; the `scores` of
        lightspeech.alignment and lightspeech.scoring, None where there are values that are not
        finite; and `labelling`, why preprocess.py would refuse this rendition, or None.
    """
    label = judge(line, tokens, rendition, settings)
    scores = dict(label.scores)
    for name in ("draw", "length_deviation"):  # of a corpus, not of an utterance
        scores.pop(name, None)
    covered = scores.get("coverage") == 1.0
    no_jump = scores.get("backward_jumps") == 0
    reasons = []
    if not rendition.stopped:
        reasons.append(f"did not stop by itself within {len(rendition.mel)} frames")
    if not scores:
        reasons.append("values that are not finite")
    else:
        attended = rendition.attention.argmax(1).numpy()  # (T,)
        symbols = decode(tokens)
        if not covered:
            reasons.append(_passed_over(attended, symbols))
        if not no_jump:
            reasons.append(_jumped_back(attended, symbols))
    return {
        "id": line.id,
        "text": line.text,
        "characters": len(line.text),
        "tokens": len(tokens),
        "frames": len(rendition.mel),
        "seconds": len(rendition.mel) * FRAME_SECONDS,
        "stopped": rendition.stopped,
        "covered": covered,
        "no_jump": no_jump,
        "sound": rendition.stopped and covered and no_jump,
        "reason": "; ".join(reasons) or None,
        "scores": {name: float(value) for name, value in scores.items()} or None,
        "labelling": None if isinstance(label, Label) else label.reason,
    }


def _passed_over(attended: np.ndarray, symbols: Sequence[str]) -> str:
    """Which symbols no frame attends to most, in brackets amid their neighbours."""
    missing = np.ones(len(symbols), bool)
    missing[attended] = False
    runs, position = [], 0
    for is_missing, run in groupby(missing.tolist()):
        length = sum(1 for _ in run)
        if is_missing:
            runs.append((position, position + length))
        position += length
    shown = [
        f"{_plain(symbols[max(start - _CONTEXT, 0) : start])}[{_plain(symbols[start:end])}]"
        f"{_plain(symbols[end : end + _CONTEXT])}"
        for start, end in runs[:_MOST_SHOWN]
    ]
    more = ["..."] if len(runs) > _MOST_SHOWN else []
    return f"passed over {int(missing.sum())} of {len(symbols)} symbols: " + ", ".join(shown + more)


def _jumped_back(attended: np.ndarray, symbols: Sequence[str]) -> str:
    """Where the most attended symbol goes back by more than one."""
    frames = np.flatnonzero(np.diff(attended) < -1) + 1
    shown = []
    for frame in frames[:_MOST_SHOWN].tolist():
        start, end = int(attended[frame]), int(attended[frame - 1])
        shown.append(
            f"{end - start} symbols at {frame * FRAME_SECONDS:.2f} s "
            f"(over {_plain(symbols[start:end])!r})"
        )
    more = ["..."] if len(frames) > _MOST_SHOWN else []
    times = "once" if len(frames) == 1 else f"{len(frames)} times"
    return f"jumped back {times}: " + ", ".join(shown + more)


def _plain(symbols: Sequence[str]) -> str:
    return "".join(symbols).replace("@", "")
