"""Describe the processes at work on a sweep by their signs of life, and sum its state up in an exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dgbench.core.errors import UserError
from dgbench.core.wording import count_nouns, printable
from dgbench.plan.declaration import read_site
from dgbench.plan.planfile import PlanTable
from dgbench.store.folder import Store
from dgbench.store.holder import Holder
from dgbench.store.state import State

ABANDONED = 3
"""Exit code of `status` where runs are left and no process holds any."""
_LATE = 3
"""Number of beats without a sign of life from which on a holder is called silent."""


def retries_of(root: Path) -> int:
    """Return how often failed runs of a sweep are tried again; 0 if that can't be read."""
    try:
        return read_site(root).retries
    except UserError:
        return 0


def exit_code(table: PlanTable, states: Mapping[str, State]) -> int:
    """Return 0 if all runs are settled, `ABANDONED` if some can be executed and none is under way, else 1.

    Args:
        table: The plan.
        states: Run id -> state.
    """
    if all(state.settled for state in states.values()):
        return 0
    blocked = blocked_runs(table, states)
    left = any(
        states[run.id] in (State.MISSING, State.WAITING) for place, run in enumerate(table.runs) if place not in blocked
    )
    return ABANDONED if left and State.RUNNING not in states.values() else 1


def blocked_runs(table: PlanTable, states: Mapping[str, State]) -> set[int]:
    """Return the places in the plan of runs that failed, are damaged or wait at a rung, and of those that read one.

    Args:
        table: The plan.
        states: Run id -> state.
    """
    found: set[int] = set()
    for place, run in enumerate(table.runs):
        state = states[run.id]
        lacking = not state.settled and found.intersection(run.inputs)
        if state in (State.FAILED, State.DAMAGED, State.PAUSED) or lacking:
            found.add(place)
    return found


def running_lines(store: Store, table: PlanTable, states: Mapping[str, State]) -> Iterator[str]:
    """Yield a line on each run under way, on each that was lost with its machine, and on the workers seen.

    Args:
        store: The sweep's runs.
        table: Its plan.
        states: Run id -> state.
    """
    now = store.now()
    seen: set[tuple[str, str]] = set()
    for run in table.runs:
        state = states[run.id]
        if state not in (State.RUNNING, State.WAITING):
            continue
        folder = store.folder(run.id)
        found = folder.holder()
        if state is State.RUNNING:
            progress = folder.progress()
            parts = [f"step {progress[0]:,} of {progress[1]:,}"] if progress else []
            if found:
                seen.add(_place(found[0]))
                parts += _where(*found, now)
            yield printable(f"running: {table.name(run)}: {', '.join(parts) or 'before its first step'}")
        elif found and not folder.is_released():
            yield printable(f"waiting: {table.name(run)}: lost on {' '.join(filter(None, _place(found[0])))}")
    if seen:
        places = ", ".join(sorted(" ".join(filter(None, place)) for place in seen))
        yield printable(f"{count_nouns(len(seen), 'worker')} seen: {places}")


def _place(holder: Holder) -> tuple[str, str]:
    return holder.process.host, holder.engine


def _where(holder: Holder, sign: float, now: float) -> Iterator[str]:
    """Yield the place of a holder, and how long it has been silent if that is longer than it should be."""
    yield f"on {' '.join(filter(None, _place(holder)))}"
    if now - sign > _LATE * holder.beat:
        yield f"silent for {now - sign:.0f} s"
