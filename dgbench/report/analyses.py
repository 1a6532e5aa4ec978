"""Read the numbers of analyses, and compare the order of runs by a measure with their order by accuracy.

pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.protocol import Fold, View
from dgbench.core.run import MODEL
from dgbench.plan import planfile
from dgbench.plan.planfile import PlannedRun, PlanTable
from dgbench.store.folder import Store

if TYPE_CHECKING:
    import pandas as pd

TRAINING, VALIDATION, HELD_OUT, WHOLE = "training", "validation", "held out", "all"
"""Roles of the views that a measure was taken on; `all`: of a number that belongs to no single view."""
PLACE = ("row", "analysis", "dataset", "held_out", "run", "models", "trial", "hparams_seed", "step")
"""First columns of frames: the run of an analysis, and what it measured."""
COLUMNS = (*PLACE, "role", "view", "measure", "value", "in_domain", "out_of_domain")
RESAMPLES = 1000
"""Resamples of the interval of a correlation, drawn with a fixed seed."""


def analyses_frame(folders: Iterable[Path | str]) -> pd.DataFrame:
    """Make the frame of `SweepResults.analyses` for some folders."""
    import pandas as pd

    lines = [line for run in analyzed(folders) for line in _lines(run)]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    texts = ("row", "analysis", "dataset", "held_out", "role", "view", "measure")
    numbers = dict.fromkeys(("value", "in_domain", "out_of_domain"), "float64")
    return frame.astype({**dict.fromkeys(texts, "category"), **numbers, **dict.fromkeys(("trial", "step"), "int64")})


@dataclass(frozen=True)
class Analyzed:
    """One finished run of an analysis."""

    place: tuple[Any, ...]
    """Values of the first columns of frames, `PLACE`."""
    fold: Fold
    record: Mapping[str, Any]
    scores: tuple[float, float]
    """In-domain and out-of-domain score of the model; NaN where several were compared."""

    @property
    def trial(self) -> int:
        """Return the trial."""
        return int(self.place[PLACE.index("trial")])

    def role(self, view: str) -> str:
        """Return the role of a view in the fold; `WHOLE` of an empty name, which stands for all views."""
        if not view:
            return WHOLE
        tested = map(str, (*self.fold.test, *self.fold.oracle))  # held_out of a fixed split names no domain
        if view in tested or view.partition("/")[0] in self.fold.held_out:
            return HELD_OUT
        return VALIDATION if view in map(str, self.fold.validation) else TRAINING


def analyzed(folders: Iterable[Path | str]) -> Iterator[Analyzed]:
    """Yield the finished runs of analyses of dgbench's folders; of DomainBed's there are none."""
    for root in (root for root in map(Path, folders) if (root / planfile.FILE).exists()):
        table, store = planfile.read_plan(root), Store(root)
        for (row, dataset, analysis), positions in table.analyses.items():
            for run in (table.runs[position] for position in positions):
                finished = store.folder(run.id).finished()
                if finished is None:
                    continue
                (record,) = finished[1]
                fold = table.folds[run.fold]
                models = [table.runs[i].id for i in run.inputs]
                scores = _scores(store, table, run, record["step"]) if len(models) == 1 else (math.nan, math.nan)
                first = (row, analysis, dataset, "+".join(fold.held_out), run.id, "+".join(models))
                yield Analyzed((*first, run.trial, run.hparams_seed, record["step"]), fold, record, scores)


def _lines(found: Analyzed) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of the frame from one run."""
    of_views = {**found.record["views"], "": found.record["measures"]}
    for view, measures in of_views.items():
        for measure, value in measures.items():
            if measure != "n":
                yield (*found.place, found.role(view), view, measure, _number(value), *found.scores)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _scores(store: Store, table: PlanTable, run: PlannedRun, step: int) -> tuple[float, float]:
    """Return in-domain and out-of-domain score of the model that a run measured; NaN where it has none."""
    (source,) = store.folder(run.id).run().inputs
    finished, fold = store.folder(source.run).finished(), table.folds[run.fold]
    metric = table.datasets[run.dataset].metric
    for record in finished[1] if finished else ():
        if (record["step"], record.get("predictor", MODEL)) == (step, source.predictor):
            return _mean(record["views"], fold.validation, metric), _mean(record["views"], fold.test, metric)
    return math.nan, math.nan


def _mean(scores: Mapping[str, Mapping[str, float]], views: Iterable[View], metric: str) -> float:
    found = [_number(scores[str(view)][metric]) for view in views if str(view) in scores]
    return float(np.mean(found)) if found else math.nan


def estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of `analyses_frame` without errors of estimates, whose names end in `_error`."""
    return frame[~frame["measure"].astype(str).str.endswith("_error")]


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how the order of runs by each measure agrees with their order by accuracy and by the gap.

    Runs are compared with runs on the same data set with the same domain held out, in the same trial or another:
    Kendall's tau-b of each such group is averaged by its number of runs.

    Args:
        frame: As of `analyses_frame`. Measures of several models together are left out, and errors of estimates, whose
            names end in `_error`.

    Returns:
        A frame with a line for each analysis, measure and role: runs (int64); tau, low, high (float64: with the 95 %
        interval over resampled runs) with out-of-domain accuracy; tau_gap, low_gap, high_gap with in-domain less
        out-of-domain accuracy.
    """
    import pandas as pd

    alone = estimates(frame)
    alone = alone[alone["out_of_domain"].notna() & alone["value"].notna()]
    keys = ["analysis", "measure", "role", "dataset", "held_out", "run"]
    each = alone.groupby(keys, observed=True, sort=False)[["value", "in_domain", "out_of_domain"]].mean().reset_index()
    lines = []
    for (analysis, measure, role), runs in each.groupby(["analysis", "measure", "role"], observed=True, sort=False):
        groups = [group for _, group in runs.groupby(["dataset", "held_out"], observed=True) if len(group) > 2]
        outcomes = {
            "": [(g["value"].to_numpy(), g["out_of_domain"].to_numpy()) for g in groups],
            "_gap": [(g["value"].to_numpy(), (g["in_domain"] - g["out_of_domain"]).to_numpy()) for g in groups],
        }
        line = {"analysis": analysis, "measure": measure, "role": role, "runs": sum(map(len, groups))}
        for suffix, pairs in outcomes.items():
            tau, low, high = _tau_with_interval(pairs)
            line |= {f"tau{suffix}": tau, f"low{suffix}": low, f"high{suffix}": high}
        lines.append(line)
    names = ("analysis", "measure", "role", "runs", "tau", "low", "high", "tau_gap", "low_gap", "high_gap")
    return pd.DataFrame(lines, columns=list(names))


def agreement_of_accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the same for in-domain accuracy, which a measure has to beat to be worth its cost: a line an analysis.

    Args:
        frame: As of `analyses_frame`.

    Returns:
        A frame as of `agreement`, whose measure is `in-domain accuracy`.
    """
    known = frame[frame["in_domain"].notna() & frame["value"].notna()]
    runs = known.drop_duplicates(["analysis", "run", "models"])
    return agreement(runs.assign(value=runs["in_domain"], measure="in-domain accuracy", role=VALIDATION))


Groups = list[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Measures and outcomes of the runs of each group."""


def _tau_with_interval(groups: Groups) -> tuple[float, float, float]:
    """Return the mean tau over groups and its 95 % percentile interval over resampled runs of each; NaN without."""
    if not groups:
        return math.nan, math.nan, math.nan
    sizes = [len(values) for values, _ in groups]
    rng = np.random.default_rng(0)
    both = [(signs(values), signs(outcomes)) for values, outcomes in groups]
    whole = [tau_b(*own, np.arange(size)[None]) for own, size in zip(both, sizes, strict=True)]
    drawn = [tau_b(*own, rng.integers(size, size=(RESAMPLES, size))) for own, size in zip(both, sizes, strict=True)]
    means = _mean_over_groups(np.stack(drawn), sizes)
    low, high = np.nanquantile(means, [0.025, 0.975]) if np.isfinite(means).any() else (math.nan, math.nan)
    return float(_mean_over_groups(np.stack(whole), sizes)[0]), float(low), float(high)


def signs(values: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the signs of all differences between two values (n, n)."""
    found: NDArray[np.int8] = np.sign(values[:, None] - values[None]).astype(np.int8)
    return found


def tau_b(ones: NDArray[np.int8], others: NDArray[np.int8], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Kendall's tau-b of resamples of pairs of values, which SciPy computes for one sample at a time.

    Args:
        ones: Signs of differences of the first values (n, n).
        others: Signs of differences of the second values (n, n).
        chosen: Positions in each resample (resamples, size).

    Returns:
        (resamples,); NaN where all values of one side are equal.
    """
    found = np.empty(len(chosen))
    for i, where in enumerate(chosen):
        a, b = ones[np.ix_(where, where)].astype(np.int64), others[np.ix_(where, where)].astype(np.int64)
        untied = float((a * a).sum()) * float((b * b).sum())
        found[i] = (a * b).sum() / math.sqrt(untied) if untied else math.nan
    return found


def _mean_over_groups(taus: NDArray[np.float64], sizes: list[int]) -> NDArray[np.float64]:
    """Return the mean over groups (groups, samples), weighted by their sizes; groups without a tau are left out."""
    weights = np.where(np.isnan(taus), 0.0, np.array(sizes, dtype=float)[:, None])
    total = weights.sum(axis=0)
    summed = (weights * np.nan_to_num(taus)).sum(axis=0)
    found: NDArray[np.float64] = np.divide(summed, total, out=np.full_like(total, math.nan), where=total > 0)
    return found
