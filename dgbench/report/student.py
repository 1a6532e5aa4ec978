"""Compute Student's t distribution for whole degrees of freedom, in closed form.

Every table has an interval over trials. scipy's `special` has the same quantile, and takes longer to import than a
small sweep takes to be read and printed. For whole degrees of freedom the distribution is a finite sum (Abramowitz and
Stegun, 26.7.3 and 26.7.4), which agrees with scipy's to the last digits.
"""

from __future__ import annotations

import math


def central_share(t: float, df: int) -> float:
    """Return the probability that a variable of Student's distribution lies between -t and t.

    Args:
        t: At least 0.
        df: Degrees of freedom, at least 1.
    """
    sine, square = t / math.sqrt(df + t * t), df / (df + t * t)
    # With the angle whose tangent is t / sqrt(df): a sum over even powers of its cosine, whose square is `square`.
    odd = df % 2
    term = total = 0.0 if df == 1 else 1.0
    for k in range(2 + odd, df, 2):
        term *= square * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (math.atan(t / math.sqrt(df)) + sine * math.sqrt(square) * total)


def half_width(share: float, df: int) -> float:
    """Return the t between whose negative and itself a share of the distribution lies.

    Args:
        share: In (0, 1).
        df: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while central_share(high, df) < share:
        low, high = high, 2 * high
    # Halved until no number lies between: some sixty times, each a sum of df / 2 terms.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if central_share(middle, df) < share else (low, middle)
    return high
