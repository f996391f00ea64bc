"""What an import kept, dropped and changed: OUT/report.txt for people, report.json for programs.

report.json holds

    format, version       what it is
    source                name of the folder that was imported
    rows, kept, hours     rows of its table; utterances that were kept, and their length
    reasons               reason -> how many entries of `dropped` have it, the commonest first
    dropped               id, row (null for a sound without a row), file (null where there is none),
                          reason (see `lightspeech.dataset.checks.REASONS`), detail
    limits                those in force, null for none
    pace                  median_seconds_per_symbol and robust_deviation (of the logarithm), or null
                          where there were too few utterances to tell
    seconds               min, median and max of what was kept
    changed               what was done to the sounds that were kept: resampled (Hz -> files), mixed
                          (channels -> files), trimmed_seconds (in all), gain_decibels (min, median
                          and max)
    noisiest              id and speech_to_noise (dB) of up to 5 that were kept
    not_spoken            a sentence for each character that the voice cannot speak

There is no date in it: the same input gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lightspeech.audio import SAMPLE_RATE
from lightspeech.dataset.checks import REASONS, Limits
from lightspeech.dataset.measuring import Sound
from lightspeech.files import write_json, write_text

REPORT_TEXT = "report.txt"
REPORT_JSON = "report.json"
_NOISIEST = 5
_NAMED = 3  # examples of each reason on the terminal


@dataclass(frozen=True)
class Dropped:
    """A row, or a sound without a row, that is not in the dataset."""

    id: str
    """empty for a row without a legible one"""
    row: int | None
    file: str | None
    """relative to the folder that was imported"""
    reason: str
    """one of REASONS"""
    detail: str

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.id or f"row {self.row}"


def make_report(
    source: str,
    rows: int,
    kept: Mapping[str, Sound],
    dropped: Sequence[Dropped],
    limits: Limits,
    pace: tuple[float, float] | None,
    not_spoken: Sequence[str],
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        kept: id -> what was measured of its sound, in the order of the table.
        pace: median (s a symbol) and robust standard deviation (of its logarithm).
    """
    sounds = list(kept.values())
    seconds = [sound.seconds for sound in sounds]
    gains = [sound.gain for sound in sounds]
    noisiest = sorted(kept, key=lambda id: kept[id].speech_to_noise)[:_NOISIEST]
    return {
        "format": "lightspeech-import-report",
        "version": 1,
        "source": source,
        "rows": rows,
        "kept": len(kept),
        "hours": round(sum(seconds) / 3600, 4),
        "reasons": dict(Counter(entry.reason for entry in dropped).most_common()),
        "dropped": [asdict(entry) for entry in dropped],
        "limits": asdict(limits),
        "pace": None
        if pace is None
        else {
            "median_seconds_per_symbol": round(pace[0], 5),
            "robust_deviation": round(pace[1], 4),
        },
        "seconds": _spread(seconds),
        "changed": {
            "resampled": _counts(s.rate for s in sounds if s.rate != SAMPLE_RATE),
            "mixed": _counts(s.channels for s in sounds if s.channels > 1),
            "trimmed_seconds": round(sum(s.seconds_read - s.seconds for s in sounds), 2),
            "gain_decibels": _spread(gains),
        },
        "noisiest": [{"id": id, "speech_to_noise": kept[id].speech_to_noise} for id in noisiest],
        "not_spoken": list(not_spoken),
    }


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Writes both forms of a report, each whole or not at all."""
    write_text(out / REPORT_TEXT, _text(report))
    write_json(out / REPORT_JSON, report)


def summary(report: Mapping[str, Any], out: Path) -> str:
    """What the terminal shows at the end: counts, examples, and where to read on."""
    lines = [_headline(report)]
    for reason, count in report["reasons"].items():
        names = [_name(entry) for entry in report["dropped"] if entry["reason"] == reason]
        more = ", ..." if count > _NAMED else ""
        lines.append(f"  {count:>6,} {reason:<16} {', '.join(names[:_NAMED])}{more}")
    lines += [f"warning: {sentence}" for sentence in report["not_spoken"]]
    lines.append(f"report: {out / REPORT_TEXT} (for programs: {out / REPORT_JSON})")
    return "\n".join(lines)


def _headline(report: Mapping[str, Any]) -> str:
    dropped = len(report["dropped"])
    return (
        f"kept {report['kept']:,} utterances, {_length(report['hours'])}, of {report['rows']:,} "
        f"rows; left out {dropped:,}" + (":" if dropped else "")
    )


def _length(hours: float) -> str:
    return f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _text(report: Mapping[str, Any]) -> str:
    changed, seconds, pace = report["changed"], report["seconds"], report["pace"]
    lines = [f"Import of {report['source']}", "", _headline(report)]
    lines += [f"  {count:>6,} {reason}" for reason, count in report["reasons"].items()]
    if seconds:
        lines += [
            "",
            "What was done to those that were kept",
            f"  {_sum(changed['resampled']):,} resampled to {SAMPLE_RATE:,} Hz"
            + _list(changed["resampled"], "at {} Hz"),
            f"  {_sum(changed['mixed']):,} mixed down to one channel"
            + _list(changed["mixed"], "with {} channels"),
            f"  {changed['trimmed_seconds']:,.1f} s of silence cut off at their ends",
            f"  gain {_range(changed['gain_decibels'], 'dB')}",
            "",
            "What they are like",
            f"  length: {_range(seconds, 's')}",
        ]
        if pace:
            lines.append(
                f"  pace: {1000 * pace['median_seconds_per_symbol']:.0f} ms a symbol (median), "
                f"robust standard deviation {100 * pace['robust_deviation']:.0f}%"
            )
        noisiest = ", ".join(
            f"{n['id']} ({n['speech_to_noise']:.0f} dB)" for n in report["noisiest"]
        )
        lines.append(f"  least clear of noise: {noisiest}")
    if report["not_spoken"]:
        lines += ["", "Characters that the voice cannot speak (their rows were kept)"]
        lines += [f"  {sentence}" for sentence in report["not_spoken"]]
    for reason in report["reasons"]:
        lines += ["", f"{reason}: {REASONS[reason]}"]
        for entry in report["dropped"]:
            if entry["reason"] == reason:
                place = f" (row {entry['row']})" if entry["row"] and entry["id"] else ""
                detail = f": {entry['detail']}" if entry["detail"] else ""
                lines.append(f"  {_name(entry)}{place}{detail}")
    lines += ["", "Limits (another: python -m lightspeech.dataset import --help)"]
    lines += [
        f"  {name} {'none' if limit is None else f'{limit:g}'}"
        for name, limit in report["limits"].items()
    ]
    return "\n".join(lines) + "\n"


def _name(entry: Mapping[str, Any]) -> str:
    return Dropped(**entry).name


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    numbers = {"min": min(values), "median": median(values), "max": max(values)}
    return {name: round(value, 2) for name, value in numbers.items()}


def _range(spread: Mapping[str, float], unit: str) -> str:
    return f"{spread['min']:g} to {spread['max']:g} {unit}, median {spread['median']:g}"


def _counts(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _sum(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _list(counts: Mapping[str, int], what: str) -> str:
    parts = [f"{count:,} {what.format(value)}" for value, count in counts.items()]
    return f" ({', '.join(parts)})" if parts else ""
