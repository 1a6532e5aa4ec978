"""Hold the results of a sweep in the form in which selection and tables see them: `Results`.

A table has a row for each method and a column for each fold. `plan.json` says which predictors each cell needs, the run
folders say what was measured of them. `report.reader` joins the two into `Results.candidates`:

    (row, data set) -> (fold, trial) -> hyperparameter seed -> Series | Gap

Every planned predictor has an entry. It is a `Series`, with the values at each evaluated step, if the run is done and
its files are what was written; else it is a `Gap`, which says what became of the run. (A run that a search has dropped
is done for tables; predictors that it would have yielded at its end have no entry.) So an incomplete sweep can't pass
for a complete one: selectors (`report.select`) choose among the candidates of one (fold, trial) and hand on the gaps,
and tables (`report.tables`) name them.

Values keep the unit of the record: accuracies lie in [0, 1] until a table multiplies them by 100. `report.domainbed`
reads folders of DomainBed into the same `Results`, so all that follows is the same for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dgbench.core.halving import Spent
from dgbench.core.protocol import Fold, View
from dgbench.core.run import ALL_TRIALS, BEST, LAST, MODEL
from dgbench.core.setting import Setting
from dgbench.core.stats import mean_of_rows
from dgbench.data.facts import DatasetFacts
from dgbench.plan.provenance import Provenance
from dgbench.report.origin import Kind, Origin
from dgbench.report.predictions.kept import KeptPredictions


@dataclass(frozen=True, slots=True)
class Series:
    """One predictor of a run that has finished or was dropped, with its values at the evaluated steps."""

    run: str
    """The run's id; of DomainBed's runs, the name of the folder."""
    steps: tuple[int, ...]
    """The evaluated steps, strictly increasing."""
    views: tuple[View, ...]
    """The evaluated views: the columns of `values`."""
    values: NDArray[np.float64]
    """(steps, views), of the data set's metric; accuracies are in [0, 1]. NaN where the model diverged."""
    diverged: bool = False
    """Whether the last record has a loss or metric that is NaN or infinite.

    The run counts nevertheless: its predictions are as good as chance, and a metric that is NaN counts as the worst
    value.
    """
    adapted: bool = False
    """Whether its models are adapted from another run's best and last, in this order, or from one that is both."""
    predictor: str = MODEL
    """Name of the predictor: `MODEL`, or that of an average."""
    sizes: tuple[int, ...] = ()
    """Number of examples of each view; empty where it is unknown, and for metrics that are no share of examples."""
    others: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Further metric, `loss` among them -> (steps, views). Empty unless `read_results` was asked for all metrics."""
    kind: Kind = field(default_factory=Kind)
    """The kind of machine that finished the run."""
    along: NDArray[np.float64] | None = None
    """(steps, views, parts), accuracy of each part of a view's stream, NaN where a view has fewer examples than parts.
    None for runs without a stream, and unless `read_results` was asked for all metrics.
    """

    @property
    def places(self) -> Mapping[int | str, int]:
        """Return key -> row of `values`, where the key identifies corresponding models in runs of other folds.

        The key is the step; for adapted models it is `BEST` or `LAST`, since the best step differs from fold to fold.
        """
        if self.adapted:
            return {BEST: 0, LAST: len(self.steps) - 1}
        return {step: place for place, step in enumerate(self.steps)}

    def column(self, view: View) -> NDArray[np.float64]:
        """Return the values of one view at each step, (steps,)."""
        return self.values[:, self.views.index(view)]

    def mean(self, views: Sequence[View]) -> NDArray[np.float64]:
        """Return the unweighted mean over `views` at each step, (steps,), summed in the order of `views`."""
        # Indexing columns gives column-major order, in which NumPy sums rows differently. DomainBed's np.mean over a
        # list sums as a contiguous row does, and the last digit may decide between steps that tie.
        return mean_of_rows(np.ascontiguousarray(self.values[:, [self.views.index(view) for view in views]]))


@dataclass(frozen=True, slots=True)
class Gap:
    """A planned predictor without a result. It never enters a number; tables list it."""

    run: str
    """The run's id, or the name of its folder; empty if the run is not known."""
    method: str
    """The run's algorithm, merger or adapter."""
    dataset: str
    held_out: tuple[str, ...]
    hparams_seed: int
    trial: int
    state: str
    """`missing`, `waiting`, `running`, `paused`, `failed`, `unfinished`, `damaged` or `without kept predictions`."""
    why: str = ""
    """The error of a run that failed or is damaged; else empty."""


WARNING = "WARNING: "
"""Prefix of those notes that advise against comparing the runs of a table."""

Candidate: TypeAlias = Series | Gap
"""A predictor that a selector may choose, if it is there."""
Spot: TypeAlias = tuple[int, int]
"""Index of a fold in `Results.folds`, and a trial: `ALL_TRIALS` for rows that merge runs of all trials."""


Candidates: TypeAlias = Mapping[tuple[str, str], Mapping[Spot, Mapping[int, Candidate]]]
"""(row, data set) -> (fold, trial) -> hyperparameter seed -> candidate."""


@dataclass(frozen=True)
class Results:
    """The results of a sweep of dgbench or DomainBed, complete or not, as selection and tables see them.

    Made by `read_results` or `domainbed.reader.read_sweep`. Every predictor that the sweep should have is among
    `candidates`.
    """

    protocol: str
    """Name of the protocol."""
    preset: str
    """Name of the preset; `DomainBed's own` for DomainBed's folders."""
    ddof: int
    """Degrees of freedom subtracted in the standard deviation over trials, as in `numpy.std`."""
    rows: tuple[str, ...]
    """Rows, in the order of the tables."""
    datasets: Mapping[str, tuple[int, ...]]
    """Data set -> indices of its folds, in the order of the tables."""
    folds: tuple[Fold, ...]
    """Folds of all data sets; elsewhere a fold is named by its index."""
    candidates: Candidates
    """(row, data set) -> (fold, trial) -> hyperparameter seed -> candidate."""
    records: int = 0
    """Number of records of finished runs."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Row -> number of runs that its models are merged from, `5` or `3-5`, for rows that merge."""
    pooled: frozenset[str] = frozenset()
    """Rows whose models are merged over hyperparameter seeds, so that none is left to choose."""
    adapted: frozenset[str] = frozenset()
    """Rows whose runs adapt the best and the last model of another run."""
    provenance: Provenance = field(default_factory=Provenance)
    """How rows differ from plain models of the preset."""
    origin: Origin = field(default_factory=Origin)
    """The data, code and hardware behind the runs that count."""
    search: Mapping[tuple[str, str], tuple[Spent, ...]] = field(default_factory=dict)
    """(row, data set) -> the budget that its search has spent, where the worse draws are dropped on the way."""
    reports: str = ""
    """What stands in place of values on the tested views; empty: nothing (`report.whole`)."""
    notes: tuple[str, ...] = ()
    """Findings in the folder that a reader of the tables needs, such as torn lines."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Data set -> name of its metric, where that is not accuracy."""
    missing_classes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Data set -> domain -> classes without an example in it, on which it neither trains nor is scored."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Field of the sweep's `Setting` -> value; empty for DomainBed's folders."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Data set -> the setting with its steps and network; of DomainBed's, if all its runs share them."""
    facts: Mapping[str, DatasetFacts] = field(default_factory=dict)
    """Data set -> what the plan knows of it; empty for DomainBed's folders."""
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Folder -> its rows, for results that `folders.combine` made of several; else empty."""
    kept: KeptPredictions = field(default_factory=KeptPredictions, repr=False, compare=False)
    """The predictions that runs keep; none of DomainBed's."""
    repeats: Mapping[str, Candidates] = field(default_factory=dict)
    """Selector -> the candidates of trials that repeat what it chose in the search; empty without any."""
    curves: Mapping[tuple[str, str, int], Sequence[tuple[Spot, Candidate]]] = field(default_factory=dict)
    """(row, data set, number of members) -> (fold, trial) and candidate of each draw of so many members."""
    repeated: frozenset[str] = frozenset()
    """Rows whose candidates are such trials; empty unless made by `chosen_once`."""
    choices: dict[tuple[str, str, str, int, int], Any] = field(default_factory=dict, init=False, repr=False)
    """(selector, row, data set, fold, trial) -> its `select.Outcome`, of those that were asked for so far."""
    views: dict[str, Results] = field(default_factory=dict, init=False, repr=False)
    """Selector -> what `chosen_once` made."""
    paired: dict[tuple[str, int], tuple[tuple[View, int], ...]] = field(default_factory=dict, init=False, repr=False)
    """(data set, fold) -> what `pairs` has found, of those that were asked for so far."""

    def metric(self, dataset: str) -> str:
        """Return the name of a data set's metric."""
        return self.metrics.get(dataset, "accuracy")

    def at(self, row: str, dataset: str, spot: Spot) -> Mapping[int, Candidate]:
        """Return hyperparameter seed -> candidate of a row at a spot; empty if none was planned."""
        return self.candidates.get((row, dataset), {}).get(spot, {})

    def chosen_once(self, selector: str) -> Results:
        """Return the results in which trials that repeat a choice of a selector stand in place of its search.

        Rows that have no such trials on a data set keep those of the search.
        """
        found = self.repeats.get(selector)
        if not found:
            return self
        if selector not in self.views:
            rows = frozenset(row for row, dataset in found if dataset in self.datasets)
            self.views[selector] = replace(self, candidates={**self.candidates, **found}, repeated=rows)
        return self.views[selector]

    def reported(self, dataset: str) -> tuple[int, ...]:
        """Return the folds that are columns of tables: those with the fewest held-out domains.

        Folds that hold out more serve leave-one-domain-out selection only.
        """
        positions = self.datasets[dataset]
        fewest = min(len(self.folds[position].held_out) for position in positions)
        return tuple(position for position in positions if len(self.folds[position].held_out) == fewest)

    def untested(self, dataset: str) -> tuple[str, ...]:
        """Return the domains that train or validate in some column and are tested in none."""
        folds = [self.folds[position] for position in self.reported(dataset)]
        tested = {view.domain for fold in folds for view in fold.test}
        others = (view.domain for fold in folds for view in (*fold.train, *fold.target_val))
        return tuple(dict.fromkeys(domain for domain in others if domain not in tested))

    def pairs(self, dataset: str, position: int) -> tuple[tuple[View, int], ...]:
        """Return the (view, fold) pairs that leave-one-domain-out selection reads for a fold.

        Args:
            dataset: The fold's data set.
            position: The fold.

        Returns:
            For each training domain its test view, and the fold that holds it out together with the fold's own test
            domain. Empty if one of these folds is not planned, or this fold holds out several domains.
        """
        if (dataset, position) not in self.paired:
            self.paired[dataset, position] = self._pairs(dataset, position)
        return self.paired[dataset, position]

    def _pairs(self, dataset: str, position: int) -> tuple[tuple[View, int], ...]:
        fold = self.folds[position]
        if len(fold.held_out) != 1:
            return ()
        by_held_out = {frozenset(self.folds[p].held_out): p for p in self.datasets[dataset]}
        found = []
        for domain in fold.training_domains:
            pair = by_held_out.get(frozenset({*fold.held_out, domain}))
            if pair is None:
                return ()
            found += [(view, pair) for view in self.folds[pair].test if view.domain == domain]
        return tuple(found)

    def of_all_trials(self, row: str, datasets: Iterable[str]) -> bool:
        """Return whether a row has one model for all trials, so that nothing is selected and no error estimated."""
        spots = (spot for dataset in datasets for spot in self.candidates.get((row, dataset), {}))
        return any(trial == ALL_TRIALS for _, trial in spots)
