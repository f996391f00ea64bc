"""Speaks with an exported voice, without PyTorch.

    python -m lightspeech.runtime VOICE "Hello." --out hello.wav
    python -m lightspeech.runtime VOICE --out book.wav < book.txt
    python -m lightspeech.runtime VOICE --out wavs/ < lines.txt
    echo Hello | python -m lightspeech.runtime VOICE --raw | aplay -r 22050 -f S16_LE

With --out FILE, standard input is one text, in which blank lines part paragraphs. With --out
FOLDER/, each line is a text, and becomes 0001.wav and so on. With --raw, each line is spoken as it
comes, and each sentence written as soon as it is made: 16 bits, little-endian, one channel, 22,050
samples a second, with the sentence silence between lines too. Where a line is a text, one that
cannot be spoken is named on standard error, and the others go on.

--timings writes JSON for captions and lip movements: {"duration": seconds, "sentences": [...],
"words": [...], "symbols": [...]}, lists of {"text", "start", "end"} in seconds. Sentences are as
they were given, words as they are spoken (numbers in words); symbols have no gaps from beginning to
end, and <pause> stands for the silence between sentences.
"""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

from lightspeech import cli
from lightspeech.audio_facts import HOP_LENGTH
from lightspeech.errors import InputError
from lightspeech.files import make_folder, write_json
from lightspeech.runtime.track import Track
from lightspeech.runtime.voice import Voice
from lightspeech.text.lines import content_of, refuse_undecoded, rows_of
from lightspeech.wav_file import write_blocks

OUT = "speech.wav"
STDIN = "standard input"
NO_TEXT = f"{STDIN} holds no text; give one there, or after the voice"

_IN_MEMORY = 1 << 26  # bytes of sound (12 minutes) that are kept in memory
_BLOCK = 1 << 20  # bytes of sound that are read back at a time


def main() -> None:
    options = build_parser().parse_intermixed_args()
    voice = Voice.load(options.voice, options.threads)
    voice.settings(options.pace, options.sentence_silence)  # an error once, and not for each line
    if options.raw:
        failures = speak_to_stdout(voice, options)
    elif options.out.endswith("/") or Path(options.out).is_dir():
        failures = speak_to_folder(voice, options)
    else:
        failures = 0
        speak_to_file(voice, options)
    if failures:
        sys.exit(1)  # each was named when it came


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.runtime",
        description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add("voice", metavar="VOICE", help="folder of python -m lightspeech.export, or its voice.onnx")
    add("text", nargs="*", metavar="TEXT", help="what to say; nothing, or -: standard input")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--out",
        default=OUT,
        metavar="FILE",
        help="WAV file of all that is said; a folder, or a name that ends in /: a file a line",
    )
    target.add_argument(
        "--raw", action="store_true", help="samples to standard output, sentence by sentence"
    )
    add("--pace", type=float, help="2 is twice as fast, 0.5 half as fast (default: the voice's, 1)")
    add(
        "--sentence-silence",
        type=float,
        metavar="SECONDS",
        help="silence between two sentences, 0 to 10 (default: the voice's, 0.2)",
    )
    add(
        "--timings",
        metavar="FILE",
        help="JSON of when each symbol, word and sentence is said; where --out is a folder, a "
        "folder too",
    )
    add("--threads", type=cli.positive_int, default=1, help="CPU threads that share a sentence")
    return parser


def speak_to_stdout(voice: Voice, options: argparse.Namespace) -> int:
    """Raw samples, each sentence as soon as it is made; how many lines were not spoken."""
    if sys.stdout is None or sys.stdout.isatty():
        raise InputError(
            "--raw writes samples to standard output, which nothing reads here: "
            "add | aplay -r 22050 -f S16_LE, or give --out FILE.wav instead"
        )
    pause = HOP_LENGTH * voice.settings(options.pace, options.sentence_silence)[1]
    track = Track(keeps_times=bool(options.timings))
    failures = 0
    for _, place, text in lines_of(options):
        try:
            refuse_undecoded(text)
            parts = voice.stream(text, options.pace, options.sentence_silence)
            if track.samples:
                play(bytes(2 * pause))
                track.begin_text(pause)
            for part in parts:
                play(part.pcm16)
                track.add(part)
        except InputError as e:
            failures += refuse(place, e)
    if options.timings:
        track.write(options.timings)
    return failures


def play(samples: bytes) -> None:
    """Hands samples on, now."""
    sys.stdout.buffer.write(samples)
    sys.stdout.buffer.flush()


def speak_to_folder(voice: Voice, options: argparse.Namespace) -> int:
    """A WAV file a line, named after its number; how many lines were not spoken."""
    folder = make_folder(options.out)
    timings = make_folder(options.timings) if options.timings else None
    failures = 0
    for number, place, text in lines_of(options):
        started = time.perf_counter()
        try:
            refuse_undecoded(text)
            speech = voice(text, options.pace, options.sentence_silence)
        except InputError as e:
            failures += refuse(place, e)
            continue
        speech.save(folder / f"{number:04}.wav")
        if timings:
            write_json(timings / f"{number:04}.json", speech.captions())
        report(folder / f"{number:04}.wav", speech.duration, started)
    return failures


def speak_to_file(voice: Voice, options: argparse.Namespace) -> None:
    """One WAV file of one text, in memory that does not grow with its length."""
    text = given_text(options)
    if text is None:
        text = text_of_stdin()
    track = Track(keeps_times=bool(options.timings))
    started = time.perf_counter()
    with SpooledTemporaryFile(_IN_MEMORY) as sound:
        for part in voice.stream(text, options.pace, options.sentence_silence):
            sound.write(part.wav.tobytes())
            track.add(part)

        def blocks() -> Iterator[np.ndarray]:
            sound.seek(0)
            while block := sound.read(_BLOCK):
                yield np.frombuffer(block, np.float32)

        write_blocks(options.out, track.samples, blocks, voice.sample_rate)
    if options.timings:
        track.write(options.timings)
    report(Path(options.out), track.seconds, started)


def given_text(options: argparse.Namespace) -> str | None:
    """TEXT, if it was given; what is not UTF-8 in it becomes question marks."""
    if options.text in ([], ["-"]):
        return None
    return " ".join(options.text).encode("utf-8", "replace").decode()


def text_of_stdin() -> str:
    """All of standard input."""
    rows = []
    for number, row in rows_of(content_of("-", STDIN)):
        try:
            refuse_undecoded(row)
        except InputError as e:
            raise InputError(f"{STDIN}:{number}: {e}; convert it to UTF-8") from e
        rows.append(row)
    if not any(row.strip() for row in rows):
        raise InputError(NO_TEXT)
    return "\n".join(rows)


def lines_of(options: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """TEXT, or each line of standard input as it comes, without the empty ones: its number, where
    it stands, and the text. InputError if there is none."""
    text = given_text(options)
    if text is not None:
        yield 1, "", text
        return
    if sys.stdin is None:
        raise InputError(NO_TEXT)
    is_empty = True
    for number, line in enumerate(sys.stdin.buffer, start=1):
        row = line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        if row.strip():
            is_empty = False
            yield number, f"{STDIN}:{number}: ", row
    if is_empty:
        raise InputError(NO_TEXT)


def refuse(place: str, error: InputError) -> int:
    """Names a line that was not spoken; 1."""
    print(f"error: {place}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 1


def report(path: Path, seconds: float, started: float) -> None:
    """One line on what was written."""
    took = time.perf_counter() - started
    print(f"{path}: {seconds:.1f} s of speech in {took:.2f} s", flush=True)


if __name__ == "__main__":
    cli.run(main)
