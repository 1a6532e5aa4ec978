"""Sum up the state of a sweep in lines of text: runs by state, why runs failed, and what is no longer part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dgbench.core.wording import count_nouns, printable
from dgbench.plan.planfile import PlanTable
from dgbench.store.folder import Store, Survey
from dgbench.store.state import State


def overview(store: Store, table: PlanTable, survey: Survey) -> Iterator[str]:
    """Yield a table of states by method, then a line on each run that failed, is damaged or was begun anew.

    Args:
        store: The sweep's runs.
        table: Its plan.
        survey: The findings of a look at its runs.
    """
    states, restarted = survey.states, frozenset(survey.restarted)
    counts = Counter((run.kind, run.method, states[run.id]) for run in table.runs)
    # Most sweeps train every draw to its end, and need no columns on those that don't.
    shown = [state for state in State if store.search.brackets or state not in (State.PAUSED, State.DROPPED)]
    yield f"{'':<24}" + "".join(f"{state.value:>10}" for state in shown)
    for kind, method in dict.fromkeys((run.kind, run.method) for run in table.runs):
        yield f"{kind:<8}{method:<16}" + "".join(f"{counts[kind, method, state]:>10,}" for state in shown)
    for run in table.runs:
        if states[run.id] is State.FAILED:
            yield f"failed: {table.name(run)}: {store.folder(run.id).reason()}"
        elif states[run.id] is State.DAMAGED:
            yield printable(f"damaged: {table.name(run)}: {store.damage(run.id)}; `dgbench sweep retry` makes it again")
        for loss in store.folder(run.id).restarts() if run.id in restarted else ():
            yield f"begun anew: {table.name(run)}: {loss['why']} (log: {loss['log']})"


def unused_lines(store: Store, table: PlanTable) -> Iterator[str]:
    """Yield a line on the runs in a sweep's folder that its plan doesn't have, if there are any."""
    unused = len(store.unplanned({run.id for run in table.runs}))
    if unused:
        runs = f"{count_nouns(unused, 'run')} in {store.root}"
        yield f"not part of the sweep any more: {runs}; `dgbench prune` removes {'it' if unused == 1 else 'them'}"
