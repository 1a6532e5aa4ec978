"""Define the plan of a sweep, with its runs and the predictors for each cell of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dgbench.core.halving import Bracket
from dgbench.core.run import Run
from dgbench.data.facts import DatasetFacts
from dgbench.plan.derived import PlannedPredictor
from dgbench.plan.provenance import Provenance


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep should hold, made by `planner.plan`; it says nothing about which runs exist."""

    runs: tuple[Run, ...]
    """All runs, each after its inputs."""
    rows: tuple[str, ...]
    """Names of the tables' rows, in the order of the requests."""
    datasets: Mapping[str, DatasetFacts]
    """Data set -> its facts."""
    candidates: Mapping[tuple[str, str], tuple[PlannedPredictor, ...]]
    """(row, data set) -> the predictors to choose among, over all folds, trials and hyperparameter seeds."""
    repeats: Mapping[tuple[str, str, str], tuple[PlannedPredictor, ...]] = field(default_factory=dict)
    """(row, data set, selector) -> the predictors of trials that repeat what the selector chose in the search."""
    curves: Mapping[tuple[str, str, int], tuple[PlannedPredictor, ...]] = field(default_factory=dict)
    """(row, data set, number of members) -> the predictors merged from so many runs, one for each draw of them."""
    analyses: Mapping[tuple[str, str, str], tuple[Run, ...]] = field(default_factory=dict)
    """(row, data set, analysis) -> the runs that measure the row's models."""
    provenance: Provenance = field(default_factory=Provenance)
    """Facts about the rows that tables print beside their numbers."""
    brackets: tuple[Bracket, ...] = ()
    """The runs that compete; none if each draw is trained to its end."""

    @cached_property
    def read_by_others(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """Run id -> predictor -> its models (`run.BEST`, `run.LAST`) that other runs read and that must be kept."""
        read: dict[str, dict[str, frozenset[str]]] = {}
        for run in self.runs:
            for source in run.inputs:
                models = read.setdefault(source.run, {})
                models[source.predictor] = models.get(source.predictor, frozenset()).union(run.reads)
        return read
