"""What greedy mergers share: a mean that takes in one run after another as long as its accuracy does not fall."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged


def greedy(ranked: Sequence[Member], score: Callable[[Weights], float]) -> Merged:
    """The mean of the first and of each next whose mean with those kept scores at least as well as the best so far.

    Three copies of the model in memory.
    """
    first, *others = ranked
    members, mean = [first], RunningMean()
    mean.add(first.load())
    best = score(mean.mean)
    for member in others:
        candidate = copy.deepcopy(mean)
        candidate.add(member.load())
        accuracy = score(candidate.mean)
        if accuracy >= best:
            members, mean, best = [*members, member], candidate, accuracy
    return Merged(mean.mean, members)
