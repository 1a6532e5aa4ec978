"""List every run of a sweep for the page: what it was asked, how it went, its curve, and the end of its log.

The list is data that the page's script shows page by page: thousands of lines of HTML would be slow to open.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.wording import printable, printable_lines
from dgbench.report.figures.curves import Curve
from dgbench.report.frames import SweepResults
from dgbench.report.page.content import log_of
from dgbench.report.run_frames import HPARAMS
from dgbench.store.state import State

if TYPE_CHECKING:
    import pandas as pd

LOG_BYTES = 1_500
"""Bytes of a log's end that the page holds."""
MOST_LOGS = 400
"""Most runs whose logs the page holds; those that did not finish come first."""


def listed_runs(results: SweepResults, curves: Iterable[Curve]) -> list[dict[str, Any]]:
    """Return one object a run, as JSON holds it, in the order of the plan.

    Keys that don't apply are left out. `curves` has for each predictor its steps and the values, in percent, on the
    training domains' validation parts (`in`) and on the test views (`out`).
    """
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for curve in curves:
        by_run.setdefault(curve.run, {})[curve.predictor] = _curve(curve)
    frame = results.runs
    names = [name for name in frame.columns if name.startswith(HPARAMS)]
    hparams = {name.removeprefix(HPARAMS): _values(frame[name]) for name in names}
    plain = {name: _values(frame[name]) for name in _FIELDS}
    found = []
    for place in range(len(frame)):
        run = {name: values[place] for name, values in plain.items()}
        run["hparams"] = {name: v[place] for name, v in hparams.items() if v[place] is not None}
        run["curves"] = by_run.get(run["run"], {})
        found.append({key: _written(value) for key, value in run.items() if value not in (None, "", {})})
    _add_logs(found)
    return found


_FIELDS = (
    "folder", "run", "kind", "method", "dataset", "held_out", "trial", "hparams_seed", "state", "why", "seconds",
    "host", "device", "peak_bytes",
)  # fmt: skip


def _curve(curve: Curve) -> dict[str, Any]:
    """Return a curve with one decimal; None stands for a value that is no number."""
    found = {"steps": curve.steps, "out": [_rounded(value) for value in curve.outside.tolist()]}
    if curve.inside is not None:
        found["in"] = [_rounded(value) for value in curve.inside.tolist()]
    return found


def _rounded(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None


def _values(column: pd.Series) -> list[Any]:
    """Return the values of a frame's column, None for those that are missing."""
    return [None if gone else value for value, gone in zip(column.tolist(), column.isna().tolist(), strict=True)]


def _written(value: Any) -> Any:
    """Return a value in the form in which the page shows it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {printable(key): _written(entry) for key, entry in value.items()}
    return value


def _add_logs(runs: list[dict[str, Any]]) -> None:
    """Add path and end of the log to runs, first to those that did not finish."""
    finished = State.DONE.value
    for run in sorted(runs, key=lambda run: run["state"] == finished)[:MOST_LOGS]:
        path = log_of(run["folder"], run.get("run", ""))
        if path:
            run |= {"log": printable(path), "tail": _tail(Path(path))}


def _tail(path: Path) -> str:
    """Return the last lines of a text file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return printable_lines(text if size <= LOG_BYTES else text.partition("\n")[2]).strip("\n")
