"""Apply metrics to the choices of a selector: a value for each row, fold and trial, or the reason against one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench.core.errors import Problems
from dgbench.core.wording import unknown_name
from dgbench.report.predictions.metrics import METRICS, LackingError, Metric
from dgbench.report.results import Results, Series
from dgbench.report.select import Selector


@dataclass(frozen=True)
class ChosenValue:
    """A metric of the model that a selector chose in one fold and trial, on the fold's test views."""

    row: str
    dataset: str
    fold: int
    """Index of the fold in `Results.folds`."""
    trial: int
    metric: str
    of_class: str
    """The class that the value is of; empty for all."""
    value: float
    """NaN if there is none, or if it is no number."""
    why: str = ""
    """Why there is no value; empty if there is one."""


def metrics_of(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of these names, each once, in the order given.

    Raises:
        UserError: Names without a metric, each with the nearest name.
    """
    problems = Problems()
    for name in names:
        if name not in METRICS:
            problems.add(f"--metrics: {unknown_name('metric', name, METRICS)}")
    problems.raise_if_any()
    return tuple(METRICS[name] for name in dict.fromkeys(names))


def chosen_values(
    results: Results,
    selector: Selector,
    dataset: str,
    rows: Sequence[str],
    metrics: Sequence[Metric],
    partial: bool = False,
) -> Iterator[ChosenValue]:
    """Yield the metrics of the choices of a selector on one data set, in the order of its tables.

    Args:
        results: The sweep.
        selector: The selector, which can answer on the data set.
        dataset: The data set.
        rows: The rows.
        metrics: The metrics.
        partial: Whether choices count that stand on fewer runs than planned.
    """
    for row in rows:
        spots = results.candidates.get((row, dataset), {})
        for fold in results.reported(dataset):
            for trial in sorted(trial for position, trial in spots if position == fold):
                for metric in metrics:
                    place = row, dataset, fold, trial, metric.name
                    try:
                        found = _of_choice(results, selector, (row, dataset, fold, trial), metric, partial)
                    except LackingError as error:
                        yield ChosenValue(*place, "", float("nan"), str(error))
                        continue
                    for of_class, value in found.items():
                        yield ChosenValue(*place, of_class, value)


def chosen_series(
    results: Results, selector: Selector, row: str, dataset: str, fold: int, trial: int, partial: bool = False
) -> tuple[Series, int]:
    """Return the series of a choice and the step that was chosen.

    Raises:
        LackingError: There is no choice, or with `partial` false runs are lacking that might change it.
    """
    outcome = selector.choose(results, row, dataset, fold, trial)
    if outcome.pick is None or (outcome.gaps and not partial):
        raise LackingError("runs are lacking" if outcome.gaps else "no runs")
    series = results.at(row, dataset, (fold, trial))[outcome.pick.hparams_seed]
    assert isinstance(series, Series), "gaps are never chosen"
    return series, outcome.pick.step


def _of_choice(
    results: Results, selector: Selector, place: tuple[str, str, int, int], metric: Metric, partial: bool
) -> dict[str, float]:
    """Return class -> value of a metric of one choice; raise `LackingError` where there is none."""
    series, step = chosen_series(results, selector, *place, partial=partial)
    views = results.folds[place[2]].test
    return dict(results.kept.metric(metric, series.run, series.predictor, step, views))
