"""Find the one model to export: the choice of a selector at one place of one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dgbench.core.errors import Problems, UserError
from dgbench.core.protocol import Fold
from dgbench.core.run import ALL_TRIALS
from dgbench.core.stats import nan_as_worst
from dgbench.core.wording import unknown_name
from dgbench.report.results import Results, Series
from dgbench.report.select import Pick, Selector


@dataclass(frozen=True)
class Wanted:
    """The names by which a user requests a model; an empty one stands for the only one that the sweep has."""

    row: str = ""
    dataset: str = ""
    held_out: tuple[str, ...] = ()
    """The held-out domains, in any order."""
    trial: int | None = None
    """None: the trial with the best value of the selector."""


@dataclass(frozen=True)
class Chosen:
    """A model that a selector chose, with the place where it did."""

    results: Results
    selector: Selector
    row: str
    dataset: str
    position: int
    """Index of the fold in `Results.folds`."""
    trial: int
    pick: Pick
    series: Series
    """The predictor that the model is of."""

    @property
    def fold(self) -> Fold:
        """Return the fold."""
        return self.results.folds[self.position]

    @property
    def place(self) -> str:
        """Format the place: `ERM on PACS [photo] trial 0`."""
        of = "all trials" if self.trial == ALL_TRIALS else f"trial {self.trial}"
        return f"{self.row} on {self.dataset} [{'+'.join(self.fold.held_out)}] {of}"


def choose(results: Results, selector: Selector, wanted: Wanted) -> Chosen:
    """Return the model that a selector chose at the place that a user names.

    Args:
        results: The sweep.
        selector: The selector.
        wanted: The names.

    Raises:
        UserError: Names that the sweep doesn't have, or that it has several of; or runs are lacking there.
    """
    problems = Problems()
    row = _only(problems, "--row", "row", wanted.row, results.rows)
    dataset = _only(problems, "--dataset", "data set", wanted.dataset, results.datasets)
    position = _fold(problems, results, dataset, wanted.held_out) if dataset else None
    problems.raise_if_any()
    assert position is not None
    if why := selector.unavailable(results, dataset):
        raise UserError(f"--selector {selector.name}: not available on {dataset}, {why}")
    trials = sorted(t for p, t in results.candidates.get((row, dataset), {}) if p == position)
    if wanted.trial is not None and wanted.trial not in trials:
        known = ", ".join("all trials" if trial == ALL_TRIALS else str(trial) for trial in trials)
        raise UserError(f"--trial: there is no trial {wanted.trial} of {row}: there are {known}")
    return _best(results, selector, row, dataset, position, trials if wanted.trial is None else [wanted.trial])


def _only(problems: Problems, flag: str, noun: str, name: str, known: Iterable[str]) -> str:
    """Return the name, or without one the only name there is; add a problem and return "" otherwise."""
    names = list(known)
    if name in names:
        return name
    if name:
        problems.add(f"{flag}: {unknown_name(noun, name, names)}")
    elif len(names) == 1:
        return names[0]
    else:
        problems.add(f"{flag} NAME says which {noun} to export: there are {', '.join(names)}")
    return ""


def _fold(problems: Problems, results: Results, dataset: str, held_out: Sequence[str]) -> int | None:
    """Return the index of the reported fold that holds these domains out; add a problem where there is none."""
    folds = {frozenset(results.folds[position].held_out): position for position in results.reported(dataset)}
    if not held_out and len(folds) == 1:
        return next(iter(folds.values()))
    if frozenset(held_out) in folds:
        return folds[frozenset(held_out)]
    names = ["+".join(results.folds[position].held_out) for position in folds.values()]
    if not held_out:
        problems.add(f"--test DOMAIN says which domain the model has not seen: {', '.join(names)}")
    else:
        problems.add(f"--test: {unknown_name('held-out domain', '+'.join(held_out), names)}")
    return None


def _best(results: Results, selector: Selector, row: str, dataset: str, position: int, trials: Sequence[int]) -> Chosen:
    """Return the choice with the best value of the selector among trials, the earliest of equals."""
    found: Chosen | None = None
    for trial in trials:
        outcome = selector.choose(results, row, dataset, position, trial)
        if outcome.pick is None or outcome.gaps:
            lacking = f"{len(outcome.gaps)} runs are" if len(outcome.gaps) > 1 else "a run is"
            raise UserError(
                f"{row} on {dataset}, trial {trial}: {lacking} lacking that might change the choice: finish the "
                "sweep, or name a complete trial by --trial"
            )
        series = results.at(row, dataset, (position, trial))[outcome.pick.hparams_seed]
        assert isinstance(series, Series), "gaps are never chosen"
        if found is None or nan_as_worst(outcome.pick.value) > nan_as_worst(found.pick.value):
            found = Chosen(results, selector, row, dataset, position, trial, outcome.pick, series)
    if found is None:
        raise UserError(f"the sweep has no runs of {row} on {dataset} [{'+'.join(results.folds[position].held_out)}]")
    return found
