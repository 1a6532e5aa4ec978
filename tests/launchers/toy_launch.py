"""Launches toy runs: toy_launch.py ROOT JOBS RETRIES PLAN; PLAN is JSON, a list of [fault, steps, pause, inputs]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dgbench.core.protocol import Fold, View
from dgbench.core.run import Input, Part, Run
from dgbench.core.setting import setting
from dgbench.launchers.base import Slot, Summary
from dgbench.launchers.forkserver import ForkServer
from dgbench.launchers.local import run_local
from dgbench.store.folder import Store

Plan = list[tuple[str, int, float, list[int]]]


def make_runs(plan: Plan) -> list[Run]:
    """A run an entry; `inputs` are positions of earlier entries."""
    fold = Fold(("b",), (View("a", "in"),), (View("a", "out"),), (View("b", "in"),))
    runs: list[Run] = []
    for i, (_, _, _, inputs) in enumerate(plan):
        kind, name = ("merge", "Mean") if inputs else ("train", "Toy")
        sources = tuple(Input(runs[j].id) for j in inputs)
        runs.append(Run(kind, Part(name), "Data", fold, i, 0, setting(), inputs=sources))
    return runs


def launch(
    root: Path, jobs: int, retries: int, plan: Plan, target: str = "toy_target:execute", **options: object
) -> Summary:
    """Execute the plan in this process."""
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
    options = {"start_server": lambda: ForkServer(target, modules=["dgbench.store.folder"]), **options}
    return run_local(Store(root), runs, jobs=jobs, retries=retries, make_job=job, **options)


def gone(pid: int) -> bool:
    """Whether the process has ended, be it reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


if __name__ == "__main__":
    summary = launch(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
    print(json.dumps({**vars(summary), "counts": summary.counts}))
