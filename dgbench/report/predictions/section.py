"""Put metrics of kept predictions into tables: a row a method, a column a metric, for each data set and selector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgbench.core.wording import group_values
from dgbench.report.predictions.chosen import ChosenValue, chosen_values
from dgbench.report.predictions.examples import ExampleList
from dgbench.report.predictions.metrics import Metric
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.report.tables import Report, Section, Table

NOTHING = "-"
"""A cell without a number."""


@dataclass(frozen=True)
class Summary:
    """A metric of one row over trials."""

    mean: float
    """NaN without a number."""
    error: float
    """Standard error over trials; NaN for a single one."""
    n: int
    """Number of trials."""
    why: tuple[str, ...]
    """Why there is no number; empty if there is one."""

    def text(self, metric: Metric) -> str:
        """Format the value as in a table."""
        digits = 1 if metric.scale == 100 else 3
        if math.isnan(self.mean):
            return NOTHING
        mean = f"{metric.scale * self.mean:.{digits}f}"
        return mean if math.isnan(self.error) else f"{mean} +/- {metric.scale * self.error:.{digits}f}"

    def content(self) -> dict[str, Any]:
        """Return the values for JSON; None where there is none."""
        mean, error = (None if math.isnan(value) else value for value in (self.mean, self.error))
        return {"mean": mean, "error": error, "trials": self.n, "why": self.why}


def metric_sections(
    report: Report, metrics: Sequence[Metric], examples: ExampleList | None = None, partial: bool = False
) -> tuple[Section, ...]:
    """Return a table of metrics for each data set's table of a report, of the same rows and the same choices.

    Args:
        report: A report of `tables.build`.
        metrics: The metrics, in the order of the columns.
        examples: A list of examples, on which and on the others two further columns give the accuracy; None: no list.
        partial: Whether choices count that stand on fewer runs than planned.
    """
    return tuple(
        _section(results, table.selector, dataset, tuple(table.rows), metrics, examples, partial)
        for table in report.tables
        for results, dataset in places((table,))
    )


def places(tables: Iterable[Table]) -> Iterator[tuple[Results, str]]:
    """Yield the (results, data set) of each table of one data set."""
    for table in tables:
        if table.dataset and table.results:
            yield table.results, table.dataset


def _section(
    results: Results,
    selector: Selector,
    dataset: str,
    rows: Sequence[str],
    metrics: Sequence[Metric],
    examples: ExampleList | None,
    partial: bool,
) -> Section:
    """Make the table of one selector on one data set."""
    rows = [row for row in rows if (row, dataset) in results.candidates]
    metrics = (*metrics, *(examples.metrics(dataset) if examples else ()))
    found = group_values(
        ((value.row, value.metric, value.of_class), value)
        for value in chosen_values(results, selector, dataset, rows, metrics, partial)
    )
    columns = [(metric, of) for metric in metrics for of in _classes(found, metric.name)]
    summaries = {}
    for row in rows:
        for metric, of in columns:
            # Folds without a value have no class, and then no class has a number.
            values = [value for key in dict.fromkeys((of, "")) for value in found.get((row, metric.name, key), [])]
            summaries[row, metric, of] = summarize(values, metric, results.ddof)
    header = ("Algorithm", *(of or metric.name for metric, of in columns))
    cells = [(row, *(summaries[(row, *column)].text(column[0]) for column in columns)) for row in rows]
    content = {
        "dataset": dataset,
        "selector": selector.name,
        "metrics": {
            row: [
                {"metric": metric.name, "class": of, **summaries[row, metric, of].content()} for metric, of in columns
            ]
            for row in rows
        },
    }
    tested = dict.fromkeys(view.domain for fold in results.reported(dataset) for view in results.folds[fold].test)
    below = (*_below(metrics, rows, summaries), *(examples.lines(dataset, tested) if examples else ()))
    title = f"Metrics of kept predictions: {dataset}, model selection method: {selector.label}"
    return Section(title, (header, *cells), below, content)


def _classes(found: Iterable[tuple[str, str, str]], name: str) -> list[str]:
    """Return the classes that a metric has values of; the empty name alone for metrics of all classes together.

    A row without predictions has no classes of its own: its reason stands under the empty name.
    """
    classes = dict.fromkeys(of for _, metric, of in found if metric == name)
    return [of for of in classes if of] or [""]


def summarize(values: Sequence[ChosenValue], metric: Metric, ddof: int) -> Summary:
    """Return a metric's mean over trials with its standard error, of the mean or the lowest over folds in each trial.

    Args:
        values: Those of one row in all folds and trials.
        metric: The metric.
        ddof: Degrees of freedom subtracted in the standard deviation.
    """
    why = tuple(dict.fromkeys(value.why for value in values if value.why))
    if why or not values:
        return Summary(math.nan, math.nan, 0, why or ("no model has a value",))
    by_trial = group_values((value.trial, value.value) for value in values)
    each = [min(own) if metric.lowest else float(np.mean(own)) for own in by_trial.values()]
    n = len(each)
    error = float(np.std(each, ddof=ddof) / np.sqrt(n)) if n > 1 else math.nan
    return Summary(float(np.mean(each)), error, n, ())


def _below(
    metrics: Sequence[Metric], rows: Sequence[str], summaries: Mapping[tuple[str, Metric, str], Summary]
) -> Iterator[str]:
    """Yield the lines below a table: the meaning of columns, and for rows without a number the reason."""
    shares = [metric.name for metric in metrics if metric.scale == 100]
    lower = [metric.name for metric in metrics if not metric.higher]
    facts = [
        "of the chosen models on the test domains, mean over trials with standard error",
        f"in percent: {', '.join(shares)}" if shares else "",
        f"less is better: {', '.join(lower)}" if lower else "",
    ]
    yield "; ".join(fact for fact in facts if fact)
    reasons = group_values(
        ((reason, metric.name), row) for (row, metric, _), s in summaries.items() for reason in s.why
    )
    by_rows = group_values(((reason, tuple(dict.fromkeys(rows))), name) for (reason, name), rows in reasons.items())
    for (reason, lacking), names in by_rows.items():
        which = "all rows" if len(lacking) == len(rows) else ", ".join(lacking)
        yield f"{NOTHING} {which}: no {', '.join(names)}, {reason}"
