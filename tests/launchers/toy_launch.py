"""Launches toy runs: toy_launch.py ROOT JOBS RETRIES PLAN; PLAN is JSON, a list of [fault, steps, pause, inputs]."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dgbench.core.protocol import Fold, View
from dgbench.core.run import Input, ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.launchers.base import Observer, Slot, Summary
from dgbench.launchers.driver import drive
from dgbench.launchers.forkserver import ForkServer
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.local import LocalSlots, make_slots
from dgbench.store.folder import Store

Plan = list[tuple[str, int, float, list[int]]]


def make_runs(plan: Plan) -> list[Run]:
    """A run an entry; `inputs` are positions of earlier entries."""
    fold = Fold(("b",), (View("a", "in"),), (View("a", "out"),), (View("b", "in"),))
    runs: list[Run] = []
    for i, (_, _, _, inputs) in enumerate(plan):
        kind, name = ("merge", "Mean") if inputs else ("train", "Toy")
        sources = tuple(Input(runs[j].id) for j in inputs)
        runs.append(Run(kind, ResolvedEntry(name), "Data", fold, i, 0, setting(), inputs=sources))
    return runs


def launch(
    root: Path,
    jobs: int,
    retries: int,
    plan: Plan,
    *,
    only: slice = slice(None),
    target: str = "toy_target:execute",
    modules: Sequence[str] = ("dgbench.store.folder",),
    gpus: Sequence[str] = (),
    timeout: float | None = None,
    observer: Observer = lambda event: None,
) -> Summary:
    """Execute the plan, or `only` some of it, from this process."""
    runs = make_runs(plan)
    by_id = {run.id: entry for run, entry in zip(runs, plan, strict=True)}

    def job(run: Run, slot: Slot) -> dict:
        fault, steps, pause, _ = by_id[run.id]
        return {
            "root": str(root),
            "run": run.id,
            "steps": steps,
            "pause": pause,
            "fault": fault,
            "threads": slot.threads,
        }

    root.mkdir(exist_ok=True)
    store = Store(root)
    with Interrupts() as interrupts:
        slots = make_slots(jobs, gpus)
        engine = LocalSlots(store, slots, job, lambda: ForkServer(target, modules), interrupts, timeout)
        return drive(store, runs[only], engine, retries, interrupts, observer)


def gone(pid: int) -> bool:
    """Whether the process has ended, be it reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


if __name__ == "__main__":
    summary = launch(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
    print(json.dumps({**vars(summary), "counts": summary.counts}))
