"""How an exported voice speaks, in a process that has nothing else in it, PyTorch least of all.

    python -m lightspeech.benchmark.speaking VOICE --threads 1

prints it as JSON: seconds until the voice is loaded, memory in bytes, and for each text the seconds
until its first sentence is there and until all of it is.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402 - what is imported from here on is part of loading
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from lightspeech.benchmark.resident import peak_resident  # noqa: E402
from lightspeech.runtime import Voice  # noqa: E402

TEXTS = {
    "a word": "Hello!",
    "50 characters": "The ferry leaves at noon and is back there by ten.",
    "a sentence": "The exhibition, which had taken two years to prepare, was closed within a week "
    "by order of the magistrates.",
    "a paragraph": "When the last boat had gone the harbour fell silent. A boy sat on the wall and "
    "counted the lights on the other shore. There were nine of them, and he gave each a name. The "
    "wind had turned to the north, and it smelled of rain. Behind him somebody closed a shutter, "
    "opened it again, and called his name twice. He did not answer at once. The ninth light went "
    "out while he was looking at it, and he wanted to see whether it would come back.",
}
"""by what they are called"""


def measure(path: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Loads a voice and times the texts, each `repeats` times, of which the best counts."""
    voice = Voice.load(path, threads)
    loaded = time.perf_counter() - STARTED
    voice(TEXTS["a word"])
    first_sound = time.perf_counter() - STARTED
    found = {name: _best(voice, text, repeats) for name, text in TEXTS.items()}
    return {
        "loading_seconds": loaded,
        "first_sound_seconds": first_sound,
        "peak_bytes": peak_resident(),
        "texts": found,
    }


def _best(voice: Voice, text: str, repeats: int) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(repeats):
        began = time.perf_counter()
        speech_seconds, first = 0.0, 0.0
        for part in voice.stream(text):
            first = first or time.perf_counter() - began
            speech_seconds += part.duration
        whole = time.perf_counter() - began
        best = {
            "first_seconds": min(first, best.get("first_seconds", first)),
            "seconds": min(whole, best.get("seconds", whole)),
            "speech_seconds": speech_seconds,
        }
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.benchmark.speaking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("voice", metavar="VOICE", type=Path, help="folder of an exported voice")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="the best counts")
    options = parser.parse_args()
    print(json.dumps(measure(options.voice, options.threads, options.repeats)))


if __name__ == "__main__":
    main()
