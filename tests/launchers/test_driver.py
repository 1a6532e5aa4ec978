"""The driver of a launch, with an engine that has no processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest
from toy_launch import Plan, make_runs

from dgbench.core.run import Run
from dgbench.launchers import driver
from dgbench.launchers.base import TO_THE_END, Ended, Engine, Event, Observer, Summary, Terms
from dgbench.launchers.driver import MOST_DAMAGED, drive
from dgbench.launchers.interrupts import Interrupts
from dgbench.store import removal
from dgbench.store.folder import Store
from dgbench.store.lease import INPUT_DAMAGED, PROGRESS, STOPPED, TAKEN, lease_name, mark_released
from dgbench.store.notes import FREE_KILLS
from dgbench.store.process import Process
from dgbench.store.run_folder import CHECKPOINT, RunFolder
from dgbench.store.state import State


class Cluster(Engine):
    """Machines that are nowhere: attempts claim leases under the names of other hosts, and end as a script says.

    It offers what `Engine` demands and nothing else, so that the driver can't come to rely on more.
    """

    def __init__(self, store: Store, nodes: int, script: dict[str, list[str]]) -> None:
        """`script`: what becomes of each attempt at a run, by the run's id; "done" where it says nothing."""
        self._store, self._nodes, self._script = store, nodes, script
        self._attempts: dict[str, tuple[str, int | None]] = {}
        self._stopping = self._killed = False
        self._calls: list[str] = []

    @property
    def capacity(self) -> int:
        return self._nodes - len(self._attempts)

    def submit(self, runs: Sequence[Run]) -> None:
        assert 0 < len(runs) <= self.capacity
        for run in runs:
            folder = self._store.folder(run.id)
            assert folder.run() == run, "an engine's process elsewhere reads what to execute"
            fate = self._script[run.id].pop(0) if self._script.get(run.id) else "done"
            number = None if fate in ("unclaimed", "taken") else 1 + len(list(folder.path.glob("lease-????")))
            if number is not None:
                holder = Process(f"node {number}", "a kernel far away", os.getpid(), 1)
                (folder.path / lease_name(number)).write_text(json.dumps(asdict(holder)))
            self._attempts[run.id] = fate, number
        self._calls.append(f"submit {len(runs)}")

    def wait(self, timeout: float) -> list[Ended]:
        assert 0 <= timeout <= driver.TICK
        ended = [self._end(id, *attempt) for id, attempt in self._attempts.items() if self._ends(attempt[0])]
        for end in ended:
            del self._attempts[end.id]
        return ended

    def _ends(self, fate: str) -> bool:
        return self._killed or fate not in ("hang", "deaf") or (self._stopping and fate == "hang")

    def _end(self, id: str, fate: str, number: int | None) -> Ended:
        if self._killed:
            return Ended(id, -9, number, stopped=True)
        if fate in ("done", "taken"):
            self._store.folder(id).finish({})
            if number is not None:
                mark_released(self._store.folder(id).path, number)
        if fate == "damaged":  # as a run does that finds it so
            for source in self._store.folder(id).run().inputs:
                removal.begin_anew(self._store.folder(source.run), "one bit")
        return {
            "done": Ended(id, 0, number, seconds=2.5),
            "taken": Ended(id, TAKEN, number),
            "killed": Ended(id, -9, number),
            "terminated": Ended(id, -15, number),
            "damaged": Ended(id, INPUT_DAMAGED, number),
            "crashed": Ended(id, -11, number),
            "starved": Ended(id, -9, number, out_of_memory=True),
            "unclaimed": Ended(id, 1, number),
            "slow": Ended(id, -9, number, timeout=30.0),
            "lost": Ended(id, -9, number, stopped=True),
            "hang": Ended(id, STOPPED, number, stopped=True),
        }[fate]

    def cancel(self) -> None:
        self._calls.append("cancel")
        self._stopping = True

    def kill(self) -> None:
        self._calls.append("kill")
        self._killed = True

    def close(self) -> None:
        self._calls.append("close")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TICK", 0.01)


def run_plan(
    root: Path,
    plan: Plan,
    fates: dict[int, list[str]],
    *,
    retries: int = 0,
    observer: Observer = lambda event: None,
    terms: Terms = TO_THE_END,
    first: int = 0,
) -> tuple[Summary, list[str]]:
    """What a launch on two machines came to, and the calls that the engine got; `fates` by the position of a run."""
    runs = make_runs(plan)
    engine = Cluster(Store(root), 2, {runs[i].id: list(those) for i, those in fates.items()})
    with Interrupts() as interrupts:
        summary = drive(Store(root), runs, engine, retries, interrupts, observer, terms, first)
    return summary, engine._calls


def test_runs_start_in_order_within_the_capacity_and_after_their_inputs(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, [0]), ("", 0, 0, []), ("", 0, 0, []), ("", 0, 0, [1, 3])]
    ids = [run.id for run in make_runs(plan)]
    order = [ids[i] for i in (0, 2, 1, 3, 4)]
    events: list[Event] = []
    summary, calls = run_plan(tmp_path, plan, {}, observer=events.append)
    assert calls == ["submit 2", "submit 2", "submit 1", "close"]
    assert [event.run.id for event in events if event.run and event.what == "started"] == order
    assert {event.seconds for event in events if event.what == "done"} == {2.5}
    assert (summary.done, summary.executed, summary.most) == (order, 5, 2)
    assert (summary.left, summary.stopped, summary.taken_over) == ([], "", 0)
    assert run_plan(tmp_path, plan, {})[1] == ["close"], "all is found done"


def test_a_failure_on_another_machine_is_recorded_under_its_lease_and_tried_again_at_once(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, [0])]
    ids = [run.id for run in make_runs(plan)]
    summary, _ = run_plan(tmp_path, plan, {0: ["crashed", "slow", "unclaimed"]}, retries=2)
    folder = RunFolder(tmp_path, ids[0])
    assert [(failure["attempt"], failure["exit"], failure["error"]) for failure in folder.failures()] == [
        (1, -11, "killed by SIGSEGV"),
        (2, -9, "took longer than 30 s"),
        (3, 1, "exit code 1: it said nothing"),
    ]
    assert list(summary.failed) == ids[:1]
    assert list(summary.blocked) == ids[1:]
    assert (summary.executed, folder.state(2)) == (3, State.FAILED)
    assert len(run_plan(tmp_path, plan, {}, retries=3)[0].done) == 2


def test_what_is_killed_from_outside_uses_up_no_retry(tmp_path: Path) -> None:
    events: list[Event] = []
    fates = {0: ["killed", "killed", "terminated", "done"]}
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])], fates, retries=0, observer=events.append)
    assert (len(summary.done), summary.executed, summary.failed) == (1, 4, {})
    assert [event.what for event in events if event.run] == ["started", "retry"] * 3 + ["started", "done"]
    folder = RunFolder(tmp_path, summary.done[0])
    assert [failure["exit"] for failure in folder.failures()] == [-9, -9, -15], "on record all the same"
    told = [event.detail for event in events if event.what == "retry"]
    assert told[0].startswith(
        "killed by SIGKILL (often: out of memory) (killed 1 times, of which 3 use up no retry; log"
    )


def test_what_is_killed_again_and_again_has_failed(tmp_path: Path) -> None:
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])], {0: ["killed"] * 9}, retries=2)
    assert (summary.executed, len(summary.failed)) == (1 + FREE_KILLS + 2, 1)
    assert RunFolder(tmp_path, *summary.failed).clear_failures() == 1 + FREE_KILLS + 2
    assert len(run_plan(tmp_path, [("", 0, 0, [])], {})[0].done) == 1


def test_a_run_that_is_too_large_for_the_machine_has_failed_by_itself(tmp_path: Path) -> None:
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])], {0: ["starved"] * 9}, retries=1)
    assert summary.executed == 2
    (reason,) = summary.failed.values()
    assert reason.startswith(
        "killed by SIGKILL: the machine, or its share of it, was out of memory (2 of 2 attempts; log"
    )


def test_a_checkpoint_that_a_kill_left_behind_done_is_removed(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, [])]
    folders = [RunFolder(tmp_path, run.id) for run in make_runs(plan)]
    folders[0].create(make_runs(plan)[0])
    folders[0].finish({})
    (folders[0].path / CHECKPOINT).touch()

    def leave(event: Event) -> None:
        if event.run == make_runs(plan)[1] and event.what == "started":
            (folders[1].path / CHECKPOINT).touch()

    summary, _ = run_plan(tmp_path, plan, {}, observer=leave)
    assert (len(summary.found), len(summary.done)) == (1, 1)
    assert not any((folder.path / CHECKPOINT).exists() for folder in folders)


@pytest.mark.parametrize("before", [False, True], ids=["done in this launch", "done before"])
def test_a_damaged_input_is_made_again_and_then_what_reads_it(tmp_path: Path, before: bool) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, []), ("", 0, 0, [0, 1]), ("", 0, 0, [2])]
    ids = [run.id for run in make_runs(plan)]
    if before:
        for run in make_runs(plan)[:2]:
            RunFolder(tmp_path, run.id).create(run)
            RunFolder(tmp_path, run.id).finish({})
    events: list[Event] = []
    summary, _ = run_plan(tmp_path, plan, {2: ["damaged", "damaged"]}, observer=events.append)
    assert sorted((*summary.found, *summary.done)) == sorted(ids), "each is counted once"
    assert (summary.failed, summary.blocked, summary.left) == ({}, {}, [])
    started = [ids.index(event.run.id) for event in events if event.run and event.what == "started"]
    assert started == [*([] if before else [0, 1]), 2, 0, 1, 2, 0, 1, 2, 3]
    assert RunFolder(tmp_path, ids[2]).failures() == []
    assert [event.detail for event in events if event.what == "retry"][1] == "begins anew: one bit"
    assert [loss["why"] for loss in RunFolder(tmp_path, ids[0]).restarts()] == ["one bit"], "status tells"


def test_an_input_that_is_damaged_again_and_again_ends_in_a_failure(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, [0])]
    summary, _ = run_plan(tmp_path, plan, {1: ["damaged"] * 9})
    assert [make_runs(plan)[1].id] == list(summary.failed)
    assert summary.executed == 2 * (1 + MOST_DAMAGED)


def test_a_damaged_input_that_is_not_in_the_launch_blocks(tmp_path: Path) -> None:
    runs = make_runs([("", 0, 0, []), ("", 0, 0, [0])])
    RunFolder(tmp_path, runs[0].id).create(runs[0])
    RunFolder(tmp_path, runs[0].id).finish({})
    engine = Cluster(Store(tmp_path), 2, {runs[1].id: ["damaged"]})
    with Interrupts() as interrupts:
        summary = drive(Store(tmp_path), runs[1:], engine, 0, interrupts)
    assert list(summary.blocked.values()) == [f"needs {runs[0].id}, neither done nor part of this launch"]


def test_an_attempt_that_was_lost_uses_up_no_retry(tmp_path: Path) -> None:
    events: list[Event] = []
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])], {0: ["lost", "lost", "done"]}, observer=events.append)
    assert (len(summary.done), summary.executed, summary.failed) == (1, 3, {})
    names = os.listdir(RunFolder(tmp_path, summary.done[0]).path)
    assert {"lease-0001.released", "lease-0002.released"} <= set(names), "they need not grow old"
    assert [event.what for event in events if event.run] == ["started", "stopped"] * 2 + ["started", "done"]
    assert RunFolder(tmp_path, summary.done[0]).failures() == []


def test_a_worker_without_a_run_to_claim_leaves_a_plan_that_has_grown(tmp_path: Path) -> None:
    """It asks only then."""
    runs = make_runs([("", 0, 0, []), ("", 0, 0, [])])
    folder = RunFolder(tmp_path, runs[0].id)
    folder.create(runs[0])
    asked: list[State] = []

    def replanned() -> bool:
        asked.append(RunFolder(tmp_path, runs[1].id).state(0))
        return len(asked) > 2

    with folder.claim() as lease, Interrupts() as interrupts:  # type: ignore[union-attr]
        terms = replace(TO_THE_END, replanned=replanned)
        engine = Cluster(Store(tmp_path), 1, {})
        summary = drive(Store(tmp_path), runs, engine, 0, interrupts, terms=terms)
        assert not lease.lost
    assert (summary.leaving, summary.left, summary.exit_code) == ("replanned", [runs[0].id], 0)
    assert asked == [State.DONE] * 3


@pytest.mark.parametrize(
    ("before", "after", "fate", "stepped"),
    [
        (None, None, "killed", False),
        (None, (0, 9), "lost", False),
        (None, (1, 9), "lost", True),
        ((4, 9), (4, 9), "lost", False),
        ((4, 9), (5, 9), "killed", True),
        ((4, 9), None, "done", True),
    ],
)
def test_it_is_noted_whether_an_attempt_made_a_step(
    tmp_path: Path, before: tuple[int, int] | None, after: tuple[int, int] | None, fate: str, stepped: bool
) -> None:
    (run,) = make_runs([("", 0, 0, [])])
    folder = RunFolder(tmp_path, run.id)
    folder.create(run)

    def write(steps: tuple[int, int] | None, event: str = "started") -> None:
        if steps and event == "started":
            (folder.path / PROGRESS).write_bytes(orjson.dumps(steps))

    write(before)
    terms = replace(TO_THE_END, once=True)
    engine = Cluster(Store(tmp_path), 1, {run.id: [fate, "taken"]})
    with Interrupts() as interrupts:
        summary = drive(Store(tmp_path), [run], engine, 0, interrupts, lambda event: write(after, event.what), terms)
    assert summary.stepped is stepped


def test_an_attempt_that_goes_on_where_a_dead_one_ended_is_counted(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, []), ("", 0, 0, [])]
    folder = RunFolder(tmp_path, make_runs(plan)[0].id)
    folder.create(make_runs(plan)[0])
    (folder.path / lease_name(1)).touch()
    os.utime(folder.path / lease_name(1), (0, 0))
    assert run_plan(tmp_path, plan, {})[0].taken_over == 1


def test_a_run_that_another_launch_has_is_done_elsewhere(tmp_path: Path) -> None:
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])], {0: ["taken"]})
    assert (len(summary.done), summary.executed) == (1, 1)


def press(times: int) -> Callable[[Event], None]:
    """An observer that presses Ctrl-C when the first run starts, and again when it is told of the stop."""
    left = ["started", "stopping"][:times]

    def observe(event: Event) -> None:
        if left and event.what == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGINT)

    return observe


def test_a_signal_has_the_engine_cancel_and_the_driver_wait_for_it(tmp_path: Path) -> None:
    plan: Plan = [("", 0, 0, [])] * 3
    summary, calls = run_plan(tmp_path, plan, {0: ["hang"], 1: ["hang"]}, observer=press(1))
    assert calls == ["submit 2", "cancel", "close"]
    assert (summary.stopped, summary.left, summary.failed) == ("SIGINT", [run.id for run in make_runs(plan)], {})
    assert Store(tmp_path).states(summary.left[:2], 0) == dict.fromkeys(summary.left[:2], State.WAITING)


def test_a_second_signal_has_the_engine_kill(tmp_path: Path) -> None:
    summary, calls = run_plan(tmp_path, [("", 0, 0, [])], {0: ["deaf"]}, observer=press(2))
    assert calls == ["submit 1", "cancel", "kill", "close"]
    assert (len(summary.left), summary.failed) == (1, {})


def test_the_engine_is_closed_after_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Cluster(Store(tmp_path), 1, {})
    monkeypatch.setattr(Cluster, "wait", lambda self, timeout: (_ for _ in ()).throw(OSError("no controller")))
    with Interrupts() as interrupts, pytest.raises(OSError, match="no controller"):
        drive(Store(tmp_path), make_runs([("", 0, 0, [])]), engine, 0, interrupts)
    assert engine._calls == ["submit 1", "close"]


def test_the_driver_imports_no_engine() -> None:
    check = "import sys, dgbench.launchers.driver; print([name for name in sys.modules if 'launchers.' in name])"
    told = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert set(eval(told)) == {f"dgbench.launchers.{name}" for name in ("base", "driver", "failures", "interrupts")}


# -- terms, by which a worker leaves -------------------------------------------------------------------------------


def hold(root: Path, run: Run) -> None:
    """Have this very process hold a run's lease, as another launch would."""
    folder = RunFolder(root, run.id)
    folder.create(run)
    assert folder.claim()


def test_the_order_goes_round_from_the_first_place(tmp_path: Path) -> None:
    plan: Plan = [("", i, 0, []) for i in range(4)]
    summary, _ = run_plan(tmp_path, plan, {}, first=2)
    assert summary.done == [make_runs(plan)[i].id for i in (2, 3, 0, 1)]


@pytest.mark.parametrize("idle", [0.0, 0.05])
def test_without_a_run_to_claim_it_leaves(tmp_path: Path, idle: float) -> None:
    plan: Plan = [("", 0, 0, []), ("", 1, 0, []), ("", 2, 0, [1])]
    runs = make_runs(plan)
    hold(tmp_path, runs[1])
    events: list[Event] = []
    summary, _ = run_plan(tmp_path, plan, {}, terms=Terms(idle=idle), observer=events.append)
    assert (summary.done, summary.left) == ([runs[0].id], [runs[1].id, runs[2].id])
    assert (summary.leaving, summary.stopped, summary.exit_code) == ("idle", "", 0), "others hold the rest"
    assert summary.elapsed >= idle
    assert f"no run could be claimed for {idle:g} s" in [event.detail for event in events if event.what == "leaving"]


def test_it_is_not_idle_while_it_executes_a_run(tmp_path: Path) -> None:
    """The merge of a run must find a worker, though its member takes long."""
    plan: Plan = [("slow", 0, 0, []), ("", 1, 0, [0])]
    runs = make_runs(plan)
    engine = Cluster(Store(tmp_path), 2, {})
    wait, calls = engine.wait, iter(range(1000))

    def slowly(timeout: float) -> list[Ended]:
        time.sleep(0.01)
        return [] if next(calls) < 20 else wait(timeout)

    engine.wait = slowly  # type: ignore[method-assign]
    with Interrupts() as interrupts:
        summary = drive(Store(tmp_path), runs, engine, 0, interrupts, terms=Terms(idle=0.05))
    assert summary.done == [run.id for run in runs]


def test_failures_in_a_row_make_it_leave(tmp_path: Path) -> None:
    plan: Plan = [("", i, 0, []) for i in range(12)]
    fates = {i: ["crashed"] for i in (0, 1, 4, 5, 6, 7)}
    summary, _ = run_plan(tmp_path, plan, fates, terms=Terms(max_failures=3))
    assert len(summary.failed) in (5, 6), "two at a time; success in between begins the count anew"
    assert (summary.leaving, summary.exit_code) == ("failures", 70)
    assert not RunFolder(tmp_path, make_runs(plan)[11].id).path.exists()


def test_failures_that_settle_the_sweep_are_not_the_machines(tmp_path: Path) -> None:
    summary, _ = run_plan(tmp_path, [("", 0, 0, [])] * 1, {0: ["crashed"]}, terms=Terms(max_failures=1))
    assert (summary.leaving, summary.exit_code) == ("", 1)


@pytest.mark.parametrize(
    ("fate", "retries", "code"), [("done", 0, 0), ("crashed", 0, 1), ("crashed", 1, 75), ("lost", 0, 75)]
)
def test_once_is_one_run(tmp_path: Path, fate: str, retries: int, code: int) -> None:
    plan: Plan = [("", i, 0, []) for i in range(3)]
    hold(tmp_path, make_runs(plan)[0])
    summary, calls = run_plan(tmp_path, plan, {1: [fate]}, retries=retries, terms=Terms(once=True))
    assert calls == ["submit 1", "close"]
    assert (summary.leaving, summary.attempted, summary.exit_code) == ("once", make_runs(plan)[1].id, code)


def test_at_the_end_of_its_time_runs_are_saved(tmp_path: Path) -> None:
    plan: Plan = [("", i, 0, []) for i in range(2)]
    terms = Terms(until=time.monotonic() + 0.1)
    summary, calls = run_plan(tmp_path, plan, {0: ["hang"], 1: ["hang"]}, terms=terms)
    assert calls == ["submit 2", "cancel", "close"]
    assert (summary.stopped, len(summary.left), summary.exit_code) == ("time", 2, 75)
