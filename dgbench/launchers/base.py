"""What the driver of a launch, its engines, and its displays share: the protocol of an engine, and what is reported.

Read `Engine` first, then `driver`, which calls it, and `local`, which is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dgbench.core.run import Run


@dataclass(frozen=True)
class Ended:
    """The end of an attempt at a run, as far as its engine knows; its outcome stands in the run's folder."""

    id: str
    """The run."""
    status: int
    """Exit code, or the negated number of the signal that ended it."""
    lease: int | None = None
    """Number of the lease that the attempt claimed; None if it claimed none, or the engine cannot know."""
    stopped: bool = False
    """Whether it was asked to stop, or was lost with its machine: that is no failure and uses up no retry."""
    timeout: float | None = None
    """Seconds that it was allowed, if it was killed for taking longer."""
    seconds: float = 0.0
    """Seconds that it took."""
    out_of_memory: bool = False
    """Whether the system killed processes for lack of memory meanwhile, which may have been this one."""


class Engine(Protocol):
    """Starts runs, reports which attempts ended, and stops them: all that the driver of a launch asks for.

    An engine judges nothing: whether a run succeeded is written in its folder. Its processes may be on other machines,
    under process ids that mean nothing on this one.
    """

    @property
    def capacity(self) -> int:
        """Return how many more runs can be submitted now."""

    def submit(self, runs: Sequence[Run]) -> None:
        """Start one attempt at each of these runs, whose folders exist; at most `capacity` at once."""

    def wait(self, timeout: float) -> Sequence[Ended]:
        """Return the attempts that ended, each once, after `timeout` seconds at most.

        Return as soon as there are any, or a signal came to this process. An attempt that cannot be asked about, for
        instance because a controller is down, has not ended.
        """

    def cancel(self) -> None:
        """Ask each attempt to save and leave, and see to it that each ends; `wait` reports them as stopped."""

    def kill(self) -> None:
        """End every attempt now."""

    def close(self) -> None:
        """End the remaining attempts and release all resources; called once, also after an exception."""


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time executes."""

    index: int
    gpu: str | None
    """What CUDA_VISIBLE_DEVICES is set to; None where runs execute on the CPU."""
    threads: int
    """Threads that a run may use, so that all slots together use each core once."""


What = Literal["found", "started", "done", "retry", "failed", "blocked", "elsewhere", "stopped", "stopping", "tick"]


@dataclass(frozen=True)
class Event:
    """Something happened to a run, or about once a second nothing (`tick`).

    `found`: was done before. `retry`: failed, and is tried again. `failed`: failed for good. `blocked`: needs a run
    that failed for good. `elsewhere`: another launcher executes it. `stopped`: its process was asked to stop, and left.
    `stopping`: the launcher was asked to stop.
    """

    what: What
    run: Run | None = None
    detail: str = ""
    """Why, with the path of the log."""
    seconds: float = 0.0
    """How long a finished run took here."""


Observer = Callable[[Event], None]


@dataclass
class Summary:
    """What a launch came to, by run id. All of it is done if nothing else is named."""

    found: list[str] = field(default_factory=list)
    """Done before."""
    done: list[str] = field(default_factory=list)
    """Finished during this launch, here or by another launcher."""
    failed: dict[str, str] = field(default_factory=dict)
    """Failed for good, with the reason."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Not executed, for a run that they need failed for good."""
    left: list[str] = field(default_factory=list)
    """Neither, because the launch was stopped."""
    stopped: str = ""
    """What stopped the launch (`SIGINT`, `SIGTERM`, `cancel`); empty if nothing did."""
    executed: int = 0
    """Attempts started here."""
    taken_over: int = 0
    """Attempts that went on where one ended that nobody had a verdict on, such as those of a killed launcher."""
    elapsed: float = 0.0
    """Seconds."""
    most: int = 0
    """Attempts that were under way at one time, at most."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many runs ended in which way."""
        return {
            "done": len(self.found) + len(self.done),
            "failed": len(self.failed),
            "blocked": len(self.blocked),
            "left": len(self.left),
        }
