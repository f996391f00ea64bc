"""The page of a label report: its figures as HTML, for people who know nothing of the code.

One file with everything in it, without any script; a content security policy in the page allows
nothing from outside. Whatever comes from a store is escaped, cut to a length, and counted beyond a
number, so that a page of any store opens quickly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from lightspeech.audio import FRAME_SECONDS
from lightspeech.evaluation.histograms import Histogram, draw_histogram, plain
from lightspeech.label_lists import (
    LONGEST_NAME,
    MOST_SCORES,
    Picture,
    rejects_section,
    shortened,
    worst_section,
)

_MOST_SETTINGS = 60


def render_page(report: Mapping[str, Any], pictures: Sequence[Picture | None], note: str) -> str:
    """The page as HTML.

    Args:
        report: the figures, as report.json has them.
        pictures: of report["worst"]; None where there is no room for one.
        note: what the pictures show, or why they lack something; plain text.
    """
    kept, rejected = report["kept"], report["rejected"]
    sections = []
    if kept:
        sections += [_scores(report), worst_section(report, pictures, note)]
    sections += [rejects_section(report), _making(report)]
    fill = {
        "title": escape(f"{kept:,} labels, {rejected:,} rejects: {shortened(report['store'])}"),
        "heading": escape(
            f"{kept:,} {'text' if kept == 1 else 'texts'} labelled, {rejected:,} rejected"
            if kept
            else "No labels yet"
        ),
        "lead": _lead(report),
        "cards": "\n".join(_cards(report)),
        "contents": "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections),
        "sections": "\n".join(
            f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{title}</h2>'
            f"{content}</section>"
            for anchor, title, content in sections
        ),
        "made": escape(report["made"]),
    }
    template = files("lightspeech").joinpath("label_report.html").read_text(encoding="utf-8")
    # One pass, so that a text which contains {{sections}} is only a text.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: fill[found[1]], template)


def _lead(report: Mapping[str, Any]) -> str:
    teacher = f"the teacher <b>{escape(shortened(report['teacher']['name'], LONGEST_NAME))}</b>"
    if not report["kept"]:
        tried = "It rejected every text it was given" if report["rejected"] else "Nothing is in it"
        return f"This label store is for {teacher}. {tried}; run preprocess.py to label texts."
    return (
        f"A label is what {teacher} said about a text: the mel spectrogram, and how long it stayed "
        "on each symbol. A student voice learns from these, so a text that the teacher read badly "
        "every time is left out. This page shows what was kept, how good it is, and what to listen "
        "to with suspicion."
    )


def _cards(report: Mapping[str, Any]) -> list[str]:
    kept, rejected, run = report["kept"], report["rejected"], report["run"]
    tried = kept + rejected
    share = 100 * kept / tried if tried else 0.0
    bar = (
        f'<span class="share" aria-hidden="true"><span style="width:{share:.2f}%"></span></span>'
        if tried
        else ""
    )
    cards = [
        _card("Kept", f"{kept:,}", [f"{_percent(kept, tried)} of {tried:,} texts"], "good", bar)
    ]
    again = report["kept_after_retry"]
    retries = []
    if run is not None:
        retries.append(f"renditions drawn again by the last run: {run['retried']:,}")
    if again is not None:
        retries.append(f"labels that are not the first rendition of their text: {again:,}")
    cards.append(
        _card(
            "Retried",
            f"{run['retried']:,}" if run is not None else f"{again or 0:,}",
            [f"{_percent(again, kept)} of the labels needed another try"]
            if again is not None and kept
            else retries[:1],
        )
    )
    reasons = [
        f"{count:,}: {shortened(reason, 60)}"
        for reason, count in list(report["reasons"].items())[:2]
    ]
    cards.append(
        _card("Rejected", f"{rejected:,}", reasons or ["no text failed"], "bad" if rejected else "")
    )
    if kept:
        cards.append(
            _card(
                "Speech",
                _time(report["hours"] * 3600),
                [
                    f"{report['frames']:,} frames of {1000 * FRAME_SECONDS:.1f} ms",
                    f"{report['seconds']['mean']:.1f} s an utterance, "
                    f"the longest {report['seconds']['max']:.1f} s",
                ],
            )
        )
        pace = report["frames_per_token"]
        cards.append(
            _card(
                "Frames a token",
                f"{pace['mean_of_all']:.2f}",
                [
                    f"{report['tokens']:,} tokens (letters and marks)",
                    f"utterances: {plain(pace['min'])} to {plain(pace['max'])}",
                ],
            )
        )
    if run is not None and run["kept"]:
        speed = f"{plain(run['times_real_time'])} \u00d7"
        details = [
            "real time" + (f", on {shortened(run['device'], 60)}" if run["device"] else ""),
            f"{plain(run['utterances_per_second'])} utterances a second; "
            f"{run['kept']:,} in {_time(run['seconds'])}",
        ]
    else:
        speed = "\u2013"
        details = [
            "written from the store alone, not by a run"
            if run is None
            else "the last run labelled nothing new"
        ]
    return [*cards, _card("Speed", speed, details)]


def _card(label: str, value: str, lines: Sequence[str], style: str = "", more: str = "") -> str:
    details = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f'<div class="card"><h2>{escape(label)}</h2><p class="big {style}">{escape(value)}</p>'
        f"{more}{details}</div>"
    )


def _scores(report: Mapping[str, Any]) -> tuple[str, str, str]:
    charts = [
        _chart(name, figures) for name, figures in list(report["scores"].items())[:MOST_SCORES]
    ]
    if "frames_per_token" not in report["scores"]:
        pace = {**report["frames_per_token"], "title": "frames a token", "unit": "frames"}
        charts.append(_chart("figure-frames-per-token", pace))
    length = {
        **report["seconds"],
        "title": "length of an utterance",
        "unit": "seconds",
        "meaning": "Seconds of speech. Students learn from what is common here, so they do "
        "best at these lengths.",
    }
    charts.append(_chart("figure-seconds", length))
    legend = "".join(
        f'<span><span class="swatch {style}"></span>{words}</span>'
        for style, words in (
            ("kept", "kept, above the line"),
            ("rejected", "last try of the rejected, below it, to a scale of its own"),
            ("beyond", "beyond a limit: no label"),
            ("median", "median of the kept"),
        )
    )
    return (
        "scores",
        "How good the labels are",
        f'<p class="legend">{legend}</p><div class="charts">{"".join(charts)}</div>',
    )


def _chart(name: str, figures: Mapping[str, Any]) -> str:
    title, unit = figures["title"], figures.get("unit", "")
    heading = f"<h3>{escape(shortened(title, LONGEST_NAME))}" + (
        f" <small>{escape(shortened(unit, 40))}</small></h3>" if unit else "</h3>"
    )
    meaning = figures.get("meaning", "")
    note = f'<p class="meaning">{escape(meaning)}</p>' if meaning else ""
    if not figures["count"]:
        return f'<figure class="chart">{heading}{note}<p class="meaning">No values.</p></figure>'
    shape = Histogram(**figures["histogram"])
    facts = [
        f"min {plain(figures['min'])}",
        f"median {plain(figures['median'])}",
        f"max {plain(figures['max'])}",
        f"tallest bar {max(shape.counts):,}",
    ]
    low, high = figures.get("low"), figures.get("high")
    limits = [
        f"{word} {plain(limit)}"
        for word, limit in (("not below", low), ("not above", high))
        if limit is not None
    ]
    description = f"Histogram of {figures['count']:,} labels: {', '.join(facts)}. " + (
        f"Limits: {' and '.join(limits)}." if limits else "No limits."
    )
    drawing = draw_histogram(
        shape,
        title=title,
        description=description,
        low=low,
        high=high,
        median=figures["median"],
        anchor="chart-" + re.sub(r"\W", "-", name),
    )
    caption = " \u00b7 ".join(facts)
    return (
        f'<figure class="chart">{heading}{note}{drawing}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _making(report: Mapping[str, Any]) -> tuple[str, str, str]:
    teacher, run = report["teacher"], report["run"]
    tables = [
        (
            "Teacher and settings",
            {
                "teacher": teacher["name"],
                "its SHA-256": teacher["sha256"],
                **_flat(report["labelling"]),
            },
        )
    ]
    if report["calibration"]:
        tables.append(("Calibration", _flat(report["calibration"])))
    if run is not None:
        tables.append(
            (
                "The last run",
                {
                    "texts given": f"{run['texts']:,}",
                    "labelled before": f"{run['already_there']:,}",
                    "rejected before": f"{run['rejected_before']:,}",
                    "labelled": f"{run['kept']:,}",
                    "renditions drawn again": f"{run['retried']:,}",
                    "labelled thanks to these": f"{run['kept_after_retry']:,}",
                    "rejected": f"{sum(run['rejected'].values()):,}",
                    "speech": _time(run["hours"] * 3600),
                    "time": _time(run["seconds"]),
                },
            )
        )
        if run["failures"]:
            failed = {reason: f"{count:,}" for reason, count in run["failures"].items()}
            tables.append(("Why it drew renditions again, or gave up", failed))
    boxes = "".join(
        f'<div class="card"><h3>{escape(title)}</h3><dl>'
        + "".join(
            f"<div><dt>{escape(shortened(name, LONGEST_NAME))}</dt>"
            f"<dd>{escape(shortened(str(value), LONGEST_NAME))}</dd></div>"
            for name, value in list(rows.items())[:_MOST_SETTINGS]
        )
        + "</dl></div>"
        for title, rows in tables
    )
    return "made", "How they were made", f'<div class="making">{boxes}</div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = plain(value) if isinstance(value, float) else value
    return flat


def _percent(part: int, whole: int) -> str:
    """`99.6%`, and never 100% or 0% unless that is the whole truth."""
    share = 100 * part / whole if whole else 0.0
    if 0 < part < whole:
        return f"{min(max(share, 0.1), 99.9):.1f}%"
    return f"{share:.0f}%"


def _time(seconds: float) -> str:
    """`12.3 s`, `4.5 minutes`, `23.9 hours`"""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
