"""Kill processes of a sweep at random moments, finish it, and compare."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish, kill, request, same, until
from dgbench.store.state import State

VICTIMS = ("run", "server", "launch", "worker", "all")
CODES = {"run": (0,), "server": (75,), "launch": (-9,), "worker": (0, -9), "all": (0, -9)}
"""Exit codes of the commands that were under way at a kill; 0 with `all` is of one that had ended by itself."""
JOBS = ("--jobs", "2")


def kills(place: Path, count: int, seed: int) -> Iterator[str]:
    """Kill `count` times, once a sweep, and yield a line on each kill."""
    rng = random.Random(seed)
    whole = Sandbox(place / "whole", request())
    start = time.monotonic()
    launch = whole.launch(*JOBS)
    until(lambda: State.RUNNING in whole.states().values(), "a run")
    begins = time.monotonic()
    finish(launch, 0)
    ends = time.monotonic()
    yield f"undisturbed: {len(whole.records())} runs in {ends - start:.0f} s, the first after {begins - start:.0f} s"
    killed, begun, number = Counter[str](), 0, 0
    while sum(killed.values()) < count:
        # A third of the moments may lie in the start of the processes, the others after that of the first run.
        victim, early = VICTIMS[sum(killed.values()) % len(VICTIMS)], rng.random() < 1 / 3
        moment = rng.uniform(0, ends - (start if early else begins))
        number += 1
        with Sandbox(place / f"{number}", request()) as sandbox:
            states = disturbed(sandbox, victim, moment, early=early)
            if states is None:
                yield f"{victim}: the sweep had ended before"
                continue
            if left := sandbox.end():
                raise Harm(f"{sandbox.root}: {left} orphans")
            same(sandbox, whole)
        killed[victim] += 1
        begun += any(state in (State.RUNNING, State.WAITING) for state in states)
        when = f"{moment:.1f} s after the {'start' if early else 'first run began'}"
        counts = ", ".join(f"{n} {state.value}" for state, n in Counter(states).items()) or "nothing planned"
        yield f"{victim} {when} ({counts}): same records, same table, no orphan"
    yield f"{sum(killed.values())} of {count} the same, 0 orphans; {begun} of the kills while runs were under way"


def disturbed(sandbox: Sandbox, victim: str, moment: float, *, early: bool) -> list[State] | None:
    """Execute a sweep that is killed once and finished.

    Args:
        sandbox: The sweep; not begun.
        victim: The role of the process that is killed, or `all`.
        moment: Seconds after which it is killed, or later, as soon as there is one.
        early: Whether they count from the start, or from the beginning of the first run.

    Returns:
        The states of the runs at the kill; None if the sweep ended before it.
    """
    since = time.monotonic()
    commands = [sandbox.launch(*JOBS)]
    if victim in ("worker", "all"):
        until(lambda: sandbox.states() or commands[0].poll() is not None, "a plan")
        commands.append(sandbox.worker(*JOBS, "--idle", "1"))
    if not early:
        until(lambda: State.RUNNING in sandbox.states().values() or commands[0].poll() is not None, "a run")
        since = time.monotonic()
    while time.monotonic() < since + moment or not (found := _find(sandbox, victim)):
        if all(command.poll() is not None for command in commands):
            return None
        time.sleep(0.005)
    below = sandbox.below(found)
    kill(found)
    states = list(sandbox.states().values())
    until(lambda: not below & sandbox.processes().keys(), f"the processes below a killed {victim} to end", 30)
    for command in commands:
        finish(command, *CODES[victim])
    finish(sandbox.launch(*JOBS, "--retries", "9"), 0)
    return states


def _find(sandbox: Sandbox, victim: str) -> list[int]:
    """One process of that role, or all of them."""
    found = [pid for pid, role in sandbox.processes().items() if victim in (role, "all")]
    return found if victim == "all" else found[:1]
