"""Count the answers of the models that a selector chose: by class and predicted class, and by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgbench.report.predictions.chosen import chosen_series
from dgbench.report.predictions.metrics import BINS, Predicted, bins_of
from dgbench.report.results import Results
from dgbench.report.select import Selector


@dataclass(frozen=True)
class Tally:
    """Counts over the test views of all folds and trials of one row."""

    classes: Sequence[str]
    confusion: NDArray[np.int64]
    """(classes, classes): examples by label, then by predicted class."""
    bins: NDArray[np.float64]
    """(3, BINS): examples, sum of confidence, and right answers in each bin of confidence."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Return the confusion matrix as shares of each label, (classes, classes); 0 for a class without examples."""
        counts = self.confusion.sum(axis=1, keepdims=True)
        return np.asarray(self.confusion / np.maximum(counts, 1))

    @property
    def most_confused(self) -> tuple[str, str, float]:
        """Return the label and the wrong class that most of its examples are taken for, with their share."""
        wrong = self.shares * (1 - np.eye(len(self.classes)))
        label, taken = divmod(int(wrong.argmax()), len(self.classes))
        return self.classes[label], self.classes[taken], float(wrong[label, taken])


def tally_of(results: Results, selector: Selector, row: str, dataset: str) -> Tally:
    """Return the counts of the models that a selector chose in all folds and trials of a row.

    Args:
        results: The sweep.
        selector: The selector, which can answer on the data set.
        row: The row.
        dataset: The data set.

    Raises:
        LackingError: A choice or its predictions are lacking, so that the counts would be of others.
    """
    known = results.kept.tallies
    if (selector.name, row, dataset) not in known:
        counts = []
        for fold, trial in results.candidates[row, dataset]:
            if fold in results.reported(dataset):
                series, step = chosen_series(results, selector, row, dataset, fold, trial)
                views = results.folds[fold].test
                counts += [_count(view) for view in results.kept.predicted(series.run, series.predictor, step, views)]
        first, *others = counts
        total = first
        for one in others:
            total = Tally(first.classes, total.confusion + one.confusion, total.bins + one.bins)
        known[selector.name, row, dataset] = total
    found: Tally = known[selector.name, row, dataset]
    return found


def _count(view: Predicted) -> Tally:
    """Count the answers on one view; those whose confidence is no number are in no bin."""
    n = len(view.classes)
    confusion = np.bincount(view.labels * n + view.predicted, minlength=n * n).reshape(n, n)
    known = np.isfinite(view.confidence)
    places = bins_of(view.confidence[known])
    weights = (np.ones(len(places)), view.confidence[known], view.correct[known])
    bins = np.array([np.bincount(places, weights=of, minlength=BINS) for of in weights])
    return Tally(view.classes, confusion, bins)
