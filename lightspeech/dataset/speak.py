"""Lets a speech engine read texts aloud, and keeps what it says as a dataset for a teacher.

The engine reads exactly what a teacher will: numbers in words, lower case, the symbols of the
table. Its sound is resampled, cut at the ends and set to one loudness. The same command goes on
where it was stopped, however that was, and the same texts always give the same folder.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lightspeech import cli
from lightspeech.audio import SAMPLE_RATE
from lightspeech.dataset import clean
from lightspeech.dataset.engines import ENGINES, Engine, Stopped
from lightspeech.dataset.folder import CARD, METADATA, WAVS, write_card
from lightspeech.dataset.speak_journal import Entry, Journal, refuse_foreign
from lightspeech.dataset.speak_workers import Script, Workers, a_workplace, processors, try_out
from lightspeech.errors import InputError
from lightspeech.files import make_folder, remove_leftovers, sha256, single_writer, write_text
from lightspeech.interrupt import StopRequest
from lightspeech.progress import format_time
from lightspeech.text import UnknownCharacters, decode, encode, read_lines

LONGEST_TEXT = 350
"""characters of a line; longer ones are split into sentences, as for labelling"""
UNREADABLE = "it has phonemes between braces, which a speech engine cannot read"
"""why such a text is left out"""
PATIENCE = 60.0
"""seconds without a new utterance after which an engine is taken to hang"""

CLEANING = {
    "sample_rate": SAMPLE_RATE,
    "trim_decibels": clean.TRIM_DECIBELS,
    "margin_seconds": clean.MARGIN_SECONDS,
    "loudness_decibels": clean.LOUDNESS_DECIBELS,
    "speech_decibels": clean.SPEECH_DECIBELS,
    "highest_peak": clean.HIGHEST_PEAK,
}
"""What was done to the sound, in the card and the journal."""


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m lightspeech.dataset speak`."""
    add = parser.add_argument
    voices = ", ".join(f"{kind.default_voices[0]} of {name}" for name, kind in ENGINES.items())
    add("--engine", choices=list(ENGINES), default="festival", help="what speaks")
    add("--text", nargs="+", metavar="FILE", required=True,
        help="UTF-8 files, a sentence a line or LJSpeech's id|text; - is standard input; lines of "
        f"more than {LONGEST_TEXT} characters are split into sentences")
    add("--out", metavar="DIR", type=Path, required=True, help="folder of the dataset")
    add("--voice", metavar="NAME", default=argparse.SUPPRESS,
        help=f"one that the engine has (default: {voices})")
    add("--jobs", metavar="N", type=cli.positive_int, default=argparse.SUPPRESS,
        help="engine processes at a time (default: one for each processor)")
    add("--limit", metavar="N", type=cli.positive_int, default=argparse.SUPPRESS,
        help="speak the first N texts only (default: all)")
    add("--patience", metavar="SECONDS", type=cli.positive_float, default=PATIENCE,
        help="an engine that says nothing new for this long hangs; that text is left out")
# fmt: on


def main(options: argparse.Namespace) -> None:
    """Runs the command; exits with 128 and the signal's number where one stopped it.

    Raises:
        InputError: texts, engine, voice or folder cannot be used, or nothing could be spoken.
    """
    given = vars(options)
    refuse_foreign(options.out)
    engine = ENGINES[options.engine](given.get("voice"))
    scripts, problems = scripts_of(options.text, given.get("limit"), engine)
    sources = [_named(path) for path in options.text]
    jobs = given.get("jobs") or processors()
    print(f"{engine.name} {engine.version}, voice {engine.voice}, {jobs} at a time", flush=True)
    torch.set_num_threads(1)  # the jobs share the processors
    folder = make_folder(options.out)
    identity = {
        "engine": engine.name,
        "engine_version": engine.version,
        "voice": engine.voice,
        "settings": CLEANING,
    }
    with single_writer(folder), a_workplace(folder) as workplace, StopRequest().listening() as stop:
        journal = Journal(folder, identity)
        make_folder(folder / WAVS)
        remove_leftovers(folder / WAVS)
        to_do = _left_to_do(scripts, journal, folder)
        failed = {script.id: UNREADABLE for script in scripts if not script.spoken}
        began = time.monotonic()
        with suppress(Stopped):
            if to_do:
                try_out(engine, workplace, options.patience, lambda: stop.number is not None)
            _forget_stale(scripts, journal, folder)
            if to_do:
                (folder / CARD).unlink(missing_ok=True)  # of a run with fewer texts
                workers = Workers(engine, folder / WAVS, workplace, options.patience)
                try:
                    failed |= workers.speak(to_do, jobs, journal, stop)
                finally:
                    _write_table(scripts, journal, folder)
        seconds = time.monotonic() - began
        new = [journal.entries[script.id] for script in to_do if script.id in journal.entries]
        if stop.number is not None and not journal.entries:
            print("stopped before anything was spoken")
            sys.exit(128 + stop.number)
        card = {
            **_account(scripts, journal, failed),
            "source": {
                "engine": engine.name,
                "engine_version": engine.version,
                "voice": engine.voice,
                "licence": engine.licence,
                "text": sources,
            },
            "settings": {**CLEANING, "longest_text": LONGEST_TEXT, "limit": given.get("limit")},
            "rows_left_out": len(problems),
        }
        write_card(folder, card)
    print(_summary(options.out, card, new, seconds, stop.number is not None))
    if stop.number is not None:
        sys.exit(128 + stop.number)


def scripts_of(
    paths: Sequence[str], limit: int | None, engine: Engine
) -> tuple[list[Script], list[str]]:
    """The texts of files for an engine, and a sentence for each row that cannot be used.

    Says on standard error what is odd about them.
    """
    read = read_lines(paths, LONGEST_TEXT, split_long=True)
    unknown = UnknownCharacters()
    scripts = []
    for line in read.lines[:limit]:
        unknown.add(line.text, line.where)
        text = " ".join(line.text.replace("|", " ").split())  # a bar would end the table's column
        symbols = decode(encode(text))
        readable = all(len(symbol) == 1 for symbol in symbols)
        scripts.append(Script(line.id, text, engine.spoken("".join(symbols)) if readable else ""))
    warnings = [f"left out: {problem}" for problem in read.problems]
    if read.duplicates:
        warnings.append(f"left out: {read.duplicates:,} lines that repeat an earlier one")
    if read.split:
        warnings.append(f"split into sentences: {read.split:,} lines that were too long")
    warnings += [f"left out: {script.id}: {UNREADABLE}" for script in scripts if not script.spoken]
    for warning in warnings + unknown.summary():
        print(f"warning: {warning}", file=sys.stderr)
    return scripts, read.problems


def _is_spoken(script: Script, journal: Journal, folder: Path) -> bool:
    entry = journal.entries.get(script.id)
    return entry is not None and entry.digest == script.digest and entry.is_at(_wav(folder, script))


def _wav(folder: Path, script: Script) -> Path:
    return folder / WAVS / f"{script.id}.wav"


def _left_to_do(scripts: Sequence[Script], journal: Journal, folder: Path) -> list[Script]:
    """The texts that have no recording yet."""
    readable = [script for script in scripts if script.spoken]
    to_do = [script for script in readable if not _is_spoken(script, journal, folder)]
    if len(to_do) < len(readable):
        done = len(readable) - len(to_do)
        print(f"{done:,} of {len(readable):,} texts are spoken already", flush=True)
    return to_do


def _forget_stale(scripts: Sequence[Script], journal: Journal, folder: Path) -> None:
    """Takes away recordings that are not, or not certainly, of their text.

    The table goes first: it must never name a recording of another text, not even after a kill.
    """
    stale = [script for script in scripts if not _is_spoken(script, journal, folder)]
    for script in stale:
        journal.entries.pop(script.id, None)
    _write_table(scripts, journal, folder)
    for script in stale:
        _wav(folder, script).unlink(missing_ok=True)


def _write_table(scripts: Sequence[Script], journal: Journal, folder: Path) -> None:
    rows = [f"{script.id}|{script.text}\n" for script in scripts if script.id in journal.entries]
    if rows:
        write_text(folder / METADATA, "".join(rows))
    else:
        (folder / METADATA).unlink(missing_ok=True)
    journal.write(script.id for script in scripts)


def _account(
    scripts: Sequence[Script], journal: Journal, failed: Mapping[str, str]
) -> dict[str, Any]:
    """What came of the texts, for the card; InputError if nothing did."""
    entries = [journal.entries[script.id] for script in scripts if script.id in journal.entries]
    if not entries:
        reason = f"; the first: {next(iter(failed.values()))}" if failed else ""
        raise InputError(f"none of the {len(scripts):,} texts was spoken{reason}")
    return {
        "made_by": "speak",
        "utterances": len(entries),
        "hours": round(sum(entry.samples for entry in entries) / SAMPLE_RATE / 3600, 4),
        "texts": len(scripts),
        "left_out": {s.id: failed[s.id] for s in scripts if s.id in failed},
    }


def _named(path: str) -> dict[str, str | None]:
    """A text file as the card has it: no folder, which may tell of whoever made it."""
    name = "standard input" if path == "-" else Path(path).name
    # what is no file can be read only once
    return {"name": name, "sha256": sha256(path) if Path(path).is_file() else None}


def _summary(
    out: Path, card: dict[str, Any], new: Sequence[Entry], seconds: float, stopped: bool
) -> str:
    """What came of it and what to do next, for people."""
    speech = sum(entry.samples for entry in new) / SAMPLE_RATE
    lines = [
        f"{card['utterances']:,} of {card['texts']:,} texts are spoken, "
        f"{card['hours']:.2f} hours, {len(card['left_out']):,} left out"
    ]
    if new:
        lines.append(
            f"{len(new):,} of them now, in {format_time(seconds)}: "
            f"{len(new) / seconds:.1f} utterances/s, {speech / seconds:.0f} x real time"
        )
    if stopped:
        lines.append("stopped; the same command goes on")
    else:
        lines.append(f"next    {shlex.join(['python', '-m', 'tacotron2.train', str(out)])}")
    return "\n".join(lines)
