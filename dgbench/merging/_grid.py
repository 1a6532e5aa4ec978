"""The grid of coefficients that several mergers leave to a selector."""

from __future__ import annotations


def rising(points: int, most: float, last: float) -> tuple[float, ...]:
    """Return a grid evenly from 0 to `most` in rising order, but for the value that is taken where nothing chooses.

    Args:
        points: Values of the grid, at least 2.
        most: The largest.
        last: The value that stands at the end, whether the grid has it or not.
    """
    grid = [i / (points - 1) * most for i in range(points)]
    return (*(value for value in grid if abs(value - last) > 1e-9), last)
