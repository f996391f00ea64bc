"""The check that every export passes: it says the same as the voice that it was made of."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

from lightspeech.audio import mel_spectrogram
from lightspeech.errors import InputError
from lightspeech.model import LightSpeech
from lightspeech.text import encode_sentence
from lightspeech.vocoders.light_network import LightNetwork

SENTENCE = "Every export is checked: it says what the voice says, sample by sample."
FARTHEST_SAMPLE = 0.02
"""How far samples may be off in single precision, as a share of the loudest. The mels are off by a
millionth, but differences of the pitch add up over time, and its harmonics multiply them."""
FARTHEST_MEL = 0.5
"""how far the sound's log-mel spectrogram may be off on average with 8 bits, whose samples soon
stand elsewhere for the same reason"""


def open_session(model: bytes | str, threads: int = 1) -> onnxruntime.InferenceSession:
    """A graph, from its file's path or content, ready to run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def check_voice(
    voice: bytes, student: LightSpeech, network: LightNetwork, precision: str = "float32"
) -> str:
    """Runs an exported voice, ours or Piper's, beside the networks it was made of.

    Returns:
        a sentence that says how far they differ.

    Raises:
        InputError: too far, or the graph breaks ONNX's rules.
    """
    try:
        onnx.checker.check_model(onnx.load_model_from_string(voice), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise InputError(f"the exported graph breaks ONNX's rules: {e}") from e
    tokens = torch.tensor(encode_sentence(SENTENCE))
    expected = network(student.infer(tokens[None], torch.tensor([len(tokens)])).mel)[0].numpy()
    session = open_session(voice)
    wav = session.run(None, _inputs(session, tokens.numpy()))[0].reshape(-1)
    if precision == "float32":
        same_length = len(wav) == len(expected)
        difference = np.abs(wav - expected).max() if same_length else np.inf
        difference /= np.abs(expected).max()
        report = f"samples within {difference:.1e} of the loudest"
        is_close = difference <= FARTHEST_SAMPLE
    else:  # durations may be rounded otherwise: compare what both have
        length = min(len(wav), len(expected))
        mels = [mel_spectrogram(torch.tensor(x[:length])) for x in (wav, expected)]
        difference = float((mels[0] - mels[1]).abs().mean())
        report = f"log-mels within {difference:.3f} on average"
        is_close = difference <= FARTHEST_MEL and length > 0.9 * max(len(wav), len(expected))
    if not is_close:
        raise InputError(
            f"the exported voice does not speak like its original: {report}; "
            "please report this, with the versions of onnx and onnxruntime"
        )
    return f"checked beside PyTorch: {report}"


def _inputs(session: onnxruntime.InferenceSession, tokens: np.ndarray) -> dict[str, np.ndarray]:
    one = np.array(1.0, np.float32)
    if session.get_inputs()[0].name == "tokens":
        return {"tokens": tokens, "pace": one}
    return {
        "input": tokens[None],
        "input_lengths": np.array([len(tokens)]),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
    }
