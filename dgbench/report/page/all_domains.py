"""Read a sweep that trained on the tested domains too, and measure how far the rows of another one stay below it.

Such a sweep (`launch --all_domains`) is no measure of generalization. It tells how much of a row's error is due to the
domain being new, and how much a model would have that had seen it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dgbench.core.errors import UserError
from dgbench.core.protocol import AllDomains
from dgbench.core.wording import printable
from dgbench.report import tables
from dgbench.report.folders import differences, open_results
from dgbench.report.results import Results
from dgbench.report.selectors import default_selectors
from dgbench.report.tables import AVERAGE, Cell, Table

FLAG = "--all_domains"


@dataclass(frozen=True)
class Reference:
    """The tables of a sweep that trained on all domains."""

    tables: Mapping[str, tuple[Table, ...]]
    """Data set -> its tables, the default selector's first."""

    def table(self, dataset: str, selector: str) -> Table | None:
        """Return a data set's table under a selector, or under the first one that can answer; None if it has none."""
        found = self.tables.get(dataset, ())
        return next((table for table in found if table.selector.name == selector), found[0] if found else None)


@dataclass(frozen=True)
class Distance:
    """The distance of one row from models that trained on all domains."""

    row: str
    """The row of the reference: the same one, or its first if it lacks that."""
    by_column: Mapping[str, float]
    """Column -> difference in points, of the columns that both tables have complete."""

    @property
    def average(self) -> float:
        """Return the difference of the means over columns; NaN where either is incomplete."""
        return self.by_column.get(AVERAGE, math.nan)


def read_reference(folder: str, results: Results) -> Reference:
    """Read the folder of a sweep on all domains.

    Args:
        folder: The folder.
        results: The sweep that is compared with it.

    Raises:
        UserError: The folder has another protocol, or differs in something else that decides numbers.
    """
    reference = open_results(folder)
    if reference.protocol != AllDomains.name:
        raise UserError(
            f"{FLAG} {printable(folder)}: its protocol is {printable(reference.protocol)}; it takes a sweep launched "
            f"with {FLAG}"
        )
    problems = list(differences({"the report": results, folder: reference}, but=("protocol",)))
    if problems:
        raise UserError(*(f"{FLAG} {printable(folder)}: {problem}" for problem in problems))
    found: dict[str, tuple[Table, ...]] = {}
    for table in tables.build(reference, default_selectors(reference)).tables:
        if table.dataset:
            found[table.dataset] = (*found.get(table.dataset, ()), table)
    return Reference(found)


def distance(row: str, table: Table, reference: Table) -> Distance | None:
    """Return the distance of a row of a table from a reference; None where no column of both is complete."""
    names = [name for name in (row, *reference.rows) if name in reference.rows and _mean(reference, name, AVERAGE)]
    if not names:
        return None
    common = (name for name in table.columns if name in reference.columns)
    pairs = ((name, _mean(table, row, name), _mean(reference, names[0], name)) for name in common)
    by_column = {name: ours - theirs for name, ours, theirs in pairs if ours is not None and theirs is not None}
    if set(table.columns) != set(reference.columns):
        by_column.pop(AVERAGE, None)  # a mean over other columns
    return Distance(names[0], by_column) if by_column else None


def _mean(table: Table, row: str, column: str) -> float | None:
    """Return the number of a complete cell."""
    cell: Cell = table.rows[row][table.columns.index(column)]
    complete = cell.estimate is not None and not cell.gaps and math.isfinite(cell.estimate.mean)
    return cell.estimate.mean if cell.estimate and complete else None
