from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dgbench.core.halving import Bracket
from dgbench.core.protocol import Fold, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.core.wording import format_duration
from dgbench.launchers import progress as module
from dgbench.launchers.base import Event
from dgbench.launchers.progress import Tally, progress
from dgbench.store.folder import Store

FOLD = Fold(("b",), (View("a", "in"),), (View("a", "out"),), (View("b", "in"),))
SLOW = [Run("train", ResolvedEntry("Slow"), "Data", FOLD, i, 0, setting()) for i in range(4)]
QUICK = [replace(run, method=ResolvedEntry("Quick")) for run in SLOW]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: time[0])
    return time


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=150, height=50), out


def test_counts_say_where_every_run_is(tmp_path: Path) -> None:
    tally = Tally(Store(tmp_path), SLOW + QUICK, 2)
    assert tally.counts() == "0/8 done, 8 waiting"
    for what, run in zip(["found", "started", "failed", "blocked", "elsewhere"], SLOW + QUICK, strict=False):
        tally.add(Event(what, run))
    assert tally.counts() == "1/8 done, 1 running, 1 elsewhere, 1 failed, 1 blocked, 3 waiting"
    tally.add(Event("retry", SLOW[1]))
    tally.add(Event("done", QUICK[0]))
    tally.add(Event("tick"))
    assert tally.counts() == "2/8 done, 1 failed, 1 blocked, 4 waiting"
    assert not tally.running


def test_time_left_goes_by_kind_and_method(tmp_path: Path, now: list[float]) -> None:
    tally = Tally(Store(tmp_path), SLOW + QUICK, 2)
    assert tally.eta() is None
    tally.add(Event("found", SLOW[0]))
    assert tally.eta() is None, "a run that was done before says nothing about time"
    tally.add(Event("done", SLOW[1], seconds=100))
    assert tally.eta() == (2 * 100 + 4 * 100) / 2, "an unknown method takes what the known ones take"
    tally.add(Event("done", QUICK[0], seconds=10))
    assert tally.eta() == (2 * 100 + 3 * 10) / 2
    tally.add(Event("started", SLOW[2]))
    now[0] += 40
    assert tally.eta() == (60 + 100 + 3 * 10) / 2
    now[0] += 400
    assert tally.eta() == (0 + 100 + 3 * 10) / 2, "a run that is late has nothing left, not less"
    tally.add(Event("failed", SLOW[2]))
    tally.add(Event("blocked", SLOW[3]))
    assert tally.line() == "3/8 done, 1 failed, 1 blocked, 3 waiting, 0:15 left"


def test_time_left_counts_the_steps_that_a_search_will_train(tmp_path: Path, now: list[float]) -> None:
    """Four draws to step 10 of 100, the two best to 20, the best to the end."""
    store = Store(tmp_path, brackets=[Bracket(tuple(run.id for run in SLOW), (9, 19), 100)])
    tally = Tally(store, SLOW, 1)

    def pause(run: Run, rung: int, score: float, seconds: float) -> None:
        tally.add(Event("started", run))
        now[0] += seconds
        store.folder(run.id).path.mkdir(parents=True, exist_ok=True)
        store.folder(run.id).reach(rung, score, {})
        tally.add(Event("paused", run))

    pause(SLOW[0], 9, 0.5, 10)
    assert tally.eta() == pytest.approx(30 + 20 + 80), "three more to step 10, at a second a step"
    for run, score in zip(SLOW[1:], (0.25, 0.0, 0.0), strict=True):
        pause(run, 9, score, 10)
    assert tally.eta() == pytest.approx(20 + 80)
    for run in SLOW[2:]:
        tally.add(Event("dropped", run))
    pause(SLOW[0], 19, 0.5, 10)
    assert tally.eta() == pytest.approx(10 + 80)
    pause(SLOW[1], 19, 0.75, 10)
    tally.add(Event("started", SLOW[1]))
    now[0] += 30
    assert tally.eta() == pytest.approx(50)
    tally.add(Event("done", SLOW[1], seconds=80))
    tally.add(Event("dropped", SLOW[0]))
    assert (tally.eta(), tally.line()) == (0, "1/4 done, 3 dropped")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (75, "1:15"), (3675, "1:01:15")])
def test_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_plain_lines_are_few_but_failures_are_told_at_once(tmp_path: Path, now: list[float]) -> None:
    screen, out = console(terminal=False)
    with progress(Store(tmp_path), SLOW, 1, screen) as observe:
        assert out.getvalue() == "0/4 done, 4 waiting\n", "at once"
        for _ in range(300):
            now[0] += 1
            observe(Event("tick"))
        assert out.getvalue().count("\n") == 1, "nothing happened: it is said once"
        for run in SLOW[:3]:
            observe(Event("done", run, seconds=60))
            now[0] += 10
        assert out.getvalue().count("\n") == 2, "a line a minute"
        now[0] += 1
        observe(Event("failed", SLOW[3], "exit code 1 [red] :cat:; log: /tmp/log.txt"))
    told = out.getvalue().splitlines()[2:]
    assert told == [
        f"failed: {SLOW[3].name} ({SLOW[3].id}): exit code 1 [red] :cat:; log: /tmp/log.txt",
        "3/4 done, 1 failed",
    ]


def test_plain_lines_say_how_far_a_long_run_is(tmp_path: Path, now: list[float]) -> None:
    store, (screen, out) = Store(tmp_path), console(terminal=False)
    for run in SLOW[:2]:
        store.folder(run.id).create(run)
    with progress(store, SLOW, 2, screen) as observe:
        for run in SLOW[:2]:
            observe(Event("started", run))
        now[0] += 60
        observe(Event("tick"))
        assert out.getvalue() == "0/4 done, 4 waiting\n0/4 done, 2 running, 2 waiting\n"
        for number, told in enumerate(("before its first step", "step 1,030 of 1,200", "step 1,030 of 1,200")):
            for _ in range(60):
                now[0] += 1
                observe(Event("tick"))
            assert out.getvalue().splitlines()[number + 2 :] == [
                f"0/4 done, 2 running, 2 waiting; {SLOW[min(1, number)].name}: {told}"
            ]
            for run, far in zip(SLOW[:2], ("[30,1200]", "[1030,1200]"), strict=True):
                (store.folder(run.id).path / "progress.json").write_text(far)


def test_live_view_shows_how_far_each_run_is(tmp_path: Path, now: list[float]) -> None:
    store = Store(tmp_path)
    folder = store.folder(SLOW[0].id)
    folder.create(SLOW[0])
    (folder.path / "progress.json").write_text("[30,120]")
    screen, out = console(terminal=True)
    with progress(store, SLOW, 2, screen) as observe:
        observe(Event("started", SLOW[0]))
        observe(Event("started", SLOW[1]))
        now[0] += 65
        observe(Event("tick"))
        observe(Event("stopping", detail="SIGINT"))
    shown = out.getvalue()
    assert f"{SLOW[0].name}" in shown
    assert "30/120" in shown
    assert "1:05" in shown
    assert "starting" in shown
    assert "0/4 done, 2 running, 2 waiting" in shown
    assert "stopping: SIGINT; running runs save their state" in shown
    assert shown.endswith("0/4 done, 2 running, 2 waiting\n")


def test_planning_a_launch_does_not_import_rich() -> None:
    code = "import sys, dgbench.launchers.reconcile; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_reasons_and_names_are_neither_obeyed_nor_taken_for_markup(tmp_path: Path, terminal: bool) -> None:
    shown, out = console(terminal)
    fold = replace(FOLD, held_out=("b\x1b[5m", ":bomb:\nd"))
    run = replace(SLOW[0], fold=fold)
    with progress(Store(tmp_path), [run], 1, shown) as observer:
        observer(Event("started", run))
        observer(Event("failed", run, detail="no file \x1b]0;title\x07 [red]:bomb:\nnext"))
    said = out.getvalue()
    assert r"Slow Data [b\x1b[5m+:bomb:\nd] hparams 0 trial 0" in said
    assert r"no file \x1b]0;title\x07 [red]:bomb:\nnext" in said
    assert "\x1b[5m" not in said
    assert "\x1b]" not in said
    assert "\x07" not in said
