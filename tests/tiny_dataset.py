"""A small dataset folder of something like speech, and a configuration that learns it quickly."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from lightspeech.dataset.features import FOLDER, Features, prepare_features
from lightspeech.dataset.folder import read_dataset
from lightspeech.teacher.config import TeacherConfig, TeacherTrainingConfig
from tacotron2 import Tacotron2Config

RATE = 22050
SYMBOL_SECONDS = 0.06
WORDS = ("a", "be", "do", "go", "oh", "sea", "tea", "you", "bad", "dog")

MODEL = Tacotron2Config(
    symbols_embedding_dim=16,
    encoder_embedding_dim=16,
    encoder_n_convolutions=2,
    attention_rnn_dim=24,
    attention_dim=8,
    attention_location_n_filters=4,
    attention_location_kernel_size=7,
    decoder_rnn_dim=32,
    prenet_dim=16,
    postnet_embedding_dim=16,
    postnet_n_convolutions=2,
)

TRAINING = TeacherTrainingConfig(
    steps=20,
    frames_per_step=400,
    utterances_per_step=8,
    longest_frames=120,
    learning_rate=5e-3,
    final_learning_rate=1e-3,
    warmup_steps=2,
    ema_decay=0.9,
    guide_weight=2.0,
    guide_hold=4,
    guide_half_life=4,
    guide_floor=0.0,
    lead_hold=2,
    lead_end=6,
    order_weight=0.2,
    validation_share=0.2,
    validate_every=8,
    spoken=2,
    save_every=3,
    seed=3,
)


def tiny_config(**training: object) -> TeacherConfig:
    """A teacher of 41,000 parameters that is trained for 20 steps of about 7 utterances."""
    return TeacherConfig("tiny", MODEL, replace(TRAINING, **training))  # type: ignore[arg-type]


def sentence(number: int) -> str:
    """5 to 16 characters of words; the same number, the same sentence."""
    pick = random.Random(f"sentence {number}")
    text, length = pick.choice(WORDS), pick.randint(5, 14)
    while len(text) < length:
        text += " " + pick.choice(WORDS)
    return text[:16].strip()


def sound(text: str) -> np.ndarray:
    """(S,) float64: 60 ms a symbol, of hum with an overtone of its own, hiss or near silence."""
    size = round(SYMBOL_SECONDS * RATE)
    time = np.arange(size) / RATE
    noise = np.random.default_rng(7)
    parts = []
    for symbol in text:
        if symbol == " ":
            part = 0.001 * noise.standard_normal(size)
        elif symbol in "aeiou":
            overtone = 400 + 350 * "aeiou".index(symbol)
            part = 0.3 * np.sin(2 * np.pi * 120 * time) + 0.2 * np.sin(2 * np.pi * overtone * time)
        else:
            part = 0.02 * (1 + ord(symbol) % 5) * noise.standard_normal(size)
        parts.append(part * np.hanning(size) ** 0.25)
    return np.concatenate(parts)


def make_dataset(folder: Path, utterances: int = 24) -> Path:
    """Writes LJSpeech's layout: `utterances` of 0.3 to 1 s."""
    (folder / "wavs").mkdir(parents=True)
    rows = []
    for number in range(utterances):
        text = sentence(number)
        soundfile.write(folder / "wavs" / f"u{number:02d}.wav", sound(text), RATE, subtype="PCM_16")
        rows.append(f"u{number:02d}|{text}\n")
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return folder


def true_durations(text: str, frames: int) -> np.ndarray:
    """(N,) int16: the frames whose middle lies in each symbol's 60 ms."""
    middle = np.arange(frames) * 256 // round(SYMBOL_SECONDS * RATE)
    return np.bincount(middle.clip(max=len(text) - 1), minlength=len(text)).astype(np.int16)


def make_features(folder: Path, utterances: int = 24) -> Features:
    """The features of a new dataset in `folder`, with the true durations."""
    sources, problems = read_dataset(make_dataset(folder, utterances))
    assert not problems
    features = prepare_features(folder / FOLDER, sources)
    features.durations = [
        true_durations(source.text, frames)
        for source, frames in zip(sources, features.frames, strict=True)
    ]
    return features
