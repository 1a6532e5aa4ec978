"""A launch that has a scheduler start workers: it watches the folder, and starts them again while that helps."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from dgbench.core.errors import UserError
from dgbench.launchers.pool import WorkerLauncher
from dgbench.launchers.reconcile import Sweep
from dgbench.store.state import State
from tests.support.in_process import execute, sweep_of


@dataclass(frozen=True, kw_only=True)
class Inline(WorkerLauncher):
    """A worker executes the next run in this process while it is being started, and is gone then."""

    name = "inline"
    useful: bool = True
    sweep: ClassVar[Sweep]
    started: ClassVar[list[int]]

    def start(self, root: Path, count: int) -> str:
        self.started.append(count)
        states = self.sweep.states(0)
        for run in self.sweep.plan.runs if self.useful else ():
            if states[run.id] is State.MISSING and all(states[s.run] is State.DONE for s in run.inputs):
                execute(self.sweep, run)
                break
        return "started"

    def alive(self, root: Path) -> int | None:
        return 0


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    Inline.started, Inline.sweep = [], sweep_of(tmp_path / "sweep", "ERM", "ERM+DiWA", n_hparams=2)
    return Inline.sweep


def test_workers_are_started_again_while_runs_are_left(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Inline(poll=0, workers=2)
    assert launcher.execute(sweep) == 0
    assert launcher.started == [2, 2, 1], "no more workers than runs that are left, one run each"
    assert capsys.readouterr().out.endswith("3 done\n")
    assert launcher.execute(sweep) == 0
    assert len(launcher.started) == 3, "nothing is left to start one for"


def test_workers_that_make_no_step_are_given_up(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Inline(poll=0, useful=False)
    assert launcher.execute(sweep) == 75
    assert launcher.started == [3, 3, 3]
    assert "workers were started 3 times without a step made" in capsys.readouterr().out


def test_runs_that_need_a_failed_one_are_not_waited_for(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    first = sweep.plan.runs[0]
    sweep.store.folder(first.id).create(first)
    folder = sweep.store.folder(first.id)
    lease = folder.claim()
    assert lease
    folder.fail({"exit": 1, "error": "broken", "traceback": "", "log": ""}, lease.number, final=True)
    lease.release()
    assert Inline(poll=0).execute(sweep) == 1
    assert "1 done, 2 failed or blocked" in capsys.readouterr().out


def test_a_launch_that_detaches_or_is_interrupted_leaves_the_workers_alone(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Inline(poll=0, useful=False)
    assert launcher.execute(sweep, detach=True) == 0
    assert launcher.started == [3]

    class Interrupted(Inline):
        def start(self, root: Path, count: int) -> str:
            os.kill(os.getpid(), signal.SIGINT)
            return "started"

    with pytest.raises(KeyboardInterrupt):  # before it watches
        Interrupted().execute(sweep)

    class Lively(Inline):
        def alive(self, root: Path) -> int | None:
            self.started.append(0)
            if len(self.started) > 2:
                os.kill(os.getpid(), signal.SIGINT)
            return 3

    assert Lively(poll=0).execute(sweep) == 75
    assert "the workers go on; to stop them: dgbench cancel" in capsys.readouterr().out


def test_a_scheduler_that_does_not_answer_is_told(sweep: Sweep) -> None:
    class Silent(Inline):
        def alive(self, root: Path) -> int | None:
            return None

    with pytest.raises(UserError, match="the scheduler does not answer"):
        Silent().execute(sweep)
