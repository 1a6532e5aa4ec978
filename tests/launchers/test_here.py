"""A whole sweep in one process."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.core.errors import UserError
from dgbench.execute import job
from dgbench.launchers import here
from dgbench.launchers.base import STOPPED_EARLY, UNAVAILABLE
from dgbench.launchers.here import Here
from dgbench.launchers.launcher import choose_launcher
from dgbench.store.lease import STOPPED
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.in_process import execute_all, sweep_of


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "usable_cores", lambda: 1)


def test_records_are_those_of_runs_executed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ("ERM+SMA", "ERM+DiWA")
    expected = execute_all(sweep_of(tmp_path / "expected", *rows, n_hparams=2))
    sweep = sweep_of(tmp_path / "here", *rows, n_hparams=2)
    assert choose_launcher(["here"], {}, {}).execute(sweep) == 0
    assert len(sweep.plan.runs) == 3
    for run in sweep.plan.runs:
        found, same = (s.store.folder(run.id).path / "records.jsonl" for s in (sweep, expected))
        assert found.read_bytes() == same.read_bytes()
    printed = capsys.readouterr().out
    assert printed.count("done: ") == 3
    assert printed.endswith("3 done\n")
    assert Here().execute(sweep) == 0, "nothing is left to do"


def test_ctrl_c_saves_the_run_and_ends_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", n_hparams=2)
    run_job, begun = job.run_job, list[str]()

    def interrupted(asked: dict[str, Any], *rest: Any) -> int:
        begun.append(asked["id"])
        step = torch.optim.Adam.step

        def stepping(*args: Any, **options: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return step(*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(torch.optim.Adam, "step", stepping)
            status = run_job(asked, *rest)
        assert status == STOPPED
        return status

    monkeypatch.setattr(job, "run_job", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert Here().execute(sweep) == STOPPED_EARLY
    finally:
        signal.signal(signal.SIGINT, before)
    assert begun == [sweep.plan.runs[0].id]
    assert sweep.states()[begun[0]] is State.WAITING
    assert (sweep.store.folder(begun[0]).path / "checkpoint.pt").exists()
    assert "to go on: dgbench launch" in capsys.readouterr().out


def test_more_than_one_run_at_once_is_refused() -> None:
    with pytest.raises(UserError, match="one run executes at a time"):
        choose_launcher(["here"], {}, {"jobs": 2})
    assert choose_launcher(["here"], {}, {"jobs": 1}) == Here(jobs=1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ESTALE])
def test_a_disk_that_is_lost_in_mid_sweep_ends_it_by_a_line_and_asks_for_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM")

    def create(folder: RunFolder, run: object) -> None:
        raise OSError(number, os.strerror(number), str(folder.path))

    monkeypatch.setattr(RunFolder, "create", create)
    assert Here().execute(sweep) == UNAVAILABLE
    printed, folder = capsys.readouterr(), sweep.store.folder(sweep.plan.runs[0].id).path
    assert printed.err == f"dgbench: error: {folder} can't be used: {os.strerror(number)}\n"
    assert printed.out.endswith(f"to go on: dgbench launch {sweep.root}\n")


def test_another_error_of_the_system_is_not_blamed_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(folder: RunFolder, run: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(RunFolder, "create", create)
    with pytest.raises(OSError, match="Invalid argument"):
        Here().execute(sweep_of(tmp_path / "sweep", "ERM"))
