"""Prepare a sweep's finished runs for tools that track experiments.

A sweep's run may yield several predictors, and rows share runs: ERM, ERM+SWAD and ERM+T3A stand on one training. Such a
tool gets one run for each row, data set, fold, trial and hyperparameter seed, as in the tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dgbench.core.protocol import Fold, View
from dgbench.core.run import is_run_id, run_name
from dgbench.report.folders import open_results
from dgbench.report.record_frames import finished_series, held_out_name
from dgbench.report.results import Results, Series
from dgbench.report.run_frames import HPARAMS, SETTING, last_times, run_lines
from dgbench.store.run_folder import RunFolder

ROLES: Mapping[str, str] = {
    "source_val": "in-domain",
    "target_val": "validation-domain",
    "test": "out-of-domain",
    "oracle": "oracle",
    "train": "training",
}
"""Field of a `Fold` -> the name of its views' role in names of scalars; a view has the first that it is in."""


@dataclass(frozen=True)
class TrackedRun:
    """A finished predictor of a row, as a run of a tracking tool."""

    row: str
    dataset: str
    held_out: tuple[str, ...]
    trial: int
    hparams_seed: int
    run: str
    """Id of the sweep's run that yields it."""
    hparams: Mapping[str, Any]
    """Hyperparameter -> value; those of averages as `AVERAGE.NAME`."""
    setting: Mapping[str, Any]
    """Field of the run's setting -> value."""
    facts: Mapping[str, Any]
    """Further facts: method, host, device, ..."""
    started: float
    """Time of the last attempt's start in seconds since 1970; 0 if unknown."""
    seconds: float
    """Its duration; 0 if unknown."""
    scalars: Mapping[int, Mapping[str, float]]
    """Step -> name of a scalar, `accuracy/out-of-domain/photo/in` -> value, which may be NaN."""

    @property
    def name(self) -> str:
        """Return its name for people, on one line."""
        return run_name(self.row, self.dataset, self.held_out, self.hparams_seed, self.trial)

    @property
    def path(self) -> tuple[str, ...]:
        """Return the parts of its name, for tools that order runs as folders."""
        last = (f"trial {self.trial}", f"hparams {self.hparams_seed}")
        parts = (self.row, self.dataset, held_out_name(self.held_out), *last)
        return tuple(re.sub(r"[/\\\x00-\x1f]", "_", part) for part in parts)

    @property
    def labels(self) -> dict[str, str]:
        """Return the row, data set, fold and further facts as text, for tools that filter runs by labels."""
        own = {"row": self.row, "dataset": self.dataset, "held_out": held_out_name(self.held_out), "run": self.run}
        numbers = {"trial": str(self.trial), "hparams_seed": str(self.hparams_seed)}
        return own | numbers | {name: str(value) for name, value in self.facts.items() if value not in (None, "")}


def tracked_runs(source: Path) -> tuple[int, Iterator[TrackedRun]]:
    """Read a sweep's folder, dgbench's or DomainBed's.

    Returns:
        The number of finished predictors of its rows, and each of them, in the order of the tables.

    Raises:
        UserError: The folder holds no sweep.
    """
    results = open_results(source, all_metrics=True)
    found = list(finished_series(results))
    return len(found), _tracked(source, results, found)


def _tracked(
    source: Path, results: Results, found: Iterable[tuple[str, str, int, int, int, Series]]
) -> Iterator[TrackedRun]:
    about = {line["run"]: line for line in run_lines(str(source), results)}
    for row, dataset, position, trial, seed, series in found:
        fold, line = results.folds[position], about.get(series.run, {})
        times = last_times(source / "runs" / series.run / "times.jsonl")
        yield TrackedRun(
            row=row,
            dataset=dataset,
            held_out=fold.held_out,
            trial=trial,
            hparams_seed=seed,
            run=series.run,
            hparams=_below(HPARAMS, line),
            setting=_below(SETTING, line),
            facts={name: line.get(name) for name in ("kind", "method", "host", "device")},
            started=times.get("started", 0.0),
            seconds=times.get("seconds", 0.0),
            scalars=_scalars(series, fold, results.metric(dataset), _records(source, series)),
        )


def _below(prefix: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a line whose names begin with a prefix, without it; lists and objects as their JSON."""
    plain = (str, int, float, bool)
    return {
        name.removeprefix(prefix): value if isinstance(value, plain) else orjson.dumps(value).decode()
        for name, value in line.items()
        if name.startswith(prefix) and value is not None
    }


def _scalars(
    series: Series, fold: Fold, metric: str, records: Sequence[Mapping[str, Any]]
) -> dict[int, dict[str, float]]:
    """Return step -> name -> value: of each metric on each view, their means by role, and what training logged.

    Args:
        series: The predictor.
        fold: Its fold.
        metric: Name of the metric of its values.
        records: Its records, which also hold views that no selector reads; empty for DomainBed's runs.
    """
    metrics = {metric: series.values, **series.others}
    found = {
        step: dict(_by_role(series, fold, {name: values[place] for name, values in metrics.items()}))
        for place, step in enumerate(series.steps)
    }
    known = {*map(str, series.views)}
    for record in records:
        scalars = found[record["step"]]
        for view in record["views"].keys() - known:
            for name, value in record["views"][view].items():
                if name != "n":
                    scalars[f"{name}/{_role(View.parse(view), fold)}/{view}"] = _number(value)
        scalars.update({f"train/{name}": _number(value) for name, value in record.get("train", {}).items()})
    return found


def _by_role(series: Series, fold: Fold, metrics: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each metric (views,) on each view, and of its mean over the views of each role."""
    roles = [_role(view, fold) for view in series.views]
    for name, values in metrics.items():
        for role in dict.fromkeys(roles):
            own = [value for value, other in zip(values, roles, strict=True) if other == role]
            yield f"{name}/mean/{role}", float(np.mean(own))
        for view, role, value in zip(series.views, roles, values, strict=True):
            yield f"{name}/{role}/{view}", float(value)


def _records(source: Path, series: Series) -> list[dict[str, Any]]:
    """Read the records of a predictor; none of DomainBed's runs."""
    # A search drops a run at its last evaluated step.
    finished = RunFolder(source, series.run).finished(series.steps[-1]) if is_run_id(series.run) else None
    return [record for record in (finished[1] if finished else ()) if record["predictor"] == series.predictor]


def _number(value: float | None) -> float:
    """Return a number of a record, in which null stands for NaN and infinity."""
    return float("nan") if value is None else float(value)


def _role(view: View, fold: Fold) -> str:
    """Return the name of a view's role in a fold."""
    return next((name for field, name in ROLES.items() if view in getattr(fold, field)), "other")


class SafeNames(dict[str, str]):
    """Names made of the characters that a tool allows; two names never become one."""

    def __init__(self, forbidden: str) -> None:
        """Make an empty one, which grows as names are looked up.

        Args:
            forbidden: Regular expression of the characters that become `_`.
        """
        super().__init__()
        self._forbidden, self._taken = re.compile(forbidden), set[str]()

    def __missing__(self, name: str) -> str:
        safe = base = self._forbidden.sub("_", name)
        number = 1
        while safe in self._taken:
            number += 1
            safe = f"{base}_{number}"
        self._taken.add(safe)
        self[name] = safe
        return safe
