"""Add up the time of the runs behind each row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dgbench.plan import planfile
from dgbench.report.figures.subject import Sweep


def seconds_of_rows(sweep: Sweep, dataset: str) -> dict[str, float]:
    """Return row -> seconds of all runs that its predictors need, their inputs included.

    Rows of which some finished run has no recorded time are left out, as are those without a finished run.
    """
    runs = sweep.runs
    times: Mapping[str, float] = dict(zip(runs["run"], runs["seconds"], strict=True))
    inputs = _inputs(sweep.parts)
    found = {}
    for (row, name), spots in sweep.results.candidates.items():
        if name == dataset:
            needed = _closure((c.run for seeds in spots.values() for c in seeds.values() if c.run), inputs)
            known = [seconds for run in needed if (seconds := times.get(run)) is not None and seconds == seconds]
            if known:
                found[row] = sum(known)
    return found


def _inputs(folders: Iterable[str]) -> dict[str, Sequence[str]]:
    """Return run -> the runs that it merges, adapts or learns from, for folders of dgbench."""
    found: dict[str, Sequence[str]] = {}
    for folder in folders:
        if Path(folder, planfile.FILE).exists():
            table = planfile.read_plan(Path(folder))
            found |= {run.id: [table.runs[i].id for i in run.inputs] for run in table.runs if run.inputs}
    return found


def _closure(runs: Iterable[str], inputs: Mapping[str, Sequence[str]]) -> dict[str, None]:
    """Return the runs with everything that they need, each once."""
    found: dict[str, None] = {}
    waiting = list(runs)
    while waiting:
        run = waiting.pop()
        if run not in found:
            found[run] = None
            waiting += inputs.get(run, ())
    return found
