"""How tables and sentences fit the width of a terminal: folded by words, or one row a paragraph.

One rule: no word that a terminal could show whole is broken, and what is short (a name, a number) is never folded.
"""

from __future__ import annotations

from collections.abc import Sequence

GAP = 2
READABLE = 20
"""Columns in which a sentence can be read."""
SHORT = 32
"""What has no more columns than this is a name or a number, and is not folded."""
LONG = 40
"""A word of more columns than this, say a path, may be broken within a table."""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], room: int
) -> str | None:
    """Return a table in this many columns of a terminal, its longest texts folded; None where it would not be read."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = _widths(
        [[name, *(row[i] for row in rows)] for i, name in enumerate(columns)], columns, right, room
    )
    if widths is None:
        return None
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        justify = "right" if column in right else "left"
        made.add_column(Text(column), justify=justify, overflow="fold", width=width)  # type: ignore[arg-type] # a name
    for row in rows:
        made.add_row(*map(Text, row))
    console = Console(width=max(1, sum(widths) + GAP * len(widths)))
    with console.capture() as captured:
        console.print(made)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _widths(
    cells: Sequence[Sequence[str]], columns: Sequence[str], right: Sequence[str], room: int
) -> list[int] | None:
    """Return a width for each column: what it wants, the widest less where they want too much."""
    from rich.cells import cell_len

    found, least = [], []
    for column, texts in zip(columns, cells, strict=True):
        wanted = max((cell_len(line) for text in texts for line in text.splitlines()), default=0)
        word = max((cell_len(word) for text in texts for word in text.split()), default=0)
        folds = column not in right and wanted > SHORT
        found.append(wanted)
        least.append(min(wanted, max(READABLE, min(word, LONG))) if folds else wanted)
    for _ in range(sum(found) + GAP * (len(found) - 1) - room):
        widest = max(range(len(found)), key=lambda i: (found[i] > least[i], found[i]))
        if found[widest] <= least[widest]:
            return None
        found[widest] -= 1
    return found


def paragraphs(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> str:
    """Return each row as a paragraph, a line or more for each of its cells that is not empty."""
    width = max(map(len, columns), default=0) + GAP
    return "\n\n".join(
        "\n".join(
            hanging(f"{name:<{width}}", cell, room) for name, cell in zip(columns, row, strict=True) if cell
        )
        for row in rows
    )


def hanging(lead: str, text: str, room: int, under: str = "") -> str:
    """Return a sentence behind its lead, folded under itself; on lines of its own where there is no room behind.

    under: what stands below the lead, at the beginning of each further line.
    """
    from rich.cells import cell_len

    width = room - cell_len(lead)
    if cell_len(text) <= width and "\n" not in text:
        return f"{lead}{text}"
    if width >= READABLE:
        first, *rest = folded(text, width)
        return "\n".join([f"{lead}{first}", *(f"{under:<{len(lead)}}{line}" for line in rest)])
    begin = f"{under:<4}"
    lines = [f"{begin}{line}" for line in folded(text, room - cell_len(begin))]
    return "\n".join([lead.rstrip(), *lines] if lead.strip() else lines)


def folded(text: str, width: int) -> list[str]:
    """Return a text folded by words; what is longer than a line stays whole, so that it can be copied."""
    from rich.cells import cell_len

    lines: list[str] = []
    for given in text.splitlines() or [""]:
        line = ""
        for word in given.split(" "):
            longer = f"{line} {word}" if line else word
            if line and cell_len(longer) > width:
                lines.append(line.rstrip())
                longer = word
            line = longer
        lines.append(line.rstrip())
    return lines
