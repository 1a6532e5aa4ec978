"""Let runs of a sweep run again: those that failed, that are damaged, or that were lost with their machine."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from dgbench.core.errors import Problems
from dgbench.core.run import Run
from dgbench.core.wording import printable
from dgbench.launchers.reconcile import Sweep, go_on
from dgbench.plan.naming import find_run
from dgbench.plan.planfile import read_plan
from dgbench.store import removal
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from dgbench.store.verified import forget

Trouble = Literal["failed", "damaged", "lost"]
"""`lost`: the process that executed the run is gone, or silent for longer than its time to live."""


def mend(sweep: Sweep, troubles: Collection[Trouble], ids: Collection[str] | None = None) -> int:
    """Clear the failures of failed runs, reset damaged ones, free lost ones; leave runs that are settled or under way.

    Args:
        sweep: The sweep, planned.
        troubles: Kinds of runs to mend.
        ids: Ids of the runs to mend among these; None: all.

    Returns:
        The number of runs that may run again.
    """
    forget(sweep.root)  # people may mend what a disk has done, which no date tells
    chosen = [run for run in sweep.plan.runs if ids is None or run.id in ids]
    # A first look at all: of holders elsewhere that seem gone, each is judged by a second one, which need not wait.
    states = sweep.store.states((run.id for run in chosen), 0, thorough=True)
    mended = 0
    for run in chosen:
        folder, state = sweep.store.folder(run.id), states[run.id]
        if state is State.DAMAGED:
            if "damaged" in troubles:
                print(f"{run.name} begins anew: {sweep.store.damage(run.id)}")
                mended += removal.repair(folder, run)
        elif not state.settled and state is not State.RUNNING:
            cleared = "failed" in troubles and folder.clear_failures()
            freed = "lost" in troubles and _free(folder, run)
            mended += bool(cleared or freed)
    return mended


def _free(folder: RunFolder, run: Run) -> bool:
    """Release the lease of a run whose holder is gone; return False if there is none."""
    if folder.is_released():
        return False
    host = folder.host()
    lease = folder.claim()
    if lease is None:  # at work after all, or taken over meanwhile
        return False
    lease.release()
    print(f"{run.name} was lost{f' on {host}' if host else ''}")
    return True


def find_mendable(root: Path, texts: Sequence[str]) -> list[str]:
    """Return the ids of the runs of a sweep that people name, all of them unfinished and not under way.

    Args:
        root: The sweep's folder.
        texts: Ids, beginnings of ids, or names.

    Raises:
        UserError: A text names no run or several, or a run that is done or under way; all problems are listed.
    """
    table, store, problems = read_plan(root), Store(root), Problems()
    forget(root)
    found = []
    for text in texts:
        with problems.collecting():
            run = find_run(table, text)
            (state,) = store.states([run.id], 0, thorough=True).values()
            name, place = printable(table.name(run)), shlex.quote(str(store.folder(run.id).path))
            if state is State.DONE:
                problems.add(f"{name} is done, and retry leaves it; to make it anew: rm -r {place}; {go_on(root)}")
            elif state is State.DROPPED:
                problems.add(f"{name} was dropped by the search, and retry leaves it; launch --search random goes on")
            elif state is State.RUNNING:
                problems.add(f"{name} is under way; to stop it: dgbench cancel {shlex.quote(str(root))}")
            else:
                found.append(run.id)
    problems.raise_if_any()
    return found
