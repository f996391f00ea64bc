"""LightSpeech: a Tacotron 2 voice distilled into 1.87 M parameters.

The pipeline, in the order in which it runs:

    text       characters -> the teacher's symbol ids            lightspeech.text
    teacher    ids -> mel, attention, encoder memory             tacotron2
    alignment  attention -> frames per token                     lightspeech.alignment
    labelling  texts -> teacher -> label store                   lightspeech.labelling, .store
    data       label store -> batches                            lightspeech.data
    model      ids -> durations -> mel (the student)             lightspeech.model
    training   batches -> student checkpoints                    lightspeech.training
    vocoders   mel -> wav                                        lightspeech.vocoders
    synthesis  text -> student -> vocoder -> Speech              lightspeech.synthesis
    export     student, light vocoder -> ONNX                    lightspeech.export
    runtime    text -> exported voice -> sound, without PyTorch  lightspeech.runtime

and, for a voice of one's own, before it:

    dataset    recordings or a speech engine -> dataset          lightspeech.dataset
    teacher    dataset -> Tacotron 2                             lightspeech.teacher
    vocoder    recordings, mels -> light vocoder                 lightspeech.vocoder_training

Shape letters, used everywhere: B batch, N tokens, T frames, M mel bins (80), H hidden size,
E size of the teacher's encoder memory, S audio samples. Mels are (B, T, M) at every public
boundary. A frame is 256 samples (11.61 ms) at 22,050 Hz.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it. Resolved on first use, so that
# `import lightspeech.text` does not wait for PyTorch.
_HOME = {
    "LightSpeech": "lightspeech.model",
    "ModelConfig": "lightspeech.config",
    "LabelStore": "lightspeech.store",
    "Synthesizer": "lightspeech.synthesis",
}
__all__ = ["LabelStore", "LightSpeech", "ModelConfig", "Synthesizer"]


def __getattr__(name: str) -> Any:
    if name in ("alignment", "audio", "config", "text"):
        return import_module(f"lightspeech.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
