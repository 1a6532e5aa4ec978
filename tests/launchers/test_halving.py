"""Sweeps that drop the worse draws on the way, executed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli, collect
from dgbench.core.machine import usable_cores
from dgbench.core.run import Run
from dgbench.execute import job
from dgbench.launchers import here
from dgbench.launchers.here import Here
from dgbench.launchers.pool import _Watched
from dgbench.launchers.prepare import prepare, reopen
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.tidy import incomplete, prunable
from dgbench.store.folder import Store
from dgbench.store.lease import AT_RUNG
from dgbench.store.run_folder import CHECKPOINT, RECORDS
from dgbench.store.state import State
from dgbench.sweep import main as command
from tests.support.in_process import execute, execute_all, sweep_of

ROWS = ("ERM", "ERM+SWAD", "ERM+T3A")
DRAWS: dict[str, Any] = {"n_hparams": 4, "setting": {"steps": 31, "checkpoint_freq": 5}}
"""Rungs after steps 5 and 10; two draws of four go on, then one."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep with every draw trained to its end."""
    return execute_all(sweep_of(tmp_path_factory.mktemp("whole") / "sweep", *ROWS, **DRAWS))


def records(found: Sweep, run: Run) -> bytes:
    path = found.store.folder(run.id).path / RECORDS
    return path.read_bytes() if path.exists() else b""


def check(searched: Sweep, whole: Sweep) -> None:
    """Every run that ended has the records of the whole search, dropped ones as far as they came."""
    states = searched.states()
    assert [run.id for run in searched.plan.runs] == [run.id for run in whole.plan.runs]
    for run in searched.plan.runs:
        found, expected = records(searched, run), records(whole, run)
        if states[run.id] is State.DONE:
            assert found == expected
        else:
            assert states[run.id] is State.DROPPED
            assert expected.startswith(found)
            # An evaluation has two records: SWAD's comes at the end.
            rungs = {0: 0, 5: 2, 10: 3}
            assert found.count(b"\n") == rungs[max(searched.store.folder(run.id).scores(), default=0)]
        assert not (searched.store.folder(run.id).path / CHECKPOINT).exists()
    kinds = [(run.kind, states[run.id].value) for run in searched.plan.runs]
    assert (
        sorted(kinds)
        == [("adapt", "done")] + [("adapt", "dropped")] * 3 + [("train", "done")] + [("train", "dropped")] * 3
    )


def test_a_search_ends_with_the_records_of_the_whole_one(
    tmp_path: Path, whole: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = sweep_of(tmp_path / "searched", *ROWS, search="halving", **DRAWS)
    assert Here().execute(searched) == 0
    check(searched, whole)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "2 done, 6 dropped"
    what = [line.partition(":")[0] for line in printed]
    assert [what.count(word) for word in ("started", "paused", "dropped", "done")] == [8, 6, 6, 2]
    assert Here().execute(searched) == 0, "nothing is left to do"
    assert command(["status", str(searched.root)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in table[-3:]] == [["dropped", "done"], ["3", "1"], ["3", "1"]]
    # A process that looked before they were dropped does nothing to them.
    dropped = [run for run in searched.plan.runs if searched.states()[run.id] is State.DROPPED]
    assert [execute(searched, run) for run in dropped if run.kind == "train"] == [AT_RUNG] * 3
    check(searched, whole)
    # Weights of dropped runs are read by nothing any more, nor are they the rest of unfinished ones.
    assert incomplete(searched.root) == []
    assert {folder.id for folder in prunable(searched.root).weights} == {
        run.id for run in searched.plan.runs if run.kind == "train"
    }
    # Every process that looks finds the same.
    assert Store(searched.root).states([run.id for run in searched.plan.runs], 0) == searched.states()
    # All draws are trained to their ends later, with the same records.
    on = prepare(searched.root, {"search": "random"}, searched.site, searched.catalogue)
    assert list(on.states().values()).count(State.WAITING) == 3
    on.write()
    assert Here().execute(on) == 0
    assert all(records(on, run) == records(whole, run) for run in whole.plan.runs)
    capsys.readouterr()
    assert [collect.main([str(found.root)]) for found in (on, whole)] == [0, 0]
    tables = capsys.readouterr().out.split("Total records: ")[1:]
    assert tables[0] == tables[1]


def to_first_rung(searched: Sweep, runs: int = 4) -> list[Run]:
    trained = [run for run in searched.plan.runs if run.kind == "train"]
    assert [execute(searched, run) for run in trained[:runs]] == [AT_RUNG] * runs
    return trained


def test_a_run_waits_for_the_others_with_its_state_saved(tmp_path: Path) -> None:
    searched = sweep_of(tmp_path / "searched", *ROWS, search="halving", **DRAWS)
    trained = to_first_rung(searched, 3)
    states = searched.states()
    assert [states[run.id] for run in trained] == [State.PAUSED] * 3 + [State.MISSING]
    assert all((searched.store.folder(run.id).path / CHECKPOINT).exists() for run in trained[:3])
    before = records(searched, trained[0])
    assert execute(searched, trained[0]) == AT_RUNG, "a process that looked too early does nothing"
    assert records(searched, trained[0]) == before
    assert execute(searched, trained[3]) == AT_RUNG
    found = [searched.states()[run.id] for run in trained]
    assert (found.count(State.WAITING), found.count(State.DROPPED)) == (2, 2)


@pytest.mark.parametrize("lost", ["note", "both"])
def test_a_kill_at_a_rung_loses_nothing(tmp_path: Path, whole: Sweep, lost: str) -> None:
    searched = sweep_of(tmp_path / "searched", *ROWS, search="halving", **DRAWS)
    run = to_first_rung(searched)[1]
    folder = searched.store.folder(run.id)
    (note,) = folder.path.glob("rung-*")
    note.unlink()  # as if the run had been killed right before it was written
    assert searched.states()[run.id] is State.WAITING
    assert State.DROPPED not in searched.states().values()
    if lost == "both":
        (folder.path / CHECKPOINT).unlink()
    assert Here().execute(searched) == 0
    assert note.exists()
    check(searched, whole)


def failing_at(monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    run_job = job.run_job

    def failing(asked: dict[str, Any], *rest: Any) -> int:
        if asked["id"] != id:
            return run_job(asked, *rest)
        folder = Store(Path(asked["root"])).folder(id)
        folder.fail({"exit": 1, "error": "no luck", "traceback": "", "log": ""}, 1, final=True)
        return 1

    monkeypatch.setattr(job, "run_job", failing)


def test_runs_that_wait_for_a_failed_one_are_blocked_and_go_on_after_retry(
    tmp_path: Path, whole: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = sweep_of(tmp_path / "searched", *ROWS, search="halving", **DRAWS)
    failed = searched.plan.runs[0]
    with monkeypatch.context() as patched:
        failing_at(patched, failed.id)
        assert Here().execute(searched) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("1 failed, 7 blocked\n")
    assert f"waits at a rung of the search for {failed.id}, which failed" in printed
    watched = _Watched(searched).look()
    assert not watched.open, "workers have nothing to wait for either"
    assert len(watched.lost) == 8
    assert command(["status", str(searched.root)]) == 1
    assert cli.run(command, ["retry", str(searched.root), "--launcher", "here"]) == 0
    check(searched, whole)


@pytest.mark.slow
def test_workers_that_are_killed_agree(tmp_path: Path, whole: Sweep, until: Callable[..., None]) -> None:
    searched = sweep_of(tmp_path / "searched", *ROWS, search="halving", **DRAWS)
    # A run has one thread, on which sums are those of the whole search.
    jobs = str(usable_cores())
    command = [sys.executable, "-m", "dgbench", "worker", str(searched.root), "--jobs", jobs, "--idle", "5"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    workers = [start(), start()]
    try:
        until(lambda: any(state is State.PAUSED for state in searched.states().values()))
        os.kill(workers[0].pid, signal.SIGKILL)
        workers.append(start())
        assert workers[1].wait(timeout=120) == workers[2].wait(timeout=120) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    check(reopen(searched.root), whole)
