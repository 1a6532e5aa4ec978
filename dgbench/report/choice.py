"""Show a part of a report: some data sets, rows and columns, sorted by one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from dgbench.core.errors import Problems
from dgbench.core.stats import Estimate
from dgbench.core.wording import unknown_name
from dgbench.report.results import Results
from dgbench.report.statistics import Interval
from dgbench.report.tables import Cell, Report, Table

DIFFERENCES = "delta"
"""Name of the column of differences on the command line."""


def of_datasets(results: Results, names: Sequence[str]) -> Results:
    """Return results of some data sets alone, over which averages are then taken; no names: all.

    Raises:
        UserError: The sweep has no data set of a name.
    """
    problems = Problems()
    for name in names:
        if name not in results.datasets:
            problems.add(f"--datasets: {unknown_name('data set', name, results.datasets)}")
    problems.raise_if_any()
    kept = {name: folds for name, folds in results.datasets.items() if name in names or not names}
    return replace(results, datasets=kept)


def restrict(report: Report, rows: Sequence[str] = (), columns: Sequence[str] = (), sort: str = "") -> Report:
    """Return a report of some rows and columns, sorted.

    Args:
        report: The report.
        rows: Names of rows, or patterns with `*`; none: all.
        columns: Names of columns, `DIFFERENCES` among them; a table without any of them is left out. None: all.
        sort: The column by which rows stand from the highest mean to the lowest, those without a number last; tables
            without it keep their order. Empty: no table is sorted.

    Raises:
        UserError: Names that no table has.
    """
    known_rows = dict.fromkeys(row for table in report.tables for row in table.rows)
    known_columns = dict.fromkeys(column for table in report.tables for column in _names(table))
    problems = Problems()
    for pattern in rows:
        if not any(fnmatchcase(row, pattern) for row in known_rows):
            problems.add(f"--rows: {unknown_name('row', pattern, known_rows)}")
    for flag, names in (("--columns", columns), ("--sort", [sort] if sort else [])):
        for name in names:
            if name not in known_columns:
                problems.add(f"{flag}: {unknown_name('column', name, known_columns)}")
    problems.raise_if_any()
    kept = [table for table in report.tables if not columns or set(columns) & set(_names(table))]
    return replace(report, tables=tuple(_restricted(table, rows, columns, sort) for table in kept))


def _restricted(table: Table, patterns: Sequence[str], columns: Sequence[str], sort: str) -> Table:
    """Return a table of some rows and columns; it is sorted first, so that the column need not be shown."""
    rows: Mapping[str, Sequence[Cell]] = {
        row: cells
        for row, cells in table.rows.items()
        if not patterns or any(fnmatchcase(row, pattern) for pattern in patterns)
    }
    if sort in _names(table):
        rows = dict(sorted(rows.items(), key=lambda item: _height(table, item[0], sort), reverse=True))
    places = [place for place, name in enumerate(table.columns) if name in columns or not columns]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in places),
        rows={row: tuple(cells[place] for place in places) for row, cells in rows.items()},
        in_domain=_of(table.in_domain, rows),
        differences=table.differences if DIFFERENCES in columns or not columns else None,
    )


def _names(table: Table) -> tuple[str, ...]:
    """Return the names of a table's columns on the command line."""
    return (*table.columns, *([DIFFERENCES] if table.differences else []))


def _height(table: Table, row: str, column: str) -> float:
    """Return the number of a row in a column, minus infinity if it has none; the reference differs from itself by 0."""
    found: Estimate | Interval | None = None
    if column in table.columns:
        found = table.rows[row][table.columns.index(column)].estimate
    elif table.differences and row == table.differences.reference:
        return 0.0
    elif table.differences:
        found = table.differences.rows.get(row)
    return found.mean if found and not math.isnan(found.mean) else -math.inf


def _of(values: Mapping[str, float], rows: Iterable[str]) -> dict[str, float]:
    """Return the values of some rows, in their order."""
    return {row: values[row] for row in rows if row in values}
