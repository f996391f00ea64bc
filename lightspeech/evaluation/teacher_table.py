"""The figures of a teacher's evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightspeech.evaluation.bootstrap import interval_text
from lightspeech.evaluation.sound_figures import SHORT_SECONDS
from lightspeech.evaluation.teacher_figures import VERDICTS

_MOST_FAILING = 20  # that are printed
_NAME = 42  # characters of the first column
_COLUMN = 13
_QUALITY: dict[str, tuple[str, str, float, str]] = {
    "dnsmos_p808": ("DNSMOS P.808 (1 to 5)", "{:.2f}", 1, "{:+.2f}"),
    "dnsmos_overall": ("DNSMOS overall (1 to 5)", "{:.2f}", 1, "{:+.2f}"),
    "character_error": ("character error", "{:.1%}", 100, "{:+.1f} points"),
    "word_error": ("word error", "{:.1%}", 100, "{:+.1f} points"),
}  # figure -> its name, how a value is shown, and how a difference is: times what, and in what form
_MEANS = {
    "focus_rate": ("focus of the attention", "{:.3f}"),
    "coverage": ("coverage", "{:.4f}"),
    "monotonicity": ("monotonicity", "{:.4f}"),
    "backward_jumps": ("backward jumps", "{:.3f}"),
    "longest_stay": ("longest stay on a symbol, frames", "{:.1f}"),
    "longest_skip": ("most symbols passed over in a row", "{:.2f}"),
    "frames_at_end": ("frames on the last symbols", "{:.1f}"),
}


def table(record: Mapping[str, Any]) -> str:
    """The figures of `lightspeech.evaluate_teacher.evaluate`, several tables below each other."""
    found = record["all"]
    lines = [
        f"{found['utterances']:,} texts by {record['teacher']['name']} through {record['vocoder']}:"
    ]
    for name, words in VERDICTS.items():
        lines.append(_row(words, [_share(found, name)]))
    lines.append(_row("preprocess.py would keep at once", [_share(found, "labelling")]))
    for name, (words, shown) in _MEANS.items():
        if name in found["means"]:
            lines.append(_row(f"mean {words}", [shown.format(found["means"][name])]))
    at_once = {"teacher": f" (up to {record['settings']['batch_size']} at once)"}
    for who, speed in found["times_real_time"].items():
        lines.append(_row(f"{who}, x real time{at_once.get(who, '')}", [f"{speed:.1f}"]))
    lines += ["", *_sides(found)]
    if len(record["by_length"]) > 1:
        lines += ["", *_by_length(record["by_length"])]
    if record["failing"]:
        lines += ["", f"{len(record['failing']):,} failed:"]
        for failing in record["failing"][:_MOST_FAILING]:
            lines.append(f"  {failing['text']}")
            lines.append(f"      {failing['characters']} characters: {failing['reason']}")
        if len(record["failing"]) > _MOST_FAILING:
            rest = len(record["failing"]) - _MOST_FAILING
            lines.append(f"  and {rest:,} more, in the JSON file")
    return "\n".join(lines)


def _sides(found: Mapping[str, Any]) -> list[str]:
    """How the teacher sounds, beside the recordings if there are any."""
    quality = found["quality"]
    both = "recording" in quality
    heads = ["teacher", *(["recordings", "   difference (95 % interval)"] if both else [])]
    lines = [_row("", heads)]
    for name, (words, shown, factor, signed) in _QUALITY.items():
        if not quality["judged"][name]:
            continue
        sides = [quality[side][name] for side in ("teacher", "recording") if side in quality]
        cells = [shown.format(side["value"]) for side in sides]
        if both:
            cells.append("   " + interval_text(quality["difference"][name], signed, factor))
        lines.append(_row(f"{words}, {quality['judged'][name]:,} texts", cells))
    rates = found["seconds_per_character"]
    cells = [f"{rate:.4f}" for rate in rates.values() if rate is not None]
    lines.append(_row("seconds of sound a character", cells))
    if found["length_ratio"]:
        words = "length, of the recordings'"
        lines.append(_row(words, ["   " + interval_text(found["length_ratio"], "{:.3f}")]))
    if found["mel_cepstral_distortion"]:
        words = "mel-cepstral distortion, dB"
        lines.append(
            _row(words, ["   " + interval_text(found["mel_cepstral_distortion"], "{:.2f}")])
        )
    short = quality["short"]["teacher"]
    if short and quality["judged"]["dnsmos_p808"]:
        texts = "1 text takes" if short == 1 else f"{short:,} texts take"
        lines.append(
            f"  DNSMOS hears 9 s, and shorter sound is repeated: {texts} less than "
            f"{SHORT_SECONDS:g} s, of which it says little."
        )
    return lines


def _by_length(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A column for each group of lengths."""
    found = list(groups.values())
    lines = [
        _row("characters", list(groups)),
        _row("texts", [f"{group['utterances']:,}" for group in found]),
        _row(VERDICTS["sound"], [f"{group['shares']['sound']:.1%}" for group in found]),
    ]
    for name, (words, shown, _, _) in _QUALITY.items():
        for side in ("teacher", "recording"):
            figures = [group["quality"].get(side, {}).get(name) for group in found]
            if any(figures):
                cells = [shown.format(figure["value"]) if figure else "-" for figure in figures]
                lines.append(_row(f"{words.split(' (')[0]}, {side}", cells))
    for name, words, shown in (
        ("mel_cepstral_distortion", "mel-cepstral distortion, dB", "{:.2f}"),
        ("length_ratio", "length, of the recordings'", "{:.3f}"),
    ):
        figures = [group[name] for group in found]
        if any(figures):
            cells = [shown.format(figure["value"]) if figure else "-" for figure in figures]
            lines.append(_row(words, cells))
    return lines


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:{_NAME}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _share(found: Mapping[str, Any], name: str) -> str:
    return f"{found['counts'][name]:,} ({found['shares'][name]:.1%})"
