"""Tables of results: what stands in each cell, what it stands on, and what an incomplete one lacks.

A cell is a number only if every run that its selector reads is there; `partial` allows numbers from complete trials
and hyperparameter seeds alone, each of them marked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dgbench.core.stats import Estimate, average, estimate
from dgbench.core.wording import grouped
from dgbench.report.results import Gap, Results
from dgbench.report.select import Outcome, Selector
from dgbench.report.signature import disagreements, lacking, signature

AVERAGE = "Avg"


@dataclass(frozen=True)
class Cell:
    """A number, or what it lacks, or both: then the number is partial."""

    column: str
    estimate: Estimate | None
    gaps: tuple[Gap, ...] = ()
    trials: Mapping[int, Outcome] = field(default_factory=dict)
    """What was chosen in each trial; empty for averages."""

    @property
    def partial(self) -> bool:
        """Whether the number stands on less than was asked for."""
        return self.estimate is not None and bool(self.gaps)

    def __str__(self) -> str:
        """What a table shows: `98.0 +/- 0.2`, `98.0*`, `3 runs missing`."""
        if self.estimate is not None:
            return f"{self.estimate}{'*' if self.partial else ''}"
        return shortfall(self.gaps)


@dataclass(frozen=True)
class Table:
    """One table: of a data set, or of all ("Averages")."""

    dataset: str
    """Empty for the averages."""
    selector: Selector
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    signature: Mapping[str, str]
    """How its numbers were made, in the order in which it is told."""
    notes: tuple[str, ...]
    in_domain: Mapping[str, float] = field(default_factory=dict)
    """Row -> mean value, between 0 and 1, of what was chosen, on the training domains' validation parts."""
    metric: str = "accuracy"

    @property
    def reads(self) -> str:
        """What the selector looked at."""
        return self.selector.reads.format(metric=self.metric)

    @property
    def title(self) -> str:
        """The header, worded as DomainBed words it."""
        of = f"Dataset: {self.dataset}" if self.dataset else "Averages"
        return f"{of}, model selection method: {self.selector.label}"


@dataclass(frozen=True)
class Report:
    """All tables of a sweep."""

    tables: tuple[Table, ...]
    records: int
    absent: tuple[str, ...]
    """Selectors that were asked for and can't answer, each with the reason."""
    notes: tuple[str, ...]
    """What was found in the folder."""


def build(results: Results, selectors: Sequence[Selector], partial: bool = False) -> Report:
    """The tables of each selector in turn: one a data set, then the averages over them."""
    tables: list[Table] = []
    absent = []
    for selector in selectors:
        reasons = {dataset: selector.unavailable(results, dataset) for dataset in results.datasets}
        able = [dataset for dataset, reason in reasons.items() if not reason]
        absent += [f"{selector.name} on {dataset}: not available, {why}" for dataset, why in reasons.items() if why]
        made = [_dataset_table(results, selector, dataset, partial) for dataset in able]
        tables += made
        metrics = {table.dataset: table.metric for table in made}
        if len(set(metrics.values())) == 1:
            tables.append(_averages(results, selector, made))
        elif made:
            told = ", ".join(f"{dataset} {metric}" for dataset, metric in metrics.items())
            absent.append(f"{selector.name}: no averages over data sets of different metrics ({told})")
    return Report(tuple(tables), results.records, tuple(absent), results.notes)


def shortfall(gaps: Sequence[Gap]) -> str:
    """What a cell without a number says: `3 runs missing`, `2 missing, 1 failed`."""
    states = Counter(gap.state for gap in gaps)
    if len(states) > 1:
        return ", ".join(f"{n} {state}" for state, n in states.items())
    for state, n in states.items():
        return f"{n} run{'s' if n > 1 else ''} {state}"
    return "no runs"


def _dataset_table(results: Results, selector: Selector, dataset: str, partial: bool) -> Table:
    positions = results.reported(dataset)
    columns = [_column(results, position) for position in positions]
    rows = {}
    for row in results.rows:
        cells = [
            _cell(results, selector, row, dataset, position, column, partial)
            for position, column in zip(positions, columns, strict=True)
        ]
        rows[row] = (*cells, _mean_cell(cells))
    return Table(
        dataset=dataset,
        selector=selector,
        columns=(*columns, AVERAGE),
        rows=rows,
        signature=signature(results, selector, [dataset]),
        notes=(*disagreements(results, [dataset]), *_notes(rows)),
        in_domain=_in_domain(rows),
        metric=results.metric(dataset),
    )


def _in_domain(rows: Mapping[str, Sequence[Cell]]) -> dict[str, float]:
    """For rows whose every cell has a number: over columns and trials."""
    found = {}
    for row, cells in rows.items():
        picks = [outcome.pick for cell in cells if cell.estimate for outcome in cell.trials.values()]
        accuracies = [pick.in_domain for pick in picks if pick and pick.in_domain is not None]
        if accuracies and all(cell.estimate for cell in cells):
            found[row] = average(accuracies)
    return found


def _column(results: Results, position: int) -> str:
    fold = results.folds[position]
    sources = fold.training_domains
    if len(fold.held_out) > 1 and len(sources) == 1:
        return f"from {sources[0]}"
    return "+".join(fold.held_out)


def _cell(
    results: Results, selector: Selector, row: str, dataset: str, position: int, column: str, partial: bool
) -> Cell:
    trials = sorted(trial for fold, trial in results.candidates.get((row, dataset), {}) if fold == position)
    outcomes = {trial: selector.choose(results, row, dataset, position, trial) for trial in trials}
    gaps = tuple(gap for outcome in outcomes.values() for gap in outcome.gaps)
    scores = [outcome.pick.score for outcome in outcomes.values() if outcome.pick]
    shown = scores and (partial or not gaps)
    return Cell(column, estimate(scores, results.ddof) if shown else None, gaps, outcomes)


def _mean_cell(cells: Sequence[Cell]) -> Cell:
    """The plain mean over columns, without an error; only if every column has a number."""
    means = [cell.estimate.mean for cell in cells if cell.estimate]
    whole = len(means) == len(cells)
    return Cell(AVERAGE, Estimate(average(means), None, len(means)) if whole else None, _gaps(cells))


def _gaps(cells: Iterable[Cell]) -> tuple[Gap, ...]:
    """The gaps of several cells, each once."""
    return tuple(dict.fromkeys(gap for cell in cells for gap in cell.gaps))


def _averages(results: Results, selector: Selector, tables: Sequence[Table]) -> Table:
    datasets = [table.dataset for table in tables]
    rows = {}
    for row in results.rows:
        cells = [_over_domains(table.dataset, table.rows[row][:-1], results.ddof) for table in tables]
        rows[row] = (*cells, _mean_cell(cells))
    return Table(
        dataset="",
        selector=selector,
        columns=(*datasets, AVERAGE),
        rows=rows,
        signature=signature(results, selector, datasets),
        notes=(*disagreements(results, datasets), *_mark(rows)),
        metric=tables[0].metric,
    )


def _over_domains(dataset: str, cells: Sequence[Cell], ddof: int) -> Cell:
    """Mean over trials of the mean over test domains; a trial counts only if it has a score on every domain."""
    if any(cell.estimate is None for cell in cells):
        return Cell(dataset, None, _gaps(cells))
    means = []
    for trial in dict.fromkeys(trial for cell in cells for trial in cell.trials):
        picks = [cell.trials[trial].pick for cell in cells if trial in cell.trials]
        scores = [pick.score for pick in picks if pick]
        if len(scores) == len(cells):
            means.append(float(np.mean(scores)))
    return Cell(dataset, estimate(means, ddof) if means else None, _gaps(cells))


def _mark(rows: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """What the mark means, where there is any."""
    if any(cell.partial for cells in rows.values() for cell in cells):
        yield "* stands on less than was asked for: on complete hyperparameter seeds and trials alone"


def _notes(rows: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """What is partial and what it stands on, then which runs are lacking, for rows that lack the same at once."""
    yield from _mark(rows)
    for row, cell in ((row, cell) for row, cells in rows.items() for cell in cells):
        if cell.partial and cell.trials:
            complete = sum(outcome.complete for outcome in cell.trials.values())
            asked = sum(outcome.asked for outcome in cell.trials.values())
            trials = sum(outcome.pick is not None for outcome in cell.trials.values())
            yield (
                f"{row} {cell.column}*: {complete} of {asked} hyperparameter draws, "
                f"{trials} of {len(cell.trials)} trials, {shortfall(cell.gaps)}"
            )
    for gaps, names in grouped((_gaps(cells), row) for row, cells in rows.items()).items():
        for line in lacking(gaps):
            yield f"{', '.join(names)} {'lacks' if len(names) == 1 else 'lack'} {line}"
