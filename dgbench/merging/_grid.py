"""The grid of coefficients that several mergers leave to a selector."""

from __future__ import annotations

from dataclasses import dataclass

from dgbench.core.space import Checked, hparam


def rising(points: int, most: float, last: float) -> tuple[float, ...]:
    """Return a grid evenly from 0 to `most` in rising order, but for the value that is taken where nothing chooses.

    Args:
        points: Values of the grid, at least 2.
        most: The largest.
        last: The value that stands at the end, whether the grid has it or not.
    """
    grid = [i / (points - 1) * most for i in range(points)]
    return (*(value for value in grid if abs(value - last) > 1e-9), last)


@dataclass(frozen=True)
class AlphaGrid(Checked):
    """Hyperparameters of a merger whose candidates are models at each alpha from 0 to 1."""

    points: int = hparam(11, help="alphas of the grid, evenly from 0 to 1", within="[2, inf)")
    recommended: float = hparam(0.5, help="the alpha to take where nothing chooses", within="[0, 1]")

    @property
    def alphas(self) -> tuple[float, ...]:
        """Return the grid in rising order, but for the recommended value, which is last."""
        return rising(self.points, 1.0, self.recommended)
