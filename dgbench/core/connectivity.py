"""Measure barriers: how much worse models between others are than those at the ends.

Weights are taken as they are: no permutation of units is looked for. Errors are shares, `1 - accuracy`, or losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def line_barrier(positions: Sequence[float], errors: Sequence[float]) -> float:
    """Return the highest rise of the error on the line between two models above the line between their errors.

    Args:
        positions: Where on the line the errors were measured, in any order: 0 and 1, which are the two models, and
            points between.
        errors: Error at each position.

    Returns:
        max over positions t of error(t) - (1 - t) error(0) - t error(1): at least 0, which is its value at the ends;
        NaN if an error is.

    Raises:
        ValueError: Positions lack an end, or lie outside of [0, 1].
    """
    at, found = np.asarray(positions, float), np.asarray(errors, float)
    if not {0.0, 1.0} <= set(at.tolist()) or at.min() < 0 or at.max() > 1:
        raise ValueError(f"positions on a line lie in [0, 1] and have both ends, unlike {at.tolist()}")
    first, last = found[at == 0][0], found[at == 1][0]
    return float(np.max(found - (1 - at) * first - at * last))


def mean_barrier(merged: float, members: Sequence[float]) -> float:
    """Return how much higher the error of a merged model is than the mean error of its members.

    Of two members that are averaged, it is the rise in the middle of their line. It is negative where the merged model
    is better than its members are in the mean.

    Args:
        merged: Error of the merged model.
        members: Error of each member, on the same data.
    """
    return merged - sum(members) / len(members)
