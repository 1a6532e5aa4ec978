"""Which examples of a domain are in which part: as the data set says, or drawn, one by one or by identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.protocol import IN, NEW, OUT
from dgbench.core.seeding import seed_hash
from dgbench.data.dataset import Examples, SplitExamples

Parts = Mapping[str, NDArray[np.int64]]

NEW_SHARE = Fraction(1, 4)
"""Of the identities, where every domain shows the same ones."""


def parts(
    examples: Examples,
    trial: int,
    domain_index: int,
    holdout_fraction: float,
    *,
    shared_identities: bool = False,
    name: str = "",
) -> Parts:
    """Split one domain: return the indices of each part.

    Examples that have parts keep them. Those with `groups` are split by identity, alike in every domain, the others one
    by one; where all domains share their identities, a quarter of them is the part `new` before the rest is split.

    Args:
        examples: The domain's.
        trial: The trial, of which the draw depends.
        domain_index: The domain's place in the data set, of which it depends too.
        holdout_fraction: Share of the part `out`.
        shared_identities: Whether all domains show the same identities.
        name: The domain's, for the message.

    Raises:
        UserError: A part that is drawn is empty.
    """
    if isinstance(examples, SplitExamples):
        return examples.parts
    if examples.groups is None:
        found = split(len(examples.labels), holdout_fraction, trial, domain_index)
    else:
        found = split_by_identity(examples.groups, holdout_fraction, trial, shared=shared_identities)
    empty = [part for part, indices in found.items() if len(indices) == 0]
    if empty:
        raise UserError(
            f"holdout fraction {holdout_fraction} leaves the {' and '.join(map(repr, empty))} part of domain "
            f"{name or domain_index} empty: it has {len(examples.labels)} examples"
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


def split_by_identity(groups: NDArray[np.int64], holdout_fraction: float, trial: int, *, shared: bool = False) -> Parts:
    """All examples of an identity in one part, in ascending order; identities are split as `is_held_out` says.

    With `shared`, `new` is taken first, and `out` is the fraction of what is left.
    """
    fraction = Fraction(str(holdout_fraction))
    identities, positions = np.unique(groups, return_inverse=True)
    names = identities.tolist()
    out = np.array([is_held_out(identity, fraction, trial) for identity in names], bool)[positions]
    if not shared:
        return {IN: np.flatnonzero(~out), OUT: np.flatnonzero(out)}
    new = np.array([is_held_out(identity, NEW_SHARE, trial, NEW) for identity in names], bool)[positions]
    return {IN: np.flatnonzero(~out & ~new), OUT: np.flatnonzero(out & ~new), NEW: np.flatnonzero(new)}


def is_held_out(identity: int, fraction: Fraction, trial: int, part: str = "identity") -> bool:
    """Whether an identity belongs to a part, which depends on nothing but the arguments.

    A domain that lacks some identities thus splits the others as every domain does. Identities are cut into runs of
    about 1 / fraction neighbours, and one of each run is drawn: of n identities numbered from 0, int(n * fraction) or
    one more are held out.
    """
    if fraction > Fraction(1, 2):
        return not is_held_out(identity, 1 - fraction, trial, part)
    run = math.floor(identity * fraction)
    first, end = math.ceil(run / fraction), math.ceil((run + 1) / fraction)
    return identity == first + seed_hash(part, trial, run) % (end - first)
