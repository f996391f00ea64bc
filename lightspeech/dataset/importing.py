"""Makes a dataset of recordings and their texts, and says what it left out and why.

DIR has LJSpeech's layout: metadata.csv with rows id|text or id|text|normalised text, and a sound
file wavs/ID.wav (or .flac, .mp3) of each, of any sample rate and number of channels. Each is read,
mixed to one channel, resampled to 22,050 Hz, trimmed, brought to one loudness and written to
OUT/wavs. What is broken, or does not fit its text, is left out; OUT/report.txt says why.

Killed and run again it goes on where it was; run again when files were added or changed in DIR, it
does these alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lightspeech import cli
from lightspeech.audio import SAMPLE_RATE, write_wav
from lightspeech.dataset import clean
from lightspeech.dataset.checks import Limits, above, limit_fields
from lightspeech.dataset.folder import (
    CARD,
    METADATA,
    WAVS,
    Row,
    dataset_recordings,
    read_table,
    write_card,
)
from lightspeech.dataset.import_report import (
    REPORT_TEXT,
    make_report,
    summary,
    write_report,
)
from lightspeech.dataset.journal import Entry, Journal, refuse_foreign
from lightspeech.dataset.judging import Verdict, judge, measured
from lightspeech.dataset.measuring import Sound, UnfitSoundError, measure
from lightspeech.dataset.pool import available_cores, results
from lightspeech.errors import InputError
from lightspeech.files import make_folder, remove_leftovers, single_writer, write_text
from lightspeech.text import UnknownCharacters

OnSound = Callable[[int, int], None]
"""Told how many sound files are done, and of how many."""

_WAV_HEADER = 44  # bytes before the samples


@dataclass(frozen=True)
class _Task:
    """A sound file to be read by some process."""

    id: str
    file: str  # relative to the folder that is imported, with /


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m lightspeech.dataset import`."""
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder with metadata.csv and wavs/")
    add("--out", metavar="OUT", type=Path, required=True, help="folder of the dataset to be made")
    add(
        "--jobs", metavar="N", type=cli.positive_int, default=available_cores(),
        help="processes that share the work; by default as many as there are cores",
    )  # fmt: skip
    limits = parser.add_argument_group(
        "limits", "An utterance beyond one of them is left out; none sets no limit."
    )
    for limit in limit_fields():
        limits.add_argument(
            "--" + limit.name.replace("_", "-"), metavar="X", type=_limit_value,
            default="none" if limit.default is None else limit.default,
            help=f"{limit.metadata['meaning']}, {limit.metadata['unit']}",
        )  # fmt: skip


def _limit_value(text: str) -> float | str:
    """An argparse type. (None would show no default.)"""
    if text == "none":
        return text
    try:
        return float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected a number or none, got {text!r}") from e


def main(options: argparse.Namespace) -> None:
    """Imports as the options say, and prints what came of it."""
    given = {limit.name: getattr(options, limit.name) for limit in limit_fields()}
    limits = Limits(**{name: None if value == "none" else value for name, value in given.items()})
    bar: tqdm[Any] | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                desc="importing", unit=" files", initial=done, dynamic_ncols=True, file=sys.stderr,
                # a log file needs a line now and then, not ten a second
                mininterval=0.5 if sys.stderr.isatty() else 15.0,
            )  # fmt: skip
        bar.total = total
        bar.update(done - bar.n)

    try:
        report = import_dataset(options.folder, options.out, limits, jobs=options.jobs, show=show)
    except KeyboardInterrupt:
        print(
            f"\nwhat was imported is kept in {options.out}; the same command goes on",
            file=sys.stderr,
        )
        raise
    finally:
        if bar is not None:
            bar.close()
    print(summary(report, options.out))
    print(f"next: python -m tacotron2.train {options.out}")


def import_dataset(
    source: str | Path,
    out: str | Path,
    limits: Limits | None = None,
    *,
    jobs: int = 1,
    show: OnSound | None = None,
) -> dict[str, Any]:
    """Makes the dataset folder `out` of the recordings and texts in `source`.

    The same input gives the same bytes, however many processes there are and however often it was
    interrupted. A script that asks for several `jobs` needs `if __name__ == "__main__"`.

    Args:
        source: a folder in LJSpeech's layout; it is only read.
        out: a new or empty folder, or one of an earlier run with the same source and limits.
        limits: LJSpeech and most readings lie well within the defaults.
        jobs: processes.
        show: called after each sound file.

    Returns:
        the report, as `lightspeech.dataset.import_report` describes it.

    Raises:
        InputError: `source` cannot be used at all or nothing of it was kept, or `out` is not ours,
            or cannot be written.
    """
    source, out, limits = Path(source), Path(out), limits or Limits()
    rows, recordings = read_table(source), dataset_recordings(source)
    _refuse_overlap(source, out)
    refuse_foreign(out)
    settings = _settings(limits)
    with (
        single_writer(make_folder(out)),
        Journal.open(out, str(source.resolve()), settings) as journal,
    ):
        remove_leftovers(out)
        remove_leftovers(make_folder(out / WAVS))
        verdict = _judged(rows, recordings, journal, source, out, limits, jobs, show)
        earlier = journal.entries.keys() | {row.id for row in rows if not row.fault}
        _write_table(out, verdict)
        for id in sorted(earlier - verdict.kept.keys()):
            (out / WAVS / f"{id}.wav").unlink(missing_ok=True)
        sounds = {id: measured(journal.entries[id]) for id in verdict.kept}
        report = _reported(source, rows, verdict, sounds, limits)
        write_report(out, report)
        if not verdict.kept:
            first = verdict.dropped[0]
            raise InputError(
                f"none of the {len(rows):,} rows of {source / METADATA} can be used; the first: "
                f"{first.name}: {first.reason}, {first.detail}; {out / REPORT_TEXT} has them all"
            )
        card = {
            "made_by": "import",
            "utterances": report["kept"],
            "hours": report["hours"],
            "source": {"folder": report["source"], "rows": report["rows"]},
            "settings": settings,
        }
        write_card(out, card)
        journal.finish(row.id for row in rows if not row.fault)
    return report


def _settings(limits: Limits) -> dict[str, Any]:
    """Everything but the input that decides on the result, in JSON's types."""
    names = ("TRIM", "MARGIN", "LOUDNESS", "SPEECH", "HIGHEST")
    cleaning = {
        name.lower(): value
        for name, value in sorted(vars(clean).items())
        if name.split("_")[0] in names and isinstance(value, float)
    }
    return {**asdict(limits), **cleaning, "sample_rate": SAMPLE_RATE}


def _refuse_overlap(source: Path, out: Path) -> None:
    ours, theirs = out.resolve(), source.resolve()
    if ours == theirs or (theirs / WAVS).resolve() in (ours, ours / WAVS, *ours.parents):
        raise InputError(f"--out {out} lies in the dataset that is imported; give another folder")


def _judged(
    rows: Sequence[Row],
    recordings: Mapping[str, Path],
    journal: Journal,
    source: Path,
    out: Path,
    limits: Limits,
    jobs: int,
    show: OnSound | None,
) -> Verdict:
    """Reads what has not been read, and judges all; afterwards the wav of each that is kept is
    there."""
    usable = {row.id: row for row in rows if not row.fault and row.id in recordings}
    tasks = [
        _Task(id, recordings[id].relative_to(source).as_posix())
        for id, row in usable.items()
        if not above(len(row.text), limits.max_characters)
    ]
    pending = [task for task in tasks if not _is_known(source, task, journal.entries.get(task.id))]
    while True:
        _read_all(pending, len(tasks), journal, source, out, limits, jobs, show)
        verdict = judge(rows, recordings, journal.entries, source, limits)
        # What was dropped has no wav; a change elsewhere may have moved the median since.
        lost = [
            task for task in tasks
            if task.id in verdict.kept and not _is_written(out, journal.entries[task.id])
        ]  # fmt: skip
        if not lost:
            return verdict
        pending = lost


def _is_known(source: Path, task: _Task, entry: Entry | None) -> bool:
    # The reason why a file was unreadable may have gone without any change of the file.
    if entry is None or entry.file != task.file or entry.reason == "unreadable":
        return False
    return (entry.size, entry.modified) == _state(source / task.file)


def _state(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change, ns; -1 where it cannot be said."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _is_written(out: Path, entry: Entry) -> bool:
    size, _ = _state(out / WAVS / f"{entry.id}.wav")
    return size == _WAV_HEADER + 2 * measured(entry).samples


def _read_all(
    pending: Sequence[_Task],
    n_all: int,
    journal: Journal,
    source: Path,
    out: Path,
    limits: Limits,
    jobs: int,
    show: OnSound | None,
) -> None:
    done = n_all - len(pending)
    if show is not None:
        show(done, n_all)
    work = partial(import_sound, source=source, out=out, limits=limits)
    for task, entry in results(work, pending, min(jobs, max(len(pending), 1))):
        if entry is None:
            died = "the process that read it died"
            size, modified = _state(source / task.file)
            entry = Entry(task.id, task.file, size, modified, None, "unreadable", died)
        journal.add(entry)
        done += 1
        if show is not None:
            show(done, n_all)


def import_sound(task: _Task, *, source: Path, out: Path, limits: Limits) -> Entry:
    """Reads one sound file, and writes its wav unless it is at fault; runs in any process.

    Raises:
        InputError, OSError: the wav cannot be written, which ends the import.
    """
    path = source / task.file
    size, modified = _state(path)
    try:
        sound, wav = measure(path, limits)
    except UnfitSoundError as e:
        return Entry(task.id, task.file, size, modified, None, e.reason, str(e))
    write_wav(out / WAVS / f"{task.id}.wav", wav)
    return Entry(task.id, task.file, size, modified, sound)


def _write_table(out: Path, verdict: Verdict) -> None:
    """The table of what was kept; where that is nothing, there is none, and no card."""
    if verdict.kept:
        lines = (f"{row.id}|{row.text}\n" for row in verdict.kept.values())
        write_text(out / METADATA, "".join(lines))
    else:
        for name in (METADATA, CARD):
            (out / name).unlink(missing_ok=True)


def _reported(
    source: Path,
    rows: Sequence[Row],
    verdict: Verdict,
    sounds: Mapping[str, Sound],
    limits: Limits,
) -> dict[str, Any]:
    unknown = UnknownCharacters()
    for row in verdict.kept.values():
        unknown.add(row.text, f"{METADATA}:{row.number}")
    return make_report(
        source.resolve().name, len(rows), sounds, verdict.dropped, limits, verdict.pace,
        unknown.summary(),
    )  # fmt: skip
