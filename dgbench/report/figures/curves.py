"""Read the values of each predictor in and out of the training domains at each evaluated step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgbench.report.results import Results, Series


@dataclass(frozen=True)
class Curve:
    """One predictor of a finished run; values are in percent."""

    row: str
    held_out: str
    """The held-out domains, joined by `+`."""
    trial: int
    """-1 for a model of all trials."""
    draw: int
    """The hyperparameter seed."""
    run: str
    predictor: str
    steps: tuple[int, ...]
    inside: NDArray[np.float64] | None
    """(steps,), mean over the training domains' validation parts; None if the fold has none or they were not read."""
    outside: NDArray[np.float64]
    """(steps,), mean over the test views."""
    adapted: bool = False
    """Whether its models are adapted from others, so that its steps are no course of training."""

    @property
    def name(self) -> str:
        """Return the text that identifies the predictor to a reader of a figure."""
        trial = "all trials" if self.trial < 0 else f"trial {self.trial}"
        return f"{self.row} [{self.held_out}], {trial}, draw {self.draw}"


def read_curves(results: Results, dataset: str, every_fold: bool = False) -> Iterator[Curve]:
    """Yield the curve of each predictor of a data set's finished runs, in the order of the tables' rows.

    Args:
        results: The results.
        dataset: The data set.
        every_fold: Whether runs of folds that are no column of the tables have curves too.
    """
    reported = results.datasets[dataset] if every_fold else results.reported(dataset)
    for row in results.rows:
        for (position, trial), seeds in results.candidates.get((row, dataset), {}).items():
            fold = results.folds[position]
            for draw, series in seeds.items():
                if not isinstance(series, Series) or position not in reported:
                    continue
                if not set(fold.test) <= set(series.views):
                    continue
                inside = None
                if fold.source_val and set(fold.source_val) <= set(series.views):
                    inside = 100 * series.mean(fold.source_val)
                outside = 100 * series.mean(fold.test)
                held_out = "+".join(fold.held_out)
                run, name = series.run, series.predictor
                yield Curve(row, held_out, trial, draw, run, name, series.steps, inside, outside, series.adapted)
