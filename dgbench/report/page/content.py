"""Prepare the overview and the tables of a page: counts, problems, provenance, and cells with their explanations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.core.wording import format_ranges, group_values, printable
from dgbench.report.comparison import RowStatistics, Statistics, table_statistics
from dgbench.report.frames import SweepResults
from dgbench.report.page.all_domains import Distance, Reference, distance
from dgbench.report.results import Gap, Results
from dgbench.report.tables import Cell, Report, Table, shortfall
from dgbench.store.run_folder import RUNS
from dgbench.store.state import State

if TYPE_CHECKING:
    import pandas as pd

IN_DOMAIN = "in-domain"
"""Name of a column that tables of the page have beside those of `collect`."""
TO_ALL_DOMAINS = "to all domains"
"""Name of the column that tables have beside a sweep that trained on all domains."""
LOGS = ("err.txt", "out.txt")
"""Names of the logs of a DomainBed run, the likelier to say why it failed first."""
MOST_PROBLEMS = 100
"""Most problems that the overview lists; the list of runs has all."""


@dataclass(frozen=True)
class Problem:
    """Runs that failed or can't be used for one reason."""

    state: str
    why: str
    """The error's text; empty if none is known."""
    runs: str
    """Which runs, as `SAM on PACS [cartoon], trials 0-2`."""
    count: int
    log: str
    """Path of the first run's log; empty if there is none."""


@dataclass(frozen=True)
class Progress:
    """The number of models that one row needs on one data set, and how many are there."""

    done: int
    planned: int
    lacking: str
    """States of the others with their numbers; empty if there are none."""


@dataclass(frozen=True)
class Shown:
    """A cell of a table as the page shows it."""

    text: str = ""
    value: float | None = None
    """What the column is sorted by; None sorts last."""
    title: str = ""
    """What is shown on hover: full digits and what was chosen."""
    best: bool = False
    lacking: bool = False
    """Whether runs are lacking, so that there is no number or a partial one."""


@dataclass(frozen=True)
class ShownTable:
    """A table as the page shows it."""

    id: str
    dataset: str
    """Name of the data set; empty for averages over data sets."""
    caption: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[Shown]]
    tied: frozenset[str]
    """The row with the highest mean, and those that can't be distinguished from it; empty for averages."""
    facts: Mapping[str, str]
    """The facts of the signature that not all tables of the page share."""
    reads: str
    notes: Sequence[str]
    foot: Mapping[str, Sequence[Shown]] = field(default_factory=dict)
    """Rows of another sweep that stand below, and are not sorted."""


def count_states(runs: pd.DataFrame) -> dict[str, int]:
    """Return state -> number of runs, finished ones first."""
    counts = Counter(
        runs.drop_duplicates(["folder", "run"] if (runs["run"] != "").all() else None)["state"].astype(str)
    )
    return {State.DONE.value: counts.pop(State.DONE.value, 0), **counts}


def progress(results: SweepResults) -> dict[str, dict[str, Progress]]:
    """Return row -> data set -> how many of its models are there."""
    found: dict[str, dict[str, Progress]] = {row: {} for row in results.results.rows}
    for (row, dataset), spots in results.results.candidates.items():
        candidates = [candidate for seeds in spots.values() for candidate in seeds.values()]
        gaps = [candidate for candidate in candidates if isinstance(candidate, Gap)]
        lacking = ", ".join(f"{n} {state}" for state, n in Counter(gap.state for gap in gaps).items())
        found[row][dataset] = Progress(len(candidates) - len(gaps), len(candidates), lacking)
    return found


def problems(runs: pd.DataFrame) -> list[Problem]:
    """Return failures, damage and unusable runs, those with the same reason together; most runs first."""
    bad = runs[runs["state"].isin([State.FAILED.value, State.DAMAGED.value, "unfinished"])]
    lines = (((line.state, line.why or "", line.method, line.dataset), line) for line in bad.itertuples(index=False))
    found = []
    for (state, why, method, dataset), own in group_values(lines).items():
        held_out = ", ".join(f"[{name}]" for name in dict.fromkeys(line.held_out for line in own))
        trials = format_ranges(line.trial for line in own)
        where = f"{method} on {dataset} {held_out}, trial{'s' if len(own) > 1 else ''} {trials}"
        found.append(Problem(state, why, where, len(own), log_of(own[0].folder, own[0].run)))
    return sorted(found, key=lambda problem: -problem.count)


def log_of(folder: str, run: str) -> str:
    """Return the path of a run's log; empty if it has none."""
    if not run:
        return ""
    places = (Path(folder, RUNS, run, "log.txt"), *(Path(folder, run, name) for name in LOGS))
    return next((str(place) for place in places if place.is_file() and place.stat().st_size), "")


def provenance(tables: Sequence[Table]) -> dict[str, str]:
    """Return the facts that the signatures of all tables share."""
    if not tables:
        return {}
    first, *others = (table.signature for table in tables)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def shown_tables(
    results: Results,
    report: Report,
    reference: Reference | None = None,
    known: Mapping[tuple[str, str], Statistics] | None = None,
) -> dict[str, list[ShownTable]]:
    """Return name of selector -> its tables; averages over data sets only where there are several.

    Args:
        results: The results.
        report: What `tables.build` made of them.
        reference: A sweep on all domains that rows are compared with.
        known: (data set, name of selector) -> statistics that were made before.
    """
    common = provenance(report.tables)
    found: dict[str, list[ShownTable]] = {}
    for number, table in enumerate(report.tables):
        tables = found.setdefault(table.selector.name, [])
        if table.dataset or len(table.columns) > 2:
            statistics = (known or {}).get((table.dataset, table.selector.name))
            if table.dataset and not statistics:
                statistics = table_statistics(results, table.selector, table.dataset)
            shown = _shown_table(f"table-{number}", table, common, statistics)
            other = reference.table(table.dataset, table.selector.name) if reference else None
            tables.append(_with_distances(shown, table, other) if other else shown)
    return found


def _shown_table(id: str, table: Table, common: Mapping[str, str], statistics: Statistics | None) -> ShownTable:
    """Prepare one table; a mean over a single column, which would repeat it, is left out."""
    columns = table.columns if len(table.columns) > 2 else table.columns[:1]
    best = {}
    for place in range(len(columns)):
        numbers = [cells[place].estimate for cells in table.rows.values() if not cells[place].gaps]
        best[place] = max((round(e.mean, 1) for e in numbers if e and math.isfinite(e.mean)), default=math.nan)
    by_row = {found.row: found for found in statistics.rows} if statistics else {}
    rows: dict[str, list[Shown]] = {}
    for row, cells in table.rows.items():
        rows[row] = [_shown(row, cell, best[place]) for place, cell in enumerate(cells[: len(columns)])]
        if table.in_domain:
            value, title = table.in_domain.get(row), f"{row}: on the validation parts of the training domains"
            rows[row].append(Shown() if value is None else Shown(f"{100 * value:.1f}", value, title))
    columns = (*columns, IN_DOMAIN) if table.in_domain else columns
    if statistics and len(rows) > 1:
        columns = (*columns, f"Δ {statistics.reference}")
        for row, shown in rows.items():
            shown.append(_difference(by_row.get(row), statistics.reference))
    name = f"{table.dataset}{table.mark}" if table.dataset else "Mean over domains of each data set"
    return ShownTable(
        id=id,
        dataset=table.dataset,
        caption=f"{name}: {table.metric} × 100",
        columns=columns,
        rows=rows,
        tied=frozenset(row for row, found in by_row.items() if found.tied) if len(by_row) > 1 else frozenset(),
        facts={key: value for key, value in table.signature.items() if key not in common},
        reads=table.reads,
        notes=table.notes,
    )


def _with_distances(shown: ShownTable, table: Table, reference: Table) -> ShownTable:
    """Add the distance from models that trained on all domains to a table, and their rows below it."""
    found = {row: one for row in table.rows if (one := distance(row, table, reference))}
    rows = {row: [*cells, _distance_cell(row, found.get(row), reference)] for row, cells in shown.rows.items()}
    foot = {}
    for row in dict.fromkeys(one.row for one in found.values()):
        cells = dict(zip(reference.columns, reference.rows[row], strict=True))
        own = [_shown(row, cells[name], math.nan) if name in cells else Shown() for name in shown.columns]
        foot[f"{row}, trained on all domains"] = [*own, Shown()]
    return replace(shown, columns=(*shown.columns, TO_ALL_DOMAINS), rows=rows, foot=foot)


def _distance_cell(row: str, found: Distance | None, reference: Table) -> Shown:
    """Prepare the cell of a row's distance from models that trained on all domains."""
    if not found:
        return Shown()
    lines = [f"{row} minus {found.row} trained on all domains, chosen by {reference.selector.label}"]
    lines += [f"{name}: {points:+.1f}" for name, points in found.by_column.items()]
    lines.append("there the tested domain is measured on the part that did not train")
    if math.isnan(found.average):
        return Shown(title="\n".join(lines))
    return Shown(_signed(found.average), found.average, "\n".join(lines))


def _shown(row: str, cell: Cell, best: float) -> Shown:
    """Prepare one cell."""
    lines = [f"{row}, {cell.column}"]
    found = cell.estimate
    if found and found.error is not None:
        lines.append(f"mean {found.mean:.2f}, standard error {found.error:.2f} over {found.n} trials")
    elif found:
        lines.append(f"mean {found.mean:.2f}")
    lines += _choices(cell)
    if cell.gaps:
        lines.append(shortfall(cell.gaps))
    is_best = bool(found and not cell.gaps and round(found.mean, 1) == best)
    value = found.mean if found and math.isfinite(found.mean) else None
    return Shown(printable(str(cell)).replace("+/-", "±"), value, "\n".join(lines), is_best, bool(cell.gaps))


def _difference(found: RowStatistics | None, reference: str) -> Shown:
    """Prepare the cell of a row's difference from the reference row; empty where there is none."""
    delta = found.delta if found else None
    if not found or not delta or math.isnan(delta.difference):
        return Shown()
    interval, text = delta.by_trial, _signed(100 * delta.difference)
    lines = [f"{found.row} minus {reference} within trials, mean over {delta.pairs} pairs of column and trial"]
    if interval.refused:
        lines.append(f"no interval: {interval.refused}")
    else:
        text += f" ± {100 * interval.error:.1f}"
        lines.append(f"95 % t-interval over trials: {100 * interval.low:+.1f} to {100 * interval.high:+.1f}")
        if not math.isnan(found.p):
            lines.append(f"p = {found.p:.3f}, Wilcoxon's test with Holm's correction over rows")
    return Shown(text, delta.difference, "\n".join(lines))


def _signed(points: float) -> str:
    """Format a difference in points with its sign, a minus and not a hyphen."""
    return f"{points:+.1f}".replace("-", "−")


def _choices(cell: Cell) -> Iterator[str]:
    """Yield a line for each trial: the draw and step that were chosen, and the value there."""
    for trial, outcome in cell.trials.items():
        if pick := outcome.pick:
            name = "all trials" if trial < 0 else f"trial {trial}"
            of = f" of {outcome.planned}" if outcome.planned > 1 else ""
            yield f"{name}: draw {pick.hparams_seed}{of}, step {pick.step}, {100 * pick.score:.1f}"
