"""Make the frame of everything that finished runs recorded.

pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.protocol import View
from dgbench.report.results import Results, Series

if TYPE_CHECKING:
    import pandas as pd

_RECORD_HEADS = ("row", "dataset", "held_out", "trial", "hparams_seed", "run", "predictor")
"""The columns of the records' frame in which all records of a series agree."""
_RECORD_NAMES = ("row", "dataset", "held_out", "run", "predictor", "domain", "part", "metric")
"""The columns of the records' frame that are categories."""
_STREAM_NAMES = (
    "row",
    "dataset",
    "held_out",
    "trial",
    "hparams_seed",
    "run",
    "step",
    "domain",
    "part",
    "tenth",
    "accuracy",
)
"""The columns of the streams' frame."""


def held_out_name(held_out: Sequence[str]) -> str:
    """Return the name of a fold's held-out domains in frames."""
    return "+".join(held_out)


def finished_series(results: Results) -> Iterator[tuple[str, str, int, int, int, Series]]:
    """Yield (row, data set, fold, trial, hyperparameter seed, series) for each predictor of a finished run.

    Trials that repeat a choice come after those of the searches.
    """
    again = (place for candidates in results.repeats.values() for place in candidates.items())
    seen = set()  # several selectors may repeat the same draw
    for (row, dataset), spots in (*results.candidates.items(), *again):
        for (position, trial), seeds in spots.items():
            for seed, candidate in seeds.items():
                place = row, dataset, position, trial, candidate.run
                if isinstance(candidate, Series) and place not in seen:
                    seen.add(place)
                    yield row, dataset, position, trial, seed, candidate


class _Codes(dict[str, int]):
    """Names numbered in the order of their first use: the codes and categories of a column."""

    def __missing__(self, name: str) -> int:
        return self.setdefault(name, len(self))


def records_frame(results: Results) -> pd.DataFrame:
    """Make the frame of `SweepResults.records`: columns of codes, never a Python object a value."""
    import pandas as pd

    codes = {name: _Codes() for name in _RECORD_NAMES}
    for row in results.rows:  # in the order of the tables, also those without a finished run
        _ = codes["row"][row]
    blocks: dict[tuple[Any, ...], NDArray[np.int32]] = {}
    heads, tails, values = [], [], []
    for row, dataset, position, trial, seed, series in finished_series(results):
        metrics = (results.metric(dataset), *series.others)
        key = series.steps, series.views, metrics
        if key not in blocks:  # most series share steps and views, so their codes are made once
            blocks[key] = _block(*key, codes)
        held_out = codes["held_out"][held_out_name(results.folds[position].held_out)]
        run, predictor = codes["run"][series.run], codes["predictor"][series.predictor]
        heads.append((codes["row"][row], codes["dataset"][dataset], held_out, trial, seed, run, predictor))
        tails.append(blocks[key])
        values.append(np.stack([series.values, *series.others.values()], axis=-1).ravel())
    sizes = [len(value) for value in values]
    head = np.array(heads, dtype=np.int32).reshape(-1, len(_RECORD_HEADS))
    columns = dict(zip(_RECORD_HEADS, (np.repeat(column, sizes) for column in head.T), strict=True))
    tail = np.concatenate([np.empty((4, 0), np.int32), *tails], axis=1)
    columns |= dict(zip(("step", "domain", "part", "metric"), tail, strict=True))
    frame: dict[str, Any] = {**columns, "value": np.concatenate([np.empty(0), *values])}
    for name, known in codes.items():
        frame[name] = pd.Categorical.from_codes(frame[name], categories=list(known), ordered=True)
    return pd.DataFrame(frame, copy=False)


def streams_frame(results: Results) -> pd.DataFrame:
    """Make the frame of `SweepResults.streams`."""
    import pandas as pd

    lines = [
        (row, dataset, held_out_name(results.folds[fold].held_out), trial, seed, series.run, step, *place, i, value)
        for row, dataset, fold, trial, seed, series in finished_series(results)
        if series.along is not None
        for step, own in zip(series.steps, series.along, strict=True)
        for place, parts in zip(((view.domain, view.part) for view in series.views), own.tolist(), strict=True)
        for i, value in enumerate(parts)
        if not np.isnan(value)
    ]
    return pd.DataFrame(lines, columns=list(_STREAM_NAMES))


def _block(
    steps: Sequence[int], views: Sequence[View], metrics: Sequence[str], codes: Mapping[str, _Codes]
) -> NDArray[np.int32]:
    """Return step and codes of domain, part and metric, (4, values), for the values of a series in C order."""
    lines = [
        (step, codes["domain"][view.domain], codes["part"][view.part], codes["metric"][metric])
        for step in steps
        for view in views
        for metric in metrics
    ]
    return np.array(lines, dtype=np.int32).T
