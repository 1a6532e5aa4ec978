"""Build tables of results: the number in each cell, the models that it stands on, and the runs that it lacks.

A table has a row for each method. Its columns are the test domains of one data set, or all data sets ("Averages"), then
a mean. A cell shows a number only if every run that its selector reads is there. With `partial`, complete trials and
hyperparameter seeds are enough, and the number is marked.

Numbers are computed in DomainBed's order, since another order of the same sums rounds to other digits:

    cell of a domain    100 * mean(scores), 100 * std(scores / sqrt(n)), over the n trials' chosen models
    cell of a data set  in each trial the mean over domains first, then over trials as above
    last column         mean of the means to its left, in percent already, without an error
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from dgbench.core.protocol import FixedSplit
from dgbench.core.stats import Estimate, average, estimate
from dgbench.core.wording import group_values
from dgbench.report.networks import NetworkLine, describe_networks
from dgbench.report.results import WARNING, Gap, Results
from dgbench.report.select import Outcome, Selector
from dgbench.report.signature import by_row, describe_gaps, disagreements, signature
from dgbench.report.statistics import Interval

AVERAGE = "Avg"
"""Name of the last column, DomainBed's."""

DELTA = "Δ"
"""Beginning of the name of the column of differences, and its key in signatures."""

Columns: TypeAlias = Literal["fold", "domain"]
"""Whether folds with several test domains show each of them, or their mean alone."""


@dataclass(frozen=True)
class Cell:
    """A number, or the runs that it lacks, or both: then the number is partial."""

    column: str
    """Name of the column."""
    estimate: Estimate | None
    """Mean over trials with its error, in percent for accuracies; None if incomplete."""
    gaps: tuple[Gap, ...] = ()
    """The runs that are lacking, each once."""
    trials: Mapping[int, Outcome] = field(default_factory=dict)
    """Trial -> its choice; empty for averages, and for one of several test domains."""
    diverged: bool = False
    """Whether some model behind the number ended with a loss or metric that is NaN or infinite."""
    domain: str = ""
    """The test domain, if it is one of several of the fold; empty for the fold itself and for averages."""

    @property
    def partial(self) -> bool:
        """Return whether the number stands on fewer runs than planned."""
        return self.estimate is not None and bool(self.gaps)

    def __str__(self) -> str:
        """Format the cell as in a table: `98.0 +/- 0.2`, `98.0*`, `11.8!`, `3 runs missing`."""
        if self.estimate is None:
            return shortfall(self.gaps)
        marks = ("*" if self.partial else "") + ("!" if self.diverged and math.isfinite(self.estimate.mean) else "")
        return f"{self.estimate}{marks}"


@dataclass(frozen=True)
class Differences:
    """The last column of a table: the differences of its rows from one of them."""

    reference: str
    """The row that others are compared with."""
    rows: Mapping[str, Interval]
    """Row -> mean difference with its 95 % interval, accuracies in [-1, 1]. The reference has none, nor have rows
    without a trial in common with it.
    """

    @property
    def column(self) -> str:
        """Return the name of the column."""
        return f"{DELTA} {self.reference}"

    def text(self, row: str) -> str:
        """Format a cell as in a table: `-7.2 [-8.6, -5.8]`, in points."""
        found = self.rows.get(row)
        if found is None or math.isnan(found.mean):
            return "-"
        interval = "" if found.refused else f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        return f"{100 * found.mean:+.1f}{interval}"


@dataclass(frozen=True)
class Table:
    """The results of one selector on one data set, or their averages over data sets."""

    dataset: str
    """Name of the data set; empty for the averages."""
    selector: Selector
    columns: tuple[str, ...]
    """Names of the columns; the last is the mean."""
    rows: Mapping[str, tuple[Cell, ...]]
    """Row -> its cells, one a column."""
    signature: Mapping[str, str]
    """How the numbers were made: key -> text, in the order of printing."""
    notes: tuple[str, ...]
    """Warnings, the meaning of marks, and runs without a result."""
    in_domain: Mapping[str, float] = field(default_factory=dict)
    """Row -> mean value of the chosen models on the training domains' validation parts; accuracies in [0, 1]."""
    metric: str = "accuracy"
    """Name of the metric."""
    results: Results | None = field(default=None, repr=False, compare=False)
    """What it was made of."""
    differences: Differences | None = None
    """The differences from a reference row; None if they are not shown."""
    reads: str = ""
    """The views and models that the selector read, by row if rows differ."""
    mark: str = ""
    """Mark at the data set's name, which a note explains; empty: none."""

    @property
    def title(self) -> str:
        """Return the header, in DomainBed's words."""
        of = f"Dataset: {self.dataset}{self.mark}" if self.dataset else "Averages"
        return f"{of}, model selection method: {self.selector.label}"

    @property
    def of_splits(self) -> bool:
        """Return whether the columns are several ways of splitting the same examples, which are replicates.

        The domains of a data set are not: they are all that there are.
        """
        fixed = self.results is not None and self.results.protocol == FixedSplit.name
        return fixed and bool(self.dataset) and len(self.columns) > 2


@dataclass(frozen=True)
class Section:
    """A further table of texts, which stands below the others."""

    title: str
    cells: tuple[tuple[str, ...], ...]
    """The header, then a row a line; empty if it is made of lines alone."""
    below: tuple[str, ...]
    """The lines below."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """The same as values, for JSON."""


@dataclass(frozen=True)
class Report:
    """All tables of a sweep, made by `build`."""

    tables: tuple[Table, ...]
    """Selector by selector: a table for each data set, then the averages."""
    records: int
    """Number of records of finished runs."""
    absent: tuple[str, ...]
    """Tables that can't be made, each with the reason."""
    notes: tuple[str, ...]
    """Findings in the folder."""
    sections: tuple[Section, ...] = ()
    """Further sections, such as published numbers."""
    networks: tuple[NetworkLine, ...] = ()
    """The network of each data set."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the reasons against comparing runs of one table, each once."""
        notes = (*(note for table in self.tables for note in table.notes), *self.notes)
        return tuple(dict.fromkeys(note.removeprefix(WARNING) for note in notes if note.startswith(WARNING)))


def build(
    results: Results,
    selectors: Sequence[Selector],
    partial: bool = False,
    columns: Columns = "domain",
    once: bool = False,
) -> Report:
    """Build the tables of each selector in turn: one for each data set, then the averages over them.

    Averages need data sets of one metric.

    Args:
        results: The sweep.
        selectors: The selectors, in the order of their tables.
        partial: Whether incomplete cells show a number, which is marked.
        columns: `domain` shows each test domain of a fold that has several, then their mean; `fold` the mean alone.
        once: Whether trials that repeat a selector's choice stand in place of the search, for rows that have them.
    """
    whole = results
    tables: list[Table] = []
    absent = []
    for selector in selectors:
        results = whole.chosen_once(selector.name) if once else whole
        reasons = {dataset: selector.unavailable(results, dataset) for dataset in results.datasets}
        able = [dataset for dataset, reason in reasons.items() if not reason]
        absent += [f"{selector.name} on {dataset}: not available, {why}" for dataset, why in reasons.items() if why]
        made = [_dataset_table(results, selector, dataset, partial, columns == "domain") for dataset in able]
        tables += made
        metrics = {table.dataset: table.metric for table in made}
        # A mean of accuracies and, say, correlations would have no meaning.
        if len(set(metrics.values())) == 1:
            tables.append(_averages(results, selector, made))
        elif made:
            named = ", ".join(f"{dataset} {metric}" for dataset, metric in metrics.items())
            absent.append(f"{selector.name}: no averages over data sets of different metrics ({named})")
    networks = describe_networks(results)
    return Report(tuple(tables), results.records, tuple(absent), results.notes, networks=networks)


def shortfall(gaps: Sequence[Gap]) -> str:
    """Return the text of a cell without a number: `3 runs missing`, `2 missing, 1 failed`."""
    states = Counter(gap.state for gap in gaps)
    if len(states) > 1:
        return ", ".join(f"{n} {state}" for state, n in states.items())
    for state, n in states.items():
        return f"{n} run{'s' if n > 1 else ''} {state}"
    return "no runs"


def _dataset_table(results: Results, selector: Selector, dataset: str, partial: bool, by_domain: bool) -> Table:
    """Build the table of one selector on one data set."""
    columns = list(_columns(results, dataset, by_domain))
    rows = {}
    for row in results.rows:
        cells = [_cell(results, selector, row, dataset, column, partial) for column in columns]
        rows[row] = (*cells, _mean_cell(cells))
    return Table(
        dataset=dataset,
        selector=selector,
        columns=(*(column.name for column in columns), AVERAGE),
        rows=rows,
        results=results,
        signature=signature(results, selector, [dataset]),
        notes=(*disagreements(results, [dataset]), *_notes(rows)),
        in_domain=_in_domain(rows),
        metric=results.metric(dataset),
        reads=_describe_reading(results, selector, [dataset]),
    )


def _in_domain(rows: Mapping[str, Sequence[Cell]]) -> dict[str, float]:
    """Return the mean of the chosen models' in-domain values, for rows whose every cell has a number."""
    found = {}
    for row, cells in rows.items():
        picks = [outcome.pick for cell in cells if cell.estimate for outcome in cell.trials.values()]
        accuracies = [pick.in_domain for pick in picks if pick and pick.in_domain is not None]
        if accuracies and all(cell.estimate for cell in cells):
            found[row] = average(accuracies)
    return found


class _Column(NamedTuple):
    """A fold, by its index in `Results.folds`, or one of its several test domains."""

    name: str
    position: int
    domain: str = ""


def _columns(results: Results, dataset: str, by_domain: bool) -> Iterator[_Column]:
    """Yield the columns of a data set; a fold's test domains, if it has several, come before the fold's own."""
    positions = results.reported(dataset)
    for position in positions:
        fold = results.folds[position]
        sources, held_out = fold.training_domains, fold.held_out
        name = f"from {sources[0]}" if len(held_out) > 1 and len(sources) == 1 else "+".join(held_out)
        for view in fold.test if by_domain and len(fold.test) > 1 else ():
            yield _Column(f"{name}: {view.domain}" if len(positions) > 1 else view.domain, position, view.domain)
        yield _Column(name, position)


def _cell(results: Results, selector: Selector, row: str, dataset: str, column: _Column, partial: bool) -> Cell:
    """Choose a model in each trial, and estimate over the trials that have one."""
    name, position, domain = column
    trials = sorted(trial for fold, trial in results.candidates.get((row, dataset), {}) if fold == position)
    outcomes = {trial: selector.choose(results, row, dataset, position, trial) for trial in trials}
    gaps = tuple(gap for outcome in outcomes.values() for gap in outcome.gaps)
    picks = [outcome.pick for outcome in outcomes.values() if outcome.pick]
    scores = [pick.by_domain[domain] if domain else pick.score for pick in picks]
    number = estimate(scores, results.ddof) if scores and (partial or not gaps) else None
    return Cell(name, number, gaps, {} if domain else outcomes, any(pick.diverged for pick in picks), domain)


def _without_single_domains(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells without those of one test domain of several, whose mean has a cell too."""
    return [cell for cell in cells if not cell.domain]


def _mean_cell(cells: Sequence[Cell]) -> Cell:
    """Return the plain mean over folds or data sets, without an error; no number unless all have one."""
    cells = _without_single_domains(cells)
    means = [cell.estimate.mean for cell in cells if cell.estimate]
    number = Estimate(average(means), None, len(means)) if len(means) == len(cells) else None
    return Cell(AVERAGE, number, _gaps(cells), diverged=_any_diverged(cells))


def _any_diverged(cells: Iterable[Cell]) -> bool:
    """Return whether some cell stands on a model that diverged."""
    return any(cell.diverged for cell in cells)


def _describe_reading(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """Describe the records that the selector read, with the choices that went before."""
    rows = [row for row in results.rows if any(results.candidates.get((row, dataset)) for dataset in datasets)]
    models = by_row((selector.models_read(results, row, datasets), row) for row in rows)
    return f"{selector.reads.format(metric=results.metric(datasets[0]))}, {models}"


def _gaps(cells: Iterable[Cell]) -> tuple[Gap, ...]:
    """Return the gaps of several cells, each once."""
    return tuple(dict.fromkeys(gap for cell in cells for gap in cell.gaps))


def _averages(results: Results, selector: Selector, tables: Sequence[Table]) -> Table:
    """Build the table of averages over the data sets of other tables."""
    datasets = [table.dataset for table in tables]
    rows = {}
    for row in results.rows:
        cells = [
            over_domains(table.dataset, _without_single_domains(table.rows[row][:-1]), results.ddof) for table in tables
        ]
        rows[row] = (*cells, _mean_cell(cells))
    return Table(
        dataset="",
        selector=selector,
        columns=(*datasets, AVERAGE),
        rows=rows,
        results=results,
        signature=signature(results, selector, datasets),
        notes=(*disagreements(results, datasets), *_explain_marks(rows)),
        metric=tables[0].metric,
        reads=_describe_reading(results, selector, datasets),
    )


def over_domains(dataset: str, cells: Sequence[Cell], ddof: int) -> Cell:
    """Average over test domains in each trial, then over the trials that have a score on every domain."""
    if any(cell.estimate is None for cell in cells):
        return Cell(dataset, None, _gaps(cells))
    means = []
    for trial in dict.fromkeys(trial for cell in cells for trial in cell.trials):
        picks = [cell.trials[trial].pick for cell in cells if trial in cell.trials]
        scores = [pick.score for pick in picks if pick]
        if len(scores) == len(cells):
            # In this order, as in DomainBed: the error is that of trials' means, not a mean of domains' errors.
            means.append(float(np.mean(scores)))
    number = estimate(means, ddof) if means else None
    return Cell(dataset, number, _gaps(cells), diverged=_any_diverged(cells))


def _explain_marks(rows: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """Explain those marks that occur in the rows."""
    numbers = [cell for cells in rows.values() for cell in cells if cell.estimate]
    if any(cell.partial for cell in numbers):
        yield "* stands on less than was asked for: on complete hyperparameter seeds and trials alone"
    if any(cell.diverged for cell in numbers):
        yield "! stands on a chosen run that diverged: it ended with a loss or metric that is no number"


def _notes(rows: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """Yield the notes of a table: marks, the runs behind partial numbers, and by row the runs without a result."""
    yield from _explain_marks(rows)
    for row, cell in ((row, cell) for row, cells in rows.items() for cell in cells):
        if cell.partial and cell.trials:
            complete = sum(outcome.complete for outcome in cell.trials.values())
            planned = sum(outcome.planned for outcome in cell.trials.values())
            trials = sum(outcome.pick is not None for outcome in cell.trials.values())
            yield (
                f"{row} {cell.column}*: {complete} of {planned} hyperparameter draws, "
                f"{trials} of {len(cell.trials)} trials, {shortfall(cell.gaps)}"
            )
    # Rows often lack the same runs, as the averages of a training run do: one line for all of them.
    for gaps, names in group_values((_gaps(cells), row) for row, cells in rows.items()).items():
        for line in describe_gaps(gaps):
            yield f"{', '.join(names)} {'lacks' if len(names) == 1 else 'lack'} {line}"
