"""Write and read `plan.json`, the plan in a form that selection and tables can read without the catalogue or the data.

The file is a table: each fold once, each run a row of numbers that point at folds and inputs, each cell of a result
table a list of (run, predictor). Hyperparameters are left out; they are in each run's `run.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from dgbench.core.plain import fields_of, from_plain
from dgbench.core.protocol import Fold
from dgbench.core.run import is_run_id, run_name
from dgbench.core.setting import Setting
from dgbench.data.facts import DatasetFacts
from dgbench.plan.provenance import Provenance, word_setting
from dgbench.store.files import reading_sweep_json, write_atomic

if TYPE_CHECKING:  # reading a plan, as tables do, needs no planning
    from dgbench.plan.derived import PlannedPredictor
    from dgbench.plan.plan import Plan

FILE = "plan.json"
"""Name of the file in the sweep's folder."""
FORMAT = 2
"""Version of the file's format."""


class PlannedRun(NamedTuple):
    """A run of a plan without its hyperparameters."""

    id: str
    kind: str
    method: str
    dataset: str
    fold: int
    """Position in `PlanTable.folds`."""
    hparams_seed: int
    trial: int
    inputs: tuple[int, ...]
    """Positions in `PlanTable.runs`; each is below the run's own."""


_KINDS = (str, str, str, str, int, int, int, tuple)
"""Types of the values of a `PlannedRun`."""


@dataclass(frozen=True)
class PlanTable:
    """A plan as a table, made by `tabulate` or `read_plan`: all that `report` reads of it."""

    protocol: str
    """Name of the protocol."""
    setting: Setting
    """The sweep's setting where data sets have no values of their own, and before they filled it in."""
    rows: tuple[str, ...]
    datasets: Mapping[str, DatasetFacts]
    folds: tuple[Fold, ...]
    runs: tuple[PlannedRun, ...]
    cells: Mapping[tuple[str, str], tuple[tuple[int, str], ...]]
    """(row, data set) -> (position in `runs`, name of the predictor) of each candidate."""
    repeats: Mapping[tuple[str, str, str], tuple[tuple[int, str], ...]] = field(default_factory=dict)
    """(row, data set, selector) -> the same for trials that repeat what the selector chose in the search."""
    analyses: Mapping[tuple[str, str, str], tuple[int, ...]] = field(default_factory=dict)
    """(row, data set, analysis) -> positions in `runs` of the runs that measure the row's models."""
    provenance: Provenance = field(default_factory=Provenance)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Data set -> its setting before it was filled in, of data sets with values of their own."""
    curves: Mapping[tuple[str, str, int], tuple[tuple[int, str], ...]] = field(default_factory=dict)
    """(row, data set, number of members) -> the same for predictors merged from so many runs."""

    def setting_on(self, dataset: str) -> Setting:
        """Return the setting of the runs on a data set, before the data set filled it in."""
        return self.settings.get(dataset, self.setting)

    def name(self, run: PlannedRun) -> str:
        """Return the name of a run for people, which is `Run.name` but for the runs of rows that name values."""
        method = self._named.get(run.id, run.method)
        return run_name(method, run.dataset, self.folds[run.fold].held_out, run.hparams_seed, run.trial)

    @cached_property
    def _named(self) -> Mapping[str, str]:
        """Run id -> its row, of runs that only rows with values have: `SAM:rho=0.1`, by which they are told apart."""
        if not any(":" in word for row, _, *analysis in (*self.cells, *self.analyses) for word in (row, *analysis)):
            return {}  # the usual sweep, which may have many thousand runs
        rows: dict[int, str] = {}
        for (row, _), cell in sorted(self.cells.items(), key=lambda item: ":" in item[0][0]):
            rows |= {position: row for position, _ in cell if position not in rows}
        for (row, _, analysis), positions in self.analyses.items():
            rows |= dict.fromkeys(positions, f"{row}+{analysis}")
        return {self.runs[position].id: row for position, row in rows.items() if ":" in row}


def tabulate(
    plan: Plan,
    setting: Setting,
    protocol: str,
    changes: Iterable[str] = (),
    settings: Mapping[str, Setting] | None = None,
) -> PlanTable:
    """Make the table of a plan.

    Args:
        plan: The plan.
        setting: The sweep's setting where data sets have no values of their own, and before they filled it in.
        protocol: The protocol's name.
        changes: Further departures from the preset in words, of `Declaration.changes`, for the provenance.
        settings: Data set -> its setting, of those with values of their own; None: there are none.
    """
    departures = (word_setting(name, value) for name, value in setting.departures().items())
    folds = {fold: i for i, fold in enumerate(dict.fromkeys(run.fold for run in plan.runs))}
    places = {run.id: i for i, run in enumerate(plan.runs)}
    runs = tuple(
        PlannedRun(
            run.id,
            run.kind,
            run.method.name,
            run.dataset,
            folds[run.fold],
            run.hparams_seed,
            run.trial,
            tuple(places[source.run] for source in run.inputs),
        )
        for run in plan.runs
    )

    def placed(candidates: Sequence[PlannedPredictor]) -> tuple[tuple[int, str], ...]:
        return tuple((places[candidate.run.id], candidate.predictor) for candidate in candidates)

    cells = {key: placed(candidates) for key, candidates in plan.candidates.items()}
    repeats = {key: placed(candidates) for key, candidates in plan.repeats.items()}
    analyses = {key: tuple(places[run.id] for run in found) for key, found in plan.analyses.items()}
    # Departures belong to the sweep, not to any row, so planning doesn't know them and they are added to its facts now.
    provenance = replace(plan.provenance, asked=(*departures, *changes))
    curves = {key: placed(candidates) for key, candidates in plan.curves.items()}
    return PlanTable(
        protocol=protocol,
        setting=setting,
        rows=plan.rows,
        datasets=plan.datasets,
        folds=tuple(folds),
        runs=runs,
        cells=cells,
        repeats=repeats,
        curves=curves,
        analyses=analyses,
        provenance=provenance,
        settings=dict(settings or {}),
    )


def write_plan(root: Path, table: PlanTable) -> None:
    """Write `plan.json` to the sweep's folder `root`."""
    content = {"format": FORMAT, **fields_of(table)}
    content["runs"] = [list(run) for run in table.runs]
    content["cells"] = [[row, dataset, cell] for (row, dataset), cell in table.cells.items()]
    content["repeats"] = [[*place, cell] for place, cell in table.repeats.items()]
    content["curves"] = [[*place, cell] for place, cell in table.curves.items()]
    content["analyses"] = [[*place, positions] for place, positions in table.analyses.items()]
    content |= fields_of(content.pop("provenance"))
    write_atomic(root / FILE, orjson.dumps(content))


def read_plan(root: Path) -> PlanTable:
    """Read `plan.json` of the sweep's folder `root`.

    Raises:
        UserError: The folder holds no sweep, or one of another format, or the file is damaged.
    """
    with reading_sweep_json(root, FILE, FORMAT, "`dgbench sweep retry` writes it anew") as data:
        data["runs"] = tuple(PlannedRun._make((*values, tuple(inputs))) for *values, inputs in data["runs"])
        data["cells"] = {(row, dataset): cell for row, dataset, cell in data["cells"]}
        data["repeats"] = {(row, dataset, name): cell for row, dataset, name, cell in data.get("repeats", ())}
        data["curves"] = {(row, dataset, number): cell for row, dataset, number, cell in data.get("curves", ())}
        data["analyses"] = {(*place,): positions for *place, positions in data.get("analyses", ())}
        data["provenance"] = {f.name: data.pop(f.name) for f in fields(Provenance)}
        table = from_plain(PlanTable, data)
        _check(table)
    return table


def _check(table: PlanTable) -> None:
    """Raise ValueError for a table that dgbench didn't write: names that are no ids, positions out of range, cycles."""
    # The file may have been edited, or come from elsewhere with a published sweep. Ids become parts of paths, and
    # readers index by positions without checks. Inputs that must come before their run rule out cycles.
    for position, run in enumerate(table.runs):
        if not is_run_id(run.id):
            raise ValueError(f"{run.id!r} is not the id of a run")
        if run.dataset not in table.datasets or run.fold not in range(len(table.folds)):
            raise ValueError(f"run {run.id} has no data set or fold in it")
        if not all(type(value) is kind for value, kind in zip(run, _KINDS, strict=True)):
            raise ValueError(f"run {run.id} has values of other types")
        if not all(type(other) is int and 0 <= other < position for other in run.inputs):
            raise ValueError(f"run {run.id} stands on runs that don't come before it")
    for (row, dataset, *_), cell in (*table.cells.items(), *table.repeats.items(), *table.curves.items()):
        if row not in table.rows or dataset not in table.datasets:
            raise ValueError(f"a cell belongs to {row!r} on {dataset!r}, of which there is nothing in it")
        if not all(0 <= position < len(table.runs) for position, _ in cell):
            raise ValueError(f"the cell of {row!r} on {dataset!r} names runs that are not in it")
    for (row, dataset, name), positions in table.analyses.items():
        if not all(0 <= position < len(table.runs) for position in positions):
            raise ValueError(f"{name} of {row!r} on {dataset!r} names runs that are not in it")
