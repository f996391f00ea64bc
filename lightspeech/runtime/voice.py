"""An exported voice that is ready to speak."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lightspeech.audio_facts import FRAME_SECONDS, HOP_LENGTH, SAMPLE_RATE, SILENCE
from lightspeech.errors import InputError
from lightspeech.joins import FADE, PAUSE, check_pace, pause_frames, sentences_of, timings_of
from lightspeech.runtime.card import Card
from lightspeech.runtime.speech import Span, Speech, joined
from lightspeech.runtime.voice_file import read_voice
from lightspeech.text import SYMBOLS, decode, encode_sentence

_INPUTS = {"tokens": "tensor(int64)", "pace": "tensor(float)"}
_OUTPUTS = {"wav": "tensor(float)", "durations": "tensor(int64)"}
_RAMP = np.linspace(0, 1, FADE, dtype=np.float32)


class Voice:
    """Call it with a text; `load` makes it. Threads may share it: each call stands alone.

    Args:
        content: the ONNX graph: tokens, pace -> wav, durations.
        card: what it says about itself.
        threads: CPU threads that work on a sentence together.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot run the graph, or it is another graph.
    """

    def __init__(self, content: bytes, card: Card, threads: int = 1) -> None:
        self.card = card
        self.sample_rate = SAMPLE_RATE
        """samples a second"""
        self._session, self._errors = _session(content, card.name, threads)

    @classmethod
    def load(cls, path: str | Path, threads: int = 1) -> Voice:
        """Loads a voice that `python -m lightspeech.export` wrote.

        Args:
            path: its folder, or its file voice.onnx alone.
            threads: CPU threads that work on a sentence together; 1 is best where several sentences
                are made at the same time, and wastes nothing.

        Raises:
            InputError: no such voice, a damaged one, one for another version, a number of threads
                out of range, or ONNX Runtime is not installed.
        """
        most = 4 * (os.cpu_count() or 1)
        if not 1 <= threads <= most:
            raise InputError(f"threads {threads}: expected 1 to {most} on this machine")
        return cls(*read_voice(path), threads)

    @property
    def name(self) -> str:
        """The voice's, for people."""
        return self.card.name

    def __call__(
        self, text: str, pace: float | None = None, sentence_silence: float | None = None
    ) -> Speech:
        """Speaks a text of any length.

        Args:
            text: one word or many paragraphs; it is split into sentences.
            pace: 2 is twice as fast, 0.5 half as fast; None: the voice's own, 1.
            sentence_silence: seconds between two sentences, rounded to whole frames (11.6 ms);
                None: the voice's own, 0.2.

        Raises:
            InputError: nothing speakable, a pace or silence out of range, or a voice that makes no
                sound of it.
        """
        return joined(self.stream(text, pace, sentence_silence))

    def stream(
        self, text: str, pace: float | None = None, sentence_silence: float | None = None
    ) -> Iterator[Speech]:
        """Speaks a text sentence by sentence: each is given as soon as it is made.

        The arguments and errors are those of a call, and the parts, joined, what it returns. What
        is wrong with the arguments is raised here, before the first sentence is asked for.
        """
        pace, pause = self.settings(pace, sentence_silence)
        return self._stream(sentences_of(text), pace, pause)

    def settings(self, pace: float | None, sentence_silence: float | None) -> tuple[float, int]:
        """The pace, and the frames of a pause, that a call with these arguments has; InputError if
        they are out of range."""
        pace = self.card.pace if pace is None else pace
        silence = self.card.sentence_silence if sentence_silence is None else sentence_silence
        check_pace(pace, self.card.slowest, self.card.fastest)
        return pace, pause_frames(silence)

    def _stream(self, sentences: list[str], pace: float, pause: int) -> Iterator[Speech]:
        position, peak = 0, 0.0  # frames so far
        for i, sentence in enumerate(sentences):
            ids = encode_sentence(sentence)
            wav, durations = self.speak_ids(ids, pace)
            spans = list(zip(decode(ids), durations.tolist(), strict=True))
            peak = max(peak, float(np.abs(wav).max()))
            # A step from speech to digital silence would click.
            if i > 0:
                wav[:FADE] *= _RAMP
            if i < len(sentences) - 1:
                wav[-FADE:] *= _RAMP[::-1]
            frames = wav.size // HOP_LENGTH
            start = position
            if i and pause:
                wav = np.concatenate([np.zeros(pause * HOP_LENGTH, np.float32), wav])
                spans.insert(0, (PAUSE, pause))
                start += pause
            begin, end = start * FRAME_SECONDS, (start + frames) * FRAME_SECONDS
            yield Speech(
                wav, self.sample_rate, timings_of(spans, position), [Span(sentence, begin, end)]
            )
            position = start + frames
        if peak <= SILENCE:
            raise InputError(
                f"the voice {self.name} made silence of this text (peak {peak:.2g}); if it makes "
                "silence of others too, its weights are damaged: export it again"
            )

    def speak_ids(
        self, ids: Sequence[int], pace: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One sentence, as symbol ids, to sound.

        Args:
            ids: N ids, as `lightspeech.text.encode_sentence` gives them.
            pace: as in a call.

        Returns:
            (256 T,) float32 samples, full scale 1, and (N,) int64 frames of each symbol, together
            T.

        Raises:
            InputError: no ids, ids or a pace out of range, or a voice that makes no sound of them.
        """
        pace, _ = self.settings(pace, None)
        if not len(ids):
            raise InputError("nothing to say: expected at least one symbol id")
        if not 0 <= min(ids) <= max(ids) < len(SYMBOLS):
            raise InputError(
                f"symbol ids {min(ids)} to {max(ids)}: expected 0 to {len(SYMBOLS) - 1}, "
                "as lightspeech.text.encode gives them"
            )
        inputs = {"tokens": np.asarray(ids, np.int64), "pace": np.asarray(pace, np.float32)}
        try:
            wav, durations = self._session.run(list(_OUTPUTS), inputs)
        except self._errors as e:
            raise InputError(
                f"the voice {self.name} failed at a sentence of {len(ids)} symbols: {_reason(e)}"
            ) from e
        is_whole = durations.shape == (len(ids),) and wav.shape == (HOP_LENGTH * durations.sum(),)
        if not is_whole or not wav.size or durations.min() < 0 or not np.isfinite(wav).all():
            raise InputError(
                f"the voice {self.name} made no sound of a sentence of {len(ids)} symbols, but "
                f"{wav.size} samples, not all of them numbers or not 256 a frame: export it again"
            )
        return wav, durations


def _session(content: bytes, name: str, threads: int) -> tuple[Any, tuple[type[Exception], ...]]:
    """An ONNX Runtime session, and what it may raise."""
    try:
        onnxruntime = import_module("onnxruntime")
        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    except ImportError as e:
        raise InputError(
            f"ONNX Runtime is not usable here ({e}): pip install 'lightspeech[runtime]'"
        ) from e
    errors = tuple(
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    errors += (RuntimeError, ValueError)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    # Memory that a long sentence needed goes back to the system.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Idle threads sleep; and no other format is looked for in the file, whose own was checked.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except errors as e:
        raise InputError(
            f"the voice {name} cannot be used: ONNX Runtime {onnxruntime.__version__} says "
            f"{_reason(e)}; export it again, or install a newer onnxruntime"
        ) from e
    for wanted, found in ((_INPUTS, session.get_inputs()), (_OUTPUTS, session.get_outputs())):
        types = {value.name: value.type for value in found}
        if types != wanted:
            raise InputError(
                f"the voice {name} is another graph: it has {types}, expected {wanted}; "
                "use the voice.onnx of an exported voice"
            )
    return session, errors


def _reason(error: Exception) -> str:
    """ONNX Runtime's message, in one line of a bearable length."""
    return " ".join(str(error).split())[:300]
