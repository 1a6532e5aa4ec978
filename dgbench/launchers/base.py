"""What every engine that executes runs has in common: it starts them, says which it has not lost sight of, and stops
them. Whether a run succeeded is written in its folder, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dgbench.core.run import Run


class Launcher(Protocol):
    """An engine. It never says "succeeded" or "failed": `Store.states` does."""

    def submit(self, ids: Sequence[str]) -> None:
        """Have each of these runs executed once, anywhere that sees the sweep folder."""
        ...

    def alive(self) -> set[str]:
        """The submitted runs that are queued or executed; all of them while the engine cannot be asked."""
        ...

    def cancel(self) -> None:
        """Stop what was submitted: ask each process to save, then end those that don't."""
        ...


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
    """Processes started here, one an attempt."""
    taken_over: int = 0
    """Attempts that went on where one ended that nobody had a verdict on, such as those of a killed launcher."""
    elapsed: float = 0.0
    """Seconds."""
    processes: int = 0
    """The most that existed at one time: this one, the fork server, and one for each run."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many runs ended in which way."""
        return {
            "done": len(self.found) + len(self.done),
            "failed": len(self.failed),
            "blocked": len(self.blocked),
            "left": len(self.left),
        }
