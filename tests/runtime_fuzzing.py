"""Random texts of any kind, and a run of thousands of them through an exported voice.

    python -m tests.runtime_fuzzing VOICE 10000

Each must give a sound or an InputError of one line. Memory and threads are looked at on the way.
"""

from __future__ import annotations

import collections
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lightspeech.audio_facts import HOP_LENGTH
from lightspeech.errors import InputError
from lightspeech.runtime import Voice

LONGEST = 2000
"""characters of a text"""

_WORDS = [
    *("a", "I", "the", "of", "colour", "Dr.", "St.", "Mrs.", "e.g.", "U.S.", "well-known", "don't"),
    *("12", "1999", "3.14", "$5.50", "$2,000", "1st", "23rd", "0x1F", "1e9", "00:30", "1/2", "£7"),
    *("{HH AH0 L OW1}", "{bad}", "{}", "50%", "#1", "&", "...", "?!", ";", ":", ",", "(", ")"),
    *("été", "e\u0301", "naïve", "Straße", "Москва", "東京", "ال", "של", "😀", "ﬁn", "½", "—"),
    *("“q”", "http://a.b/c?d=e", "x@y.z"),
]
_RANGES = (
    (0x20, 0x7E), (0x00, 0x1F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF),
    (0x900, 0xDFF), (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFE00, 0xFFFF), (0x1F300, 0x1FAFF), (0, 0x10FFFF),
)  # fmt: skip


def random_text(number: int) -> str:
    """Text `number`, the same each time, of 0 to LONGEST characters."""
    rng = random.Random(number)
    length = rng.choice([rng.randint(0, 12), rng.randint(0, 200), rng.randint(0, LONGEST)])
    kind = rng.randrange(6)
    if kind == 0:  # any code point
        text = "".join(chr(rng.randint(0, 0x10FFFF)) for _ in range(length))
    elif kind == 1:  # of one or two scripts
        chosen = rng.sample(_RANGES, 2)
        text = "".join(chr(rng.randint(*rng.choice(chosen))) for _ in range(length))
    elif kind == 2:  # something like a sentence
        words = (rng.choice(_WORDS) for _ in range(length))
        text = rng.choice([" ", " ", "", "\n", "\n\n", "\t"]).join(words)
    elif kind == 3:  # digits, amounts, punctuation
        text = "".join(rng.choice("0123456789.,$-:/ '{}@_") for _ in range(length))
    elif kind == 4:  # one thing over and over
        text = rng.choice([*_WORDS, " ", "a", "\0", "\ud800", "\u202e", "."]) * length
    else:  # letters without an end
        text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABC") for _ in range(length))
    return text[:length]


def speak(voice: Voice, number: int) -> tuple[str, float]:
    """What comes of text `number`: `sound` and its seconds, or the kind of error.

    AssertionError for anything that may not be.
    """
    text = random_text(number)
    pace = random.Random(-number).choice([None, 0.5, 1, 3, 10])
    try:
        speech = voice(text, pace)
    except InputError as e:
        message = str(e)
        assert "\n" not in message, (number, message)
        assert len(message) < 1000, (number, message)
        return "nothing to say" if message.startswith("nothing in") else message, 0.0
    assert speech.wav.dtype == np.float32, number
    assert speech.wav.size % HOP_LENGTH == 0, number
    assert np.isfinite(speech.wav).all(), number
    assert speech.timings[0][1] == 0, number
    assert abs(speech.timings[-1][2] - speech.duration) < 1e-6, number
    return "sound", speech.duration


def resident_memory() -> float:
    """Of this process, in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def threads() -> int:
    """Of this process, those of libraries too (Linux)."""
    return len(list(Path("/proc/self/task").iterdir()))


def main() -> None:
    voice = Voice.load(sys.argv[1])
    count = int(sys.argv[2])
    outcomes: collections.Counter[str] = collections.Counter()
    started, seconds, slowest = time.perf_counter(), 0.0, 0.0
    print("texts      memory  threads  slowest")
    for number in range(count):
        before = time.perf_counter()
        outcome, duration = speak(voice, number)
        slowest = max(slowest, time.perf_counter() - before)
        outcomes[outcome] += 1
        seconds += duration
        if number % max(1, count // 20) == 0 or number == count - 1:
            print(
                f"{number:>6} {resident_memory():>8.0f} MB {threads():>6} {slowest:>8.2f} s",
                flush=True,
            )
    took = time.perf_counter() - started
    assert threading.active_count() == 1
    print(f"{seconds:,.0f} s of speech in {took:,.0f} s; {dict(outcomes)}")


if __name__ == "__main__":
    main()
