"""Define the types that the driver of a launch shares with its engines and displays.

`Engine` is the protocol that the driver calls: local processes implement it (`local`), and so may a cluster's queue.
`Event` and `Summary` are reported by the driver, during a launch and after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dgbench.core.run import Run


@dataclass(frozen=True)
class Ended:
    """The end of an attempt at a run, as its engine saw it. Whether the run succeeded is read from the run's folder."""

    id: str
    """Id of the run."""
    status: int
    """Exit code, or the negated number of the signal that ended it."""
    lease: int | None = None
    """Number of the lease that the attempt claimed; None if it claimed none, or the engine cannot know."""
    stopped: bool = False
    """Whether it got a request to stop, or was lost with its machine; neither is a failure or uses up a retry."""
    timeout: float | None = None
    """The limit in seconds that it exceeded, if it was killed for that; None otherwise."""
    seconds: float = 0.0
    """Wall-clock duration in seconds."""
    out_of_memory: bool = False
    """Whether the system killed processes for lack of memory during the attempt; this may have been one of them."""


class Engine(Protocol):
    """A place where runs execute: it starts attempts at runs, reports those that ended, and stops them.

    An engine judges nothing, because the truth about a run is in its folder. Its processes may be on other machines,
    under process ids that mean nothing on this one.
    """

    @property
    def capacity(self) -> int:
        """Return how many more runs can be submitted now."""

    def submit(self, runs: Sequence[Run]) -> None:
        """Start one attempt at each of these runs, whose folders exist; at most `capacity` at once."""

    def wait(self, timeout: float) -> Sequence[Ended]:
        """Return the attempts that ended, each once, after `timeout` seconds at most.

        Return earlier as soon as an attempt ends or a signal reaches this process. While an engine can't find out about
        an attempt, for instance because a cluster's controller is down, the attempt counts as running.
        """

    def cancel(self) -> None:
        """Request that each attempt save its state and exit, and see that it does; `wait` reports it as stopped."""

    def kill(self) -> None:
        """End every attempt now."""

    def close(self) -> None:
        """End the remaining attempts and release all resources; called once, also after an exception."""


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time executes."""

    index: int
    gpu: str | None
    """Value of CUDA_VISIBLE_DEVICES for its runs; None where runs execute on the CPU."""
    threads: int
    """Threads that a run may use, so that all slots together use each core once."""


What = Literal[
    "found",
    "started",
    "done",
    "paused",
    "dropped",
    "retry",
    "failed",
    "blocked",
    "elsewhere",
    "stopped",
    "stopping",
    "leaving",
    "tick",
]


@dataclass(frozen=True)
class Event:
    """A change of one run during a launch, or the pulse of about once a second (`tick`), for displays.

    `found`: was done before the launch. `paused`: waits at a rung of the search for others. `dropped`: the search ended
    it there. `retry`: failed and is tried again. `failed`: failed for good. `blocked`: needs
    a run that failed for good. `elsewhere`: another launcher executes it. `stopped`: its process stopped on request and
    saved its state. `stopping`: the launch itself stops. `leaving`: it starts no further run, and waits for
    those that it executes.
    """

    what: What
    run: Run | None = None
    detail: str = ""
    """The reason, with the path of the log; empty where the kind of event says all."""
    seconds: float = 0.0
    """Duration of a run that this launch finished, in seconds; 0 for other events."""


Observer = Callable[[Event], None]


NO_LIMIT = float("inf")
GRACE = 10.0
"""Seconds that runs have to save their state when a launch is stopped."""


@dataclass(frozen=True)
class Terms:
    """The conditions under which a launch or worker ends before its sweep is settled; by default there are none."""

    idle: float = NO_LIMIT
    """Seconds without a run of its own, and without one to claim, after which it leaves."""
    once: bool = False
    """Whether it executes a single run and leaves."""
    max_failures: float = NO_LIMIT
    """Number of failures in a row after which it starts no further run: the machine may be the cause."""
    until: float = NO_LIMIT
    """Time by `time.monotonic` at which running runs save their state and it leaves."""
    replanned: Callable[[], bool] = lambda: False
    """Returns whether the sweep has further runs by now. It is asked while no run can be claimed."""


TO_THE_END = Terms()
"""The terms of a launch: it ends when its sweep is settled, or when it is stopped."""

UNAVAILABLE, TOO_MANY_FAILURES, STOPPED_EARLY = os.EX_UNAVAILABLE, os.EX_SOFTWARE, os.EX_TEMPFAIL
"""Exit codes of a worker: device, folder or data can't be used on this machine (69); it met `Terms.max_failures` (70);
it was stopped with work left (75)."""

Leaving = Literal["", "idle", "once", "failures", "replanned"]


@dataclass
class Summary:
    """The outcome of a launch: each run is in one of `found`, `done`, `dropped`, `failed`, `blocked` and `left`."""

    found: list[str] = field(default_factory=list)
    """Runs that were done before."""
    done: list[str] = field(default_factory=list)
    """Runs finished during this launch, by it or by another one."""
    dropped: list[str] = field(default_factory=list)
    """Runs that the search has dropped, before this launch or during it."""
    failed: dict[str, str] = field(default_factory=dict)
    """Run id -> reason, of runs that failed for good."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Run id -> reason, of runs that were not executed because a run that they read failed for good."""
    left: list[str] = field(default_factory=list)
    """Runs without an outcome, because the launch was stopped."""
    stopped: str = ""
    """Cause of a stop: a signal such as `SIGTERM`, `cancel` or `time`; empty if the launch came to its end."""
    leaving: Leaving = ""
    """The one of its `Terms` by which it left; empty if none."""
    attempted: str = ""
    """Id of the run of the last attempt that claimed its run; empty before the first."""
    stepped: bool = False
    """Whether an attempt made a step, or finished its run."""
    executed: int = 0
    """Number of attempts that this launch started."""
    taken_over: int = 0
    """Number of attempts that took over an unfinished one, such as those of a launcher that was killed."""
    elapsed: float = 0.0
    """Wall-clock duration of the launch in seconds."""
    most: int = 0
    """Largest number of attempts that ran at the same time."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Count the runs by outcome."""
        return {
            "done": len(self.found) + len(self.done),
            "dropped": len(self.dropped),
            "failed": len(self.failed),
            "blocked": len(self.blocked),
            "left": len(self.left),
        }

    @property
    def exit_code(self) -> int:
        """Return the exit code that lets an engine decide whether to start another worker; see docs/launching.md."""
        if self.left and self.stopped:
            return STOPPED_EARLY
        if self.leaving == "once":
            return STOPPED_EARLY if self.attempted in self.left else int(self.attempted in self.failed)
        if self.left and self.leaving == "failures":
            return TOO_MANY_FAILURES
        return int(bool(self.failed or self.blocked)) if not self.left else 0
