"""Divide the examples of a domain into parts: as the data set was published, or drawn by example or by identity."""

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
"""Part -> positions of its examples, int64."""

NEW_SHARE = Fraction(1, 4)
"""Share of the identities in the part `new`, where every domain shows the same identities."""


def parts(
    examples: Examples,
    trial: int,
    domain_index: int,
    holdout_fraction: float,
    *,
    shared_identities: bool = False,
    name: str = "",
) -> Parts:
    """Split one domain into parts, by its trial.

    Examples that were published in parts keep them. Those with `groups` are split by identity, alike in every domain;
    all others one by one. Where all domains share their identities, a quarter of them becomes the part `new` before the
    rest is split.

    Args:
        examples: The domain's.
        trial: The trial, which decides the draw.
        domain_index: Place of the domain in the data set; it decides the draw too, unless identities are split.
        holdout_fraction: Share of the part `out`.
        shared_identities: All domains show the same identities.
        name: Name of the domain, for messages.

    Returns:
        Part -> positions of its examples.

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
    """Group positions by the small domain that each example is from: number of the domain, ascending -> its positions.

    Args:
        examples: Those that the positions count.
        indices: Positions to group; their order is kept within a domain.
    """
    domains = examples.domains[indices]
    order = np.argsort(domains, kind="stable")
    numbers, starts = np.unique(domains[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(indices[order], starts[1:]), strict=True))


def split(n: int, holdout_fraction: float, trial: int, domain_index: int) -> Parts:
    """Split n examples as DomainBed does, bit for bit and in its order; `out` is the first int(n * holdout_fraction).

    Args:
        n: Number of examples.
        holdout_fraction: Share of `out`.
        trial: Decides the draw.
        domain_index: Decides the draw.
    """
    keys = list(range(n))
    # A list, and numpy's legacy generator: DomainBed's `split_dataset` shuffles so, and its `out` comes first.
    np.random.RandomState(seed_hash(trial, domain_index)).shuffle(keys)
    cut = int(n * holdout_fraction)
    return {IN: np.array(keys[cut:], np.int64), OUT: np.array(keys[:cut], np.int64)}


def split_by_identity(groups: NDArray[np.int64], holdout_fraction: float, trial: int, *, shared: bool = False) -> Parts:
    """Split examples so that all of an identity are in one part, positions ascending; `is_held_out` decides for each.

    Args:
        groups: (n,) identity of each example.
        holdout_fraction: Share of the identities in `out`.
        trial: Decides the draw.
        shared: Set the part `new` apart first; `out` is then the fraction of the rest.
    """
    # By its decimals: the float 0.2 is a little more than 1/5, which would move the ends of the runs below.
    fraction = Fraction(str(holdout_fraction))
    identities, positions = np.unique(groups, return_inverse=True)
    names = identities.tolist()
    out = np.array([is_held_out(identity, fraction, trial) for identity in names], bool)[positions]
    if not shared:
        return {IN: np.flatnonzero(~out), OUT: np.flatnonzero(out)}
    new = np.array([is_held_out(identity, NEW_SHARE, trial, NEW) for identity in names], bool)[positions]
    return {IN: np.flatnonzero(~out & ~new), OUT: np.flatnonzero(out & ~new), NEW: np.flatnonzero(new)}


def is_held_out(identity: int, fraction: Fraction, trial: int, part: str = "identity") -> bool:
    """Decide whether an identity is in a held-out part, by the arguments alone, so that every domain decides alike.

    A domain that lacks some identities therefore splits the others as all domains do. The identities 0, 1, ... are cut
    into runs of about 1 / fraction neighbors, and one of each run is drawn: of n identities int(n * fraction) or one
    more are held out.

    Args:
        identity: Number of the identity.
        fraction: Share of the identities held out.
        trial: Decides the draw.
        part: Name of the part: the draws of two parts are independent.
    """
    if fraction > Fraction(1, 2):
        return not is_held_out(identity, 1 - fraction, trial, part)
    run = math.floor(identity * fraction)
    first, end = math.ceil(run / fraction), math.ceil((run + 1) / fraction)
    return identity == first + seed_hash(part, trial, run) % (end - first)
