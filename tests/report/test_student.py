"""Student's distribution in closed form against scipy's, which computes it by an incomplete beta function."""

from __future__ import annotations

import pytest
from scipy import special

from dgbench.report.student import central_share, half_width

DEGREES = (*range(1, 41), 99, 100, 1000)


@pytest.mark.parametrize("df", DEGREES)
def test_shares_and_widths_are_scipys(df: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 40.0):
        assert central_share(t, df) == pytest.approx(2 * special.stdtr(df, t) - 1, abs=1e-12)
    for share in (0.05, 0.5, 0.95, 0.99):
        assert half_width(share, df) == pytest.approx(special.stdtrit(df, (1 + share) / 2), rel=1e-12)


def test_one_and_two_degrees_of_freedom_by_hand() -> None:
    assert central_share(1.0, 1) == pytest.approx(0.5, abs=1e-15), "Cauchy's distribution has its quartiles at 1"
    assert half_width(0.95, 2) == pytest.approx(0.95 * (2 / (1 - 0.95**2)) ** 0.5, rel=1e-14)
