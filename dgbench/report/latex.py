"""Write a report as LaTeX: a table for each selector, as papers have it, to be included or as a document.

A table has a row for each method and a column for each data set; with a single data set, for each of its domains. The
best number of a column is bold, the second underlined.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, get_args

from dgbench.core.wording import group_values, printable
from dgbench.report.document import below, marked, remarks, section_cells, short_signature, shown
from dgbench.report.networks import MARK
from dgbench.report.tables import Cell, Report, Section, Table

Notes: TypeAlias = Literal["full", "short", "none"]
"""How much stands below a table: its whole signature and notes, the few facts that a reader needs, or nothing."""
NOTES: tuple[str, ...] = get_args(Notes)

WIDE = 6
"""Columns from which a table spans both columns of a page."""

_PACKAGES = (r"\usepackage{booktabs}", r"\usepackage{graphicx}")


def latex(report: Report, notes: Notes = "short", *, standalone: bool = False) -> str:
    """Format a report as LaTeX.

    Args:
        report: The report.
        notes: How much stands below each table.
        standalone: Whether to write a document; else a fragment to be included by one that has the packages.

    Returns:
        ASCII, which every LaTeX engine compiles.
    """
    body, report = [], marked(report)
    for table in _tables(report):
        lines = {"full": _full(report, table), "short": _short(report, table), "none": []}[notes]
        body += [*_table(table, lines), ""]
    for section in report.sections:
        body += [*_section(section, notes), ""]
    if notes == "full":
        body += _small([*map(str, report.networks), *remarks(report)])
    if standalone:
        top = [r"\documentclass{article}", *_PACKAGES, r"\begin{document}"]
        return "\n".join([*top, *body, r"\end{document}", ""])
    return "\n".join(["% needs " + " ".join(_PACKAGES), *body]).rstrip("\n") + "\n"


def _tables(report: Report) -> Iterator[Table]:
    """Yield one table for each selector: that over all data sets where there is one, else those of the data sets."""
    tables = shown(report)
    whole = {table.selector.name for table in tables if not table.dataset}
    yield from (table for table in tables if not table.dataset or table.selector.name not in whole)


def _full(report: Report, table: Table) -> list[str]:
    """Return all that is known of a table; the one over all data sets has the notes of their own tables too."""
    mine = [other for other in report.tables if other.dataset and other.selector is table.selector]
    others = () if table.dataset else (printable(note) for other in mine for note in other.notes)
    return list(dict.fromkeys((*below(table), *others)))


def _short(report: Report, table: Table) -> list[str]:
    """Return the facts of a table that a reader needs: its short signature, its networks, and what marks mean."""
    lines = (line for line in report.networks if not table.dataset or line.dataset == table.dataset)
    networks = group_values((line.facts, line.dataset) for line in lines)
    texts = (f"network on {', '.join(names)}: {facts}" for facts, names in networks.items())
    marks = (note for note in table.notes if note.startswith(("* ", "! ", MARK)))
    return [short_signature(table), *map(printable, (*texts, *marks))]


def _table(table: Table, lines: Sequence[str]) -> list[str]:
    """Return the lines of one table with those below it."""
    last = table.differences
    differences = [[_escape(printable(last.text(row)))] if last else [] for row in table.rows]
    rows = [
        [_escape(printable(row)), *found, *difference]
        for row, found, difference in zip(table.rows, _marked(table), differences, strict=True)
    ]
    header = [_escape(printable(name)) for name in ("Algorithm", *table.columns, *([last.column] if last else []))]
    what = f"on {table.dataset}{table.mark}" if table.dataset else "on each data set, mean over its domains"
    metric = "Accuracy" if table.metric == "accuracy" else f"{table.metric} x 100"
    caption = f"{metric}{' (%)' if table.metric == 'accuracy' else ''} {what}; model selection: {table.selector.label}."
    if "+/-" in table.signature:
        caption += f" +/-: {table.signature['+/-'].partition(',')[0]}."
    caption = _escape(printable(caption)) + r" Best \textbf{bold}, second \underline{underlined}."
    label = "-".join(filter(None, ("tab:dgbench", table.dataset, table.selector.name)))
    return _environment(header, rows, caption, label, lines)


def _section(section: Section, notes: Notes) -> list[str]:
    """Return the lines of a section: a table if it has cells, else its lines."""
    lines = [printable(line) for line in section.below] if notes != "none" else []
    if not section.cells:
        return _small([section.title, *lines]) if notes == "full" else []
    header, *rows = ([_escape(text) for text in row] for row in section_cells(section))
    caption = _escape(printable(section.title)) + "."
    return _environment(header, rows, caption, f"tab:dgbench-{section.title}", lines)


def _environment(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str, lines: Sequence[str]
) -> list[str]:
    """Return a floating table from texts that are LaTeX already, but for the label and the lines below."""
    name = "table*" if len(header) > WIDE else "table"
    return [
        rf"\begin{{{name}}}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{re.sub('[^A-Za-z0-9:]+', '-', label)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *_small(lines),
        rf"\end{{{name}}}",
    ]


def _marked(table: Table) -> Iterator[list[str]]:
    """Yield the cells of each row, the best of a column bold and the second underlined.

    Numbers that print alike are alike. A column of one row, or of a single value, has no best.
    """
    columns = [_ranked(column) for column in zip(*table.rows.values(), strict=True)]
    for cells in table.rows.values():
        yield [_mark(cell, ranks) for cell, ranks in zip(cells, columns, strict=True)]


def _ranked(cells: Sequence[Cell]) -> list[str]:
    """Return the printed means of a column, best first, each once."""
    found = [cell.estimate.mean for cell in cells if cell.estimate and math.isfinite(cell.estimate.mean)]
    means = {f"{mean:.1f}" for mean in found}
    return sorted(means, key=float, reverse=True)


def _mark(cell: Cell, ranks: Sequence[str]) -> str:
    """Return a cell's LaTeX."""
    text = _escape(printable(str(cell)))
    place = ranks.index(f"{cell.estimate.mean:.1f}") if cell.estimate and f"{cell.estimate.mean:.1f}" in ranks else 2
    if len(ranks) < 2 or place > 1:
        return text
    return (rf"\textbf{{{text}}}", rf"\underline{{{text}}}")[place]


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "°": r"$^\circ$",
    "‡": r"$^\ddagger$",
    "−": "$-$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "†": r"\dag{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
"""Character -> LaTeX that prints it."""
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u0327": "c"}
"""Combining character -> LaTeX's accent command."""


def _escape(line: str) -> str:
    """Write a line in ASCII that every LaTeX engine compiles; characters without a form show as their code point."""
    return "".join(_LATEX.get(character) or _latex_character(character) for character in line).replace("+/-", r"$\pm$")


def _latex_character(character: str) -> str:
    """Write one character as itself, as an accented letter, or as its code point."""
    if character.isascii():
        return character if character.isprintable() else " "
    apart = unicodedata.normalize("NFD", character)
    if len(apart) == 2 and apart[0].isascii() and apart[1] in _ACCENTS:
        return rf"\{_ACCENTS[apart[1]]}{{{apart[0]}}}"
    return f"U+{ord(character):04X}"


def _small(lines: Sequence[str]) -> list[str]:
    """Set lines in small type, one a paragraph."""
    escaped = [_escape(printable(line)) for line in lines]
    return [r"\par\smallskip{\footnotesize\raggedright " + "\\par\n".join(escaped) + r"\par}"] if escaped else []
