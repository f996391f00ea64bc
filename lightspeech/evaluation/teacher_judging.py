"""Judgements of one utterance of a Tacotron 2 teacher that speaks freely.

Did its attention read the text from start to end, how does it sound, what does a recogniser hear,
and how far is its spectrum from a recording's of the same text. Each judgement is a plain dict that
JSON can hold; `lightspeech.evaluation.teacher_figures` adds many of them up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS, SAMPLE_RATE
from lightspeech.errors import InputError
from lightspeech.evaluation import quality
from lightspeech.evaluation.quality import Dnsmos, ErrorRates, plain_words
from lightspeech.renditions import LabellingSettings, Rendition, judge
from lightspeech.shard import Label
from lightspeech.speech import Piece
from lightspeech.text import Line, decode
from lightspeech.vocoders import Vocoder, check_sound

CEPSTRA = 24
"""c1 to c24 are compared; c0, the level, is left out"""

_MOST_SHOWN = 4  # places of one kind that a reason names
_CONTEXT = 8  # symbols shown on either side of one


@dataclass(frozen=True)
class Judges:
    """Who listens. The default ones need the optional extra `eval`."""

    dnsmos: Callable[[Tensor], Dnsmos] = quality.dnsmos
    """(S,) at 22,050 Hz -> scores; shorter sound than 9 s is repeated to that length"""
    recognise: Callable[[Tensor], str] = quality.recognise
    """(S,) at 22,050 Hz -> the words heard"""
    error_rates: Callable[[str, str], ErrorRates] = quality.error_rates
    """said, heard -> edits over length"""


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


def said_words(text: str, tokens: Sequence[int]) -> str:
    """The plain words that the tokens of a text say; may be empty."""
    return plain_words(Piece(text, decode(tokens), torch.zeros(0), 0).spoken)


def vocode(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """(T, M) -> (256 T,) float32 on the CPU; InputError where that is broken or silent."""
    wav = vocoder(mel).float().cpu()
    check_sound(vocoder, [mel], [wav])
    return wav


def judge_sound(
    mel: Tensor, said: str, vocoder: Vocoder, judges: Judges | None
) -> tuple[dict[str, Any], Tensor | None]:
    """A mel (T, M) through the vocoder, and what the judges make of it.

    Sound that cannot be judged (broken values, silence) has no DNSMOS, and nothing is heard in it,
    so that all its characters count as wrong; `problem` says what is the matter.

    Args:
        said: its plain words; where there are none, nothing is recognised.
        judges: None leaves all but the length out.

    Returns:
        the judgement: `seconds` of sound, `vocoder_seconds` of work; with judges also
        `dnsmos_p808`, `dnsmos_overall`, `heard`, and the edits that make what was said of it,
        `character_edits` of `characters` and `word_edits` of `words`. And the sound, (256 T,), or
        None.
    """
    started = time.perf_counter()
    wav, problem = None, None
    try:
        wav = vocode(vocoder, mel)
    except InputError as e:
        problem = str(e)
    judgement: dict[str, Any] = {
        "seconds": len(mel) * FRAME_SECONDS if wav is None else len(wav) / SAMPLE_RATE,
        "vocoder_seconds": time.perf_counter() - started,
        "problem": problem,
    }
    if judges is None:
        return judgement, wav
    scores = None if wav is None else judges.dnsmos(wav)
    judgement["dnsmos_p808"] = None if scores is None else scores.p808
    judgement["dnsmos_overall"] = None if scores is None else scores.overall
    if said:
        heard = "" if wav is None else judges.recognise(wav)
        rates = judges.error_rates(said, heard)
        characters, words = len(said), len(said.split())
        judgement["heard"] = heard
        judgement["character_edits"] = round(rates.character * characters)
        judgement["characters"] = characters
        judgement["word_edits"] = round(rates.word * words)
        judgement["words"] = words
    return judgement, wav


def mel_cepstra(mel: np.ndarray) -> np.ndarray:
    """A mel (T, M), natural log of magnitudes -> (T, 24), its cepstra c1 to c24.

    They are such that ln magnitude = c0 + c1 cos(w) + c2 cos(2 w) + ..., where w goes from 0 to pi
    over the mel bins.
    """
    bins = mel.shape[1]
    orders = np.arange(1, CEPSTRA + 1)
    cosines = np.cos(np.pi * np.outer(np.arange(bins) + 0.5, orders) / bins)  # (M, 24)
    cepstra: np.ndarray = mel.astype(np.float64) @ cosines * (2 / bins)
    return cepstra


def mel_cepstral_distortion(one: Tensor, other: Tensor) -> float:
    """How far two mels (T, M) and (T', M) are apart, in decibels, after dynamic time warping.

    10 / ln 10 * sqrt(2 * sum over c1 to c24 of the squared difference), averaged over the steps of
    the warping path (Kubichek 1993, "Mel-cepstral distance measure for objective speech quality
    assessment"): the root mean square of the distance between the two smoothed log spectra, their
    level left out. The cepstra are of this project's mels, so that it compares only with others
    that are.
    """
    from librosa.sequence import dtw

    ours, theirs = mel_cepstra(one.numpy()), mel_cepstra(other.numpy())
    _, path = dtw(ours.T, theirs.T, metric="euclidean")
    distances = np.linalg.norm(ours[path[:, 0]] - theirs[path[:, 1]], axis=1)
    return float(10 / math.log(10) * math.sqrt(2) * distances.mean())
