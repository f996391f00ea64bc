"""The part labelling: a teacher reading many texts at once, beside the same one at a time.

Every text is spoken for 5.5 frames a token, about what English takes, whatever the gate says (no
probability exceeds a threshold of 1), so that random weights at the published sizes do as much work
as trained ones. The texts are pieces of one sentence, of unequal lengths; utterances enter slots as
others leave them, as they do in preprocess.py. The side that speaks one at a time has one slot and
a sample of the texts, and the rates are compared.

**The floor** of a step with B utterances in their slots is what the machine needs at least, on the
same threads and in the same run: the time to read the decoder's weights once, or that of their
products, whichever is longer. Encoder and post-net, which see a whole utterance at a time, come on
top:

    step   = max(W_step bytes / bandwidth, B (W_step + N W_look) / rate)
    floor  = steps step + (N W_encoder + T W_postnet) / rate, summed over the utterances

    rate       multiply-adds a second of one large product (see lightspeech.benchmark)
    bandwidth  bytes a second of a matrix-vector product with as many weights as a step reads, so
               that weights which fit the processor's cache are measured there; the faster of the
               matrix times a vector and its transpose times a vector
    W_step     P M + P P + 4 Q (P + E + Q) + Q A + 4 H (Q + E + H) + (H + E) (M + 1)
    W_look     2 K A + A + E, for each frame and token
    W_encoder  L k E E + 4 E (E + E / 2) + E A, for each token
    W_postnet  k (2 M C + (n - 2) C C), for each frame

with pre-net P, attention LSTM Q, decoder LSTM H, memory E, attention A of K tokens, M mel bins, L
encoder convolutions and n post-net convolutions of kernel k and C channels. A batch of one is bound
by the first term of the maximum (73 MB a step at the published sizes), a large one by the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lightspeech.audio import FRAME_SECONDS
from lightspeech.benchmark.rows import Findings, Row
from lightspeech.benchmark.settings import TEXT, Settings
from lightspeech.benchmark.timing import best_times, product_rate
from lightspeech.text import encode
from tacotron2 import Request, Tacotron2, Tacotron2Config, default_checkpoint, load_tacotron2

FRAMES_A_TOKEN = 5.5
SHORTEST, LONGEST = 12, 48
"""tokens of the texts"""
SLOTS = (16, 64, 256)
"""utterances at a time"""
GPU_SLOTS = (1, 64, 256)

_ALONE = 3  # texts of the side that speaks one at a time


def bench_labelling(settings: Settings) -> Findings:
    """The teacher at hand, and one of the published sizes."""
    checkpoint = default_checkpoint()
    teachers = [
        ("published sizes", drawn_teacher(Tacotron2Config()), SLOTS),
        (checkpoint.stem, load_tacotron2(checkpoint), (64,)),
    ]
    turns = max(1, settings.repeats // 4)
    rows: list[Row] = []
    for name, teacher, slots in teachers:
        rows += measure(name, teacher, slots, turns)
    if torch.cuda.is_available():
        for name, teacher, _ in teachers:
            rows += measure(f"{name}, GPU", teacher.cuda(), GPU_SLOTS, turns)
    note = (
        "floor of labelling: the decoder's weights read once a step, or all multiply-adds, "
        "whichever takes longer"
    )
    return Findings(rows, (note,))


def drawn_teacher(config: Tacotron2Config, seed: int = 1234) -> Tacotron2:
    """Random weights that keep activations in a trained model's range, in evaluation mode.

    Normal numbers, drawn in the order of the sorted names. Matrices and convolutions are scaled by
    1.5 over the root of their inputs, the attention's last layer 8 times as much, all vectors by
    0.1, and variances are 0.5 and more.
    """
    teacher = Tacotron2(config)
    random = np.random.RandomState(seed)
    weights = {}
    for name, like in sorted(teacher.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            weights[name] = like
            continue
        x = random.standard_normal(tuple(like.shape)).astype(np.float32)
        if name.endswith("running_var"):
            x = np.float32(0.5) + np.abs(x)
        elif x.ndim >= 2:
            x *= np.float32(1.5 / math.sqrt(math.prod(x.shape[1:])))
            x *= 8 if "attention_layer.v." in name else 1
        else:
            x *= np.float32(0.1)
        weights[name] = torch.from_numpy(x)
    teacher.load_state_dict(weights)
    return teacher.eval()


def requests(count: int) -> list[Request]:
    """Texts of lengths spread evenly from LONGEST to SHORTEST; the long ones come first, so that
    few slots are left over at the end."""
    tokens = torch.tensor(encode(TEXT))
    assert len(tokens) >= LONGEST, "the sentence is too short"
    lengths = np.linspace(LONGEST, SHORTEST, count) if count > 1 else [SHORTEST]
    return [
        Request(tokens[:length], seed=i, max_frames=round(FRAMES_A_TOKEN * length))
        for i, length in enumerate(map(round, lengths))
    ]


def speak_all(teacher: Tacotron2, texts: Sequence[Request], slots: int) -> None:
    """Speaks every text to its last frame."""
    waiting = iter(texts)
    for spoken in teacher.speak(lambda: next(waiting, None), slots=slots, gate_threshold=1.0):
        spoken.mel[-1].cpu()  # waits for the device


def measure(name: str, teacher: Tacotron2, slots: Sequence[int], turns: int) -> list[Row]:
    """A row for one at a time, then one for each number of slots."""
    sides = [(1, requests(_ALONE))]
    sides += [(n, requests(n if n > 64 else 2 * n)) for n in slots if n > 1]
    on_cpu = teacher.embedding.weight.device.type == "cpu"
    work = Work(teacher.config)
    machine = Machine.measured(work.step) if on_cpu else None
    times = best_times(
        [partial(speak_all, teacher, texts, n) for n, texts in sides],
        turns,
        [partial(speak_all, teacher, requests(1), 1)],
    )
    if machine is not None:
        machine = machine.better(Machine.measured(work.step))
    rates, rows = [], []
    for (n, texts), seconds in zip(sides, times, strict=True):
        frames = sum(text.max_frames for text in texts)
        rates.append(frames / seconds)
        who = "one at a time" if n == 1 else f"{n} slots"
        rows.append(
            Row(
                "labelling",
                f"labelling, {name}, {who}: {frames / seconds:,.0f} frames/s",
                seconds,
                beside="" if n == 1 else "one at a time",
                ratio=None if n == 1 else rates[-1] / rates[0],
                speech_seconds=frames * FRAME_SECONDS,
                multiply_adds=work.of(texts),
                floor_seconds=None if machine is None else work.floor(texts, n, machine),
            )
        )
    return rows


@dataclass(frozen=True)
class Machine:
    """What the processor can do at its best, on the threads in use."""

    rate: float
    """multiply-adds a second of one large product"""
    bandwidth: float
    """weights a second of a matrix-vector product"""

    @staticmethod
    def measured(weights: int) -> Machine:
        """`weights`: how many the matrix-vector product reads."""
        columns = 1024
        matrix = torch.ones(max(1, weights // columns), columns)
        right, left = torch.ones(columns), torch.ones(len(matrix))
        # Along the rows or down the columns: either may be the faster way through memory.
        seconds = min(best_times([lambda: matrix @ right, lambda: left @ matrix], 60))
        return Machine(product_rate(), matrix.numel() / seconds)

    def better(self, other: Machine) -> Machine:
        """The best of two measurements: it is the floor only at the machine's best."""
        return Machine(max(self.rate, other.rate), max(self.bandwidth, other.bandwidth))


class Work:
    """Weights of a Tacotron 2 by how often they are used; see the top of this file."""

    def __init__(self, config: Tacotron2Config) -> None:
        E, A, M = config.encoder_embedding_dim, config.attention_dim, config.n_mel_channels
        P, Q, H = config.prenet_dim, config.attention_rnn_dim, config.decoder_rnn_dim
        C, n = config.postnet_embedding_dim, config.postnet_n_convolutions
        self.step = (
            P * (M + P) + 4 * Q * (P + E + Q) + Q * A + 4 * H * (Q + E + H) + (H + E) * (M + 1)
        )
        """a frame"""
        self.look = 2 * config.attention_location_kernel_size * A + A + E
        """a frame and token"""
        self.encoder = (
            config.encoder_n_convolutions * config.encoder_kernel_size * E * E
            + 4 * E * (E + E // 2)
            + E * A
        )
        """a token"""
        self.postnet = config.postnet_kernel_size * (2 * M * C + (n - 2) * C * C)
        """a frame"""

    def outside(self, texts: Sequence[Request]) -> int:
        """Multiply-adds of encoder and post-net."""
        return sum(self.encoder * len(t.tokens) + self.postnet * t.max_frames for t in texts)

    def inside(self, texts: Sequence[Request]) -> int:
        """Multiply-adds of the decoder's steps."""
        return sum(t.max_frames * (self.step + self.look * len(t.tokens)) for t in texts)

    def of(self, texts: Sequence[Request]) -> int:
        """All multiply-adds."""
        return self.outside(texts) + self.inside(texts)

    def floor(self, texts: Sequence[Request], slots: int, machine: Machine) -> float:
        """Seconds that these texts take at least."""
        steps = sum(text.max_frames for text in texts) / slots
        reading = steps * self.step / machine.bandwidth
        return max(reading, self.inside(texts) / machine.rate) + self.outside(texts) / machine.rate
