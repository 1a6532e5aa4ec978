"""Which runs `retry` lets run again, and which it refuses or leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dgbench import cli
from dgbench.launchers.mend import Trouble, mend
from dgbench.launchers.reconcile import Sweep
from dgbench.store import lease as leases
from dgbench.store.holder import Holder
from dgbench.store.lease import StopSignals
from dgbench.store.process import Process
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.commands import sweep as command
from tests.support.in_process import sweep_of


def test_runs_that_a_dead_machine_left_damaged_are_mended_after_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder elsewhere is gone at the second look, and all of them are looked at together first."""
    sweep = sweep_of(tmp_path / "sweep", "ERM", n_hparams=3)
    for run in sweep.plan.runs:
        folder = sweep.store.folder(run.id)
        folder.create(run)
        (folder.path / "run.json").write_text("{")
        lease = folder.path / "lease-0001"
        lease.write_bytes(Holder(Process("n1", "another kernel", 7, 7), beat=0.2, ttl=10).to_json())
        os.utime(lease, (time.time() - 60,) * 2)
    sleep, waits = time.sleep, list[float]()
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: (waits.append(seconds), sleep(seconds)))
    assert mend(sweep, ("damaged",)) == 3
    assert len(waits) == 1


FAILURE = {"exit": 1, "error": "UserError: out of luck", "traceback": "", "log": ""}
NAMES = ("failed", "damaged", "lost", "done", "running", "waiting")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A run of each of `NAMES`, in this order, and one that was not begun."""
    sweep = sweep_of(tmp_path / "sweep", "ERM", n_hparams=len(NAMES) + 1)
    folders = dict(zip(NAMES, (sweep.store.folder(run.id) for run in sweep.plan.runs), strict=False))
    for folder, run in zip(folders.values(), sweep.plan.runs, strict=False):
        folder.create(run)
    folders["failed"].fail(FAILURE, 1, final=True)
    (folders["damaged"].path / "run.json").write_text("{")
    for name, age in (("lost", 60), ("running", 0)):
        lease = folders[name].path / "lease-0001"
        lease.write_bytes(Holder(Process("n1", "another kernel", 7, 7), beat=0.1, ttl=10).to_json())
        os.utime(lease, (time.time() - age,) * 2)
    folders["done"].fail(FAILURE, 1)  # tried again with success
    folders["done"].finish({"fingerprint": "", "versions": {}, "commit": ""})
    return sweep


def folder_of(sweep: Sweep, name: str) -> RunFolder:
    return sweep.store.folder(sweep.plan.runs[NAMES.index(name)].id)


def mended(sweep: Sweep) -> set[str]:
    """Names of the runs in trouble that may run again."""
    states = sweep.store.states((run.id for run in sweep.plan.runs), 0, thorough=True)
    free = {name for name, run in zip(NAMES, sweep.plan.runs, strict=False) if states[run.id] is State.WAITING}
    return free - {"waiting"} - ({"lost"} if not folder_of(sweep, "lost").is_released() else set())


@pytest.mark.parametrize(
    "troubles", [("failed", "damaged"), ("failed",), ("damaged", "lost")], ids=["neither flag", "--failed", "--stale"]
)
def test_only_the_runs_of_these_kinds_may_run_again(sweep: Sweep, troubles: tuple[Trouble, ...]) -> None:
    assert mend(sweep, troubles) == len(troubles)
    assert mended(sweep) == set(troubles)
    assert folder_of(sweep, "done").state(0) is State.DONE
    assert len(folder_of(sweep, "done").failures()) == 1, "a note on how it came to be done"
    assert folder_of(sweep, "running").state(0) is State.RUNNING


def test_of_named_runs_all_that_is_wrong_is_mended_and_nothing_else(sweep: Sweep) -> None:
    ids = [folder_of(sweep, name).id for name in ("lost", "waiting")]
    assert mend(sweep, ("failed", "damaged", "lost"), ids) == 1
    assert mended(sweep) == {"lost"}


def test_a_lost_run_that_another_process_has_taken_is_left(sweep: Sweep) -> None:
    folder = folder_of(sweep, "lost")
    with folder.claim(StopSignals()) as lease:  # type: ignore[union-attr]
        assert mend(sweep, ("lost",)) == 0
        assert not lease.lost


def test_everything_that_is_wrong_with_named_runs_is_said_at_once(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["nothing", folder_of(sweep, "done").id, folder_of(sweep, "running").id, folder_of(sweep, "failed").id]
    words = ["retry", str(sweep.root), "--skip_confirmation", "--failed", "--launcher", "nowhere", "--run", *named]
    before = {path: path.stat().st_mtime_ns for path in sweep.root.rglob("*")}
    assert cli.run(command.main, words) == cli.WRONG_INPUT
    flags, launcher, unknown, done, running = capsys.readouterr().err.splitlines()
    assert "leave --failed and --stale out" in flags
    assert "unknown launcher 'nowhere'" in launcher
    assert "no run of the sweep is 'nothing'" in unknown
    place = folder_of(sweep, "done").path
    assert f"is done, and retry leaves it; to make it anew: rm -r {place}; dgbench launch {sweep.root}" in done
    assert f"is under way; to stop it: dgbench cancel {sweep.root}" in running
    assert {path: path.stat().st_mtime_ns for path in sweep.root.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "2 failed or damaged runs may run again"),
        (("--failed",), "1 failed run may run again"),
        (("--stale",), "2 damaged or lost runs may run again"),
        (("--stale", "--failed"), "3 failed, damaged or lost runs may run again"),
        (("--run", "ERM RotatedDigits [75] hparams 0 trial 0"), "1 failed, damaged or lost run may run again"),
    ],
)
def test_the_command_says_how_many_and_launches(
    sweep: Sweep,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[Path] = []
    monkeypatch.setattr(command, "execute", lambda sweep, *rest: launched.append(sweep.root) or 0)
    assert cli.run(command.main, ["retry", str(sweep.root), "--skip_confirmation", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert launched == [sweep.root]
