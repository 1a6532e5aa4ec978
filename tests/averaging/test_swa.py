from __future__ import annotations

import logging
from typing import Any

import pytest

from dgbench.averaging.swa import SWA
from dgbench.core.errors import UserError
from tests.averaging.one_hot import begin, check, check_same, observe, reloaded

STEPS = 20


def swa(**hparams: Any) -> SWA:
    average = SWA(SWA.Hparams(**{"start": 0.5, "cycle": 3, **hparams}))
    begin(average, STEPS)
    return average


def test_is_the_uniform_mean_of_every_so_many_steps_from_the_start_on() -> None:
    average = swa()
    observe(average, range(1, 10), size=STEPS)
    assert average.weights() is None
    taken: list[int] = []
    for step in range(10, STEPS + 1):
        observe(average, [step], size=STEPS)
        taken += [step] if step in (10, 13, 16, 19) else []
        check(average, dict.fromkeys(taken, 1 / len(taken)), count=taken[-1])


def test_every_step_from_the_start_on_is_the_simple_moving_average() -> None:
    average = swa(cycle=1)
    observe(average, range(1, STEPS + 1), size=STEPS)
    check(average, dict.fromkeys(range(10, STEPS + 1), 1 / 11))


def test_the_constant_rate_follows_the_published_shape() -> None:
    """With a start after 10 steps: full until step 5, linear to its share at step 9."""
    average = swa(factor=0.2)
    expected = [1.0] * 6 + [0.8, 0.6, 0.4] + [0.2] * 11
    assert [average.lr_factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-15)
    rising = swa(factor=2.0)
    assert [rising.lr_factor(step) for step in (5, 7, 9, 19)] == pytest.approx([1.0, 1.5, 2.0, 2.0], abs=1e-15)


def test_the_cyclic_rate_is_lowest_in_the_step_before_weights_are_taken() -> None:
    average = swa(form="cyclic", factor=0.4, lowest=0.1)
    cycle = [0.3, 0.2, 0.1]
    constant = swa(factor=0.4)
    assert [average.lr_factor(step) for step in range(10)] == [constant.lr_factor(step) for step in range(10)]
    assert [average.lr_factor(step) for step in range(10, 19)] == pytest.approx(cycle * 3, abs=1e-15)
    lowest = {step for step in range(10, STEPS) if average.lr_factor(step) == pytest.approx(0.1)}
    assert lowest == {12, 15, 18}, "the steps that lead to the weights after 13, 16 and 19"


@pytest.mark.parametrize("form", ["constant", "cyclic"])
@pytest.mark.parametrize("cut", [0, 9, 10, 12, 17])
def test_resumes_exactly(cut: int, form: str) -> None:
    whole = swa(form=form)
    observe(whole, range(1, cut + 1), size=STEPS)
    resumed = reloaded(whole)
    for average in (whole, resumed):
        observe(average, range(cut + 1, STEPS + 1), size=STEPS)
    check_same(whole, resumed)
    assert [whole.lr_factor(step) for step in range(STEPS)] == [resumed.lr_factor(step) for step in range(STEPS)]


def test_the_shortest_of_runs_has_an_average_too(caplog: pytest.LogCaptureFixture) -> None:
    for start, steps, taken in ((0.01, 1, 1), (1.0, 5, 5), (0.54, 5, 3)):
        average = SWA(SWA.Hparams(start=start))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            begin(average, steps)
        assert f"SWA takes the weights after step {taken} alone" in caplog.text
        observe(average, range(1, steps + 1), size=steps)
        check(average, {taken: 1.0})
        assert average.lr_factor(0) == 1.0
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        swa()
    assert not caplog.text


def test_feeds_back_a_rate_but_no_weights() -> None:
    assert SWA.card.feeds_back == ("learning_rate",)
    assert swa().feedback() is None


def test_refuses_all_that_is_wrong_at_once() -> None:
    with pytest.raises(UserError) as error:
        SWA.Hparams(start=0.0, cycle=0, form="cyclical", factor=-1.0, lowest=-0.1)
    assert len(error.value.problems) == 5
    assert "form is one of constant, cyclic" in str(error.value)
    with pytest.raises(UserError, match=r"lowest must not be above factor, 0\.5, but it is 0\.6"):
        SWA.Hparams(lowest=0.6)
    with pytest.raises(UserError, match=r"must lie in \(0, 1\]"):
        SWA.Hparams(start=1.5)
