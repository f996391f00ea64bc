"""Figures in rows and columns, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_GAP = "   "


@dataclass(frozen=True)
class Table:
    """Words in rows and columns."""

    caption: str
    heads: Sequence[str]
    """of the columns but the first, which names the rows"""
    rows: Sequence[tuple[str, Sequence[str]]]
    """at least one: its name, and a cell for each of the heads"""
    notes: Sequence[str] = ()
    """sentences about it"""

    def text(self) -> str:
        """For a terminal: every column as wide as its widest cell, aligned to the right."""
        name_width = max(len(name) for name, _ in self.rows)
        columns = zip(self.heads, *(cells for _, cells in self.rows), strict=True)
        widths = [max(len(cell) for cell in column) for column in columns]
        lines = [self.caption]
        for name, cells in [("", self.heads), *self.rows]:
            shown = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"  {name:{name_width}}{_GAP}{_GAP.join(shown)}".rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def html(self) -> str:
        """For a page: a section with the caption as its heading."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *self.heads))
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, cells in self.rows
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return (
            f'<section class="figures"><h2>{escape(self.caption)}</h2><table><thead><tr>{head}</tr>'
            f"</thead><tbody>{rows}</tbody></table>{notes}</section>"
        )
