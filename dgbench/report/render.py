"""Format a report: as text in DomainBed's layout, Markdown, LaTeX, CSV or JSON.

Names of domains and methods come from files and folders, so each format escapes what its reader would act on: control
characters for terminals, formulas for spreadsheets, markup for Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from dgbench.core.grid import columns, pipes
from dgbench.core.wording import printable
from dgbench.report.results import Gap
from dgbench.report.tables import Cell, Report, Section, Table

MOST_NOTES = 20
"""Most notes printed below a table; JSON has all of them."""

CSV_COLUMNS = "selector dataset metric row column mean error trials partial diverged runs_lacking signature"
"""Header of the CSV file, one line a cell."""

COLUMN_WIDTH, AVERAGES_WIDTH = 20, 25
"""DomainBed's column widths in characters, for data sets and for averages; longer texts widen a column."""


SIGNATURE_LINES = (
    "protocol, metric, selector, preset, trials, +/-",
    "not tested",
    "beside the preset",
    "hparams, runs, diverged, merged",
    "evaluated steps",
    "shown of the test domain",
    "folders",
    "data, commit, methods from",
)
"""Keys of the signature that share a line; all others share the last."""


def text(report: Report) -> str:
    """Format a report as plain text, with lines below each table that begin with `#`.

    The tables equal DomainBed's byte for byte where numbers and names are the same.
    """
    parts = [f"Total records: {report.records}\n"]
    for table in report.tables:
        parts.append(f"\n-------- {printable(table.title)}\n")
        parts += [f"{line} \n" for line in columns(_cells(table), COLUMN_WIDTH if table.dataset else AVERAGES_WIDTH)]
        parts += [f"# {line}\n" for line in below(table)]
    for section in report.sections:
        parts.append(f"\n-------- {printable(section.title)}\n")
        parts += [f"{line.rstrip()}\n" for line in columns(_texts(section)) if section.cells]
        parts += [f"# {printable(line)}\n" for line in section.below]
    parts += [f"\n{line}" for line in closing(report)]
    return "".join(parts).rstrip("\n") + "\n"


def markdown(report: Report) -> str:
    """Format a report as Markdown: a heading, a pipe table and a list for each table."""
    parts = []
    for table in report.tables:
        parts.append(f"### {_escape_markdown(printable(table.title))}\n")
        parts += pipes(_cells(table, "±"), [" --- ", *(" ---: " for _ in table.columns)], _escape_markdown)
        parts += ["", *(f"- {_escape_markdown(line)}" for line in below(table)), ""]
    for section in report.sections:
        parts.append(f"### {_escape_markdown(printable(section.title))}\n")
        if cells := _texts(section, "±"):
            parts += [*pipes(cells, [" --- ", *(" ---: " for _ in cells[0][1:])], _escape_markdown), ""]
        parts += [*(f"- {_escape_markdown(printable(line))}" for line in section.below), ""]
    parts += [f"- {_escape_markdown(line)}" for line in closing(report)]
    return "\n".join(parts).rstrip("\n") + "\n"


def latex(report: Report) -> str:
    """Format a report as a LaTeX document, from which each table can be copied.

    It needs the packages booktabs and graphicx.
    """
    body = []
    for table in report.tables:
        body += [rf"\subsection*{{{_escape_latex(printable(table.title))}}}", r"\begin{center}"]
        body += [r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"]
        body += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule"]
        header, *rows = ([_escape_latex(cell) for cell in row] for row in _cells(table))
        body += [" & ".join(rf"\textbf{{{name}}}" for name in header) + r" \\", r"\midrule"]
        body += [" & ".join(row) + r" \\" for row in rows]
        body += [r"\bottomrule", r"\end{tabular}}", r"\end{center}"]
        body += _small(below(table))
    body += _small(closing(report))
    packages = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\usepackage{graphicx}"]
    return "\n".join([*packages, r"\begin{document}", *body, r"\end{document}", ""])


def as_csv(report: Report) -> str:
    """Format a report as CSV: one line a cell, numbers in full precision, none where a cell is incomplete."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS.split())
    for table in report.tables:
        for row, cells in table.rows.items():
            for cell in cells:
                found = cell.estimate
                numbers = ["", "", ""] if found is None else [found.mean, found.error, found.n]
                where = [table.selector.name, table.dataset or "Averages", table.metric, row, cell.column]
                marks = [int(cell.partial), int(cell.diverged), len(cell.gaps)]
                facts = _one_line(table.signature)
                writer.writerow([*map(_escape_formula, where), *numbers, *marks, _escape_formula(facts)])
    return file.getvalue()


def _escape_formula(text: str) -> str:
    """Escape a text so that a spreadsheet shows it and doesn't evaluate it.

    A text that begins as a formula does gets a leading apostrophe; a domain may be named `+90%`. Control characters, a
    leading tab among them, are escaped first.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def as_json(report: Report) -> str:
    """Format a report as JSON, with the choice in each trial.

    Runs without a result stand once in `gaps`; cells refer to them by index.
    """
    gaps: dict[Gap, int] = {}
    tables = [
        {
            "dataset": table.dataset or None,
            "selector": table.selector.name,
            "label": table.selector.label,
            "reads": table.reads,
            "columns": table.columns,
            "rows": [{"row": row, "cells": [_cell(cell, gaps) for cell in cells]} for row, cells in table.rows.items()],
            "signature": table.signature,
            "in_domain": table.in_domain,
            "notes": table.notes,
        }
        for table in report.tables
    ]
    content = {
        "format": 1,
        "records": report.records,
        "tables": tables,
        "gaps": list(gaps),
        "sections": [{"title": section.title, **section.content} for section in report.sections],
        "absent": report.absent,
        "notes": report.notes,
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
}
"""Name on the command line -> function that formats a report."""


def below(table: Table) -> Iterator[str]:
    """Yield the printable lines below a table: its signature, the records that the selector reads, notes."""
    yield from map(printable, _below(table))


def _below(table: Table) -> Iterator[str]:
    """Yield the lines below a table, unescaped."""
    yield from _lines(table.signature)
    yield f"reads: {table.reads}"
    if table.in_domain:
        values = ", ".join(f"{row} {100 * accuracy:.1f}" for row, accuracy in table.in_domain.items())
        yield f"in-domain {table.metric} of what was chosen (training domains' validation parts): {values}"
    yield from _first_notes(table.notes)


def closing(report: Report) -> Iterator[str]:
    """Yield the printable lines below all tables."""
    yield from map(printable, (*report.absent, *_first_notes(report.notes)))


def _cells(table: Table, plus_minus: str = "+/-") -> list[list[str]]:
    """Return the texts of a table, its header first."""
    rows = table.rows.items()
    texts = ([row, *(str(cell).replace("+/-", plus_minus) for cell in cells)] for row, cells in rows)
    return [[printable(text) for text in row] for row in (["Algorithm", *table.columns], *texts)]


def _texts(section: Section, plus_minus: str = "+/-") -> list[list[str]]:
    """Return the printable texts of a section, its header first."""
    return [[printable(text.replace("+/-", plus_minus)) for text in row] for row in section.cells]


def _first_notes(notes: Sequence[str]) -> Iterator[str]:
    """Yield the first notes, then a line that counts the others."""
    yield from notes[:MOST_NOTES]
    if len(notes) > MOST_NOTES:
        yield f"... and {len(notes) - MOST_NOTES} more, all of them with --format json"


def _lines(signature: Mapping[str, str]) -> Iterator[str]:
    """Yield the signature in lines, grouped by `SIGNATURE_LINES`."""
    groups = [line.split(", ") for line in SIGNATURE_LINES]
    named = {key for group in groups for key in group}
    for group in (*groups, [key for key in signature if key not in named]):
        if line := _one_line({key: signature[key] for key in group if key in signature}):
            yield line


def _one_line(signature: Mapping[str, str]) -> str:
    """Join facts of a signature in one line."""
    return " | ".join(f"{key}: {value}" for key, value in signature.items())


def _cell(cell: Cell, gaps: dict[Gap, int]) -> dict[str, Any]:
    """Return a cell as plain values, its gaps as indices, which are numbered in `gaps` as they occur."""
    found = cell.estimate
    return {
        "column": cell.column,
        "mean": found and found.mean,
        "error": found and found.error,
        "partial": cell.partial,
        "diverged": cell.diverged,
        "gaps": [gaps.setdefault(gap, len(gaps)) for gap in cell.gaps],
        "trials": [
            {"trial": trial, "pick": outcome.pick, "complete": outcome.complete, "asked": outcome.planned}
            for trial, outcome in cell.trials.items()
        ],
    }


def _escape_markdown(line: str) -> str:
    """Escape the characters that Markdown would act on."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", line)


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
    "−": "$-$",
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


def _escape_latex(line: str) -> str:
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


def _small(lines: Iterator[str]) -> list[str]:
    """Wrap lines in small type, one a paragraph."""
    escaped = [_escape_latex(line) for line in lines]
    return [r"{\footnotesize\raggedright " + "\\par\n".join(escaped) + r"\par}"] if escaped else []
