"""Suspend holders of leases, set their clocks wrong, and put them where they can't be looked up."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish, kill, same, slow_request, until
from dgbench.store.lease import is_lease
from dgbench.store.state import State

TTL = 10
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Words before a command that has its own process ids, as on another machine: there only the age of signs counts."""
WRAPS: dict[str, Sequence[str]] = {
    "another host name": ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"),
    "another pid namespace": ELSEWHERE,
    "another pid namespace with the outer /proc": ("unshare", "--pid", "--fork", "--kill-child"),
}
OPTIONS = ("--jobs", "1", "--ttl", str(TTL))


def stops(place: Path, count: int, seed: int) -> Iterator[str]:
    """Suspend a worker for longer than its time to live, let another take over, and let the first go on."""
    rng, whole = random.Random(seed), _whole(place)
    for number in range(count):
        with Sandbox(place / f"{number}", whole.words) as sandbox:
            step = _stopped(sandbox, rng.uniform(0, 8))
            same(sandbox, whole)
        yield f"stopped at step {step}: taken over, same records; continued, the stale owner wrote nothing"


def _stopped(sandbox: Sandbox, moment: float) -> int:
    """Suspend a worker so many seconds after its first step, until another has finished; return its step."""
    sandbox.plan()
    stopped = sandbox.worker(*OPTIONS, "--idle", "0", wrap=ELSEWHERE)
    until(lambda: _held(sandbox), "the worker to begin a run")
    time.sleep(moment)
    (run,) = _held(sandbox)
    pids = [pid for pid, role in sandbox.processes().items() if role != "other"]
    step = (sandbox.folder(run).progress() or (0, 0))[0]
    kill(pids, signal.SIGSTOP)
    finish(sandbox.worker(*OPTIONS, "--idle", "60"), 0)
    before = _files(sandbox)
    kill(pids, signal.SIGCONT)
    finish(stopped, 0, 75)
    if (after := _files(sandbox)) != before:
        raise Harm(f"{sandbox.root}: the stale owner wrote {_changed(before, after)}")
    return step


def clocks(place: Path, count: int, seed: int) -> Iterator[str]:
    """Let three workers share a sweep, of which one is an hour early and one an hour late."""
    if not shutil.which("faketime"):
        yield "left out: faketime is not installed"
        return
    whole = _whole(place, hparams=6)
    # Dates of files stay those of the file server: they are neither read nor written by the wrong clock.
    env = {"NO_FAKE_STAT": "1", "FAKE_UTIME": "1", "DONT_FAKE_MONOTONIC": "1"}
    for number in range(count):
        with Sandbox(place / f"{number}", whole.words) as sandbox:
            sandbox.plan()
            workers = [
                sandbox.worker(*OPTIONS, "--idle", "60", wrap=("faketime", "-f", offset, *ELSEWHERE), env=env)
                for offset in ("+1h", "-1h", "+0s")
            ]
            for worker in workers:
                finish(worker, 0)
            attempts = sandbox.attempts()
            if any(attempt != 1 for attempt in attempts):
                raise Harm(f"{sandbox.root}: runs were taken up {attempts} times")
            holders = {found[0].process for folder in sandbox.folders() if (found := folder.holder())}
            same(sandbox, whole)
        yield f"early, late, right: {len(attempts)} runs by {len(holders)} processes, each taken up once; same records"


def namespaces(place: Path, count: int, seed: int) -> Iterator[str]:
    """Put a holder behind another host name or pid namespace, wait beside it, and kill it."""
    whole = _whole(place)
    for number in range(count):
        for where, wrap in WRAPS.items():
            with Sandbox(place / f"{number}-{where.replace(' ', '-').replace('/', '')}", whole.words) as sandbox:
                lasted = _taken_over(sandbox, wrap)
                same(sandbox, whole)
            yield f"{where}: not taken over alive; killed, taken over after {lasted:.0f} s; same records"


def _taken_over(sandbox: Sandbox, wrap: Sequence[str]) -> float:
    """Kill a worker beside another one; return the seconds until that took its run over."""
    sandbox.plan()
    holder, beside = sandbox.worker(*OPTIONS, wrap=wrap), sandbox.worker(*OPTIONS, "--idle", "60")
    until(lambda: len(_held(sandbox)) == 2, "both workers to begin a run")
    time.sleep(TTL)
    if sandbox.attempts() != [1, 1]:
        raise Harm(f"{sandbox.root}: a live run was taken over: {sandbox.attempts()}")
    kill(sandbox.below([holder.pid]))
    killed = time.monotonic()
    until(lambda: 2 in sandbox.attempts(), "the run to be taken over")
    lasted = time.monotonic() - killed
    finish(holder, -9)
    finish(beside, 0)
    if (attempts := sandbox.attempts()) != [1, 1, 2]:
        raise Harm(f"{sandbox.root}: runs were taken up {attempts} times")
    return lasted


def _whole(place: Path, hparams: int = 2) -> Sandbox:
    """The sweep of slow runs, undisturbed."""
    whole = Sandbox(place / "whole", slow_request(place, hparams=hparams, steps=3000 if hparams == 2 else 900))
    finish(whole.launch("--jobs", str(hparams)), 0)
    return whole


def _held(sandbox: Sandbox) -> list[str]:
    """The runs whose holder has made a step."""
    running = [run for run, state in sandbox.states().items() if state is State.RUNNING]
    return [run for run in running if (sandbox.folder(run).progress() or (0, 0))[0]]


def _files(sandbox: Sandbox) -> Mapping[str, tuple[int, int]]:
    """Size and date of each file of the runs, except for leases and logs, in which a stale owner says farewell."""
    found = (path for path in sandbox.root.glob("runs/**/*") if path.is_file() and not _is_own(path.name))
    return {str(path.relative_to(sandbox.root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def _is_own(name: str) -> bool:
    return is_lease(name) or name == "log.txt"


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    return ", ".join(sorted(name for name in before.keys() | after if before.get(name) != after.get(name)))
