"""Text of any length to speech: sentences, the student (or its teacher), the vocoder, the joins.

    text --> sentences --> ids --> mel, durations --> wav per sentence --> one wav with pauses

A sentence goes through the models alone or in a batch with others, whichever is at hand, and
sounds the same either way. What comes out is a `Speech`, in which each sentence is a `Piece`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightspeech.alignment import durations_from_attention
from lightspeech.audio import AUDIO_FACTS, check_audio_facts
from lightspeech.checkpoint import DEFAULT_RUN, VOICE_FILE, load_voice
from lightspeech.errors import InputError
from lightspeech.files import sha256
from lightspeech.joins import SENTENCE_SILENCE, check_pace, pause_frames, sentences_of
from lightspeech.model import MAX_PACE, MIN_PACE, LightSpeech
from lightspeech.parts import count_parameters
from lightspeech.speech import Reading, Speech, join_readings
from lightspeech.text import decode, encode_sentence
from lightspeech.vocoders import (
    Vocoder,
    VocoderOptions,
    check_fits,
    check_sound,
    load_vocoder,
)
from tacotron2 import Tacotron2, checkpoints, load_tacotron2

PRETRAINED = Path(__file__).parent / "pretrained"
"""where the bundled voice is, if this installation has one"""
PRENET_DROPOUT = 0.5
"""of the teacher while it speaks, as published"""

_BATCH_SIZE = 16  # sentences at once: bounds the memory that a long text needs
_TEACHER_MAX_FRAMES = 2500  # 29 s: what the longest sentence of split_sentences needs, and a half


class Synthesizer:
    """The student and a vocoder: call it with a text.

    Args:
        student: on the device on which it is to run; it is put into evaluation mode.
        vocoder: turns its mels into sound.
        voice: what is known of the student (`load_voice`), and its `name`.

    Raises:
        InputError: the vocoder was made for other mels than the student's.
    """

    def __init__(
        self, student: LightSpeech, vocoder: Vocoder, voice: dict[str, Any] | None = None
    ) -> None:
        self.student = student.eval()
        self.vocoder = vocoder
        self.voice = voice or {}
        check_fits(vocoder, self.voice.get("audio", AUDIO_FACTS))
        self.device = next(student.parameters()).device

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        vocoder: str | Vocoder = "auto",
        device: torch.device | str = "cpu",
        *,
        vocoder_options: VocoderOptions | None = None,
    ) -> Synthesizer:
        """Loads a voice.

        Args:
            path: a run folder of train.py, a voice folder or a .safetensors file; None takes what
                train.py made in runs/lightspeech, else the bundled voice.
            vocoder: what load_vocoder takes (`auto`, `hifigan:PATH` and so on), or a vocoder.
            device: where the student runs, and the vocoder if it is loaded here.
            vocoder_options: settings of the vocoder that is loaded here; None: its own.

        Raises:
            InputError: no such voice or vocoder, or one that does not fit.
            CheckpointError: the vocoder's checkpoint cannot be used.
        """
        path = default_voice() if path is None else Path(path)
        student, voice = load_voice(path, device)
        name = "bundled voice" if path == PRETRAINED else str(path)
        if isinstance(vocoder, str):
            vocoder = load_vocoder(
                vocoder,
                device,
                options=vocoder_options or VocoderOptions(),
                audio_facts=voice["audio"],
                teacher=teacher_digest(voice),
            )
        return cls(student, vocoder, {**voice, "name": name})

    @property
    def parameters(self) -> int:
        """How many parameters the student has."""
        return count_parameters(self.student)

    def __call__(
        self, text: str, pace: float = 1.0, sentence_silence: float = SENTENCE_SILENCE
    ) -> Speech:
        """Speaks a text of any length.

        Args:
            text: one word or many paragraphs; it is split into sentences.
            pace: 2 is twice as fast, 0.5 half as fast.
            sentence_silence: seconds between two sentences, rounded to whole frames (11.6 ms).

        Raises:
            InputError: nothing speakable, a pace or silence out of range, or a voice so damaged
                that its mel is not finite.
        """
        check_pace(pace, MIN_PACE, MAX_PACE)

        def read(sentences: list[_Sentence], tokens: Tensor, lengths: Tensor) -> list[Reading]:
            output = self.student.infer(tokens, lengths, pace=pace)
            mels, durations = output.mel.float().cpu(), output.durations.cpu()
            return [
                Reading(
                    text=sentence.text,
                    symbols=decode(sentence.ids),
                    mel=mel[: int(frames)],
                    durations=spans[: len(sentence.ids)],
                )
                for sentence, mel, frames, spans in zip(
                    sentences, mels, output.frames, durations, strict=True
                )
            ]

        return _speak(text, read, self.vocoder, self.device, sentence_silence, "the voice")


class TeacherSynthesizer:
    """The Tacotron 2 teacher and a vocoder, to compare the student with.

    Args:
        teacher: on the device on which it is to run.
        vocoder: the one that the student is heard through.
        prenet_dropout: the pre-net's while it speaks; see `labelling_dropout`.

    Raises:
        InputError: the vocoder was made for other mels than the teacher's.
    """

    def __init__(
        self, teacher: Tacotron2, vocoder: Vocoder, prenet_dropout: float = PRENET_DROPOUT
    ) -> None:
        check_fits(vocoder, teacher.audio_facts, "teacher")
        self.prenet_dropout = prenet_dropout
        self.teacher = teacher.eval()
        self.vocoder = vocoder
        self.device = next(teacher.parameters()).device

    @classmethod
    def load(
        cls,
        path: str | Path,
        vocoder: str | Vocoder = "auto",
        device: torch.device | str = "cpu",
        prenet_dropout: float = PRENET_DROPOUT,
    ) -> TeacherSynthesizer:
        """Loads any published layout of Tacotron 2; tacotron2.CheckpointError if it is none."""
        teacher = load_tacotron2(path, device=device)
        check_audio_facts(teacher.audio_facts, f"the teacher {path}")
        if isinstance(vocoder, str):
            vocoder = load_vocoder(
                vocoder,
                device,
                audio_facts=teacher.audio_facts,
                teacher=teacher.source.get("sha256"),
            )
        return cls(teacher, vocoder, prenet_dropout)

    @property
    def identity(self) -> dict[str, str]:
        """The name and the SHA-256 of its checkpoint, for records that people share."""
        return {key: self.teacher.source[key] for key in ("name", "sha256")}

    @property
    def parameters(self) -> int:
        """How many parameters the teacher has."""
        return count_parameters(self.teacher)

    def __call__(
        self, text: str, seed: int = 0, sentence_silence: float = SENTENCE_SILENCE
    ) -> Speech:
        """Speaks a text; its pieces carry the attention and durations on the monotonic path.

        Args:
            text: as for `Synthesizer`, and split in the same way.
            seed: of the pre-net's drop-out, which is part of how Tacotron 2 speaks.
            sentence_silence: seconds between two sentences.

        Raises:
            InputError: as `Synthesizer`.
        """

        def read(sentences: list[_Sentence], tokens: Tensor, lengths: Tensor) -> list[Reading]:
            output = self.teacher.infer(
                tokens,
                lengths,
                prenet_dropout=self.prenet_dropout,
                seeds=[seed] * len(tokens),
                max_frames=_TEACHER_MAX_FRAMES,
            )
            mels, attentions = output.mel.float().cpu(), output.attention.float().cpu()
            readings = []
            for i, sentence in enumerate(sentences):
                frames = int(output.frames[i])
                attention = attentions[i, :frames, : len(sentence.ids)]
                readings.append(
                    Reading(
                        text=sentence.text,
                        symbols=decode(sentence.ids),
                        mel=mels[i, :frames],
                        durations=torch.as_tensor(durations_from_attention(attention)),
                        attention=attention,
                        stopped=bool(output.stopped[i]),
                    )
                )
            return readings

        return _speak(text, read, self.vocoder, self.device, sentence_silence, "the teacher")


def default_voice() -> Path:
    """What train.py made, else the bundled voice; InputError if there is neither."""
    if (DEFAULT_RUN / VOICE_FILE).is_file():
        return DEFAULT_RUN
    if any(PRETRAINED.glob("*.safetensors")):
        return PRETRAINED
    raise InputError(
        f"no voice yet: expected one in {DEFAULT_RUN}; "
        "make one with python preprocess.py and python train.py, or name one with --voice"
    )


def find_teacher(voice: dict[str, Any], choice: str) -> tuple[Path | None, str]:
    """The teacher to compare a voice with, and a sentence that says why this one or none.

    Args:
        voice: `Synthesizer.voice`.
        choice: `none`, the path of a checkpoint, or `auto`: the one in tacotron2/pretrained whose
            SHA-256 is that of the voice's teacher.
    """
    if choice == "none":
        return None, "without the teacher, as asked"
    digest = teacher_digest(voice)
    if choice != "auto":
        path = Path(choice)
        if path.is_file() and digest and sha256(path) != digest:
            return path, f"{path}, which is not the teacher that this voice was distilled from"
        return path, str(path)
    if not digest:
        return None, "the voice does not say who its teacher was; name one with --teacher"
    for candidate in checkpoints():
        if sha256(candidate) == digest:
            return candidate, f"{candidate.name}, the voice's own teacher"
    name = voice["teacher"].get("name", "unnamed")
    return None, f"the voice's teacher ({name}) is not at hand; name its file with --teacher"


def teacher_digest(voice: dict[str, Any]) -> str | None:
    """The SHA-256 of a voice's teacher, if it is known; `voice` as for `find_teacher`."""
    known = voice.get("teacher")
    digest = known.get("sha256") if isinstance(known, dict) else None
    return digest if isinstance(digest, str) else None


def labelling_dropout(voice: dict[str, Any]) -> float:
    """The drop-out of the pre-net with which a voice's teacher made its labels: so it is to speak
    beside the voice. The published one where that is not known.

    Args:
        voice: `Synthesizer.voice`.
    """
    found: Any = voice
    for name in ("store", "labelling", "prenet_dropout"):
        found = found.get(name) if isinstance(found, dict) else None
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number and 0 <= found < 1 else PRENET_DROPOUT


@dataclass(frozen=True)
class _Sentence:
    text: str
    ids: list[int]


@torch.no_grad()
def _speak(
    text: str,
    read: Callable[[list[_Sentence], Tensor, Tensor], list[Reading]],
    vocoder: Vocoder,
    device: torch.device,
    sentence_silence: float,
    who: str,
) -> Speech:
    """Splits, reads in batches, vocodes and joins; `who` is speaking, for the error messages."""
    pause = pause_frames(sentence_silence)
    started = time.perf_counter()
    sentences = [_Sentence(sentence, encode_sentence(sentence)) for sentence in sentences_of(text)]
    text_done = time.perf_counter()

    readings: list[Reading] = []
    for first in range(0, len(sentences), _BATCH_SIZE):
        batch = sentences[first : first + _BATCH_SIZE]
        tokens = pad_sequence([torch.tensor(s.ids) for s in batch], batch_first=True)  # (B, N)
        lengths = torch.tensor([len(s.ids) for s in batch])
        readings += read(batch, tokens.to(device), lengths.to(device))
    for reading in readings:
        if not torch.isfinite(reading.mel).all():
            raise InputError(
                f"{who} made a mel spectrogram with NaN or infinite values of "
                f"{reading.text[:60]!r}; its weights are damaged: train it again or use another"
            )
    mel_done = time.perf_counter()

    wavs = [vocoder(reading.mel).float().cpu() for reading in readings]
    seconds = {
        "text": text_done - started,
        "mel": mel_done - text_done,
        "vocoder": time.perf_counter() - mel_done,
    }
    check_sound(vocoder, [reading.mel for reading in readings], wavs)
    return join_readings(readings, wavs, pause, seconds)
