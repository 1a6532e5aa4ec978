"""Hold one data set of a sweep, with all that its figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dgbench.report.comparison import Statistics, table_statistics
from dgbench.report.errors import with_errors
from dgbench.report.figures.curves import Curve, read_curves
from dgbench.report.figures.style import color_of, mark_of
from dgbench.report.results import Results
from dgbench.report.series import Series
from dgbench.report.tables import Report, Table

if TYPE_CHECKING:
    import pandas as pd


class Sweep(Protocol):
    """The results of folders, of which `SweepResults` is an implementation."""

    @property
    def parts(self) -> Mapping[str, Results]:
        """Return folder -> its own results."""
        ...

    @property
    def results(self) -> Results:
        """Return the results of all folders together."""
        ...

    @property
    def runs(self) -> pd.DataFrame:
        """Return the frame of all planned runs."""
        ...

    @property
    def analyses(self) -> pd.DataFrame:
        """Return the frame of the numbers that analyses found."""
        ...

    @property
    def found_series(self) -> Sequence[Series]:
        """Return the series that analyses found."""
        ...


@dataclass(frozen=True)
class Subject:
    """One data set of a sweep, with all that its figures are drawn from."""

    sweep: Sweep
    dataset: str
    tables: Mapping[str, Table]
    """Name of a selector -> its table of this data set."""
    intervals: Table
    """The first selector's table with 95 % intervals in place of standard errors."""

    @property
    def table(self) -> Table:
        """Return the table of the first selector."""
        return next(iter(self.tables.values()))

    @property
    def metric(self) -> str:
        """Return the axis label of a value in percent."""
        name = self.sweep.results.metric(self.dataset)
        return "accuracy (%)" if name == "accuracy" else f"{name} × 100"

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """Return the curves of all finished runs that tables count."""
        return tuple(read_curves(self.sweep.results, self.dataset))

    @cached_property
    def statistics(self) -> Statistics:
        """Return the statistics of the first selector's table."""
        return table_statistics(self.sweep.results, self.table.selector, self.dataset)

    @property
    def rows(self) -> tuple[str, ...]:
        """Return the rows that this data set has."""
        results = self.sweep.results
        return tuple(row for row in results.rows if (row, self.dataset) in results.candidates)

    def look_of(self, row: str) -> dict[str, Any]:
        """Return color and mark of a row, the same in all figures of a sweep."""
        position = self.sweep.results.rows.index(row)
        return {"color": color_of(position), "marker": mark_of(position)}


def subjects(sweep: Sweep, report: Report) -> list[Subject]:
    """Return each data set that has a table in a report."""
    found: dict[str, dict[str, Table]] = {}
    intervals: dict[str, Table] = {}
    for table, other in zip(report.tables, with_errors(report, "t-interval").tables, strict=True):
        if table.dataset:
            found.setdefault(table.dataset, {})[table.selector.name] = table
            intervals.setdefault(table.dataset, other)
    return [Subject(sweep, dataset, tables, intervals[dataset]) for dataset, tables in found.items()]


def means_of(table: Table, rows: Iterable[str]) -> dict[str, float]:
    """Return row -> mean over columns, for the rows that have one."""
    means = {row: cells[-1].estimate for row, cells in table.rows.items() if row in rows}
    return {row: found.mean for row, found in means.items() if found and np.isfinite(found.mean)}


def shown_columns(table: Table) -> Sequence[str]:
    """Return the columns of a table that figures show: a mean over a single column would repeat it."""
    return table.columns if len(table.columns) > 2 else table.columns[:1]
