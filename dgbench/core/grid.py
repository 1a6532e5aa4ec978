"""Rows of text as a table: in columns, or in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence


def columns(rows: Sequence[Sequence[str]], least: int = 0) -> Iterator[str]:
    """Pad the cells of a column to its widest, and to `least` characters; two spaces part columns.

    >>> list(columns([["a", "b"], ["long", "c"]]))
    ['a     b', 'long  c']
    """
    widths = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths))


def pipes(rows: Iterable[Sequence[str]], rules: Sequence[str], escape: Callable[[str], str] = str) -> Iterator[str]:
    """Write a Markdown table, the first row its header.

    Args:
        rows: Cells of text.
        rules: For each column what stands below its header: `---`, or `---:` for numbers.
        escape: Makes a cell's text show as it is.
    """
    header, *body = ("| " + " | ".join(map(escape, row)) + " |" for row in rows)
    yield header
    yield "|".join(["", *rules, ""])
    yield from body
