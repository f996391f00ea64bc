"""The part teacher: Tacotron 2 reading one sentence, and labelling many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import TEXT, Settings
from lightspeech.benchmark.timing import best_times
from lightspeech.text import encode
from tacotron2 import default_checkpoint, load_tacotron2

_BATCH_SIZE = 64


def teachers_mel() -> Tensor:
    """(T, M): the teacher at hand reads the benchmark's sentence."""
    tokens = torch.tensor([encode(TEXT)])
    teacher = load_tacotron2(default_checkpoint())
    return teacher.infer(tokens, torch.tensor([tokens.shape[1]]), seeds=[1]).mel[0]


def bench_teacher(settings: Settings) -> Findings:
    """The teacher at hand, alone and in the batches of preprocess.py."""
    checkpoint = default_checkpoint()
    teacher = load_tacotron2(checkpoint)
    tokens = torch.tensor([encode(TEXT)])
    lengths = torch.tensor([tokens.shape[1]])
    many, many_lengths = tokens.expand(_BATCH_SIZE, -1), lengths.expand(_BATCH_SIZE)
    speech = [0.0, 0.0]  # seconds that came out of each

    def one() -> None:
        output = teacher.infer(tokens, lengths, seeds=[1])
        speech[0] = float(output.frames.sum()) * FRAME_SECONDS

    def batch() -> None:
        output = teacher.infer(many, many_lengths, seeds=list(range(_BATCH_SIZE)))
        speech[1] = float(output.frames.sum()) * FRAME_SECONDS

    alone, together = best_times([one, batch], max(1, settings.repeats // 3))
    speeds = [speech[0] / alone, speech[1] / together]
    name = checkpoint.stem
    rows = [
        Row(
            "teacher",
            f"teacher {name}, alone",
            alone,
            speech_seconds=speech[0],
        ),
        Row(
            "teacher",
            f"teacher {name}, labelling {_BATCH_SIZE} at once",
            together,
            beside="one by one",
            ratio=speeds[1] / speeds[0],
            speech_seconds=speech[1],
        ),
    ]
    return Findings(rows)
