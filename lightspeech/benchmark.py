"""How fast the parts are on this machine, beside what they replace.

    python -m lightspeech.benchmark

Every comparison alternates its two sides in one run and takes each side's best time, so the ratios
hold even where the absolute times drift. The floor of a training step is the time that its matrix
products alone would take at the rate of one large product on this machine: 6 operations a weight
and row (2 forward, 4 backward) for what runs on rows, whatever their order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import librosa
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightspeech import cli
from lightspeech.audio import FRAME_SECONDS, HOP_LENGTH, N_MELS, mel_filters
from lightspeech.config import ModelConfig, TrainingConfig
from lightspeech.data import Batch
from lightspeech.evaluation.results import describe_device
from lightspeech.files import write_json
from lightspeech.gru import BidirectionalGRU
from lightspeech.losses import DistillationLoss
from lightspeech.model import LightSpeech
from lightspeech.text import encode
from lightspeech.vocoders import load_vocoder
from tacotron2 import default_checkpoint, load_tacotron2

TEXT = (
    "The exhibition, which had taken two years to prepare, was closed within a week by order of "
    "the magistrates."
)


@dataclass(frozen=True)
class Row:
    """One measurement."""

    what: str
    seconds: float
    """best time of ours"""
    beside: str = ""
    """what it is compared with, if anything"""
    ratio: float | None = None
    """how many times faster than that"""
    times_real_time: float | None = None
    """seconds of speech a second, where speech comes out"""


class PlainGRU(BidirectionalGRU):
    """The same layer through nn.GRU on packed sequences, which ours replaces on a CPU."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, lengths: Tensor, source: Tensor | None = None
    ) -> Tensor:
        return self._forward_packed(inputs, lengths, source)


def best_times(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The best of `repeats` times of each side, in turn, after a call that does not count."""
    best = [float("inf")] * len(sides)
    for turn in range(repeats + 1):
        for i, side in enumerate(sides):
            began = time.perf_counter()
            side()
            if turn:
                best[i] = min(best[i], time.perf_counter() - began)
    return best


def two_students() -> tuple[LightSpeech, LightSpeech]:
    """The student with our GRU and with nn.GRU, of equal weights."""
    torch.manual_seed(0)
    ours, plain = LightSpeech(), LightSpeech()
    plain.encoder = PlainGRU(plain.encoder.input_size, plain.encoder.hidden_size)
    plain.decoder = PlainGRU(plain.decoder.input_size, plain.decoder.hidden_size)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def training_batch(B: int, N: int, T: int, E: int) -> Batch:
    """A full batch, without padding, of random content."""
    generator = torch.Generator().manual_seed(0)
    durations = torch.full((B, N), T // N)
    durations[:, : T - N * (T // N)] += 1
    return Batch(
        ids=[str(i) for i in range(B)],
        tokens=torch.randint(1, 148, (B, N), generator=generator),
        token_lengths=torch.full((B,), N),
        durations=durations,
        mel=torch.randn(B, T, N_MELS, generator=generator),
        frames=torch.full((B,), T),
        memory=torch.randn(B, N, E, generator=generator),
    )


def training_floor(batch: Batch, E: int) -> float:
    """Seconds that the matrix products of a training step take at this machine's best rate."""
    config = ModelConfig()
    rows_tokens, rows_frames = batch.tokens.numel(), batch.mel.shape[0] * batch.mel.shape[1]
    encoder, decoder = config.encoder_size // 2, config.decoder_size // 2
    weights_tokens = (
        2 * 3 * encoder * (config.embedding_size + encoder)  # the encoder, both directions
        + config.encoder_size * (config.encoder_size + config.duration_size + E)
        + 2 * 3 * decoder * config.encoder_size  # the decoder's inputs, once a token
    )
    weights_frames = 2 * 3 * decoder * decoder + config.decoder_size * config.n_mels
    operations = 6 * (weights_tokens * rows_tokens + weights_frames * rows_frames)
    a = torch.randn(1024, 1024)
    (product,) = best_times([lambda: a @ a], 20)
    return operations * product / (2 * 1024**3)


def bench_training(repeats: int) -> list[Row]:
    batch, E = training_batch(32, 73, 400, 512), 512
    loss = DistillationLoss(TrainingConfig(), E)

    def step(student: LightSpeech) -> Callable[[], None]:
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)

        def run() -> None:
            optimizer.zero_grad()
            output = student(batch.tokens, batch.token_lengths, batch.durations)
            loss(output, batch).total.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

        return run

    ours, plain = best_times([step(student) for student in two_students()], repeats)
    floor = training_floor(batch, E)
    what = "training step, 32 utterances of 400 frames"
    return [
        Row(what, ours, "nn.GRU", plain / ours),
        Row(what, ours, "the floor of its products", floor / ours),
    ]


def bench_student(repeats: int) -> list[Row]:
    tokens = torch.tensor([encode(TEXT)])
    lengths = torch.tensor([tokens.shape[1]])
    students = two_students()
    output = students[0].infer(tokens, lengths)
    speech = float(output.frames[0]) * FRAME_SECONDS
    sides = [lambda student=student: student.infer(tokens, lengths) for student in students]
    ours, plain = best_times(sides, 5 * repeats)
    what = f"student, {speech:.1f} s of speech"
    return [Row(what, ours, "nn.GRU", plain / ours, speech / ours)]


def bench_teacher(repeats: int) -> tuple[list[Row], Tensor]:
    """Rows, and the mel (T, M) of one utterance."""
    checkpoint = default_checkpoint()
    teacher = load_tacotron2(checkpoint)
    tokens = torch.tensor([encode(TEXT)])
    lengths = torch.tensor([tokens.shape[1]])
    one = teacher.infer(tokens, lengths, seeds=[1])
    batch = teacher.infer(tokens.expand(64, -1), lengths.expand(64), seeds=list(range(64)))
    sides = [
        lambda: teacher.infer(tokens, lengths, seeds=[1]),
        lambda: teacher.infer(tokens.expand(64, -1), lengths.expand(64), seeds=list(range(64))),
    ]
    alone, together = best_times(sides, max(1, repeats // 3))
    name = checkpoint.stem
    speeds = [
        float(one.frames.sum()) * FRAME_SECONDS / alone,
        float(batch.frames.sum()) * FRAME_SECONDS / together,
    ]
    rows = [
        Row(f"teacher {name}, alone", alone, times_real_time=speeds[0]),
        Row(
            f"teacher {name}, labelling 64 at once", together, "one by one", speeds[1] / speeds[0],
            speeds[1],
        ),
    ]  # fmt: skip
    return rows, one.mel[0]


def bench_vocoder(mel: Tensor, repeats: int) -> list[Row]:
    vocoder = load_vocoder("griffin-lim")
    speech = len(mel) * FRAME_SECONDS

    inverse = torch.linalg.pinv(mel_filters())

    def textbook() -> None:
        spectrum = (inverse @ mel.exp().T).clamp(min=0).numpy()
        librosa.griffinlim(spectrum, n_iter=60, hop_length=HOP_LENGTH, momentum=0.0)

    ours, theirs = best_times([lambda: vocoder(mel), textbook], repeats)
    return [
        Row(f"griffin-lim, {speech:.1f} s of speech", ours, "librosa, 60 iterations",
            theirs / ours, speech / ours),
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'':44}{'best':>10}{'x real time':>13}   times as fast as"]
    for row in rows:
        speed = f"{row.times_real_time:.0f}" if row.times_real_time else ""
        ratio = f"{row.ratio:.2f}  {row.beside}" if row.ratio is not None else ""
        lines.append(f"{row.what:44}{row.seconds * 1000:>7.1f} ms{speed:>13}   {ratio}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.benchmark",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    parser.add_argument(
        "--threads", type=cli.positive_int, default=1, metavar="N", help="CPU threads"
    )
    parser.add_argument(
        "--repeats", type=cli.positive_int, default=9, metavar="N", help="of which the best counts"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe_device(torch.device("cpu")), flush=True)
    rows: list[Row] = []
    with tqdm(total=4, desc="measuring", leave=False) as progress:
        for part in (bench_training, bench_student):
            rows += part(options.repeats)
            progress.update()
        teacher_rows, mel = bench_teacher(options.repeats)
        rows += teacher_rows
        progress.update()
        rows += bench_vocoder(mel, options.repeats)
        progress.update()
    print(table(rows))
    if options.json:
        write_json(options.json, [vars(row) for row in rows])


if __name__ == "__main__":
    cli.run(main)
