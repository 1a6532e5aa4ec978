"""Write a report: as text, Markdown, LaTeX, CSV or JSON, or in DomainBed's layout byte for byte.

Names of domains and methods come from files and folders, so each format escapes what its reader would act on: control
characters for terminals, formulas for spreadsheets, markup for Markdown and LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from dgbench.core.grid import columns, pipes
from dgbench.core.wording import printable
from dgbench.report.document import below, cells, closing, marked, own_notes, remarks, section_cells
from dgbench.report.latex import latex
from dgbench.report.results import Gap
from dgbench.report.tables import Cell, Report
from dgbench.report.tidy import as_csv

COLUMN_WIDTH, AVERAGES_WIDTH = 20, 25
"""DomainBed's column widths in characters, for data sets and for averages; longer texts widen a column."""


def text(report: Report) -> str:
    """Format a report as plain text: each table with what holds for it alone, then one signature for all."""
    report = marked(report)
    parts = [f"Total records: {report.records}"]
    for table, notes in own_notes(report):
        parts += ["", f"-------- {printable(table.title)}"]
        parts += [line.rstrip() for line in columns(cells(table))]
        parts += [f"# {line}" for line in notes]
    for section in report.sections:
        parts += ["", f"-------- {printable(section.title)}"]
        parts += [line.rstrip() for line in columns(section_cells(section)) if section.cells]
        parts += [f"# {printable(line)}" for line in section.below]
    parts += ["", *(f"# {line}" for line in closing(report))]
    return "\n".join(parts).rstrip("\n") + "\n"


def as_domainbed(report: Report) -> str:
    """Format a report in DomainBed's layout, with lines below each table that begin with `#`.

    The tables equal DomainBed's byte for byte where numbers and names are the same.
    """
    parts = [f"Total records: {report.records}\n"]
    for table in report.tables:
        parts.append(f"\n-------- {printable(table.title)}\n")
        parts += [f"{line} \n" for line in columns(cells(table), COLUMN_WIDTH if table.dataset else AVERAGES_WIDTH)]
        parts += [f"# {line}\n" for line in below(table)]
    parts += [f"\n{line}" for line in remarks(report)]
    return "".join(parts).rstrip("\n") + "\n"


def markdown(report: Report) -> str:
    """Format a report as Markdown: a heading, a pipe table and a list for each table, then one signature for all."""
    report = marked(report)
    parts = []
    for table, notes in own_notes(report):
        parts.append(f"### {_escape_markdown(printable(table.title))}\n")
        parts += _pipe_table(list(cells(table, "±")))
        parts += ["", *(f"- {_escape_markdown(line)}" for line in notes), *([""] if notes else [])]
    for section in report.sections:
        parts.append(f"### {_escape_markdown(printable(section.title))}\n")
        if found := section_cells(section, "±"):
            parts += [*_pipe_table(found), ""]
        parts += [*(f"- {_escape_markdown(printable(line))}" for line in section.below), ""]
    if lines := [f"- {_escape_markdown(line)}" for line in closing(report)]:
        parts += ["### How these numbers were made\n", *lines]
    return "\n".join(parts).rstrip("\n") + "\n"


def _pipe_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a pipe table whose first row is its header; all columns but the first are of numbers."""
    return pipes(rows, [" --- ", *(" ---: " for _ in rows[0][1:])], _escape_markdown)


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
            "differences": table.differences,
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
        "networks": report.networks,
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
    "domainbed": as_domainbed,
}
"""Name on the command line -> function that formats a report."""


def _cell(cell: Cell, gaps: dict[Gap, int]) -> dict[str, Any]:
    """Return a cell as plain values, its gaps as indices, which are numbered in `gaps` as they occur."""
    found = cell.estimate
    return {
        "column": cell.column,
        "mean": found and found.mean,
        "error": found and found.error,
        "n": found and found.n,
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
