"""Give the numbers of a report another error than DomainBed's: an interval over trials, or their standard deviation.

`tables.build` prints the standard error of each cell, and the mean over columns without one. Under every other kind the
mean over columns has an error too: that of the trials' own means, since all columns of a trial belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dgbench.core.stats import Estimate
from dgbench.core.wording import group_values
from dgbench.report.statistics import ERRORS
from dgbench.report.tables import Cell, Report, Table

STANDARD = "standard-error"
"""The kind that `tables.build` gives."""

KINDS: Mapping[str, str] = {
    STANDARD: "std over trials / sqrt(trials)",
    "t-interval": "Student's 95 % interval over trials; of Avg, over the trials' means",
    "bootstrap-interval": "half of the 95 % bootstrap interval over trials; of Avg, over the trials' means",
    "std": "std over trials, which is not the error of the mean; of Avg, over the trials' means",
}
"""Kind of error, a name of `statistics.ERRORS` -> its line below a table."""

STYLES: Mapping[str, str] = {"domainbed": STANDARD, "wilds": "std"}
"""Name of a suite -> the kind of error in its tables."""


def with_errors(report: Report, kind: str) -> Report:
    """Return a report whose numbers have another kind of error.

    Args:
        report: A report of `tables.build`.
        kind: A name of `KINDS`. `STANDARD` gives the report back as it is.

    Returns:
        The report. Where trials are too few for this kind, numbers have no error, and a note says so.
    """
    if kind == STANDARD:
        return report
    by_trial: dict[tuple[str, str, str], dict[int, float]] = {}
    tables = [_restated(table, kind, by_trial) for table in report.tables]
    return replace(report, tables=tuple(tables))


def _restated(table: Table, kind: str, by_trial: dict[tuple[str, str, str], dict[int, float]]) -> Table:
    """Return a table with another kind of error.

    Args:
        table: The table.
        kind: The kind.
        by_trial: (selector, data set, row) -> trial -> mean over columns. Tables of data sets add to it, and the table
            of averages, which comes after them, reads it.
    """
    rows, refused = {}, []
    for row, cells in table.rows.items():
        values = list(_values(table, row, cells, by_trial))
        if table.dataset:
            by_trial[table.selector.name, table.dataset, row] = values[-1]
        made = [_with_error(cell, list(own.values()), kind) for cell, own in zip(cells, values, strict=True)]
        rows[row] = tuple(cell for cell, _ in made)
        refused += [(why, row) for _, why in made if why]
    said = {key: KINDS[kind] if key == "+/-" else text for key, text in table.signature.items()}
    notes = [f"{', '.join(dict.fromkeys(names))}: no +/-, {why}" for why, names in group_values(refused).items()]
    return replace(table, rows=rows, signature=said, notes=(*table.notes, *notes))


def _values(
    table: Table, row: str, cells: Sequence[Cell], by_trial: Mapping[tuple[str, str, str], Mapping[int, float]]
) -> Iterator[dict[int, float]]:
    """Yield trial -> value for each cell of a row; the last is the mean over those of whole columns."""
    columns = []
    for place, cell in enumerate(cells[:-1]):
        if not table.dataset:
            found = dict(by_trial.get((table.selector.name, cell.column, row), {}))
        else:
            # The cell of one domain of several stands before that of its fold, which has the choices.
            fold = next(other for other in cells[place:] if not other.domain)
            picks = {trial: outcome.pick for trial, outcome in fold.trials.items() if outcome.pick}
            found = {t: pick.by_domain[cell.domain] if cell.domain else pick.score for t, pick in picks.items()}
        if not cell.domain:
            columns.append(found)
        yield found
    common = set.intersection(*map(set, columns)) if columns else set()
    yield {trial: float(np.mean([column[trial] for column in columns])) for trial in sorted(common)}


def _with_error(cell: Cell, values: Sequence[float], kind: str) -> tuple[Cell, str]:
    """Return a cell with the error of its trials' values, and why it has none; its mean stays."""
    if cell.estimate is None:
        return cell, ""
    found = ERRORS[kind](values) if values else None
    if found is None or found.refused:
        return replace(cell, estimate=Estimate(cell.estimate.mean, None, len(values))), found.refused if found else ""
    return replace(cell, estimate=Estimate(cell.estimate.mean, 100 * found.error, len(values))), ""
