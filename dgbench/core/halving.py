"""Decide how far each run of a search may train: successive halving over the draws of hyperparameters.

The draws of one method in one fold and trial are a `Bracket`. All of its runs train to the first rung, an evaluated
step. There the best third by training-domain validation goes on, the others are dropped, and so on to the end. The
decision waits until all runs of the bracket have reached the rung, and depends on their scores alone: whichever
process looks, and whichever run came first, the same runs go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from dgbench.core.wording import group_values

RANDOM, HALVING = "random", "halving"
"""Values of `--search`: every draw is trained to its end, or the worse ones are dropped on the way."""
ETA = 3
"""At each rung one of so many runs goes on."""


@dataclass(frozen=True)
class Bracket:
    """Runs that compete: the draws of one method on one data set, in one fold and trial."""

    runs: tuple[str, ...]
    """Ids of the training runs, by draw; of equal scores the earlier draw goes on."""
    rungs: tuple[int, ...]
    """Steps after which runs are dropped, increasing and counted from 0."""
    steps: int
    """Steps of a run that trains to its end."""
    eta: int = ETA
    """At each rung one of so many runs goes on."""
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Id of a run of `runs` -> ids of the runs that stand on it, which are dropped with it."""
    whole: tuple[str, ...] = ()
    """Ids of runs that train to their ends whatever their scores, because they repeat a choice too."""

    def levels(self) -> Iterator[tuple[int, int]]:
        """Yield (steps made by its end, number of runs) of each part of the search; the last is the way to the end."""
        alive = len(self.runs)
        for rung in self.rungs:
            yield rung + 1, alive
            alive = math.ceil(alive / self.eta)
        yield self.steps, alive

    @property
    def budget(self) -> int:
        """Steps that all runs train together, if none of them is in `whole`."""
        total = made = 0
        for end, alive in self.levels():
            total += (end - made) * alive
            made = end
        return total

    @property
    def survivors(self) -> int:
        """Number of runs that train to their ends, if none is in `whole`."""
        return list(self.levels())[-1][1]

    @property
    def ids(self) -> Iterator[str]:
        """Ids of all runs that it decides on, those that stand on others included."""
        for run in self.runs:
            yield from (run, *self.readers.get(run, ()))


class Standing(NamedTuple):
    """How far a run may train now, by the scores of its bracket."""

    until: int | None
    """Step after which it waits or ends; None: it may train to its last."""
    dropped: bool = False
    """Whether it ends there."""
    awaited: tuple[str, ...] = ()
    """Ids of the runs that have yet to reach `until`, if the run itself has; empty: it may train."""


Scores = Mapping[str, Mapping[int, float]]
"""Run id -> rung that it has reached -> its score there; -inf where the model diverged."""


def rungs(evaluated: Sequence[int], runs: int, eta: int = ETA) -> tuple[int, ...]:
    """Return the rungs of a bracket: the evaluated steps nearest to steps / eta^k, each once.

    Without enough evaluations there are fewer rungs, and more runs train to their ends.

    Args:
        evaluated: The evaluated steps, from the first to the last of a run; neither is ever a rung.
        runs: Number of runs.
        eta: At each rung one of so many runs goes on.
    """
    count = 0
    while runs > 1:
        runs, count = math.ceil(runs / eta), count + 1
    wanted = ((evaluated[-1] + 1) / eta**k for k in range(count, 0, -1))
    between = evaluated[1:-1]
    return tuple(dict.fromkeys(min(between, key=lambda step: abs(step - want)) for want in wanted)) if between else ()


def standings(bracket: Bracket, reached: Scores) -> dict[str, Standing]:
    """Return the standing of each run of a bracket.

    Args:
        bracket: The bracket.
        reached: The scores of its runs; runs without any may be left out.
    """
    found: dict[str, Standing] = {}
    alive: Sequence[str] = bracket.runs
    for rung in bracket.rungs:
        lacking = tuple(run for run in alive if rung not in reached.get(run, {}))
        if lacking:
            found |= {run: Standing(rung, awaited=() if run in lacking else lacking) for run in alive}
            break
        # The sort is stable: of equal scores the earlier draw goes on.
        ranked = sorted(alive, key=lambda run: -reached[run][rung])
        best = set(ranked[: math.ceil(len(ranked) / bracket.eta)])
        found |= {run: Standing(rung, dropped=True) for run in alive if run not in best}
        alive = [run for run in alive if run in best]
    else:
        found |= {run: Standing(None) for run in alive}
    # These hand in their scores too: others are compared with them.
    found |= {run: Standing(_next_rung(bracket, reached.get(run, {}))) for run in bracket.whole}
    return found


def _next_rung(bracket: Bracket, reached: Mapping[int, float]) -> int | None:
    return next((rung for rung in bracket.rungs if rung not in reached), None)


class Outlook(NamedTuple):
    """How much of its work a run has made and will have made at its end, as shares of a run that no search drops."""

    made: float
    """Share up to the last rung that it has reached; 0 before the first."""
    goal: float
    """Share at its end, on average over the runs that may still be dropped where it may."""

    @property
    def left(self) -> float:
        """Share that it has yet to make."""
        return max(0.0, self.goal - self.made)


def outlooks(bracket: Bracket, reached: Scores) -> dict[str, Outlook]:
    """Return the outlook of each run of a bracket, and of those that stand on them.

    Args:
        bracket: The bracket.
        reached: The scores of its runs; runs without any may be left out.
    """
    found: dict[str, Outlook] = {}
    levels = list(bracket.levels())
    for run, standing in standings(bracket, reached).items():
        if run in bracket.whole or standing.until is None:
            goal = readers = 1.0
        elif standing.dropped:
            goal, readers = (standing.until + 1) / bracket.steps, 0.0
        else:
            here = bracket.rungs.index(standing.until)
            alive = levels[here][1]
            later = sum((end - before) * n for (before, _), (end, n) in pairwise(levels[here:]))
            goal, readers = (standing.until + 1 + later / alive) / bracket.steps, bracket.survivors / alive
        found[run] = Outlook((max(reached.get(run, {}), default=-1) + 1) / bracket.steps, goal)
        found |= dict.fromkeys(bracket.readers.get(run, ()), Outlook(0.0, readers))
    return found


class Spent(NamedTuple):
    """The budget that a search has spent, for the lines below tables."""

    eta: int
    rungs: tuple[int, ...]
    trained: int
    """Steps made by all runs."""
    steps: int
    """Steps that all runs would make to their ends."""
    ended: int
    """Number of runs that made all their steps."""
    runs: int

    @property
    def how(self) -> str:
        """The search in words."""
        return f"successive halving (eta {self.eta}, rungs at steps {', '.join(f'{rung:,}' for rung in self.rungs)})"

    @property
    def share(self) -> str:
        """The part of a full search that was trained, as text."""
        return f"{100 * self.trained / self.steps:.0f} %"

    @property
    def to_the_end(self) -> str:
        """The part of the runs that made all their steps, as text."""
        return f"{self.ended:,} of {self.runs:,} runs to the end"

    def __str__(self) -> str:
        """Format the line below a table."""
        made = f"{self.trained:,} of {self.steps:,} steps trained ({self.share})"
        return f"{self.how}: {made}, {self.to_the_end}"


def spent(brackets: Iterable[Bracket], made: Mapping[str, int]) -> list[Spent]:
    """Return the budget that brackets have spent, those with the same rungs together.

    Args:
        brackets: The brackets, each with runs of its own.
        made: Run id -> steps made; 0 for runs that are left out.
    """
    return add_up(_spent_by(bracket, made) for bracket in brackets)


def _spent_by(bracket: Bracket, made: Mapping[str, int]) -> Spent:
    steps = [made.get(run, 0) for run in bracket.runs]
    whole = len(steps) * bracket.steps
    return Spent(bracket.eta, bracket.rungs, sum(steps), whole, steps.count(bracket.steps), len(steps))


def expected(brackets: Iterable[Bracket]) -> list[Spent]:
    """Return the budget that brackets will have spent at the end of the search."""
    return add_up(Spent(b.eta, b.rungs, b.budget, len(b.runs) * b.steps, b.survivors, len(b.runs)) for b in brackets)


def add_up(budgets: Iterable[Spent]) -> list[Spent]:
    """Add up budgets, those with the same rungs together."""
    alike = group_values(((budget.eta, budget.rungs), budget[2:]) for budget in budgets)
    return [Spent(eta, rungs, *map(sum, zip(*own, strict=True))) for (eta, rungs), own in alike.items()]
