from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_launch
from toy_launch import Plan, gone, launch, make_runs

from dgbench.core import machine
from dgbench.launchers import driver, local
from dgbench.launchers.base import Event, Slot
from dgbench.launchers.forkserver import ForkServerDied
from dgbench.launchers.interrupts import Interrupts
from dgbench.store.folder import Store
from dgbench.store.notes import FREE_KILLS
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State

Until = Callable[[Callable[[], object]], None]
Children = Callable[[int], set[int]]


def start(root: Path, jobs: int, retries: int, plan: Plan) -> subprocess.Popen[str]:
    """A launcher in a process of its own."""
    script = str(Path(__file__).with_name("toy_launch.py"))
    root.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, script, str(root), str(jobs), str(retries), json.dumps(plan)], stdout=-1, text=True
    )


def executed(root: Path, what: str = "begin") -> list[str]:
    """The run of each line that says `what`, in the order of time."""
    path = root / "executed.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines if line.split()[4] == what]


def holds_exactly(root: Path, plan: Plan, where: Callable[[int], bool] = lambda i: True) -> bool:
    """Whether each run is done and has each of its records once."""
    for i, (run, (_, steps, _, _)) in enumerate(zip(make_runs(plan), plan, strict=True)):
        finished = RunFolder(root, run.id).finished()
        if where(i) and (not finished or finished[1:] != ([{"step": s} for s in range(steps)], 0)):
            return False
    return True


def test_fault_suite_of_twenty(tmp_path: Path) -> None:
    plan: Plan = [("", 4, 0.02, [])] * 10
    plan += [(fault, 4, 0.02, []) for fault in ("kill", "segfault", "exit", "zero", "raise", "disk", "always-kill")]
    plan += [("", 2, 0.02, [0, 10]), ("", 2, 0.02, [1, 16]), ("", 2, 0.02, [18])]
    events: list[Event] = []
    summary = launch(tmp_path, 4, 1, plan, observer=events.append)
    ids = [run.id for run in make_runs(plan)]
    assert holds_exactly(tmp_path, plan, lambda i: i not in (16, 18, 19))
    assert sorted(summary.done) == sorted(ids[:16] + ids[17:18])
    assert list(summary.failed) == [ids[16]]
    assert summary.blocked == {
        ids[18]: f"needs Toy Data [b] hparams 16 trial 0 ({ids[16]}), which failed",
        ids[19]: f"needs Mean Data [b] hparams 18 trial 0 ({ids[18]}), which is blocked",
    }
    assert summary.counts == {"done": 17, "dropped": 0, "failed": 1, "blocked": 2, "left": 0}
    assert (summary.left, summary.stopped, summary.taken_over) == ([], "", 0)
    assert summary.executed == 17 + 6 + 1 + FREE_KILLS + 1, "each fault costs one attempt, and the hopeless run five"
    assert summary.most == 4
    log = RunFolder(tmp_path, ids[16]).log_path
    tried = f"killed 5 times, of which {FREE_KILLS} use up no retry"
    assert summary.failed[ids[16]] == f"killed by SIGKILL (often: out of memory) ({tried}; log: {log})"
    told = [(event.what, event.run.id if event.run else "") for event in events]
    assert ("failed", ids[16]) in told
    assert [id for what, id in told if what == "retry"].count(ids[16]) == FREE_KILLS + 1
    assert {id for what, id in told if what == "blocked"} == set(ids[18:])
    assert all(event.seconds > 0 for event in events if event.what == "done")
    assert executed(tmp_path, "done").index(ids[17]) > max(executed(tmp_path, "done").index(ids[i]) for i in (0, 10))


@pytest.mark.parametrize(
    ("fault", "status", "error", "said"),
    [
        ("always-kill", -9, "killed by SIGKILL (often: out of memory)", "threads"),
        ("always-segfault", -11, "killed by SIGSEGV", "Segmentation fault"),
        ("always-exit", 1, "exit code 1: left in the middle", "left in the middle"),
        ("always-zero", 0, "ended without finishing the run", "threads"),
        ("always-raise", 1, "exit code 1: RuntimeError: it went wrong", "Traceback"),
        ("always-before", 1, "exit code 1: RuntimeError: died before it claimed", "Traceback"),
        ("always-disk", 1, "OSError", "No space left"),
    ],
)
def test_a_failure_is_data(tmp_path: Path, fault: str, status: int, error: str, said: str) -> None:
    plan: Plan = [(fault, 3, 0.0, [])]
    summary = launch(tmp_path, 1, 2, plan)
    assert summary.executed == (3 + FREE_KILLS if fault == "always-kill" else 3)
    folder = RunFolder(tmp_path, make_runs(plan)[0].id)
    failures = folder.failures()
    assert [failure["attempt"] for failure in failures] == list(range(1, summary.executed + 1))
    for failure in failures:
        assert (failure["exit"], failure["error"]) == (status, error)
        assert said in failure["traceback"]
        assert set(failure) == {"attempt", "exit", "error", "traceback", "log"}
    assert folder.state(2) is State.FAILED
    assert launch(tmp_path, 1, 2, plan).executed == 0, "a run that failed for good waits for someone to look at it"
    folder.clear_failures()
    assert launch(tmp_path, 1, 0, plan).executed == (1 + FREE_KILLS if fault == "always-kill" else 1)


def test_launching_again_is_harmless_and_starts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan: Plan = [("", 2, 0.0, []), ("", 2, 0.0, [0])]
    first = launch(tmp_path, 2, 0, plan)
    assert (len(first.done), len(first.found)) == (2, 0)
    monkeypatch.setattr(toy_launch, "ForkServer", None)
    again = launch(tmp_path, 2, 0, plan)
    assert (again.found, again.done, again.executed) == (first.done, [], 0)


def test_what_a_slot_gives(tmp_path: Path) -> None:
    plan: Plan = [("", 3, 0.1, [])] * 4
    launch(tmp_path, 8, 0, plan, gpus=["GPU-a", "GPU-b"])
    cores = len(os.sched_getaffinity(0))
    logs = [RunFolder(tmp_path, run.id).log_path.read_text() for run in make_runs(plan)]
    assert {log.split()[3] for log in logs} == {"'GPU-a'", "'GPU-b'"}
    assert {log.split()[1] for log in logs} == {str(max(1, cores // 2))}


def test_kill_9_of_the_launcher_ends_everything_and_loses_nothing(
    tmp_path: Path, until: Until, children: Children
) -> None:
    plan: Plan = [("", 5, 0.03, [])] * 6 + [("", 200, 0.05, [])] * 2
    launcher = start(tmp_path, 3, 0, plan)
    until(lambda: len(executed(tmp_path)) == 8)  # both of the long runs, too: else one may not be forked yet
    below = children(launcher.pid)
    assert 3 <= len(below) <= 4
    launcher.kill()
    launcher.communicate()
    until(lambda: all(map(gone, below)))
    plan[6:] = [("", 200, 0.0, [])] * 2
    summary = launch(tmp_path, 3, 0, plan)
    assert len(summary.done) + len(summary.found) == 8
    assert summary.taken_over >= 1
    assert holds_exactly(tmp_path, plan)


def test_two_launchers_share_the_work_and_the_survivor_takes_over(tmp_path: Path, until: Until) -> None:
    plan: Plan = [("", 4, 0.03, [])] * 16 + [("", 2, 0.03, list(range(16)))]
    one, two = start(tmp_path, 2, 0, plan), start(tmp_path, 2, 0, plan)
    told = [json.loads(launcher.communicate()[0]) for launcher in (one, two)]
    assert holds_exactly(tmp_path, plan)
    assert len(executed(tmp_path)) == len(plan), "no run was executed twice"
    assert sorted(executed(tmp_path, "done")) == sorted(run.id for run in make_runs(plan))
    for summary in told:
        assert summary["counts"] == {"done": 17, "dropped": 0, "failed": 0, "blocked": 0, "left": 0}


def test_the_survivor_of_two_launchers_finishes(tmp_path: Path, until: Until) -> None:
    plan: Plan = [("", 10, 0.03, [])] * 10 + [("", 2, 0.03, list(range(10)))]
    doomed = start(tmp_path, 2, 0, plan)
    until(lambda: len(executed(tmp_path)) >= 2)
    survivor = start(tmp_path, 2, 0, plan)
    until(lambda: len(executed(tmp_path)) >= 5)
    doomed.kill()
    doomed.communicate()
    summary = json.loads(survivor.communicate()[0])
    assert summary["counts"] == {"done": 11, "dropped": 0, "failed": 0, "blocked": 0, "left": 0}
    assert 0 <= summary["taken_over"] <= 2
    assert holds_exactly(tmp_path, plan)


def test_processes_stay_at_jobs_plus_two(tmp_path: Path, children: Children) -> None:
    plan: Plan = [("", 4, 0.02, [])] * 12
    launcher = start(tmp_path, 3, 0, plan)
    most = 0
    while launcher.poll() is None:
        most = max(most, 1 + len(children(launcher.pid)))
        time.sleep(0.005)
    assert json.loads(launcher.communicate()[0])["most"] == 3
    assert most <= 3 + 2


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "cancel"])
def test_stopping_saves_and_another_launch_finishes(
    tmp_path: Path, how: str, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 300.0)
    plan: Plan = [("", 10_000, 0.02, [])] * 3
    events: list[str] = []

    def stop(event: Event) -> None:
        events.append(event.what)
        if events.count("started") == 2 and event.what == "started":
            until(lambda: len(executed(tmp_path)) == 2)
            if how == "cancel":
                Store(tmp_path).request_cancel()
            else:
                os.kill(os.getpid(), signal.Signals[how])

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    summary = launch(tmp_path, 2, 0, plan, observer=stop)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    ids = [run.id for run in make_runs(plan)]
    assert (summary.stopped, summary.left, summary.failed, summary.executed) == (how, ids, {}, 2)
    assert sorted(executed(tmp_path, "stopped")) == sorted(ids[:2]), "they were asked, and saved"
    assert "stopping" in events
    short: Plan = [("", 100, 0.0, [])] * 3
    assert len(launch(tmp_path, 2, 0, short).done) == 3
    assert holds_exactly(tmp_path, short)


def test_a_signal_is_heard_while_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    monkeypatch.setattr(driver, "TICK", 10_000.0)

    def stop() -> None:
        until(lambda: executed(tmp_path))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    summary = launch(tmp_path, 1, 0, [("", 5_000, 0.02, [])])
    thread.join()
    assert summary.stopped == "SIGINT"
    assert len(summary.left) == 1, "not when the run had ended, which wakes the launch as well"


def test_a_run_that_does_not_stop_is_killed_and_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.3)
    plan: Plan = [("always-hang", 3, 0.0, [])]
    folder = RunFolder(tmp_path, make_runs(plan)[0].id)

    def stop(event: Event) -> None:
        if event.what == "started":
            until(lambda: folder.log_path.exists() and "hanging" in folder.log_path.read_text())
            os.kill(os.getpid(), signal.SIGINT)

    summary = launch(tmp_path, 1, 0, plan, observer=stop)
    assert summary.left == [folder.id]
    assert folder.failures() == []
    assert folder.state(0) is State.WAITING


def test_insisting_twice_kills_at_once(tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE", 10_000.0)  # in which the run would not end by itself
    plan: Plan = [("always-hang", 3, 0.0, [])]
    folder = RunFolder(tmp_path, make_runs(plan)[0].id)

    def stop(event: Event) -> None:
        if event.what == "started":
            until(lambda: folder.log_path.exists() and "hanging" in folder.log_path.read_text())
        if event.what in ("started", "stopping"):
            os.kill(os.getpid(), signal.SIGINT)

    summary = launch(tmp_path, 1, 0, plan, observer=stop)
    assert summary.left == [folder.id]


def test_insisting_three_times_interrupts_anything() -> None:
    with Interrupts() as interrupts:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.insisted, interrupts.name) == (True, "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_hang_ends_at_the_timeout(tmp_path: Path) -> None:
    plan: Plan = [("hang", 3, 0.0, []), ("", 3, 0.0, [])]
    summary = launch(tmp_path, 1, 1, plan, timeout=1.0)
    assert len(summary.done) == 2
    folder = RunFolder(tmp_path, make_runs(plan)[0].id)
    assert [failure["error"] for failure in folder.failures()] == ["took longer than 1 s"]


def test_inputs_that_nobody_makes_block(tmp_path: Path) -> None:
    plan: Plan = [("", 1, 0.0, []), ("", 1, 0.0, [0])]
    runs = make_runs(plan)
    summary = launch(tmp_path, 1, 0, plan, only=slice(1, None))
    assert summary.blocked == {runs[1].id: f"needs {runs[0].id}, neither done nor part of this launch"}


def test_a_disk_that_the_launcher_cannot_write_ends_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    plan: Plan = [("", 50, 0.02, [])] * 2
    real = RunFolder.create

    def create(folder: RunFolder, run: object) -> None:
        if os.listdir(folder.path.parent) if folder.path.parent.exists() else []:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.path))
        real(folder, run)  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "create", create)
    with pytest.raises(OSError, match="No space left"):
        launch(tmp_path, 2, 0, plan)
    assert children(os.getpid()) == set()
    assert Store(tmp_path).states([run.id for run in make_runs(plan)], 0).popitem()[1] is State.MISSING


def test_a_server_that_dies_ends_the_launch_with_what_it_said(tmp_path: Path, until: Until, children: Children) -> None:
    plan: Plan = [("", 500, 0.02, [])]

    def kill(event: Event) -> None:
        if event.what == "started":
            until(lambda: executed(tmp_path))
            os.kill(min(children(os.getpid())), signal.SIGKILL)

    with pytest.raises(ForkServerDied, match=r"was killed by SIGKILL .* and they with it"):
        launch(tmp_path, 1, 0, plan, observer=kill)
    until(lambda: not children(os.getpid()))


def test_a_target_that_cannot_be_imported_ends_the_launch(tmp_path: Path) -> None:
    with pytest.raises(ForkServerDied, match="No module named 'no_such_module'"):
        launch(tmp_path, 1, 0, [("", 1, 0.0, [])], target="no_such_module:execute")


def test_slots_divide_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert local.make_slots(3) == [Slot(i, None, 5) for i in range(3)]
    assert local.make_slots(40)[39] == Slot(39, None, 1)
    assert [slot.gpu for slot in local.make_slots(8, ["0", "1"], 3)] == ["0", "1"] * 3
    assert local.make_slots(1, ["0", "1"], 3) == [Slot(0, "0", 16)]


@pytest.mark.parametrize(
    ("variable", "gpus"),
    [("", []), ("-1", []), ("0", ["0"]), ("3, 1", ["3", "1"]), ("0,-1,2", ["0"]), ("GPU-ab", ["GPU-ab"])],
)
def test_visible_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, variable: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert machine.visible_gpus() == gpus


LISTED = """GPU 0: NVIDIA A100 (UUID: GPU-aa-0)
  MIG 3g.40gb     Device  0: (UUID: MIG-11-0)
  MIG 3g.40gb     Device  1: (UUID: MIG-12-0)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bb-0)
"""


def test_visible_gpus_asks_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.visible_gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ntest \"$1\" = -L && printf '%s' '{LISTED}'\n")
    program.chmod(0o755)
    assert machine.visible_gpus() == ["MIG-11-0", "MIG-12-0", "GPU-bb-0"]
    program.write_text("#!/bin/sh\necho 'could not communicate with the NVIDIA driver'; exit 9\n")
    assert machine.visible_gpus() == ["MIG-11-0", "MIG-12-0", "GPU-bb-0"], "the driver is asked once"
    (tmp_path / "broken").mkdir()
    program.rename(tmp_path / "broken" / program.name)
    monkeypatch.setenv("PATH", str(tmp_path / "broken"))
    assert machine.visible_gpus() == []
