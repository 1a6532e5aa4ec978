from __future__ import annotations

import math

import pytest

from dgbench.core.connectivity import line_barrier, mean_barrier


@pytest.mark.parametrize(
    ("positions", "errors", "barrier"),
    [
        ([0, 1], [0.1, 0.3], 0.0),
        ([0, 0.5, 1], [0.1, 0.2, 0.3], 0.0),
        ([0, 0.5, 1], [0.1, 0.7, 0.3], 0.5),
        ([0.5, 1, 0, 0.25], [0.3, 0.2, 0.2, 0.6], 0.4),
        # The highest error is at 0.75, the highest rise above the line between the ends at 0.25.
        ([0, 0.25, 0.75, 1], [0.0, 0.5, 0.8, 1.0], 0.25),
        ([0, 0.5, 1], [0.3, 0.0, 0.3], 0.0),
    ],
)
def test_the_barrier_is_the_highest_rise_above_the_line_of_the_ends(
    positions: list[float], errors: list[float], barrier: float
) -> None:
    assert line_barrier(positions, errors) == pytest.approx(barrier, abs=1e-15)


def test_an_error_that_is_no_number_makes_a_barrier_that_is_none() -> None:
    assert math.isnan(line_barrier([0, 0.5, 1], [0.1, math.nan, 0.2]))


@pytest.mark.parametrize("positions", [[0, 0.5], [0.5, 1], [0, 1, 1.5], [-1, 0, 1]])
def test_lines_without_ends_are_refused(positions: list[float]) -> None:
    with pytest.raises(ValueError, match="both ends"):
        line_barrier(positions, [0.0] * len(positions))


def test_the_barrier_of_a_mean_is_against_the_mean_of_its_members() -> None:
    assert mean_barrier(0.5, [0.2, 0.3, 0.4]) == pytest.approx(0.2)
    assert mean_barrier(0.1, [0.2, 0.4]) == pytest.approx(-0.2)
    assert mean_barrier(0.7, [0.6, 0.2]) == pytest.approx(line_barrier([0, 0.5, 1], [0.6, 0.7, 0.2]))
