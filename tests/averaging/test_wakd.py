from __future__ import annotations

import pytest

from dgbench.averaging.wakd import WAKD
from dgbench.core.errors import UserError
from tests.averaging.one_hot import check, check_same, live, observe, reloaded


def wakd(start: float, steps: int) -> WAKD:
    average = WAKD(WAKD.Hparams(start=start))
    average.begin(live(0), steps)
    return average


@pytest.mark.parametrize(("start", "steps", "first"), [(0.1, 12, 2), (0.5, 12, 7), (0.0, 12, 1), (0.99, 12, 12)])
def test_is_the_uniform_mean_of_what_comes_after_its_share_of_the_run(start: float, steps: int, first: int) -> None:
    average = wakd(start, steps)
    observe(average, range(1, steps + 1))
    check(average, dict.fromkeys(range(first, steps + 1), 1 / (steps - first + 1)))


def test_there_is_no_model_before_its_share_is_over() -> None:
    average = wakd(0.5, 12)
    observe(average, range(1, 7))
    assert average.weights() is None


def test_goes_on_where_it_stopped() -> None:
    whole, stopped = wakd(0.3, 12), wakd(0.3, 12)
    observe(whole, range(1, 13))
    observe(stopped, range(1, 8))
    resumed = reloaded(stopped)
    observe(resumed, range(8, 13))
    check_same(resumed, whole)


@pytest.mark.parametrize("start", [-0.1, 1.0, 5000])
def test_a_start_outside_the_run_is_refused(start: float) -> None:
    with pytest.raises(UserError, match=r"start must lie in \[0, 1\)"):
        WAKD.Hparams(start=start)
