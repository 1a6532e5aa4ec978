"""Name the states that a run can be in."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """State of a run, as its folder shows it."""

    MISSING = "missing"
    """Not begun."""
    WAITING = "waiting"
    """Begun and not finished, and no process executes it now."""
    RUNNING = "running"
    """A process holds its lease."""
    PAUSED = "paused"
    """At a step at which the search compares it with others that have yet to get there."""
    FAILED = "failed"
    """Failed more often than it may be retried, or in a way that another attempt can't mend."""
    DAMAGED = "damaged"
    """A file that results depend on has changed; found only by reading files (`RunFolder.damage`)."""
    DROPPED = "dropped"
    """Ended by the search at a step at which others were better: its records up to there may be read."""
    DONE = "done"
    """Finished: its records and models may be read."""

    @property
    def settled(self) -> bool:
        """Whether nothing of the run is left to execute."""
        return self in (State.DROPPED, State.DONE)
