"""Speaking many utterances at once: continuous batching over the decoder's slots.

An utterance that ends leaves its slot at once and the next takes its place, so that every step is
as full as the work allows and nothing is computed for those that have ended. Utterances are encoded
a few at a time before they enter (see exact_lstm); the post-net runs on each by itself when it
leaves: nothing is padded, and it is large enough alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tacotron2.exact_lstm import TOGETHER, ExactLSTM
from tacotron2.slots import Slots

if TYPE_CHECKING:
    from tacotron2.model import Tacotron2


@dataclass(frozen=True, eq=False)
class Request:
    """An utterance to speak."""

    tokens: Tensor
    """(N,) int64 symbol ids, on the CPU; at least one"""
    seed: int
    """integer >= 0 that decides the pre-net's drop-out, and so the rendition"""
    max_frames: int
    """frames after which it is cut (11.6 ms each)"""
    tag: Any = None
    """whatever the caller wants to find again"""


@dataclass(frozen=True, eq=False)
class Spoken:
    """An utterance of N tokens that was spoken in T frames; tensors on the model's device."""

    request: Request
    mel: Tensor
    """(T, M) log-mel after the post-net"""
    mel_before_postnet: Tensor
    """(T, M) log-mel as the decoder made it"""
    gate_logits: Tensor
    """(T,); the sigmoid is the probability that the utterance ends with this frame"""
    attention: Tensor
    """(T, N); rows sum to 1"""
    memory: Tensor
    """(N, E) the encoder's output"""
    frames: int
    """T"""
    stopped: bool
    """False where `max_frames` cut it short"""


def speak(
    model: Tacotron2,
    take: Callable[[], Request | None],
    slots: int,
    prenet_dropout: float,
    gate_threshold: float,
    on_frame: Callable[[int, int], None] | None,
) -> Iterator[Spoken]:
    """See Tacotron2.speak, which has checked the arguments."""
    batch = _Batch(model, slots, prenet_dropout, gate_threshold)
    ready: deque[tuple[Request, Tensor]] = deque()  # encoded, and waiting for a slot
    number = 0
    while True:
        more = True  # whether there may be another request just now
        while len(batch) < slots:
            if not ready and more:
                requests = _take(take, min(TOGETHER, slots), model.config.n_symbols)
                more = len(requests) == min(TOGETHER, slots)
                ready.extend(batch.encode(requests))
            if not ready:
                break
            batch.enter(*ready.popleft())
        if not len(batch):
            return
        ended: list[_Utterance] = []
        while not ended:
            ended = batch.step()
            number += 1
            if on_frame is not None:
                on_frame(number, len(batch))
        for utterance in ended:
            yield batch.finish(utterance)


def _take(take: Callable[[], Request | None], most: int, n_symbols: int) -> list[Request]:
    """As many requests as there are just now."""
    requests: list[Request] = []
    while len(requests) < most and (request := take()) is not None:
        check(request, n_symbols)
        requests.append(request)
    return requests


def check(request: Request, n_symbols: int) -> None:
    """Raises ValueError unless the request can be spoken."""
    tokens = request.tokens
    if tokens.dim() != 1 or not len(tokens) or tokens.dtype != torch.int64:
        raise ValueError(
            f"expected tokens (N,) of int64, at least 1, got {tuple(tokens.shape)} {tokens.dtype}"
        )
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= n_symbols:
        raise ValueError(f"symbol ids must be 0 to {n_symbols - 1}, got {lowest} to {highest}")
    if request.seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {request.seed}")
    if request.max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, not {request.max_frames}")


@dataclass(eq=False)
class _Utterance:
    """One that is being spoken, and what it has been given of its frames so far."""

    request: Request
    memory: Tensor  # (N, E)
    since: int  # position in the block of the first frame that it has not been given
    frames: int = 0
    stopped: bool = False
    spoken: list[Tensor] = field(default_factory=list)  # pieces (T', M + 1) of mel and gate logit
    attention: list[Tensor] = field(default_factory=list)  # pieces (T', N)


class _Batch:
    """The utterances in the slots: number i of the list is in slot i.

    Their frames are written to a block of BLOCK steps for all slots. An utterance is given its part
    of it when the block is full, and when it leaves its slot.

    What stays inside is made in inference mode, in which operations cost an eighth less; what is
    given away is not, so that it can be used in training.
    """

    BLOCK = 32

    @torch.inference_mode()
    def __init__(
        self, model: Tacotron2, slots: int, prenet_dropout: float, gate_threshold: float
    ) -> None:
        self._model = model
        self._last_logit = _logit(gate_threshold)
        # The memory's rounding acts in every frame, and free running amplifies it. To take it in
        # double precision costs little and brings the result ten times nearer to that of exact
        # arithmetic; the convolutions before it do not matter so much.
        self._exact_lstm = ExactLSTM(model.encoder.lstm)
        self._slots = Slots(model.decoder, model.config, slots, prenet_dropout)
        self._utterances: list[_Utterance] = []
        weight = model.embedding.weight
        self._spoken = weight.new_empty(self.BLOCK, slots, model.config.n_mel_channels + 1)
        self._attention = weight.new_empty(self.BLOCK, slots, 0)  # (BLOCK, B, N)
        self._filled = 0

    def __len__(self) -> int:
        return len(self._utterances)

    @torch.no_grad()
    def encode(self, requests: list[Request]) -> list[tuple[Request, Tensor]]:
        """At most TOGETHER requests, each with its memory (N, E) in double precision."""
        if not requests:
            return []
        weight, encoder = self._model.embedding.weight, self._model.encoder
        seen = []
        for request in requests:
            embedded = self._model.embedding(request.tokens.to(weight.device)[None])
            seen.append(encoder.convolve(embedded)[0].double())
        return list(zip(requests, self._exact_lstm(seen), strict=True))

    @torch.no_grad()
    def enter(self, request: Request, exact: Tensor) -> None:
        """The request, encoded, is spoken from the next frame on."""
        with torch.inference_mode():
            self._slots.enter(len(self), exact, request.seed)
        memory = exact.to(self._model.embedding.weight.dtype)
        self._utterances.append(_Utterance(request, memory, since=self._filled))

    @torch.inference_mode()
    def step(self) -> list[_Utterance]:
        """One frame of each; those that end with it leave, and the rest closes up."""
        if self._filled == self.BLOCK:
            self._empty_block()
        longest = max(len(utterance.memory) for utterance in self._utterances)
        spoken, attention = self._slots.step(len(self), longest)
        if attention.shape[1] > self._attention.shape[2]:
            self._empty_block()
            shape = (*self._spoken.shape[:2], attention.shape[1])
            self._attention = attention.new_empty(shape)
        self._spoken[self._filled, : len(self)] = spoken
        self._attention[self._filled, : len(self), : attention.shape[1]] = attention
        self._filled += 1
        ended = []
        for utterance, gate in zip(self._utterances, spoken[:, -1].tolist(), strict=True):
            utterance.frames += 1
            utterance.stopped = gate > self._last_logit
            if utterance.stopped or utterance.frames == utterance.request.max_frames:
                ended.append(utterance)
        for utterance in ended:
            self._leave(self._utterances.index(utterance))
        return ended

    @torch.no_grad()
    def finish(self, utterance: _Utterance) -> Spoken:
        """What one that has left the batch has become."""
        spoken = torch.cat(utterance.spoken)
        mel = spoken[:, :-1].contiguous()
        frames = torch.tensor([len(mel)], device=mel.device)
        return Spoken(
            request=utterance.request,
            mel=self._model.postnet(mel[None], frames)[0].contiguous(),
            mel_before_postnet=mel,
            gate_logits=spoken[:, -1].contiguous(),
            attention=torch.cat(utterance.attention),
            memory=utterance.memory,
            frames=utterance.frames,
            stopped=utterance.stopped,
        )

    def _leave(self, slot: int) -> None:
        """The last utterance moves to the slot of the one that leaves."""
        last = len(self) - 1
        self._give(slot)
        if slot != last:
            self._give(last)
            self._slots.move(last, slot)
            self._utterances[slot] = self._utterances[last]
        self._slots.leave(last)
        self._utterances.pop()

    def _give(self, slot: int) -> None:
        """The utterance in this slot is given what the block holds of it."""
        utterance = self._utterances[slot]
        if utterance.since == self._filled:
            return
        span = slice(utterance.since, self._filled)
        utterance.spoken.append(self._spoken[span, slot].clone())
        utterance.attention.append(self._attention[span, slot, : len(utterance.memory)].clone())
        utterance.since = self._filled

    def _empty_block(self) -> None:
        for slot, utterance in enumerate(self._utterances):
            self._give(slot)
            utterance.since = 0
        self._filled = 0


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))
