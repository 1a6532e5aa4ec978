"""Lay out rows of text as a table: in aligned columns, or in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence


def columns(rows: Sequence[Sequence[str]], least: int = 0) -> Iterator[str]:
    """Yield one line for each row, its cells padded so that columns align and two spaces part them.

    >>> list(columns([["a", "b"], ["long", "c"]]))
    ['a     b', 'long  c']

    Args:
        rows: Cells of text, equally many in each row.
        least: Smallest width of a column, in characters.
    """
    widths = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths))


def pipes(rows: Iterable[Sequence[str]], rules: Sequence[str], escape: Callable[[str], str] = str) -> Iterator[str]:
    """Yield the lines of a Markdown table whose header is the first row.

    Args:
        rows: Cells of text.
        rules: The cell below each header: `---`, or `---:` to align numbers to the right.
        escape: Escapes a cell's text for Markdown.
    """
    header, *body = ("| " + " | ".join(map(escape, row)) + " |" for row in rows)
    yield header
    yield "|".join(["", *rules, ""])
    yield from body
