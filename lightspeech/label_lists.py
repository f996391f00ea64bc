"""The lists on the page of a label report: the worst that were kept, and what was rejected.

Texts, names and reasons are escaped, cut to a length, and counted beyond a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lightspeech.evaluation.histograms import plain

MOST_REJECTS = 200
"""rejects in the table; report.json has all of them"""
MOST_SCORES = 40
"""scores of a label that are shown"""
LONGEST_NAME = 120
"""characters of a name that are shown"""

_MOST_REASONS = 30
_FEW_SCORES = 5  # of a reject: those beyond their limits, or any where none is
_LONGEST_TEXT = 400  # characters


@dataclass(frozen=True)
class Picture:
    """A plot of a label."""

    source: str
    """data URI"""
    width: int
    """pixels"""
    description: str
    """in words"""


def worst_section(
    report: Mapping[str, Any], pictures: Sequence[Picture | None], note: str
) -> tuple[str, str, str]:
    """The labels that were kept but came near a limit: (anchor, title, HTML)."""
    worst = report["worst"]
    articles = []
    for entry, picture in zip(worst, pictures, strict=True):
        causes = "".join(f"<li>{escape(shortened(cause))}</li>" for cause in entry["causes"])
        scores = score_list(entry["scores"], report["scores"])
        name = escape(shortened(entry["id"], LONGEST_NAME))
        image = (
            '<div class="scroll" tabindex="0" role="group" aria-label="Plot">'
            f'<img src="{picture.source}" width="{picture.width}" '
            f'alt="{escape(picture.description)}"></div>'
            if picture is not None
            else '<p class="meaning">No picture: the page would grow too large.</p>'
        )
        articles.append(
            f'<article><h3><span class="rank">{entry["rank"]}</span>'
            f'{escape(shortened(entry["text"]))}</h3><p class="meaning"><code>{name}</code> '
            f"\u00b7 {entry['seconds']:.2f} s \u00b7 {entry['frames']:,} frames \u00b7 "
            f"{entry['tokens']:,} tokens</p><ul>{causes}</ul>{image}"
            f"<details><summary>All its scores</summary>{scores}</details></article>"
        )
    intro = (
        "<p>These were kept, but came nearest to being rejected. What counts is how much of the "
        "way from the typical value (the median) to its limit each score has gone; a label ranks "
        f"by the score that has gone furthest. {escape(note)}</p>"
    )
    title = f"The worst {len(worst)} of the kept" if len(worst) > 1 else "The worst of the kept"
    return "worst", title, intro + "".join(articles)


def rejects_section(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """How often texts were rejected for what, and the texts: (anchor, title, HTML)."""
    rejects, title = report["rejects"], "What was rejected, and why"
    if not rejects:
        return "rejected", title, "<p>Nothing: the teacher read every text well enough.</p>"
    reasons = list(report["reasons"].items())
    most = max(report["reasons"].values())
    rows = "".join(
        f'<tr><th scope="row">{escape(shortened(reason, 200))}</th><td>{count:,}</td>'
        f'<td class="wide"><span class="share bad" aria-hidden="true">'
        f'<span style="width:{100 * count / most:.1f}%"></span></span></td></tr>'
        for reason, count in reasons[:_MOST_REASONS]
    )
    if len(reasons) > _MOST_REASONS:
        rest = sum(count for _, count in reasons[_MOST_REASONS:])
        rows += f'<tr><th scope="row">other reasons</th><td>{rest:,}</td><td></td></tr>'
    summary = (
        '<div class="scroll" tabindex="0" role="group" aria-label="Reasons"><table class="reasons">'
        '<thead><tr><th scope="col">Reason</th><th scope="col">Texts</th><th scope="col">'
        f"</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    entries = "".join(_reject(entry, report["scores"]) for entry in rejects[:MOST_REJECTS])
    more = len(rejects) - MOST_REJECTS
    left = f"<p>And {more:,} more, which report.json lists.</p>" if more > 0 else ""
    return (
        "rejected",
        title,
        "<p>No rendition of these texts was good enough; the reason is that of the last one. "
        f"With --retry-rejects, preprocess.py tries them again.</p>{summary}"
        '<div class="scroll" tabindex="0" role="group" aria-label="Rejected texts"><table '
        'class="rejects"><thead><tr><th scope="col">Id</th><th scope="col">Text</th>'
        '<th scope="col">Reason</th><th scope="col">Tries</th><th scope="col">Scores</th></tr>'
        f"</thead><tbody>{entries}</tbody></table></div>{left}",
    )


def _reject(entry: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    scores = entry["scores"]
    beyond = {n: value for n, value in scores.items() if _is_beyond(value, known.get(n, {}))}
    telling = dict(list((beyond or scores).items())[:_FEW_SCORES])
    return (
        f'<tr><td class="id"><code>{escape(shortened(entry["id"], LONGEST_NAME))}</code></td>'
        f'<td class="text">{escape(shortened(entry["text"]))}</td>'
        f"<td>{escape(shortened(entry['reason'], 200))}</td><td>{entry['tries']:,}</td>"
        f"<td>{score_list(telling, known)}</td></tr>"
    )


def _is_beyond(value: float, figures: Mapping[str, Any]) -> bool:
    low, high = figures.get("low"), figures.get("high")
    return (low is not None and value < low) or (high is not None and value > high)


def score_list(scores: Mapping[str, float], known: Mapping[str, Any]) -> str:
    """Scores as a row of small boxes; `known` has their titles."""
    items = "".join(
        f"<li>{escape(shortened(known.get(name, {}).get('title', name), LONGEST_NAME))} "
        f"<b>{plain(value)}</b></li>"
        for name, value in list(scores.items())[:MOST_SCORES]
    )
    return f'<ul class="chips">{items}</ul>'


def shortened(text: str, most: int = _LONGEST_TEXT) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
