"""Give the numbers of a report another error than DomainBed's: an interval, WILDS' spread, or that of the test sets.

`tables.build` prints the standard error of each cell, and the mean over columns without one. Under every other kind the
mean over columns has an error too:

    t-interval, bootstrap-interval, std   that of the trials' own means, since all columns of a trial belong together
    wilds                                 the spread over ways of splitting, if there are several, else over trials
    sampling                              that of independent test sets
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dgbench.core.protocol import FixedSplit
from dgbench.core.stats import Estimate
from dgbench.core.wording import group_values
from dgbench.report.results import Results
from dgbench.report.statistics import ERRORS, spread
from dgbench.report.tables import Cell, Report, Table

STANDARD, WILDS, SAMPLING = "standard-error", "wilds", "sampling"
"""The kind that `tables.build` gives, and those that are no interval over trials."""

KINDS: Mapping[str, str] = {
    STANDARD: "std over trials / sqrt(trials)",
    "t-interval": "Student's 95 % interval over trials; of Avg, over the trials' means",
    "bootstrap-interval": "half of the 95 % bootstrap interval over trials; of Avg, over the trials' means",
    "std": "std over trials, which is not the error of the mean; of Avg, over the trials' means",
    WILDS: "std over replicates, ddof 1, not the error of the mean; replicates are trials, of Avg ways of splitting",
    SAMPLING: "binomial standard error of test sets of this size, which no number of trials lowers",
}
"""Kind of error -> its line below a table."""

STYLES: Mapping[str, str] = {"domainbed": STANDARD}
"""Further name of a kind."""


def default_kind(results: Results) -> str:
    """Return the kind of error that tables have unless another is named: WILDS' for data with fixed splits."""
    return WILDS if results.protocol == FixedSplit.name else STANDARD


@dataclass(frozen=True)
class _Values:
    """The values behind a cell of a table."""

    trials: Mapping[int, float] = field(default_factory=dict)
    """Trial -> value."""
    replicates: Sequence[float] = ()
    """Values over which WILDS takes its spread."""
    sampling: float = math.nan
    """Standard error that is due to the number of test examples."""


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
    known: dict[tuple[str, str, str], _Values] = {}
    tables = [_restated(table, kind, known) for table in report.tables]
    return replace(report, tables=tuple(tables))


def _restated(table: Table, kind: str, known: dict[tuple[str, str, str], _Values]) -> Table:
    """Return a table with another kind of error.

    Args:
        table: The table.
        kind: The kind.
        known: (selector, data set, row) -> the values of the mean over columns. Tables of data sets add to it, and the
            table of averages, which comes after them, reads it.
    """
    rows, refused = {}, []
    for row, cells in table.rows.items():
        values = list(_values(table, row, cells, known))
        if table.dataset:
            known[table.selector.name, table.dataset, row] = values[-1]
        made = [_with_error(cell, own, kind) for cell, own in zip(cells, values, strict=True)]
        rows[row] = tuple(cell for cell, _ in made)
        # A way of splitting that was tried once has no spread, but their mean has: that is how PovertyMap is reported.
        shown = made[-1:] if kind == WILDS and table.of_splits else made
        refused += [(why, row) for _, why in shown if why]
    notes = [f"{', '.join(dict.fromkeys(names))}: no +/-, {why}" for why, names in group_values(refused).items()]
    return replace(table, rows=rows, signature=_signature(table, rows, kind), notes=(*table.notes, *notes))


def _values(
    table: Table, row: str, cells: Sequence[Cell], known: Mapping[tuple[str, str, str], _Values]
) -> Iterator[_Values]:
    """Yield the values of each cell of a row; the last are those of the mean over whole columns."""
    columns = []
    for place, cell in enumerate(cells[:-1]):
        if not table.dataset:
            found = known.get((table.selector.name, cell.column, row), _Values())
        else:
            # The cell of one domain of several stands before that of its fold, which has the choices.
            fold = next(other for other in cells[place:] if not other.domain)
            found = _of_cell(cell, fold)
        if not cell.domain:
            columns.append(found)
        yield found
    common = set.intersection(*(set(column.trials) for column in columns)) if columns else set()
    trials = {trial: float(np.mean([column.trials[trial] for column in columns])) for trial in sorted(common)}
    sampling = math.hypot(*(column.sampling for column in columns)) / max(1, len(columns))
    if not table.dataset:
        replicates: Sequence[float] = ()  # WILDS has no mean over data sets
    elif table.of_splits:
        replicates = [float(np.mean(list(column.trials.values()))) for column in columns if column.trials]
    else:
        replicates = list(trials.values())
    yield _Values(trials, replicates, sampling)


def _of_cell(cell: Cell, fold: Cell) -> _Values:
    """Return the values of a cell; `fold` is the cell with the choices, itself unless it is of one test domain."""
    picks = {trial: outcome.pick for trial, outcome in fold.trials.items() if outcome.pick}
    trials = {t: pick.by_domain[cell.domain] if cell.domain else pick.score for t, pick in picks.items()}
    errors = [pick.sampling_error(cell.domain) for pick in picks.values()]
    # Trials test nearly the same examples, so the error of their mean is that of one.
    sampling = math.sqrt(float(np.mean(np.square(errors)))) if errors else math.nan
    return _Values(trials, list(trials.values()), sampling)


def _with_error(cell: Cell, values: _Values, kind: str) -> tuple[Cell, str]:
    """Return a cell with the error of its values, and why it has none; its mean stays."""
    if cell.estimate is None:
        return cell, ""
    mean, n = cell.estimate.mean, len(values.trials)
    if kind == SAMPLING:
        unknown = math.isnan(values.sampling)
        error = None if unknown else 100 * values.sampling
        why = "the numbers of test examples are not recorded, or the metric is no accuracy" if unknown else ""
        return replace(cell, estimate=Estimate(mean, error, n)), why
    own = list(values.replicates) if kind == WILDS else list(values.trials.values())
    if not own:
        return replace(cell, estimate=Estimate(mean, None, n)), ""
    found = (spread if kind == WILDS else ERRORS[kind])(own)
    error = None if found.refused else 100 * found.error
    return replace(cell, estimate=Estimate(mean, error, len(own))), found.refused


def _signature(table: Table, rows: Mapping[str, Sequence[Cell]], kind: str) -> dict[str, str]:
    """Return a table's signature with the meaning of ±, if some cell of its new rows has one."""
    found = {}
    shown = any(cell.estimate and cell.estimate.error is not None for cells in rows.values() for cell in cells)
    for key, text in table.signature.items():
        if key != "+/-":
            found[key] = text
        if key == "trials" and shown:
            found["+/-"] = KINDS[kind]
    return found | ({"+/-": KINDS[kind]} if shown else {})
