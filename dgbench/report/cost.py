"""Add up the cost of the runs behind each row: time, speed, memory.

A row needs the runs of its predictors and all that those merge, adapt or learn from. Its curve over members, if it has
one, is a line of its own: the row's number needs no run of it. Rows share runs: each line counts all that it needs, and
the last counts each run once. Only finished runs count, with all of their recorded
attempts; attempts that were killed recorded nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from dgbench.core.wording import group_values
from dgbench.plan import planfile
from dgbench.report.domainbed.folder import RECORDS
from dgbench.report.record_frames import finished_series
from dgbench.report.results import Results, Series
from dgbench.report.tables import Section
from dgbench.store.folder import Store
from dgbench.store.run_folder import DONE, RUNS

if TYPE_CHECKING:
    import pandas as pd

ALL = "all rows"
"""Name of the line that counts each run of a data set once."""


def by_members(row: str) -> str:
    """Return the name of the line that counts the runs of a row's curve over members."""
    return f"{row}, by members"


@dataclass(frozen=True)
class Cost:
    """The cost of all finished runs that one row needs on one data set."""

    row: str
    """Name of the row, `by_members` of it, or `ALL`."""
    dataset: str
    runs: int
    """Number of finished runs."""
    untimed: int
    """Number of those without a recorded time, which the sums leave out."""
    seconds: float
    """Time of all runs, added up."""
    gpu_seconds: float
    """The part of it on GPUs."""
    steps_per_second: float | None
    """Training steps in a second, evaluations and start included; None if no training run has a time."""
    peak_bytes: int | None
    """Most GPU memory that a run held; None without a GPU."""
    host_bytes: int | None
    """Most main memory that a run's process held; None if it isn't recorded."""


@dataclass(frozen=True)
class _Spent:
    """The recorded cost of one run; `steps` is 0 for runs that don't train, `seconds` None if it isn't recorded."""

    seconds: float | None
    gpu_seconds: float = 0.0
    steps: int = 0
    peak_bytes: int | None = None
    host_bytes: int | None = None


def costs(results: Results, parts: Mapping[str, Results], datasets: Iterable[str] = ()) -> list[Cost]:
    """Return the cost of each row and of its curve on each data set, then of the data set's runs together.

    Args:
        results: The results of all folders.
        parts: Folder -> its own results.
        datasets: The data sets; none: all.
    """
    ledger = _Ledger(parts)
    runs = group_values(((row, dataset), series.run) for row, dataset, *_, series in finished_series(results))
    curves = group_values(
        ((row, dataset), candidate.run)
        for (row, dataset, _), draws in results.curves.items()
        for _, candidate in draws
        if isinstance(candidate, Series)
    )
    found = []
    for dataset in datasets or results.datasets:
        together: dict[str, None] = {}
        for row in results.rows:
            if (row, dataset) in runs:
                needed = ledger.closure(runs[row, dataset])
                together |= needed
                found.append(ledger.add_up(row, dataset, needed))
            if (row, dataset) in curves:
                needed = ledger.closure(curves[row, dataset])
                together |= needed
                found.append(ledger.add_up(by_members(row), dataset, needed))
        if together:
            found.append(ledger.add_up(ALL, dataset, together))
    return found


class _Ledger:
    """The recorded cost of each run of several folders."""

    def __init__(self, parts: Mapping[str, Results]) -> None:
        self.inputs: dict[str, Sequence[str]] = {}
        """Run -> the runs that it merges, adapts or learns from."""
        self.spent: dict[str, _Spent] = {}
        self.homes: dict[str, Path] = {}
        """Run -> its folder."""
        self.steps: dict[str, int] = {}
        """Run -> steps that it trains for, 0 for others; without an entry for runs of DomainBed, whose records say."""
        for folder, part in parts.items():
            root = Path(folder)
            if (root / planfile.FILE).exists():
                self._enter_plan(root, part)
            else:
                self._enter_folders(root, part)

    def _enter_plan(self, root: Path, part: Results) -> None:
        table, dropped = planfile.read_plan(root), Store(root).dropped()
        for run in table.runs:
            self.inputs[run.id] = [table.runs[i].id for i in run.inputs]
            length = dropped[run.id] + 1 if run.id in dropped else part.settings[run.dataset].steps
            self.steps[run.id] = length if run.kind == "train" else 0
            # Of a run in several folders, the first that finished counts, as in tables.
            home = root / RUNS / run.id
            if run.id not in self.homes or not (self.homes[run.id] / DONE).exists():
                self.homes[run.id] = home

    def _enter_folders(self, root: Path, part: Results) -> None:
        for *_, series in finished_series(part):
            self.homes.setdefault(series.run, root / series.run)

    def closure(self, runs: Iterable[str]) -> dict[str, None]:
        """Return runs with everything that they need, each once."""
        found: dict[str, None] = {}
        waiting = list(runs)
        while waiting:
            run = waiting.pop()
            if run not in found:
                found[run] = None
                waiting += self.inputs.get(run, ())
        return found

    def add_up(self, row: str, dataset: str, runs: Iterable[str]) -> Cost:
        """Add up the cost of runs, which need not be read yet."""
        spent = [self._of(run) for run in runs]
        timed = [each for each in spent if each.seconds is not None]
        trained = [each for each in timed if each.steps]
        busy = sum(each.seconds or 0.0 for each in trained)
        return Cost(
            row=row,
            dataset=dataset,
            runs=len(spent),
            untimed=len(spent) - len(timed),
            seconds=sum(each.seconds or 0.0 for each in timed),
            gpu_seconds=sum(each.gpu_seconds for each in timed),
            steps_per_second=sum(each.steps for each in trained) / busy if busy else None,
            peak_bytes=max((each.peak_bytes for each in spent if each.peak_bytes), default=None),
            host_bytes=max((each.host_bytes for each in spent if each.host_bytes), default=None),
        )

    def _of(self, run: str) -> _Spent:
        if run not in self.spent:
            home = self.homes[run]
            self.spent[run] = _own(home, self.steps[run]) if run in self.steps else _theirs(home)
        return self.spent[run]


def _own(home: Path, steps: int) -> _Spent:
    """Read the cost of a run of dgbench from its attempts."""
    try:
        attempts: list[dict[str, Any]] = [
            orjson.loads(line) for line in (home / "times.jsonl").read_bytes().splitlines()
        ]
        seconds = [float(attempt["seconds"]) for attempt in attempts]
        on_gpu = [s for s, attempt in zip(seconds, attempts, strict=True) if attempt.get("device", "cpu") != "cpu"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Spent(None)
    if not seconds:
        return _Spent(None)
    peaks = [max((a.get(name) or 0 for a in attempts), default=0) or None for name in ("peak_bytes", "host_bytes")]
    return _Spent(sum(seconds), sum(on_gpu), steps, *peaks)


def _theirs(home: Path) -> _Spent:
    """Read the cost of a run of DomainBed from its records: time in steps, without evaluations; GPU memory."""
    try:
        records = [orjson.loads(line) for line in (home / RECORDS).read_bytes().splitlines()]
        places = [-1, *(int(record["step"]) for record in records)]
        made = [later - earlier for earlier, later in pairwise(places)]
        seconds = sum(n * float(record["step_time"]) for n, record in zip(made, records, strict=True))
        peak = max((float(record.get("mem_gb") or 0) for record in records), default=0.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Spent(None)
    # DomainBed measures memory of GPUs only, and writes 0 or nothing without one.
    return _Spent(seconds, seconds if peak else 0.0, places[-1] + 1, int(peak * 2**30) or None)


def cost_frame(found: Iterable[Cost]) -> pd.DataFrame:
    """Make the frame of `SweepResults.cost`."""
    import pandas as pd  # inside the function: tables do without pandas

    lines = [{**vars(cost), "hours": cost.seconds / 3600, "gpu_hours": cost.gpu_seconds / 3600} for cost in found]
    frame = pd.DataFrame(lines, columns=_COLUMNS)
    kinds = {"steps_per_second": "float64", "peak_bytes": "Int64", "host_bytes": "Int64"}
    return frame.astype(kinds | dict.fromkeys(("runs", "untimed"), "int64"))


_COLUMNS = (
    "row", "dataset", "runs", "untimed", "seconds", "hours", "gpu_hours", "steps_per_second", "peak_bytes",
    "host_bytes",
)  # fmt: skip


def cost_sections(found: Sequence[Cost]) -> Iterator[Section]:
    """Yield a section for each data set: a line a row, then the data set's runs together."""
    for dataset in dict.fromkeys(cost.dataset for cost in found):
        mine = [cost for cost in found if cost.dataset == dataset]
        cells = [("Algorithm", "runs", "hours", "GPU hours", "s a run", "steps/s", "peak memory"), *map(_cells, mine)]
        below = [
            "time of finished runs, with those that are merged, adapted or learned from; rows share runs, "
            f"{ALL!r} counts each once",
            "steps/s: training steps by the whole time of training runs, evaluations included",
            "times are those of the machines that ran them, under their load: compare rows that ran alike",
        ]
        if any(cost.peak_bytes is None and cost.host_bytes is not None for cost in mine):
            below.append("peak memory without a GPU: main memory of a run's process, data included")
        if untimed := max(cost.untimed for cost in mine):
            below.append(f"{untimed} runs have no recorded time and are left out")
        yield Section(f"Cost on {dataset}", tuple(cells), tuple(below), {"dataset": dataset, "lines": mine})


def _cells(cost: Cost) -> tuple[str, ...]:
    """Format the cost of a row as texts."""
    timed = cost.runs - cost.untimed
    memory = cost.peak_bytes or cost.host_bytes
    return (
        cost.row,
        f"{cost.runs:,}",
        f"{cost.seconds / 3600:.3g}" if timed else "",
        f"{cost.gpu_seconds / 3600:.3g}" if timed else "",
        f"{cost.seconds / timed:.3g}" if timed else "",
        f"{cost.steps_per_second:.3g}" if cost.steps_per_second else "",
        f"{memory / 2**30:.2f} GiB" if memory else "",
    )
