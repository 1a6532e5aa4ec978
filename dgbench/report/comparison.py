"""Compare the rows of a table: each with its interval, and its difference from a reference row within trials.

The cells of a table stand for themselves, each ± over its own trials. But all rows of a trial share splits, initial
weights and minibatches, so what they differ by varies less than what they score. Here the scores stand by trial and
fold again, of the same choices as the table's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.run import ALL_TRIALS
from dgbench.core.wording import unknown_name
from dgbench.report.differences import reference_row
from dgbench.report.results import Results
from dgbench.report.scrutiny import candidates, losses, trials_at
from dgbench.report.select import Oracle, Selector
from dgbench.report.statistics import Interval, Paired, compare, holm, t_interval, tied_with_best, trials_to_settle
from dgbench.report.tables import Report, Section

POINT = 0.01
"""The difference that is to be settled: one percentage point."""

Scores = Mapping[int, tuple[float, ...]]
"""Trial -> score on the test views of each reported fold."""


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of one row of a data set's table, alone and against the reference row; shares, not percent."""

    row: str
    average: Interval
    """Student's interval over trials, of the mean over folds within each."""
    delta: Paired | None
    """Against the reference row; None for itself, and where the two have no trial in common."""
    p: float
    """Of the difference, by Wilcoxon's test with Holm's correction over the rows of the table; NaN without a test."""
    tied: bool
    """Whether it has the highest mean or can't be distinguished from that row."""
    settled_by: int | None
    """Trials, in all, that would find a difference of one point from the reference in 4 of 5 sweeps; None: unknown."""
    worst: float
    """Lowest mean over trials of a fold."""
    across: float
    """Standard deviation of these means over folds; NaN with a single fold."""
    sampling: float
    """Standard error of the mean that is due to the numbers of test examples alone; NaN where they are unknown."""
    candidates: int
    """Most models among which a choice was made; one for rows that merge all runs of all trials."""
    lost: float
    """Mean accuracy lost against the oracle's choices; NaN where there is no oracle."""


@dataclass(frozen=True)
class Statistics:
    """The statistics of a data set's table, made by `table_statistics`."""

    reference: str
    """The row that others are compared with."""
    rows: tuple[RowStatistics, ...]
    """Those of rows with a complete trial, in the order of the table."""
    left_out: tuple[str, ...]
    """The other rows."""


def scores_of(results: Results, selector: Selector, row: str, dataset: str) -> dict[int, tuple[float, ...]]:
    """Return trial -> the score of a row on each reported fold, for trials that lack no run on any of them.

    A row that has one model of all trials has no trial.
    """
    folds = results.reported(dataset)
    trials = set.intersection(*(set(trials_at(results, row, dataset, fold)) for fold in folds)) - {ALL_TRIALS}
    found = {}
    for trial in sorted(trials):
        outcomes = [selector.choose(results, row, dataset, fold, trial) for fold in folds]
        picks = [outcome.pick for outcome in outcomes if outcome.pick and not outcome.gaps]
        if len(picks) == len(folds):
            found[trial] = tuple(pick.score for pick in picks)
    return found


def paired(first: Scores, second: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of two rows at the trials that both have, (trials, folds) each."""
    common = sorted(first.keys() & second.keys())
    return np.array([first[trial] for trial in common]), np.array([second[trial] for trial in common])


def compare_rows(results: Results, selector: Selector, first: str, second: str, dataset: str) -> Paired | None:
    """Compare two rows on a data set, the first minus the second; None without a trial in common."""
    for row in (first, second):
        check_row(results, row)
    scores = [scores_of(results, selector, row, dataset) for row in (first, second)]
    ours, theirs = paired(*scores)
    return compare(ours, theirs) if len(ours) else None


def check_row(results: Results, row: str) -> None:
    """Raise `UserError` with the nearest name if results have no such row."""
    if row not in results.rows:
        raise UserError(unknown_name("row", row, results.rows))


def table_statistics(results: Results, selector: Selector, dataset: str, reference: str | None = None) -> Statistics:
    """Return the statistics of a data set's table.

    Args:
        results: The results.
        selector: The selector, which must be available on the data set.
        dataset: The data set.
        reference: The row that others are compared with; None for the baseline.
    """
    reference = reference_row(results.rows, reference)
    rows = _row_statistics(results, selector, dataset, reference)
    known = {found.row for found in rows}
    return Statistics(reference, rows, tuple(row for row in results.rows if row not in known))


def _row_statistics(results: Results, selector: Selector, dataset: str, reference: str) -> tuple[RowStatistics, ...]:
    """Return the statistics of each row of a data set's table that has a complete trial."""
    scores = {row: found for row in results.rows if (found := scores_of(results, selector, row, dataset))}
    deltas = {row: _delta(own, scores.get(reference, {})) for row, own in scores.items() if row != reference}
    p = dict(zip(deltas, holm([delta.p if delta else math.nan for delta in deltas.values()]).tolist(), strict=True))
    tied = _tied(scores)
    lost: dict[str, list[float]] = {}
    for loss in losses(results, selector, dataset) if selector.name != Oracle.name else ():
        lost.setdefault(loss.row, []).append(loss.oracle - loss.score)
    statistics = []
    for row, own in scores.items():
        values = np.array(list(own.values()))
        by_fold = values.mean(axis=0)
        ours, theirs = paired(own, scores.get(reference, {}))
        differences = (ours - theirs).mean(axis=1).tolist() if row != reference and len(ours) else []
        statistics.append(
            RowStatistics(
                row=row,
                average=t_interval(values.mean(axis=1)),
                delta=deltas.get(row),
                p=p.get(row, math.nan),
                tied=row in tied,
                settled_by=trials_to_settle(differences, POINT) if np.isfinite(differences).all() else None,
                worst=float(by_fold.min()),
                across=float(by_fold.std(ddof=1)) if len(by_fold) > 1 else math.nan,
                sampling=_sampling(results, selector, row, dataset),
                candidates=max(_candidates(results, selector, row, dataset)),
                lost=float(np.mean(lost[row])) if row in lost else math.nan,
            )
        )
    return tuple(statistics)


def _sampling(results: Results, selector: Selector, row: str, dataset: str) -> float:
    """Return the error of a row's average that is due to the numbers of test examples."""
    by_fold = []
    for fold in results.reported(dataset):
        outcomes = (
            selector.choose(results, row, dataset, fold, trial) for trial in trials_at(results, row, dataset, fold)
        )
        errors = [outcome.pick.sampling_error() for outcome in outcomes if outcome.pick]
        # Trials test nearly the same examples, so the error of their mean is that of one.
        by_fold.append(math.sqrt(float(np.mean(np.square(errors)))))
    return math.hypot(*by_fold) / len(by_fold)


def _delta(own: Scores, theirs: Scores) -> Paired | None:
    ours, others = paired(own, theirs)
    return compare(ours, others) if len(ours) else None


def _tied(scores: Mapping[str, Scores]) -> set[str]:
    """Return the rows that are tied with the best, compared on the trials that all rows have."""
    if not scores:
        return set()
    common = set.intersection(*(set(own) for own in scores.values()))
    if not common:
        return set()
    values = np.array([[own[trial] for trial in sorted(common)] for own in scores.values()])
    return {row for row, is_tied in zip(scores, tied_with_best(values).tolist(), strict=True) if is_tied}


def _candidates(results: Results, selector: Selector, row: str, dataset: str) -> Iterator[int]:
    for fold in results.reported(dataset):
        for trial in trials_at(results, row, dataset, fold):
            yield candidates(results, selector, row, dataset, fold, trial)


def statistics_sections(report: Report, reference: str | None = None) -> tuple[Section, ...]:
    """Return the statistics of each data set's table of a report, as sections to stand below its tables.

    Args:
        report: A report of `tables.build`.
        reference: The row that others are compared with; None for the baseline.
    """
    sections = []
    for table in report.tables:
        if table.dataset and table.results:
            found = table_statistics(table.results, table.selector, table.dataset, reference)
            title = f"Statistics: {table.dataset}, model selection method: {table.selector.label}"
            content = {"dataset": table.dataset, "selector": table.selector.name, "statistics": found}
            sections.append(Section(title, tuple(map(tuple, grid(found))), tuple(notes(found)), content))
    return tuple(sections)


def grid(statistics: Statistics) -> Iterator[list[str]]:
    """Yield the texts of a table of statistics, its header first; scores in percent, differences in points."""
    yield [
        "Algorithm",
        "Avg",
        "95 %",
        f"Δ {statistics.reference}",
        "95 %",
        "p",
        "worst",
        "std",
        "sampling",
        "lost",
        "candidates",
    ]
    for found in statistics.rows:
        average, delta = found.average, found.delta
        yield [
            found.row + (" †" if found.tied else ""),
            _percent(average.mean),
            _range(average, _percent),
            _points(delta.difference) if delta else "-",
            _range(delta.by_trial, _points) if delta else "-",
            "-" if math.isnan(found.p) else f"{found.p:.3f}",
            _percent(found.worst),
            _percent(found.across),
            _percent(found.sampling),
            _percent(found.lost),
            str(found.candidates),
        ]


def notes(statistics: Statistics) -> Iterator[str]:
    """Yield the lines below a table of statistics: what its columns mean, and what was refused."""
    reference = statistics.reference
    yield "95 %: Student's interval over trials, of the mean over columns within each"
    yield (
        f"Δ: mean difference from {reference} within trials; p: Wilcoxon's test over columns x trials, with Holm's "
        "correction over rows; †: has the highest mean, or can't be told from the row that has"
    )
    yield (
        "worst, std: lowest column, and standard deviation over columns; sampling: standard error of Avg for test sets "
        "of this size (binomial; - if it is not known), which no number of trials lowers; lost: against the oracle's "
        "choices; candidates: models among which each choice was made"
    )
    if statistics.left_out:
        yield f"no statistics of {', '.join(statistics.left_out)}: no trial is complete"
    for found in statistics.rows:
        trials = found.average.n
        if refused := found.average.refused or (found.delta.refused if found.delta else ""):
            yield f"{found.row}: no interval and no test, {refused}"
        elif found.settled_by and trials < found.settled_by:
            more = found.settled_by - trials
            trials_more = "1 more trial" if more == 1 else f"{more} more trials"
            yield f"{found.row}: {trials_more} would settle a difference of 1 point from {reference}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _points(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:+.1f}"


def _range(interval: Interval, text: Callable[[float], str]) -> str:
    return "-" if interval.refused else f"{text(interval.low)} to {text(interval.high)}"
