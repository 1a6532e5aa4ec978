"""Give the choices of a selector as a frame of pandas, which is imported only inside functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dgbench.report.record_frames import held_out_name
from dgbench.report.results import Results, Series
from dgbench.report.select import Outcome, Selector

if TYPE_CHECKING:
    import pandas as pd

_PICK_COLUMNS = (
    "row", "dataset", "held_out", "trial", "hparams_seed", "step", "run", "predictor", "score", "in_domain", "value",
    "diverged", "complete", "planned", "lacking",
)  # fmt: skip
_PICK_NUMBERS = ("score", "in_domain", "value")


def picks_frame(results: Results, selector: Selector) -> pd.DataFrame:
    """Make the frame of `SweepResults.picks` without hyperparameters."""
    import pandas as pd

    frame = pd.DataFrame.from_records(list(_picks(results, selector)), columns=_PICK_COLUMNS)
    frame = _categorical(frame, results)
    return frame.astype({"hparams_seed": "Int64", "step": "Int64"} | dict.fromkeys(_PICK_NUMBERS, "float64"))


def _picks(results: Results, selector: Selector) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of `SweepResults.picks`, in the order of the tables."""
    for dataset in results.datasets:
        if selector.unavailable(results, dataset):
            continue
        for row in results.rows:
            for position in results.reported(dataset):
                held_out = held_out_name(results.folds[position].held_out)
                spots = results.candidates.get((row, dataset), {})
                for trial in sorted(trial for fold, trial in spots if fold == position):
                    outcome = selector.choose(results, row, dataset, position, trial)
                    series = _chosen(results, row, dataset, (position, trial), outcome)
                    yield row, dataset, held_out, trial, *_pick(outcome, series)


def _chosen(results: Results, row: str, dataset: str, spot: tuple[int, int], outcome: Outcome) -> Series | None:
    """Return the series that was chosen at a spot."""
    candidate = results.at(row, dataset, spot)[outcome.pick.hparams_seed] if outcome.pick else None
    return candidate if isinstance(candidate, Series) else None


def _pick(outcome: Outcome, series: Series | None) -> tuple[Any, ...]:
    """Return the columns of a pick from the hyperparameter seed on."""
    counts = outcome.complete, outcome.planned, len(outcome.gaps)
    pick = outcome.pick
    if pick is None or series is None:
        return None, None, "", "", None, None, None, False, *counts
    found = pick.hparams_seed, pick.step, pick.run, series.predictor, pick.score, pick.in_domain, pick.value
    return *found, pick.diverged, *counts


def _categorical(frame: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Make categories of the columns row, dataset and held_out, in the order of the tables."""
    import pandas as pd

    folds: Iterable[str] = (held_out_name(fold.held_out) for fold in results.folds)
    orders = {"row": results.rows, "dataset": tuple(results.datasets), "held_out": tuple(dict.fromkeys(folds))}
    made = {name: pd.Categorical(frame[name], categories=list(order), ordered=True) for name, order in orders.items()}
    return frame.assign(**made)
