"""Tables as text, as HTML and as dataframes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np


def number(value: Any, digits: int = 6) -> str:
    """Return a number with some significant digits; nothing for None, and "NaN" for NaN."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return "NaN" if np.isnan(value) else f"{value:.{digits}g}"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns. The first column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def as_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same table in HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        styles = ["text-align: left", *["text-align: right"] * (len(cells) - 1)]
        inner = (f'<{tag} style="{style}">{escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"
