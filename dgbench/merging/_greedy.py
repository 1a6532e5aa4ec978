"""The greedy search that several mergers share: members join a mean as long as its accuracy does not fall."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged


def greedy(ranked: Sequence[Member], score: Callable[[Weights], float]) -> Merged:
    """Build a greedy mean: each member joins if the mean with it scores at least as well as the best mean so far.

    Three copies of the model are in memory.

    Args:
        ranked: Members in the order in which they are tried; the first always joins.
        score: Accuracy of weights in [0, 1], or -inf if it is not a number.

    Returns:
        The mean of the weights of the members that joined, with these members.
    """
    first, *others = ranked
    members, mean = [first], RunningMean()
    mean.add(first.load())
    best = score(mean.mean)
    for member in others:
        candidate = copy.deepcopy(mean)
        candidate.add(member.load())
        accuracy = score(candidate.mean)
        # A tie lets a member in, as in both papers; the code of the soups wants a rise.
        if accuracy >= best:
            members, mean, best = [*members, member], candidate, accuracy
    return Merged(mean.mean, members)
