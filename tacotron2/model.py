"""Tacotron 2, put together: free-running inference and the teacher-forced pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacotron2.attention_frames import Lead
from tacotron2.config import AUDIO_FACTS, Tacotron2Config
from tacotron2.decoder import Decoder
from tacotron2.dropout import keep_factors
from tacotron2.encoder import Encoder
from tacotron2.layers import within
from tacotron2.postnet import Postnet
from tacotron2.speaking import Request, Spoken, speak

STOP_LOGIT = 1000.0
"""The gate logit beyond an utterance's end, as in NVIDIA's batches: stop, for certain."""

UNHEARD = 8
"""Frames at a time that the pre-net does not hear; see `frame_dropout` of `Tacotron2.forward`."""


@dataclass(frozen=True)
class TeacherOutput:
    """A batch of B utterances of up to N tokens and T frames.

    Beyond an utterance's frames or tokens, mels, attention and memory are 0 and gate logits 1000
    (but see `padding_leaks` of `Tacotron2.forward`, which by default lets the attention go on).
    """

    mel: Tensor
    """(B, T, M) log-mel after the post-net"""
    mel_before_postnet: Tensor
    """(B, T, M) log-mel as the decoder made it"""
    gate_logits: Tensor
    """(B, T); the sigmoid is the probability that the utterance ends with this frame"""
    attention: Tensor
    """(B, T, N); the rows of real frames sum to 1"""
    memory: Tensor
    """(B, N, E) the encoder's output"""
    frames: Tensor
    """(B,) int64, frames of each utterance"""
    stopped: Tensor
    """(B,) bool, False where `max_frames` cut the utterance short"""


class Tacotron2(nn.Module):
    """Text to mel spectrogram, autoregressive (Shen et al. 2018, arXiv:1712.05884).

    The parameters have the names of NVIDIA's checkpoints. `load_tacotron2` makes one from a file,
    in evaluation mode.
    """

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.config = config
        self.source: dict[str, Any] = {}
        """the file the weights are from: path, name, sha256; empty if they are from none"""
        self.audio_facts = dict(AUDIO_FACTS)
        """what its mels are, in the fields of AUDIO_FACTS"""
        self.embedding = nn.Embedding(config.n_symbols, config.symbols_embedding_dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.postnet = Postnet(config)

    def speak(
        self,
        take: Callable[[], Request | None],
        *,
        slots: int = 64,
        prenet_dropout: float = 0.5,
        gate_threshold: float = 0.5,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> Iterator[Spoken]:
        """Speaks utterances as they come, `slots` of them at a time, and yields each as it ends.

        One that ends makes room at once for the next. What an utterance becomes depends on its
        request alone: neither on its neighbours nor on the number of slots, the order or the moment
        it enters. On the CPUs measured it is the same to the last bit, whatever the batch; see
        `packed` for how, and `infer` for what ends an utterance.

        Args:
            take: called whenever a slot is free. None means that there is nothing just now; it is
                asked again after the next utterance has been yielded. Speaking ends when it gives
                None while no slot is busy.
            slots: utterances at a time, at most.
            prenet_dropout: as for `infer`.
            gate_threshold: as for `infer`.
            on_frame: called after each step, which makes one frame of each utterance in a slot,
                with its number, from 1, and the count of utterances that go on.

        Raises:
            ValueError: an argument or a request is not as described, or the model is in training
                mode.
        """
        self._check_speaking(prenet_dropout, gate_threshold)
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        return speak(self, take, slots, prenet_dropout, gate_threshold, on_frame)

    @torch.no_grad()
    def infer(
        self,
        tokens: Tensor,
        token_lengths: Tensor,
        *,
        prenet_dropout: float = 0.5,
        seeds: Sequence[int] | Tensor | None = None,
        gate_threshold: float = 0.5,
        max_frames: int = 1000,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> TeacherOutput:
        """Speaks a batch: every frame follows from the model's own frame before it.

        An utterance ends with the first frame whose gate probability exceeds the threshold; it then
        leaves the batch, and the rest goes on. Neither the other utterances nor the padding
        influence it: free running would amplify the least difference to other durations and frames.
        On the CPUs measured the result of a batch is that of its utterances alone to 1e-6.

        Args:
            tokens: (B, N) symbol ids; what lies beyond an utterance's length is ignored.
            token_lengths: (B,) symbols of each utterance, 1 to N.
            prenet_dropout: share of the pre-net's outputs that is dropped. The published model
                keeps its training value, 0.5, while speaking, so that utterances are random draws.
            seeds: an integer >= 0 for each utterance. The same seed gives the same utterance, alone
                or at any place of any batch. Without it they are drawn from PyTorch's global
                generator.
            gate_threshold: gate probability beyond which a frame is the last, 0 to 1.
            max_frames: frames after which an utterance is cut (11.6 ms each); see `stopped`.
            on_frame: called after each frame with its number, from 1, and the count of utterances
                that go on.

        Raises:
            ValueError: an argument is not as described, or the model is in training mode.
        """
        self._check_speaking(prenet_dropout, gate_threshold)
        tokens, token_lengths = self._checked_tokens(tokens, token_lengths)
        if max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {max_frames}")
        B, N = tokens.shape
        numbers = _checked_seeds(seeds, B) if prenet_dropout > 0 else [0] * B
        requests = iter(
            [
                Request(row[:length].cpu(), seed, max_frames, tag=i)
                for i, (row, length, seed) in enumerate(
                    zip(tokens, token_lengths.tolist(), numbers, strict=True)
                )
            ]
        )
        spoken = list(
            self.speak(
                lambda: next(requests, None),
                slots=B,
                prenet_dropout=prenet_dropout,
                gate_threshold=gate_threshold,
                on_frame=on_frame,
            )
        )
        return _collected(sorted(spoken, key=lambda utterance: int(utterance.request.tag)), N)

    def forward(
        self,
        tokens: Tensor,
        token_lengths: Tensor,
        mel: Tensor,
        frames: Tensor,
        *,
        prenet_dropout: float = 0.5,
        padding_leaks: bool = True,
        lead: Lead | None = None,
        frame_dropout: float = 0.0,
    ) -> TeacherOutput:
        """Teacher-forced: every frame follows from the given mel's frame before it.

        Args:
            tokens: (B, N) symbol ids; what lies beyond an utterance's length is taken as symbol 0.
            token_lengths: (B,) symbols of each utterance, 1 to N.
            mel: (B, T, M) log-mels; what lies beyond an utterance's frames is taken as 0.
            frames: (B,) frames of each utterance, 1 to T.
            prenet_dropout: share of the pre-net's outputs that is dropped, drawn from PyTorch's
                global generator.
            padding_leaks: True computes batches of unequal lengths as NVIDIA's code does, in which
                the published models were trained: the convolutions of encoder and post-net run into
                the padding, which touches the last tokens and frames of the shorter utterances,
                and the attention goes on beyond their ends. False keeps padding out of every real
                frame, as `infer` always does.
            lead: where the attention is led while it learns; None lets it look where it will.
            frame_dropout: share of the frames in whose place the pre-net hears the mean of all, so
                that the next frame has to follow from the text (Liu et al. 2019, arXiv:1909.01145).
                They are left out UNHEARD at a time: single ones follow from their neighbours.

        Returns:
            Output of the shape of the given mel; `stopped` is True throughout.

        Raises:
            ValueError: an argument is not as described.
        """
        tokens, token_lengths = self._checked_tokens(tokens, token_lengths)
        _check_dropout(prenet_dropout)
        _check_dropout(frame_dropout, "frame_dropout")
        B, M = tokens.shape[0], self.config.n_mel_channels
        if mel.dim() != 3 or mel.shape[0] != B or mel.shape[1] < 1 or mel.shape[2] != M:
            raise ValueError(f"expected mel ({B}, T, {M}), got {tuple(mel.shape)}")
        T = mel.shape[1]
        frames = _checked_lengths(frames, "frames", B, T, mel.device)
        valid_frames = within(frames, T)[:, :, None]
        memory = self.encoder(self.embedding(tokens), token_lengths, padding_leaks)
        mel = mel.masked_fill(~valid_frames, 0.0)
        heard = mel
        if frame_dropout > 0:
            mean = mel.sum((0, 1)) / frames.sum()  # (M,)
            stretches = torch.rand(B, -(-T // UNHEARD), device=mel.device) < frame_dropout
            unheard = stretches.repeat_interleave(UNHEARD, 1)[:, :T, None]
            heard = torch.where(unheard, mean, mel)
        before = F.pad(heard[:, :-1], (0, 0, 1, 0))  # (B, T, M)
        factors = None
        if prenet_dropout > 0:
            shape = (B, T, self.config.prenet_dim)
            factors = (
                keep_factors(shape, prenet_dropout, mel),
                keep_factors(shape, prenet_dropout, mel),
            )
        prenet_output = self.decoder.prenet(before, factors)  # (B, T, P)
        features, looked = self.decoder.read_along(prenet_output, memory, token_lengths, lead)
        spoken, gate_logits = self.decoder.project(features)
        return TeacherOutput(
            mel=self.postnet(spoken, frames, padding_leaks),
            mel_before_postnet=spoken.masked_fill(~valid_frames, 0.0),
            gate_logits=gate_logits.masked_fill(~valid_frames[:, :, 0], STOP_LOGIT),
            attention=looked if padding_leaks else looked.masked_fill(~valid_frames, 0.0),
            memory=memory,
            frames=frames,
            stopped=torch.ones(B, dtype=torch.bool, device=mel.device),
        )

    def _check_speaking(self, prenet_dropout: float, gate_threshold: float) -> None:
        if self.training:
            raise ValueError("the model is in training mode; call .eval() before it speaks")
        _check_dropout(prenet_dropout)
        if not 0 <= gate_threshold <= 1:
            raise ValueError(f"gate_threshold must be 0 to 1, not {gate_threshold}")

    def _checked_tokens(self, tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
        if tokens.dim() != 2 or 0 in tokens.shape:
            raise ValueError(f"expected tokens (B, N), at least (1, 1), got {tuple(tokens.shape)}")
        device = self.embedding.weight.device
        if tokens.device != device:
            raise ValueError(f"the tokens are on {tokens.device}, the model on {device}")
        B, N = tokens.shape
        token_lengths = _checked_lengths(token_lengths, "token_lengths", B, N, device)
        tokens = tokens.masked_fill(~within(token_lengths, N), 0)
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.config.n_symbols:
            raise ValueError(
                f"symbol ids must be 0 to {self.config.n_symbols - 1}, got {lowest} to {highest}"
            )
        return tokens, token_lengths


def _collected(spoken: Sequence[Spoken], N: int) -> TeacherOutput:
    """Utterances side by side, padded to N tokens and to the frames of the longest."""
    first, frames = spoken[0], [utterance.frames for utterance in spoken]
    B, T = len(spoken), max(frames)
    mel = first.mel.new_zeros(B, T, first.mel.shape[1])
    output = TeacherOutput(
        mel=mel,
        mel_before_postnet=mel.clone(),
        gate_logits=mel.new_full((B, T), STOP_LOGIT),
        attention=mel.new_zeros(B, T, N),
        memory=mel.new_zeros(B, N, first.memory.shape[1]),
        frames=torch.tensor(frames, device=mel.device),
        stopped=torch.tensor([utterance.stopped for utterance in spoken], device=mel.device),
    )
    for row, utterance in enumerate(spoken):
        tokens = len(utterance.memory)
        output.mel[row, : utterance.frames] = utterance.mel
        output.mel_before_postnet[row, : utterance.frames] = utterance.mel_before_postnet
        output.gate_logits[row, : utterance.frames] = utterance.gate_logits
        output.attention[row, : utterance.frames, :tokens] = utterance.attention
        output.memory[row, :tokens] = utterance.memory
    return output


def _check_dropout(probability: float, name: str = "prenet_dropout") -> None:
    if not 0 <= probability < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {probability}")


def _checked_lengths(
    lengths: Tensor, name: str, B: int, longest: int, device: torch.device
) -> Tensor:
    if lengths.shape != (B,) or lengths.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"expected {name} ({B},) of whole numbers, got {tuple(lengths.shape)} {lengths.dtype}"
        )
    if int(lengths.min()) < 1 or int(lengths.max()) > longest:
        raise ValueError(f"{name} must be 1 to {longest}, got {lengths.tolist()}")
    return lengths.to(device, torch.int64)


def _checked_seeds(seeds: Sequence[int] | Tensor | None, B: int) -> list[int]:
    if seeds is None:
        return torch.randint(2**62, (B,)).tolist()
    numbers = [int(seed) for seed in seeds]
    if len(numbers) != B or min(numbers) < 0:
        raise ValueError(f"expected {B} seeds, integers of at least 0, got {numbers}")
    return numbers
