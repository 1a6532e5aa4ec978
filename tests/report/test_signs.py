"""What `status` says of the processes at work, and its exit code."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dgbench.plan.planfile import PlanTable, read_plan
from dgbench.report.signs import exit_code, retries_of, running_lines
from dgbench.store.folder import Store
from dgbench.store.holder import Holder
from dgbench.store.process import Process
from dgbench.store.state import State
from tests.support import own_sweep


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({}, 0),
        ({0: State.FAILED}, 1),
        ({0: State.RUNNING, 1: State.MISSING}, 1),
        ({0: State.WAITING}, 3),
        ({0: State.MISSING, 1: State.FAILED}, 3),
        ({0: State.FAILED, -1: State.MISSING}, 1),
    ],
)
def test_the_exit_code_asks_to_submit_again_where_nobody_works(
    tmp_path: Path, states: dict[int, State], code: int
) -> None:
    """The last run is a merge that reads the first."""
    table = own_sweep.make(tmp_path, hparams=1, trials=1)
    first, merge = table.runs[0], table.runs[-1]
    table = replace(table, runs=(first, table.runs[1], merge._replace(inputs=(0,))))
    found = {run.id: State.DONE for run in table.runs}
    assert exit_code(table, found | {table.runs[place].id: state for place, state in states.items()}) == code


def hold(root: Path, table: PlanTable, place: int, holder: Holder, age: float) -> None:
    folder = Store(root).folder(table.runs[place].id)
    (folder.path / "done").unlink()
    lease = folder.path / "lease-0001"
    lease.write_bytes(holder.to_json())
    os.utime(lease, (time.time() - age,) * 2)


def test_running_silent_and_lost_runs_are_told_apart(tmp_path: Path) -> None:
    table = own_sweep.make(tmp_path)
    far = Process("n1", "another kernel", 7, 7)
    hold(tmp_path, table, 0, Holder(far, "slurm:4_0", ttl=60), age=1)
    hold(tmp_path, table, 1, Holder(far, "slurm:4_0", ttl=60), age=41)
    hold(tmp_path, table, 2, Holder(far, "slurm:4_1", ttl=60), age=61)
    store = Store(tmp_path)
    states = store.states((run.id for run in table.runs), 0)
    names = [read_plan(tmp_path).name(run) for run in table.runs[:3]]
    at_work, silent, lost, workers = running_lines(store, table, states)
    assert at_work == f"running: {names[0]}: on n1 slurm:4_0"
    assert silent in [f"running: {names[1]}: on n1 slurm:4_0, silent for {s} s" for s in range(41, 50)]
    assert lost == f"waiting: {names[2]}: lost on n1 slurm:4_1"
    assert workers == "1 worker seen: n1 slurm:4_0"
    assert retries_of(tmp_path) == 0, "it has no declaration"
