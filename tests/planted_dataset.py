"""A small dataset of recordings with faults planted in it, for tests of the import.

The "speech" is syllables of a few harmonics with noise far below, as long as its text asks for. The
good utterances come as WAV (16 and 24 bits, floats), FLAC and MP3, mono and stereo, at several
sample rates, some with silence at their ends. Everything follows from the seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

SECONDS_PER_CHARACTER = 0.065
_WORDS = (
    "amber basin candle dolphin ember falcon garden harbour island jungle kettle lantern meadow",
    "needle orchard pepper quarry ribbon saddle timber umbrella valley willow yellow zephyr",
)

FORMATS = (  # suffix, sample rate, channels, subtype
    ("wav", 22050, 1, "PCM_16"),
    ("flac", 44100, 1, "PCM_16"),
    ("mp3", 44100, 2, None),
    ("wav", 16000, 2, "PCM_24"),
    ("mp3", 22050, 1, None),
    ("wav", 48000, 1, "FLOAT"),
    ("flac", 22050, 2, "PCM_24"),
    ("wav", 8000, 1, "PCM_16"),
    ("WAV", 44100, 2, "PCM_16"),
)


def sentence(rng: np.random.Generator, words: int = 4) -> str:
    """A few words; four of them are 20 to 30 characters."""
    return " ".join(rng.choice(" ".join(_WORDS).split(), words)).capitalize() + "."


def voice(rng: np.random.Generator, seconds: float, rate: int = 22050) -> np.ndarray:
    """(S,) of syllables, with its loudest moments near 0.5 and nothing above 0.8."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 1.5 * time + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    weights = rng.uniform(0.2, 1, 12) / np.arange(1, 13)
    tone = sum(w * np.sin((k + 1) * phase + k) for k, w in enumerate(weights))
    syllables = np.maximum(np.abs(np.sin(2 * np.pi * 2.5 * time + 0.7)) - 0.1, 0)
    wave = tone * syllables
    wave *= rng.uniform(0.3, 0.75) / np.abs(wave).max()
    return wave + 0.0005 * rng.standard_normal(len(wave))


def silence(rng: np.random.Generator, seconds: float, rate: int = 22050) -> np.ndarray:
    return 0.0002 * rng.standard_normal(round(seconds * rate))


class PlantedDataset:
    """Writes DIR/metadata.csv and DIR/wavs; `faults` are (id, reason), `good` id -> text."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.wavs = folder / "wavs"
        self.wavs.mkdir(parents=True)
        self.rows: list[bytes] = []
        self.faults: list[tuple[str, str]] = []
        self.good: dict[str, str] = {}

    def write(
        self, name: str, wave: np.ndarray, rate: int = 22050, subtype: str | None = None
    ) -> Path:
        """Writes a sound file; `name` with its suffix."""
        path = self.wavs / name
        soundfile.write(path, wave, rate, subtype, format=name.rsplit(".", 1)[1].upper())
        return path

    def row(self, id: str, *columns: str) -> None:
        self.rows.append("|".join((id, *columns)).encode())

    def finish(self) -> None:
        (self.folder / "metadata.csv").write_bytes(b"\n".join(self.rows) + b"\n")

    def add_good(self, n: int) -> None:
        """Utterances with which nothing is wrong, in all formats in turn."""
        for i in range(n):
            id, text = f"good-{i:03}", sentence(self.rng)
            suffix, rate, channels, subtype = FORMATS[i % len(FORMATS)]
            seconds = len(text) * SECONDS_PER_CHARACTER * self.rng.uniform(0.9, 1.1)
            wave = voice(self.rng, seconds, rate)
            if i % 3 == 0:
                ends = [silence(self.rng, s, rate) for s in self.rng.uniform(0.1, 0.5, 2)]
                wave = np.concatenate([ends[0], wave, ends[1]])
            if channels == 2:
                wave = np.stack([wave, 0.6 * wave], axis=1)
            self.write(f"{id}.{suffix}", wave, rate, subtype)
            self.row(id, *((f"({text})", text) if i % 4 == 0 else (text,)))
            self.good[id] = text

    def fault(self, id: str, reason: str, *, rows: bool = True) -> tuple[str, float]:
        """Announces a fault; returns a text for it and the seconds that it takes to say."""
        text = sentence(self.rng)
        self.faults.append((id, reason))
        if rows:
            self.row(id, text)
        return text, len(text) * SECONDS_PER_CHARACTER

    def spoilt(
        self, name: str, reason: str, spoil: Callable[[np.ndarray], np.ndarray],
        rate: int = 22050, subtype: str | None = None,
    ) -> Path:  # fmt: skip
        """A row with a sound that is good but for what `spoil` does to it."""
        _, seconds = self.fault(name.rsplit(".", 1)[0], reason)
        return self.write(name, spoil(voice(self.rng, seconds, rate)), rate, subtype)

    def sound(self, name: str) -> None:
        """A good sound for a row that is at fault."""
        self.write(name, voice(self.rng, 1.5))

    def add_bad_rows(self) -> None:
        """Nine rows that cannot be used, whatever their sound; each has one."""
        self.faults.append(("no-bar", "bad_row"))
        self.rows.append(b"no-bar and then words")
        self.faults.append(("outside", "bad_row"))
        self.row("../outside", "A name that leaves the folder.")
        self.faults.append(("latin", "undecodable"))
        self.rows.append("latin|A small café.".encode("latin-1"))
        self.faults.append(("mute", "no_text"))
        self.row("mute", "  ")
        self.faults.append(("dots", "unspeakable"))
        self.row("dots", "... -- !")
        self.faults.append(("endless", "text_too_long"))
        self.row("endless", " ".join(["never"] * 80))
        for name in ("no-bar", "outside", "latin", "mute", "dots", "endless"):
            self.sound(f"{name}.wav")
        first, second = list(self.good)[:2]
        self.faults.append((first, "repeated_row"))
        self.row(first, self.good[first])
        self.faults.append((second, "id_conflict"))
        self.row(second, "Something else is said.")

    def add_lost_sounds(self) -> None:
        """A row without a sound, and two sounds without a row."""
        self.fault("lost", "missing_sound")
        for name in ("orphan-a.wav", "orphan-b.mp3"):
            self.sound(name)
            self.faults.append((name[:-4], "orphan_sound"))

    def add_broken_files(self) -> None:
        """Eight files that cannot be read, or hold no sound."""
        self.fault("junk", "unreadable")
        (self.wavs / "junk.wav").write_bytes(self.rng.bytes(5000))
        path = self.spoilt("scratched.flac", "unreadable", lambda wave: wave)
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + self.rng.bytes(400) + content[middle + 400 :])
        for name in ("cut-off.wav", "cut-off-too.mp3"):
            path = self.spoilt(name, "truncated", lambda wave: wave)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.spoilt("nothing.wav", "empty_sound", lambda wave: wave[:0])
        self.fault("no-bytes", "empty_sound")
        (self.wavs / "no-bytes.flac").touch()
        self.spoilt("nan.wav", "not_finite", _with_a_nan, subtype="FLOAT")
        self.spoilt("mute-microphone.wav", "silent", np.zeros_like)

    def add_bad_sounds(self) -> None:
        """Eleven sounds that can be read and should not be learned from."""
        rng = self.rng
        self.spoilt("loud.wav", "clipped", lambda wave: np.clip(5 * wave, -1, 1))
        self.spoilt(
            "loud-once.flac", "clipped",
            lambda wave: np.stack([0.5 * wave, 0.4 * np.clip(6 * wave, -1, 1)], axis=1), 44100,
        )  # fmt: skip
        self.spoilt("shifted.wav", "offset", lambda wave: 0.5 * wave + 0.2)
        self.spoilt("noise.flac", "noisy", lambda wave: 0.1 * rng.standard_normal(len(wave)))
        self.spoilt("click.wav", "too_short", lambda wave: wave[2000:5000])
        self.spoilt("drone.wav", "too_long", lambda wave: np.tile(wave, 11), rate=8000)
        self.spoilt(
            "gap.wav", "long_pause",
            lambda wave: np.concatenate([wave[:12000], silence(rng, 2.5), wave[12000:]]),
        )  # fmt: skip
        self.spoilt("half.wav", "too_fast", lambda wave: wave[: round(0.45 * len(wave))])
        self.spoilt("wrong-text.mp3", "too_slow", lambda wave: np.tile(wave, 3), rate=44100)
        source = next(path for path in sorted(self.wavs.glob("good-*.wav")))
        self.good_id = source.stem
        self.fault("copy", "duplicate_sound", rows=False)
        self.row("copy", self.good[self.good_id])
        shutil.copy(source, self.wavs / "copy.wav")
        self.fault("copy-too", "duplicate_sound", rows=False)
        self.row("copy-too", sentence(rng))
        samples, rate = soundfile.read(source, dtype="int16")
        self.write("copy-too.flac", samples, rate)


def _with_a_nan(wave: np.ndarray) -> np.ndarray:
    wave[len(wave) // 2] = np.nan
    return wave


def planted_dataset(folder: Path, good: int = 60) -> PlantedDataset:
    """60 good utterances and 30 faults, of all kinds that there are."""
    dataset = PlantedDataset(folder)
    dataset.add_good(good)
    dataset.add_bad_rows()
    dataset.add_lost_sounds()
    dataset.add_broken_files()
    dataset.add_bad_sounds()
    dataset.finish()
    return dataset


def good_dataset(folder: Path, good: int = 12) -> PlantedDataset:
    """Good utterances alone."""
    dataset = PlantedDataset(folder)
    dataset.add_good(good)
    dataset.finish()
    return dataset
