"""Show a sweep in lines of text: cells with their counts, running and failed runs, the nodes at work and their pace.

A picture is shown again every few seconds, until no run is left to wait for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from dgbench.core.grid import columns
from dgbench.core.wording import format_duration, printable
from dgbench.plan.planfile import PlanTable
from dgbench.report.nodes import Pace
from dgbench.report.signs import blocked_runs
from dgbench.report.watch import OPEN, RunStatus, Watch
from dgbench.store.state import State

INTERVAL = 5.0
"""Seconds between two looks at the folder."""
MOST_LINES = 20
"""Most lines of each list."""


def lines(table: PlanTable, found: Iterable[RunStatus]) -> Iterator[str]:
    """Yield the printable lines that show a sweep: a grid of cells, then its running and failed runs.

    A cell is a row of the tables on one data set with the same domains held out; rows share runs.
    """
    states = list(found)
    yield from columns(_grid(table, states))
    running = [status for status in states if status.state == State.RUNNING.value]
    failed = [status for status in states if status.state in (State.FAILED.value, State.DAMAGED.value)]
    yield from shorten_list([f"running: {printable(status.name)}: {_pace(status)}" for status in running])
    yield from shorten_list(
        [printable(f"{status.state}: {status.name}: {status.failure} (log: {status.log})") for status in failed]
    )


def _grid(table: PlanTable, found: list[RunStatus]) -> list[list[str]]:
    """Return the cells of the grid as texts, its header first; states without any run have no column."""
    cells: dict[tuple[str, str, str], Counter[str]] = {}
    for (row, dataset, *_), candidates in (*table.cells.items(), *table.repeats.items()):
        for position in dict.fromkeys(position for position, _ in candidates):
            status = found[position]
            key = (row, dataset, "+".join(status.held_out))
            cells.setdefault(key, Counter())[status.state] += 1
    shown = [state.value for state in State if any(counts[state.value] for counts in cells.values())]
    header = ["row", "data set", "held out", *shown]
    return [header, *([*map(printable, key), *(f"{counts[s] or ''}" for s in shown)] for key, counts in cells.items())]


def _pace(status: RunStatus) -> str:
    """Describe how far a running run is."""
    if status.step is None or status.steps is None:
        return f"at work on {status.host}" if status.host else "at work"
    parts = [f"step {status.step:,} of {status.steps:,}"]
    if status.speed:
        parts.append(f"{status.speed:.3g} steps/s")
    if status.left is not None:
        parts.append(f"{format_duration(status.left)} left")
    return ", ".join([*parts, *([status.host] if status.host else [])])


def shorten_list(found: Sequence[str]) -> Iterator[str]:
    """Yield the first lines of a list, then one that counts the others."""
    yield from found[:MOST_LINES]
    if len(found) > MOST_LINES:
        yield f"... and {len(found) - MOST_LINES} more, all of them with --json"


def follow(watch: Watch, show: Callable[[str], None], wait: Callable[[float], None] = time.sleep) -> bool:
    """Show a sweep again and again until no run is left to wait for.

    Args:
        watch: The sweep.
        show: Takes each picture as one text.
        wait: Waits some seconds.

    Returns:
        Whether every run is done; else what is left has failed, or reads a run that did.
    """
    pace = Pace()
    while True:
        found = watch.look()
        pace.look(found)
        nodes = shorten_list(list(pace.table(watch.store.now())))
        show("\n".join((*lines(watch.table, found), *nodes, *pace.throughput())))
        states = {status.id: State(status.state) for status in found}
        blocked = {watch.table.runs[place].id for place in blocked_runs(watch.table, states)}
        if not any(state in OPEN for id, state in states.items() if id not in blocked):
            return all(state.settled for state in states.values())
        wait(INTERVAL)
