"""Relate hyperparameters to scores: which of those that were drawn matter for a method, and how.

Of values that rows name, as the points of a grid do, `report.sensitivity` makes curves.

scikit-learn is imported only inside functions, because importing it takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.run import MODEL
from dgbench.core.wording import group_values
from dgbench.report.figures.curves import Curve
from dgbench.report.figures.subject import Sweep
from dgbench.report.run_frames import HPARAMS
from dgbench.report.sensitivity import split_row

if TYPE_CHECKING:
    import pandas as pd

MOST_HPARAMS, MOST_METHODS = 4, 12
"""Most hyperparameters of a method, and methods of a data set, that are drawn."""
FEWEST_RUNS, FEWEST_VALUES = 8, 4
"""Fewest runs of a method, and different values of a hyperparameter, of which something can be seen."""


@dataclass(frozen=True)
class Hparam:
    """One hyperparameter of a method's runs."""

    name: str
    values: NDArray[np.float64]
    """(runs,)"""
    importance: float
    """Share of a random forest's importance; those of a method's hyperparameters sum to 1."""
    logarithmic: bool
    """Whether the values are best shown on a logarithmic axis."""


@dataclass(frozen=True)
class DrawnHparams:
    """The scores of a method's runs with the hyperparameters that were drawn for them."""

    method: str
    runs: Sequence[str]
    scores: NDArray[np.float64]
    """(runs,), value on the held-out domain at the last step that all runs have in percent, minus the mean of runs on
    the same domain.
    """
    hparams: Sequence[Hparam]
    """The most important first."""


def drawn_hparams(sweep: Sweep, dataset: str, curves: Sequence[Curve]) -> Iterator[DrawnHparams]:
    """Yield the draws and scores of each method of a data set that has runs enough to show anything."""
    runs = sweep.runs
    names = [name for name in runs.columns if name.startswith(HPARAMS)]
    frame = runs.drop_duplicates("run").set_index("run")[["kind", "method", *names]]
    # Rows that name values, as the points of a grid do, are no draws.
    drawn = (curve for curve in curves if curve.predictor == MODEL and not split_row(curve.row)[1])
    scores = {curve.run: curve for curve in drawn}
    own = [run for run in scores if run in frame.index and frame.at[run, "kind"] == "train"]
    methods = group_values((str(frame.at[run, "method"]), run) for run in own)
    for method, found in list(methods.items())[:MOST_METHODS]:
        centered = _centered([scores[run] for run in found])
        kept = np.isfinite(centered)
        chosen = [run for run, keep in zip(found, kept, strict=True) if keep]
        if len(chosen) >= FEWEST_RUNS:
            hparams = _ranked(frame.loc[chosen, names], centered[kept])
            if hparams:
                yield DrawnHparams(method, chosen, centered[kept], hparams[:MOST_HPARAMS])


def _centered(curves: Sequence[Curve]) -> NDArray[np.float64]:
    """Return the value of each curve at the last step that all have minus the mean of those with the same domain."""
    # A search may have dropped some: at their last steps, draws would be told apart by how long they were trained.
    shared = set(curves[0].steps).intersection(*(curve.steps for curve in curves))
    places = [curve.steps.index(max(shared)) if shared else -1 for curve in curves]
    values = np.array([curve.outside[place] for curve, place in zip(curves, places, strict=True)], dtype=np.float64)
    domains = np.array([curve.held_out for curve in curves])
    for domain in np.unique(domains):
        own = domains == domain
        finite = values[own][np.isfinite(values[own])]
        values[own] -= finite.mean() if len(finite) else 0.0
    return values


def _ranked(frame: pd.DataFrame, scores: NDArray[np.float64]) -> list[Hparam]:
    """Return the numeric hyperparameters that vary, by importance."""
    columns: dict[str, NDArray[np.float64]] = {}
    for name in frame.columns:
        values = _numbers(frame[name])
        if values is not None and len(np.unique(values)) >= FEWEST_VALUES:
            columns[name.removeprefix(HPARAMS)] = values
    if not columns:
        return []
    from sklearn.ensemble import RandomForestRegressor  # imported only inside functions, as the module says

    logarithmic = {
        name: bool(values.min() > 0 and values.max() >= 8 * values.min()) for name, values in columns.items()
    }
    forest = RandomForestRegressor(n_estimators=100, min_samples_leaf=2, random_state=0)
    forest.fit(np.stack(list(columns.values()), axis=1), scores)
    shares = dict(zip(columns, forest.feature_importances_.tolist(), strict=True))
    found = [Hparam(name, values, shares[name], logarithmic[name]) for name, values in columns.items()]
    return sorted(found, key=lambda hparam: -hparam.importance)


def _numbers(column: Any) -> NDArray[np.float64] | None:
    """Return a column's numbers; None if a value is missing or is no number."""
    if column.dtype.kind not in "iuf" or column.isna().any():
        return None
    values: NDArray[np.float64] = column.to_numpy(dtype="float64")
    return values
