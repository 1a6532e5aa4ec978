"""Draw the runs that a merged row is made from, for a curve over their number."""

from __future__ import annotations

from collections.abc import Sequence

from dgbench.core.run import Run
from dgbench.core.seeding import numpy_stream, seed_hash

MEMBER_DRAWS = 5
"""Draws of members for each point of a curve over their number."""


def draw_members(trained: Sequence[tuple[Run, int]], number: int) -> list[list[tuple[Run, int]]]:
    """Draw some of the runs of one fold and trial, several times; each draw continues that of a smaller number.

    Args:
        trained: The runs, each with the trial whose hyperparameters it has.
        number: How many runs a draw takes; the first draw takes the first ones.

    Returns:
        At most `MEMBER_DRAWS` draws, no two alike, each in the order of `trained`.
    """
    first = trained[0][0]
    draws: dict[tuple[int, ...], None] = {}
    for draw in range(MEMBER_DRAWS):
        stream = numpy_stream(seed_hash(first.dataset, list(first.fold.held_out), first.trial), "members", str(draw))
        order = stream.permutation(len(trained)) if draw else range(len(trained))
        draws[tuple(sorted(int(place) for place in order[:number]))] = None
    return [[trained[place] for place in places] for places in draws]
