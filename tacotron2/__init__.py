"""Tacotron 2 (Shen et al. 2018, arXiv:1712.05884) with the parameter names of NVIDIA's checkpoints.

    from tacotron2 import default_checkpoint, load_tacotron2

    teacher = load_tacotron2(default_checkpoint())
    output = teacher.infer(tokens, token_lengths, seeds=[1, 2, 3])   # a TeacherOutput
    for spoken in teacher.speak(take, slots=64):                     # as many as take() gives
        ...

    config     sizes of the layers, read off the weights
    encoder    symbol ids -> memory
    decoder    memory -> frames, attention and gate, one frame at a time
    postnet    frames -> better frames
    dropout    the pre-net's drop-out, seeded for each utterance
    exact_lstm the encoder's LSTM in double precision, for a few utterances at a time
    packed     products and sigmoids in which no row notices the others
    slots      the free-running decoder: one step for all utterances in their slots
    speaking   many utterances at once: who ends makes room for the next; Request, Spoken
    model      Tacotron2: the parts put together; TeacherOutput
    load       load_tacotron2, default_checkpoint
    convert    python -m tacotron2.convert OLD NEW: NVIDIA's checkpoint -> safetensors + JSON

Shape letters: B batch, N tokens, T frames, M mel bins (80), E width of the encoder memory.
The package stands alone: it imports nothing from `lightspeech`.
"""

from __future__ import annotations

from safeload import CheckpointError
from tacotron2.config import AUDIO_FACTS, N_SYMBOLS, Tacotron2Config
from tacotron2.load import checkpoints, default_checkpoint, load_tacotron2
from tacotron2.model import Tacotron2, TeacherOutput
from tacotron2.speaking import Request, Spoken

__all__ = [
    "AUDIO_FACTS",
    "N_SYMBOLS",
    "CheckpointError",
    "Request",
    "Spoken",
    "Tacotron2",
    "Tacotron2Config",
    "TeacherOutput",
    "checkpoints",
    "default_checkpoint",
    "load_tacotron2",
]
