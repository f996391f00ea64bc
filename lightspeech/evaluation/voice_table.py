"""The figures of students beside their teacher as tables: for a terminal, and for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightspeech.evaluation.bootstrap import interval_text
from lightspeech.evaluation.figures import STAGES
from lightspeech.evaluation.sound_figures import SHORT_SECONDS
from lightspeech.evaluation.tables import Table
from lightspeech.evaluation.voices import STUDENT, TEACHER

_LONGEST_NAME = 24  # characters of a voice's name above its column

_HEARD = {
    "dnsmos_p808": ("DNSMOS P.808, 1 to 5", "{:.2f}", "{:+.2f}", 1),
    "dnsmos_overall": ("DNSMOS overall, 1 to 5", "{:.2f}", "{:+.2f}", 1),
    "character_error": ("characters misheard, %", "{:.1f}", "{:+.1f}", 100),
    "word_error": ("words misheard, %", "{:.1f}", "{:+.1f}", 100),
}  # figure -> its name, the forms of a value and of a difference, times what
_COMPARED = {
    "mel_cepstral_distortion": ("mel-cepstral distortion, dB", "{:.2f}", "{:+.2f}", 1),
    "mel_error": ("mel error at teacher's durations, ln", "{:.3f}", "{:+.3f}", 1),
    "variance_ratio": ("mel variance / teacher's", "{:.2f}", "{:+.2f}", 1),
    "pitch_error_cents": ("pitch error (log F0), cents", "{:.0f}", "{:+.0f}", 1),
    "voicing_error": ("voicing error, % of frames", "{:.1f}", "{:+.1f}", 100),
    "duration_error_frames": ("duration error, frames a symbol", "{:.2f}", "{:+.2f}", 1),
    "length_ratio": ("length / teacher's", "{:.3f}", "{:+.3f}", 1),
}


def tables(record: Mapping[str, Any], vocoder: str | None = None) -> list[Table]:
    """The tables of what `voice_evaluation.evaluate` returns: a vocoder each, then the mels.

    Args:
        record: with `given`: how many texts there were to judge.
        vocoder: the only one that is wanted; None: all of them.
    """
    found = [_heard(record, name) for name in record["vocoders"] if vocoder in (None, name)]
    return [*found, _compared(record)] if record["compared"] else found


def text_of(record: Mapping[str, Any]) -> str:
    """All tables below each other."""
    return "\n\n".join(table.text() for table in tables(record))


def _count(record: Mapping[str, Any]) -> str:
    judged, given = record["judged"], record["given"]
    texts = "1 text" if given == 1 else f"{given:,} texts"
    return texts if judged == given else f"{judged:,} of {texts}"


def _heard(record: Mapping[str, Any], vocoder: str) -> Table:
    """Everybody through one vocoder; after each student, its difference from the teacher."""
    heard = record["heard"][vocoder]
    columns = [(who, False) for who in heard["voices"]]
    for student in heard["difference"]:
        columns.insert(columns.index((student, False)) + 1, (student, True))

    def cell(who: str, is_difference: bool, name: str, forms: tuple[str, str], times: int) -> str:
        figure = heard["difference" if is_difference else "voices"][who][name]
        return interval_text(figure, forms[is_difference], times)

    def plain_row(name: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
        return name, ["" if is_difference else values[who] for who, is_difference in columns]

    parameters = {who: f"{voice['parameters']:,}" for who, voice in record["voices"].items()}
    rows = [plain_row("parameters", parameters)]
    for name, (words, value, difference, times) in _HEARD.items():
        if heard["judged"][name]:
            cells = [cell(*column, name, (value, difference), times) for column in columns]
            rows.append((words, cells))
    seconds = {who: f"{voice['seconds']:.1f}" for who, voice in heard["voices"].items()}
    rows.append(plain_row("seconds of sound", seconds))
    for stage, words in STAGES.items():
        speeds = {
            who: _speed(voice["times_real_time"][stage]) for who, voice in heard["voices"].items()
        }
        rows.append(plain_row(f"{words}, x real time", speeds))
    notes = []
    short = max(heard["short"].values())
    if short and heard["judged"]["dnsmos_p808"]:
        texts = "1 text takes" if short == 1 else f"{short:,} texts take"
        notes.append(
            f"DNSMOS hears 9 s, and shorter sound is repeated: {texts} less than "
            f"{SHORT_SECONDS:g} s, of which it says little."
        )
    if record["cut_off"]:
        sentences = "1 sentence" if record["cut_off"] == 1 else f"{record['cut_off']:,} sentences"
        notes.append(f"The teacher did not end {sentences} by itself and was cut off.")
    heads = ["less the teacher" if differs else _name(who) for who, differs in columns]
    caption = f"{_count(record)} through {vocoder}, with 95 % intervals:"
    return Table(caption, heads, rows, notes)


def _compared(record: Mapping[str, Any]) -> Table:
    """Every student's mels and durations, and how the first one differs from the others."""
    compared, differences = record["compared"], record["compared_difference"]
    heads = [_name(who) for who in compared]
    heads += [f"{STUDENT} less {_name(other)}" for other in differences]
    rows = []
    for name, (words, value, signed, times) in _COMPARED.items():
        cells = [(figures[name], value) for figures in compared.values()]
        cells += [(figures[name], signed) for figures in differences.values()]
        shown = [interval_text(figure, form, times) if figure else "-" for figure, form in cells]
        rows.append((words, shown))
    return Table(f"{_count(record)} beside the {TEACHER}'s, whatever the vocoder:", heads, rows, [])


def _name(who: str) -> str:
    return who if len(who) <= _LONGEST_NAME else "\u2026" + who[1 - _LONGEST_NAME :]


def _speed(times: float) -> str:
    """Three digits, as far as they say anything."""
    return f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
