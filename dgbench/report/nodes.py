"""Sum up which nodes are at work on a sweep, and how fast the sweep goes on, from one look at its runs to the next."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgbench.core.grid import columns
from dgbench.core.wording import format_duration, group_values, printable
from dgbench.report.watch import OPEN, RunStatus
from dgbench.store.state import State


@dataclass(frozen=True)
class Node:
    """A machine at work on a sweep, or the task of a cluster on it."""

    host: str
    engine: str
    """The task, such as `slurm:12_3`; empty if none."""
    running: int
    """Number of runs that it holds."""
    sign: float
    """Time of its last sign of life, in seconds since 1970, by the file server's clock."""
    done: int = 0
    """Number of runs that it has finished since the first look."""

    def to_json(self) -> dict[str, Any]:
        """Return its description at one look."""
        return {"node": self.host, "engine": self.engine, "running": self.running, "sign": self.sign}


_Place = tuple[str, str]  # host and engine
_HEADER: tuple[str, ...] = ("node", "task", "holds", "last sign", "finished")


def nodes_of(found: Iterable[RunStatus]) -> dict[_Place, Node]:
    """Return (host, engine) -> node, of those that hold runs."""
    held = group_values(((status.host, status.engine), status.sign or 0.0) for status in found if _is_held(status))
    return {place: Node(*place, len(signs), max(signs)) for place, signs in sorted(held.items())}


def _is_held(status: RunStatus) -> bool:
    return status.state == State.RUNNING.value and bool(status.host)


@dataclass
class Pace:
    """The nodes of a sweep and its speed, which grow more certain with each look."""

    clock: Callable[[], float] = time.monotonic
    """Returns seconds, of which only differences count."""
    nodes: dict[_Place, Node] = field(default_factory=dict, init=False)
    """All nodes that were seen at work in any look."""
    finished: int = field(default=0, init=False)
    """Number of runs that were finished since the first look."""
    _done: set[str] | None = field(default=None, init=False)
    """Runs that were done at the last look; None before the first."""
    _began: float = field(default=0.0, init=False)
    _found: Sequence[RunStatus] = field(default=(), init=False)

    def look(self, found: Sequence[RunStatus]) -> None:
        """Take in the states of all runs at one moment."""
        done = {status.id: status for status in found if status.state == State.DONE.value}
        if self._done is None:
            self._began, self._done = self.clock(), set(done)
        new = [status for id, status in done.items() if id not in self._done]
        ends = group_values(((status.host, status.engine), status.sign or 0.0) for status in new if status.host)
        present = nodes_of(found)
        for place in {**self.nodes, **present, **ends}:
            before, now, signs = self.nodes.get(place), present.get(place), ends.get(place, [])
            last = max([*signs, *(node.sign for node in (before, now) if node)])
            self.nodes[place] = Node(
                *place, now.running if now else 0, last, (before.done if before else 0) + len(signs)
            )
        self.finished += len(new)
        self._done, self._found = set(done), found

    def table(self, now: float) -> Iterator[str]:
        """Yield the lines of a table of the nodes, those that hold runs first; nothing if none was seen at work.

        Args:
            now: Time in seconds since 1970, by the file server's clock.
        """
        rows = [_HEADER]
        for place, node in sorted(self.nodes.items(), key=lambda item: (not item[1].running, item[0])):
            silent = f"{max(0.0, now - node.sign):.0f} s ago"
            rows.append((*map(printable, place), f"{node.running:,}", silent, f"{node.done:,}"))
        if self.nodes:
            yield from map(str.rstrip, columns(rows))

    def throughput(self) -> Iterator[str]:
        """Yield a line on runs an hour, steps a second and the time left, as far as they are known."""
        parts = []
        elapsed = self.clock() - self._began
        if self.finished and elapsed > 0:
            parts.append(f"{_number(3600 * self.finished / elapsed)} runs an hour")
        if speeds := [status.speed for status in self._found if _is_held(status) and status.speed]:
            parts.append(f"{_number(sum(speeds))} steps/s")
        left = time_left(self._found)
        if left is not None:
            parts.append(f"{format_duration(left)} left with {sum(map(_is_held, self._found)):,} at once")
        if parts:
            yield f"throughput: {', '.join(parts)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def time_left(found: Sequence[RunStatus]) -> float | None:
    """Estimate the seconds until all runs are settled, if as many as now are executed at once.

    A run takes as long as the median of those of its method on its data set that have ended, or else of all that have.
    Of one that a search has dropped, or may drop, the part counts that it makes.

    Args:
        found: The states of all runs.

    Returns:
        None if no run is under way or none has ended that tells.
    """
    ended = [s for s in found if s.seconds is not None and _made(s)]
    times = [((s.kind, s.algorithm, s.dataset), (s.seconds or 0.0) / _made(s)) for s in ended]
    usual = {key: statistics.median(values) for key, values in group_values(times).items()}
    general = statistics.median([seconds for _, seconds in times]) if times else None
    at_once, total, longest = 0, 0.0, 0.0
    for status in found:
        if State(status.state) in (*OPEN, State.PAUSED):
            left = status.left
            if left is None:
                whole = usual.get((status.kind, status.algorithm, status.dataset), general)
                if whole is None:
                    return None
                left = whole * max(0.0, status.share - _made(status))
            total += left
            if _is_held(status):
                at_once, longest = at_once + 1, max(longest, left)
    return max(total / at_once, longest) if at_once else None


def _made(status: RunStatus) -> float:
    """Return the part of its steps that a run has made; of a run without steps, whether it is done."""
    if status.state == State.DONE.value:
        return 1.0
    return status.step / status.steps if status.step is not None and status.steps else 0.0
