"""Select models by a metric of their kept predictions on validation parts, such as the accuracy of the worst group.

Yang et al., "Change is Hard: A Closer Look at Subpopulation Shift", 2023, compare such choices: that by the worst group
needs attributes of the validation examples, that by the worst class does without.
"""

from __future__ import annotations

import math

from dgbench.core.run import ALL_TRIALS
from dgbench.core.stats import nan_as_worst
from dgbench.report.predictions.metrics import LackingError, Metric
from dgbench.report.results import Gap, Results, Series
from dgbench.report.select import Rated, Selector

NOT_KEPT = "without kept predictions"
"""State of a run that can't be rated for lack of predictions."""


class KeptMetric(Selector):
    """A selector by a metric of kept predictions on a fold's validation parts.

    It chooses among those models whose predictions are kept: the best and the last in validation of each run, or with
    `--save_predictions all` those of each evaluation.

    Args:
        metric: The metric, of one value.
    """

    steps = "of the models whose predictions are kept"
    of_adapted = "of the best model in validation and the last, where their predictions are kept"

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.name = metric.name.replace("_", "-")
        self.label = f"{metric.title} in validation"
        self.reads = f"{metric.title}{'' if metric.higher else ' (the lowest counts)'} on validation parts"

    def unavailable(self, results: Results, dataset: str) -> str:
        """Return the reason if the sweep lacks validation parts, predictions, or something that the metric needs."""
        reported = results.reported(dataset)
        if not all(results.folds[position].validation for position in reported):
            return "the sweep keeps no validation parts"
        for row in results.rows:
            for (position, trial), seeds in results.candidates.get((row, dataset), {}).items():
                for series in seeds.values():
                    if position in reported and trial != ALL_TRIALS and isinstance(series, Series):
                        for step in self._kept(results, series):
                            return self._lacking(results, position, series, step)
        return "no predictions are kept: launch with --save_predictions"

    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        """Return the reported folds alone."""
        return results.reported(dataset)

    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        """Return the number of models of the run whose predictions are kept."""
        series = results.at(row, dataset, (fold, trial))[seed]
        if isinstance(series, Gap):
            return 0
        return 1 if trial == ALL_TRIALS else len(self._kept(results, series))

    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Rated | list[Gap]:
        """Take the earliest of the kept models with the best value on the validation parts."""
        series = results.at(row, dataset, (fold, trial))[seed]
        if isinstance(series, Gap):
            return [series]
        own_fold = results.folds[fold]
        if trial == ALL_TRIALS:  # nothing was kept apart from its members' training to choose by
            return Rated(series, own_fold, seed, len(series.steps) - 1, math.nan)
        best: tuple[float, int] | None = None
        why = "launch with --save_predictions"
        for step in self._kept(results, series):
            try:
                value = self._value(results, fold, series, step)
            except LackingError as error:
                why = str(error)
                continue
            if best is None or value > best[0]:  # the earliest of steps that tie
                best = value, series.steps.index(step)
        if best is None:
            held_out = own_fold.held_out
            return [Gap(series.run, row, dataset, held_out, seed, trial, NOT_KEPT, why)]
        return Rated(series, own_fold, seed, best[1], best[0])

    def _kept(self, results: Results, series: Series) -> list[int]:
        """Return the steps of a series whose models have their predictions kept."""
        kept = results.kept.steps(series.run)
        return [step for step in series.steps if (series.predictor, step) in kept]

    def _value(self, results: Results, fold: int, series: Series, step: int) -> float:
        """Return the value of a model, more being better; raise `LackingError` where it can't be computed."""
        views = results.folds[fold].validation
        value = results.kept.metric(self.metric, series.run, series.predictor, step, views)[""]
        return nan_as_worst(value if self.metric.higher else -value)

    def _lacking(self, results: Results, fold: int, series: Series, step: int) -> str:
        """Return the reason why a metric has no value of one model, as of others; empty if it has one."""
        try:
            self._value(results, fold, series, step)
        except LackingError as error:
            return str(error)
        return ""
