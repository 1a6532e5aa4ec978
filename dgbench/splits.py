"""Which examples of a domain are in which part: as the data set says, or drawn, one by one or by identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dgbench.dataset import Examples, SplitExamples
from dgbench.errors import UserError
from dgbench.protocol import IN, OUT
from dgbench.seeding import seed_hash

Parts = Mapping[str, NDArray[np.int64]]


def parts(examples: Examples, trial: int, domain_index: int, holdout_fraction: float) -> Parts:
    """The indices of each part of one domain.

    Examples that have parts keep them. Those with `groups` are split by identity, alike in every domain, the others one
    by one. Raises `UserError` if a part that is drawn is empty.
    """
    if isinstance(examples, SplitExamples):
        return examples.parts
    if examples.groups is None:
        found = split(len(examples.labels), holdout_fraction, trial, domain_index)
    else:
        found = split_by_identity(examples.groups, holdout_fraction, trial)
    empty = [part for part, indices in found.items() if len(indices) == 0]
    if empty:
        raise UserError(
            f"holdout fraction {holdout_fraction} leaves the {' and '.join(map(repr, empty))} part of domain number "
            f"{domain_index} empty: it has {len(examples.labels)} examples"
        )
    return found


def by_domain(examples: SplitExamples, indices: NDArray[np.int64]) -> Mapping[int, NDArray[np.int64]]:
    """The `indices` of each domain that they mix, by its number there, in ascending order."""
    domains = examples.domains[indices]
    order = np.argsort(domains, kind="stable")
    numbers, starts = np.unique(domains[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(indices[order], starts[1:]), strict=True))


def split(n: int, holdout_fraction: float, trial: int, domain_index: int) -> Parts:
    """DomainBed's split of n examples, bit for bit, in its order; `out` is the first int(n * holdout_fraction)."""
    keys = list(range(n))
    np.random.RandomState(seed_hash(trial, domain_index)).shuffle(keys)
    cut = int(n * holdout_fraction)
    return {IN: np.array(keys[cut:], np.int64), OUT: np.array(keys[:cut], np.int64)}


def split_by_identity(groups: NDArray[np.int64], holdout_fraction: float, trial: int) -> Parts:
    """All examples of an identity in one part, in ascending order; identities are split as `is_held_out` says."""
    fraction = Fraction(str(holdout_fraction))
    identities, positions = np.unique(groups, return_inverse=True)
    held_out = np.array([is_held_out(identity, fraction, trial) for identity in identities.tolist()], bool)
    out = held_out[positions]
    return {IN: np.flatnonzero(~out), OUT: np.flatnonzero(out)}


def is_held_out(identity: int, fraction: Fraction, trial: int) -> bool:
    """Whether an identity belongs to the `out` part, which depends on nothing but the arguments.

    A domain that lacks some identities thus splits the others as every domain does. Identities are cut into runs of
    about 1 / fraction neighbours, and one of each run is drawn: of n identities numbered from 0, int(n * fraction) or
    one more are held out.
    """
    if fraction > Fraction(1, 2):
        return not is_held_out(identity, 1 - fraction, trial)
    run = math.floor(identity * fraction)
    first, end = math.ceil(run / fraction), math.ceil((run + 1) / fraction)
    return identity == first + seed_hash("identity", trial, run) % (end - first)
