"""Trains an aligner on a dataset and keeps the best path of each utterance beside its features.

    DATASET/features/alignment.safetensors    frames a symbol, of all utterances one after another
    DATASET/features/aligner.safetensors      the aligner, while it learns

Made once, in a few minutes; the aligner itself is thrown away then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lightspeech.checkpoint import encode_file, fact, read_file
from lightspeech.dataset.features import Features
from lightspeech.errors import InputError
from lightspeech.files import write_bytes
from lightspeech.teacher.aligner import Aligner, alignment_loss, best_durations, log_prior
from lightspeech.teacher.batches import collate, step_plan
from lightspeech.teacher.config import TeacherTrainingConfig
from lightspeech.training_state import capture, restore

ALIGNMENT_FILE = "alignment.safetensors"
ALIGNER_FILE = "aligner.safetensors"
VERSION = 1
STEPS = 500
"""of the aligner's training, at most"""
EPOCHS = 10
"""times that it sees an utterance, at most: it learns a small dataset's paths by heart if it may,
and then they need not have anything to do with the sound"""
FEWEST_STEPS = 60
"""but it takes so many"""
FRAMES_PER_STEP = 12_000
LEARNING_RATE = 1e-3
SAVE_EVERY = 50
"""steps between saves"""
LONGEST_FRAMES = 1_000
"""Utterances with more frames are aligned, but not learned from."""
_PLAN = TeacherTrainingConfig(
    frames_per_step=FRAMES_PER_STEP,
    longest_frames=LONGEST_FRAMES,
    utterances_per_step=128,
)


def align(
    folder: Path, features: Features, on_step: Callable[[int, int, float], None] | None = None
) -> list[np.ndarray]:
    """Frames a symbol of every utterance; what was computed before is read again.

    Args:
        folder: of the features.
        on_step: called with the steps taken, their number and the loss.

    Returns:
        int16 arrays (N,), each with the sum T. Where there are fewer frames than symbols, an empty
        one.
    """
    path = folder / ALIGNMENT_FILE
    if (known := _read(path, features)) is not None:
        return known
    aligner = train_aligner(folder, features, on_step)
    durations = [np.zeros(0, np.int16) for _ in features.ids]
    usable = [i for i in range(len(features)) if features.token_counts[i] <= features.frames[i]]
    order = sorted(usable, key=lambda i: features.frames[i])
    while order:
        size = max(1, FRAMES_PER_STEP // features.frames[order[-1]])
        group, order = order[-size:], order[:-size]
        batch = collate([features[i] for i in group])
        with torch.no_grad():
            logs = aligner(batch.tokens, batch.token_lengths, batch.mel, batch.frames)
        for i, found in zip(
            group, best_durations(logs, batch.token_lengths, batch.frames), strict=True
        ):
            durations[i] = found.astype(np.int16)
    counts = torch.tensor([len(found) for found in durations])
    content = save(
        {"durations": torch.from_numpy(np.concatenate(durations)), "counts": counts},
        {"lightspeech": json.dumps({"version": VERSION, "features": features.digest})},
    )
    write_bytes(path, content)
    (folder / ALIGNER_FILE).unlink(missing_ok=True)
    return durations


def train_aligner(
    folder: Path, features: Features, on_step: Callable[[int, int, float], None] | None = None
) -> Aligner:
    """An aligner in evaluation mode that was trained on all the utterances.

    It is saved in `folder` now and then, and a training that was killed goes on from there.

    Raises:
        InputError: no utterance is fit to learn from, or the loss is not finite.
    """
    members = [
        i
        for i in range(len(features))
        if features.token_counts[i] <= features.frames[i] <= LONGEST_FRAMES
    ]
    if not members:
        raise InputError(
            f"no utterance has at most {LONGEST_FRAMES} frames, and no fewer than symbols: the "
            "recordings cannot be aligned with their texts"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        aligner = Aligner()
    optimizer = torch.optim.Adam(aligner.parameters(), lr=LEARNING_RATE)
    first = _go_on(folder / ALIGNER_FILE, features, aligner, optimizer)
    steps = steps_for(sum(features.frames[i] for i in members))
    plan = step_plan(features.frames, members, replace(_PLAN, short_steps=steps // 2), first, 1)
    for step in range(first, steps):
        batch = collate([features[i] for i in next(plan)])
        logs = aligner(batch.tokens, batch.token_lengths, batch.mel, batch.frames)
        trust = max(0.0, 1 - step / (0.6 * steps))
        if trust:  # a broad diagonal, until there is something better
            prior = log_prior(batch.token_lengths, batch.frames, *logs.shape[1:])
            logs = (logs + trust * prior).log_softmax(2)
        loss = alignment_loss(logs, batch.token_lengths, batch.frames)
        if not math.isfinite(loss.item()):
            raise InputError(f"the aligner's loss was not finite in step {step + 1}")
        rate = LEARNING_RATE * min(1.0, (step + 1) / 30)
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(aligner.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0:
            facts = {"format": VERSION, "kind": "aligner", "step": step + 1}
            facts["features"] = features.digest
            content = encode_file(facts, capture(aligner, optimizer))
            write_bytes(folder / ALIGNER_FILE, content)
        if on_step:
            on_step(step + 1, steps, loss.item())
    return aligner.eval()


def steps_for(frames: int) -> int:
    """How many steps it takes for recordings of so many frames."""
    return min(STEPS, max(FEWEST_STEPS, EPOCHS * frames // FRAMES_PER_STEP))


def _go_on(
    path: Path, features: Features, aligner: Aligner, optimizer: torch.optim.Optimizer
) -> int:
    """Takes up a training that was stopped, if there is one; the steps that it had taken."""
    try:
        facts, tensors = read_file(path, "aligner")
        if facts.get("features") != features.digest:
            return 0
        step = fact(facts, "step", int, path)
        restore(tensors, aligner, optimizer)
    except InputError:  # none there, or damaged: from the beginning
        return 0
    return step


def _read(path: Path, features: Features) -> list[np.ndarray] | None:
    """What `align` stored for just these features; None where it is not there."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts = json.loads((file.metadata() or {}).get("lightspeech", "{}"))
            if facts != {"version": VERSION, "features": features.digest}:
                return None
            durations = file.get_tensor("durations").numpy()
            counts = file.get_tensor("counts").numpy()
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return None  # damaged: it is made anew
    if len(counts) != len(features) or counts.sum() != len(durations):
        return None
    pieces = np.split(durations, np.cumsum(counts)[:-1])
    fit = all(
        not len(piece) or (len(piece), piece.sum()) == (N, T)
        for piece, N, T in zip(pieces, features.token_counts, features.frames, strict=True)
    )
    return pieces if fit else None
