"""Give the tables of a report a column of differences from a reference row, and list the variation among trials.

All rows of a trial share splits, and mostly initial weights and minibatches. So the difference of two rows within
trials varies much less than either row, and tells rows apart whose own errors overlap. The interval is Student's, over
trials, of the mean over columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.protocol import FixedSplit
from dgbench.core.run import ALL_TRIALS
from dgbench.core.wording import group_values, unknown_name
from dgbench.report.domainbed.folder import ALGORITHMS
from dgbench.report.results import Results
from dgbench.report.statistics import FEWEST, Interval, coverage, t_interval, too_few
from dgbench.report.tables import DELTA, Differences, Report, Table

BASELINE = ALGORITHMS[0]
"""The first row of DomainBed's tables: the row that others are compared with where none is named, if it is there."""

Scores = Mapping[int, tuple[float, ...]]
"""Trial -> score in each column but the mean."""


def reference_row(rows: Sequence[str], named: str | None) -> str:
    """Return the row that others are compared with: the one that is named, else the baseline, else the first.

    Raises:
        UserError: There is no row of that name.
    """
    if named and named not in rows:
        raise UserError(f"--reference: {unknown_name('row', named, rows)}")
    return named or (BASELINE if BASELINE in rows else rows[0])


def with_differences(report: Report, named: str | None = None) -> Report:
    """Return a report whose tables have the column of differences, and a line on the variation among trials.

    Args:
        report: A report of `tables.build`, with all rows and columns.
        named: The row that others are compared with; None: the baseline.

    Returns:
        The report. A table whose rows have too few trials in common with the reference has no such column, and its
        signature says why.
    """
    by_set: dict[tuple[str, str, str], Scores] = {}
    tables = []
    for table in report.tables:
        reference = reference_row(tuple(table.rows), named)
        scores = {row: _scores(table, row, by_set) for row in table.rows}
        if table.dataset:
            by_set |= {(table.selector.name, table.dataset, row): own for row, own in scores.items()}
        tables.append(_compared(table, scores, reference))
    return replace(report, tables=tuple(tables))


def _scores(table: Table, row: str, by_set: Mapping[tuple[str, str, str], Scores]) -> Scores:
    """Return the scores of a row in trials that lack no run.

    Args:
        table: The table.
        row: The row.
        by_set: (selector, data set, row) -> scores in the tables of the data sets, for the table of averages.
    """
    if not table.dataset:
        columns = [by_set.get((table.selector.name, name, row), {}) for name in table.columns[:-1]]
        means = [{trial: float(np.mean(values)) for trial, values in column.items()} for column in columns]
    else:
        cells = [cell for cell in table.rows[row][:-1] if not cell.domain]
        means = [
            {trial: found.pick.score for trial, found in cell.trials.items() if found.pick and not found.gaps}
            for cell in cells
        ]
    common = set.intersection(*map(set, means)) - {ALL_TRIALS} if means else set()
    return {trial: tuple(column[trial] for column in means) for trial in sorted(common)}


def _compared(table: Table, scores: Mapping[str, Scores], reference: str) -> Table:
    """Return a table with its differences or the reason against them, and with the variation among its trials."""
    repeated = any(len(own) > 1 for own in scores.values())
    facts = {"trials vary": _variation(table.results)} if table.results and repeated else {}
    over = "ways of splitting" if table.of_splits else "trials"
    theirs, found = scores.get(reference, {}), dict[str, Interval]()
    refused = []
    for row, own in scores.items():
        if common := sorted(own.keys() & theirs.keys()) if row != reference else []:
            values = np.array([own[trial] for trial in common]) - np.array([theirs[trial] for trial in common])
            found[row] = t_interval(values.mean(axis=0 if table.of_splits else 1))
            if found[row].refused:
                refused.append((found[row].refused, row))
    if all(interval.refused for interval in found.values()):
        why = refused[0][0] if refused else too_few(0, FEWEST)
        said = {DELTA: f"left out, {why}"} if len(scores) > 1 else {}
        return replace(table, signature={**table.signature, **facts, **said})
    notes = (f"{', '.join(rows)}: no interval of {DELTA}, {why}" for why, rows in group_values(refused).items())
    meaning = f"mean difference from {reference} within trials [Student's 95 % interval over {over}]"
    return replace(
        table,
        differences=Differences(reference, found),
        signature={**table.signature, **facts, DELTA: meaning},
        notes=(*table.notes, *notes),
    )


def _variation(results: Results) -> str:
    """Describe the differences between trials, and all that rows of a trial share."""
    setting = results.setting
    own = setting.get("init", "run"), setting.get("data_order", "run")  # DomainBed's seeds are a run's own
    splits = [] if results.protocol == FixedSplit.name else ["splits"]
    weights = [] if own[0] == "sweep" else ["initial weights"]
    draws = ["draws of hyperparameters"] if _searches(results) else []
    shared = [*splits, *(["initial weights"] if own[0] != "run" else []), *(["minibatches"] if own[1] != "run" else [])]
    rows = f"rows of a trial share {_listed(shared)}" if shared else "rows of a trial share nothing"
    return f"{_listed([*splits, *weights, 'minibatches', *draws])} ({rows})"


def _searches(results: Results) -> bool:
    """Return whether some row has several hyperparameter seeds."""
    return any(len(seeds) > 1 for spots in results.candidates.values() for seeds in spots.values())


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def with_coverage(report: Report, ddof: int) -> Report:
    """Return a report of standard errors whose signatures hold how often one covers the truth.

    Args:
        report: The report.
        ddof: Degrees of freedom subtracted in the standard deviation behind the errors.
    """
    return replace(report, tables=tuple(_covering(table, ddof) for table in report.tables))


def _covering(table: Table, ddof: int) -> Table:
    numbers = sorted(set(_repeats(table)))
    if "+/-" not in table.signature or not numbers:
        return table
    shares = ", ".join(f"{100 * coverage(n, ddof):.0f} % of cases with {n} trials" for n in numbers[:3])
    text = f"{table.signature['+/-']}, covers the true mean in {shares}"
    return replace(table, signature={**table.signature, "+/-": text})


def _repeats(table: Table) -> Iterator[int]:
    """Yield the number of trials behind each error of a table."""
    for cell in (cell for row in table.rows.values() for cell in row):
        if cell.estimate and cell.estimate.error is not None and not math.isnan(cell.estimate.error):
            yield cell.estimate.n
