"""The part vocoders: mel to sound, each one's speed, floor, memory and, if asked for, quality."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from torch import Tensor
from tqdm import tqdm

from lightspeech.audio import FRAME_SECONDS
from lightspeech.benchmark.contenders import Contender, lineup
from lightspeech.benchmark.floors import vocoder_multiply_adds
from lightspeech.benchmark.memory import Memory, memory_of
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import Settings
from lightspeech.benchmark.teacher import teachers_mel
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.errors import InputError
from lightspeech.evaluation.quality import dnsmos, require_extras
from lightspeech.mel_file import read_mel
from lightspeech.vocoders import Vocoder

LONGEST_SECONDS = 10.0
"""of a mel that is timed and judged; what comes after is left out"""

_WARM_UP_FRAMES = 8
_MEMORY_PROCESSES = 4  # at once, at most; nothing is being timed then


def bench_vocoders(settings: Settings) -> Findings:
    """All contenders, Griffin-Lim and librosa's in turn; the user's own come last.

    Raises:
        InputError: the mel or a vocoder that the user named is none.
        CheckpointError: a checkpoint that the user named cannot be used.
    """
    groups = lineup(settings.vocoders)
    # All at once, so that a checkpoint that cannot be used is known before a minute has passed.
    built = {contender.spec: contender.build() for group in groups for contender in group}
    mel, origin = the_mel(settings)
    judged, notes = settings.quality, [f"mel of the vocoders: {origin}"]
    if judged:
        try:
            require_extras()
        except InputError as e:
            judged, notes = False, [*notes, f"not judged: {e}"]
    rows: list[Row] = []
    for group in tqdm(groups, "timing vocoders", leave=False):
        vocoders = [built[contender.spec] for contender in group]
        timed = time_in_turn(group, vocoders, mel, settings.repeats)
        for row, contender, vocoder in zip(timed, group, vocoders, strict=True):
            if judged and contender.trained:
                row = replace(row, quality=dnsmos(vocoder(mel).cpu()))
            rows.append(row)
    contenders = [contender for group in groups for contender in group]
    memories = watch_memory(contenders, mel, settings.threads)
    rows = [replace(row, memory=memory) for row, memory in zip(rows, memories, strict=True)]
    return Findings(rows, tuple(notes))


def the_mel(settings: Settings) -> tuple[Tensor, str]:
    """The mel (T, M) that the vocoders are given, at most LONGEST_SECONDS, and what it is."""
    if settings.mel is None:
        mel, origin = teachers_mel(), "the teacher's reading of a sentence"
    else:
        mel, origin = read_mel(settings.mel), settings.mel.name
    piece = mel[: _frames(LONGEST_SECONDS)].float().contiguous()
    shown = f"{len(piece) * FRAME_SECONDS:.1f} s"
    if len(piece) < len(mel):
        shown = f"the first {shown} of {len(mel) * FRAME_SECONDS:.1f} s"
    return piece, f"{origin}, {shown}"


def time_in_turn(
    group: Sequence[Contender], vocoders: Sequence[Vocoder], mel: Tensor, repeats: int
) -> list[Row]:
    """A row for each of the group; the first one's is beside the second, where there is one."""
    effort = group[0].effort
    piece = mel[: _frames(effort.timed_seconds)]
    speech = len(piece) * FRAME_SECONDS
    rate = product_rate()
    times = best_times(
        [partial(vocoder, piece) for vocoder in vocoders],
        repeats,
        [partial(vocoder, piece[:_WARM_UP_FRAMES]) for vocoder in vocoders],
        effort.budget,
    )
    rate = max(rate, product_rate())  # it is the floor only at the machine's best
    rows = []
    for contender, vocoder, seconds in zip(group, vocoders, times, strict=True):
        what = f"{contender.title}, {speech:.1f} s of speech"
        row = Row("vocoders", what, seconds, speech_seconds=speech)
        a_second = vocoder_multiply_adds(vocoder)
        if a_second is not None:
            work = a_second * speech
            row = replace(row, multiply_adds=work, floor_seconds=work / rate)
        rows.append(row)
    if len(group) > 1:
        rows[0] = replace(rows[0], beside=group[1].title, ratio=times[1] / times[0])
    return rows


def watch_memory(contenders: Sequence[Contender], mel: Tensor, threads: int) -> list[Memory | None]:
    """The memory of each, in processes of their own, several at once."""

    def watch(contender: Contender) -> Memory | None:
        return memory_of(contender.spec, mel, _frames(contender.effort.memory_seconds), threads)

    workers = max(1, min(_MEMORY_PROCESSES, (os.cpu_count() or 1) // threads))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(watch, contenders)
        return list(tqdm(found, "watching memory", total=len(contenders), leave=False))


def _frames(seconds: float) -> int:
    return max(1, round(seconds / FRAME_SECONDS))
