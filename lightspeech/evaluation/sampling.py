"""Which of many texts are shown."""

from __future__ import annotations

from collections.abc import Sequence

from lightspeech.text import Line


def spread(lines: Sequence[Line], count: int) -> list[Line]:
    """At most `count` lines (two or more), from the shortest to the longest at even steps of rank.

    Those of one length come in the order of their ids; fewer lines than that come all, ranked.
    """
    ranked = sorted(lines, key=lambda line: (len(line.text), line.id))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]
