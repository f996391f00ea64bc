"""How a student's rendition of a text differs from its teacher's, sentence by sentence, in sums.

What is compared, and along what:

- spectrum, pitch and voicing, along the path of dynamic time warping between the two mels (`warp`);
- the mel, and how much it moves, at the teacher's durations, where frames line up one to one;
- durations, symbol by symbol.

Pitch is read off the mels themselves (`lightspeech.vocoders.pitch`) and not off vocoded sound: so
it is what the voice said, whichever vocoder is heard, and it takes 0.02 s a sentence where pYIN
takes 1.2 s. Both tell the same of this project's bundled voice and its teacher: over six held-out
sentences their log-F0 errors differed by -9 to +11 cents (of 48 to 156), and 88 to 95 % of the
frames were voiced or not according to both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightspeech.evaluation.mel_distance import warp
from lightspeech.model import LightSpeech
from lightspeech.scoring import SILENT
from lightspeech.speech import Piece, Speech
from lightspeech.text.symbols import SYMBOL_IDS
from lightspeech.vocoders.pitch import track_pitch

CENTS_AN_OCTAVE = 1200
SUMS = (
    "path_steps", "distortion", "voicing_differences", "voiced_steps", "cents_squared",
    "teacher_frames", "mel_error", "tokens", "duration_error", "student_frames",
)  # fmt: skip
"""what `compare` adds up"""


def compare(student: Speech, teacher: Speech, model: LightSpeech) -> dict[str, float | None]:
    """Sums over the sentences of a text, from which figures over many texts follow.

    Args:
        student, teacher: the same text, by both.
        model: the student's network, which says the text once more at the teacher's durations.

    Returns:
        `path_steps` of the warping paths, and over them the sums of `distortion` (dB, see `warp`)
        and of `voicing_differences` (steps at which one is voiced and the other is not);
        `voiced_steps`, at which both are, and over them the sum of `cents_squared`, the squared
        difference of their log F0;
        `teacher_frames`, and over them at the teacher's durations the sum of `mel_error`, the mean
        over the bins of the absolute difference (natural log of magnitude);
        `tokens`, and over them the sum of `duration_error` (absolute difference, frames);
        `student_frames`; `speech_frames`, in which the teacher is not silent, and
        `variance_ratio` over them (see there), or None.
    """
    assert len(student.pieces) == len(teacher.pieces), "the same text"
    sums = dict.fromkeys(SUMS, 0.0)
    at_teachers = mels_at_durations(model, teacher.pieces)
    frames = []  # of each sentence: the student's and the teacher's, where the teacher speaks
    for ours, theirs, ours_at_theirs in zip(
        student.pieces, teacher.pieces, at_teachers, strict=True
    ):
        mel, their_mel = student.mel[ours.mel_rows], teacher.mel[theirs.mel_rows]
        path, distances = warp(mel, their_mel)
        sums["path_steps"] += len(path)
        sums["distortion"] += float(distances.sum())
        for name, value in pitch_difference(track_pitch(mel), track_pitch(their_mel), path).items():
            sums[name] += value
        sums["mel_error"] += float((ours_at_theirs - their_mel).abs().double().mean(1).sum())
        sums["tokens"] += len(theirs.durations)
        sums["duration_error"] += int((ours.durations - theirs.durations).abs().sum())
        sums["student_frames"] += len(mel)
        sums["teacher_frames"] += len(their_mel)
        speaks = speech_frames(their_mel)
        frames.append((ours_at_theirs[speaks], their_mel[speaks]))
    spoken, their_spoken = (torch.cat(parts) for parts in zip(*frames, strict=True))
    return {
        **sums,
        "speech_frames": float(len(spoken)),
        "variance_ratio": variance_ratio(spoken, their_spoken),
    }


@torch.inference_mode()
def mels_at_durations(model: LightSpeech, pieces: Sequence[Piece]) -> list[Tensor]:
    """What a student makes of sentences whose durations are given: each (T, M) on the CPU.

    Args:
        model: in evaluation mode.
        pieces: their N symbols and the durations (N,) of these.
    """
    device = next(model.parameters()).device
    mels = []
    for piece in pieces:
        tokens = torch.tensor([[SYMBOL_IDS[symbol] for symbol in piece.symbols]])  # (1, N)
        durations = piece.durations.long()[None]
        output = model(
            tokens.to(device), torch.tensor([tokens.shape[1]], device=device), durations.to(device)
        )
        mels.append(output.mel[0, : piece.frames].float().cpu())
    return mels


def pitch_difference(ours: np.ndarray, theirs: np.ndarray, path: np.ndarray) -> dict[str, float]:
    """How two pitch contours differ along a warping path.

    Args:
        ours, theirs: (T,) and (T',) Hz, 0 where unvoiced.
        path: (P, 2), frames of the two that belong together.

    Returns:
        `voicing_differences`, `voiced_steps` and `cents_squared`, as in `compare`.
    """
    one, other = ours[path[:, 0]], theirs[path[:, 1]]  # (P,)
    both = (one > 0) & (other > 0)
    cents = CENTS_AN_OCTAVE * np.log2(one[both] / other[both])
    return {
        "voicing_differences": float(((one > 0) != (other > 0)).sum()),
        "voiced_steps": float(both.sum()),
        "cents_squared": float((cents**2).sum()),
    }


def speech_frames(mel: Tensor) -> Tensor:
    """(T, M) -> (T,) bool, True where the loudest bin is within 52 dB of the sentence's loudest."""
    levels = mel.amax(1)  # (T,)
    return levels >= levels.max() - SILENT


def variance_ratio(student: Tensor, teacher: Tensor) -> float | None:
    """How much a mel moves, over how much the teacher's does: 1 is as lively, less is smoother.

    Of each mel bin, the variance over time of the student's log magnitudes is divided by that of
    the teacher's; the result is the mean of these quotients over the bins. It is the "global
    variance" of Toda and Tokuda 2007 ("A speech parameter generation algorithm considering global
    variance for HMM-based speech synthesis"), as a share of the teacher's.

    Args:
        student, teacher: (T, M) each, the same frames of one text, with the student at the
            teacher's durations and pauses left out: so neither another rhythm nor silence, which
            would make any variance large, has a part in it.

    Returns:
        None of fewer than two frames, or of a teacher that does not move in any bin; a bin in which
        it does not move is left out.
    """
    if len(teacher) < 2:
        return None
    ours, theirs = (mel.double().var(0, correction=0) for mel in (student, teacher))  # (M,)
    moves = theirs > 0
    return float((ours[moves] / theirs[moves]).mean()) if bool(moves.any()) else None
