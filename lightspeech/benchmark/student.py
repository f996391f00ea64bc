"""The part student: ids to mel, beside the same with nn.GRU."""

from __future__ import annotations

import torch
from torch import Tensor

from lightspeech.audio import FRAME_SECONDS
from lightspeech.benchmark.floors import speaking_multiply_adds
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import TEXT, Settings
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.config import CONFIGS, DEFAULT_CONFIG, ModelConfig
from lightspeech.gru import BidirectionalGRU
from lightspeech.model import LightSpeech
from lightspeech.text import encode


class PlainGRU(BidirectionalGRU):
    """The same layer through nn.GRU on packed sequences, which ours replaces on a CPU."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, lengths: Tensor, source: Tensor | None = None
    ) -> Tensor:
        return self._forward_packed(inputs, lengths, source)


def two_students(model: ModelConfig | None = None) -> tuple[LightSpeech, LightSpeech]:
    """The student with our GRU and with nn.GRU, of equal weights; by default the published one."""
    torch.manual_seed(0)
    ours = LightSpeech(model)
    return ours, plain_student(ours)


def plain_student(student: LightSpeech) -> LightSpeech:
    """The same student through nn.GRU, in the same mode."""
    plain = LightSpeech(student.config)
    plain.encoder = PlainGRU(plain.encoder.input_size, plain.encoder.hidden_size)
    plain.decoder = PlainGRU(plain.decoder.input_size, plain.decoder.hidden_size)
    plain.load_state_dict(student.state_dict())
    return plain.train(student.training)


def bench_student(settings: Settings) -> Findings:
    """One sentence, alone, by the published layers and by those of the default configuration."""
    tokens = torch.tensor([encode(TEXT)])
    lengths = torch.tensor([tokens.shape[1]])
    rows = []
    for name in ("lightspeech", DEFAULT_CONFIG):
        students = two_students(CONFIGS[name].model)
        output = students[0].infer(tokens, lengths)
        speech = float(output.frames[0]) * FRAME_SECONDS
        sides = [lambda student=student: student.infer(tokens, lengths) for student in students]
        rate = product_rate()
        ours, plain = best_times(sides, 5 * settings.repeats)
        rate = max(rate, product_rate())
        multiply_adds = speaking_multiply_adds(
            CONFIGS[name].model, len(tokens.unique()), tokens.shape[1], int(output.frames[0])
        )
        rows.append(
            Row(
                "student",
                f"student {name}, {speech:.1f} s of speech",
                ours,
                beside="nn.GRU",
                ratio=plain / ours,
                speech_seconds=speech,
                multiply_adds=multiply_adds,
                floor_seconds=multiply_adds / rate,
            )
        )
    return Findings(rows)
