from __future__ import annotations

import pytest
import torch

from dgbench.averaging.sma import SMA
from dgbench.core.errors import UserError
from tests.averaging.one_hot import check, check_same, live, observe, reloaded


def sma(start: int, form: str = "paper") -> SMA:
    return SMA(SMA.Hparams(start=start, form=form))


@pytest.mark.parametrize("start", [2, 4])
def test_every_step_is_the_published_recurrence(start: int) -> None:
    average = sma(start)
    expected, count = torch.zeros(13, dtype=torch.float64), 0
    for step in range(1, 13):
        observe(average, [step])
        now = live(step)["w"]
        if step < start:
            expected = now.clone()
        else:
            count += 1
            expected = (count * expected + now) / (count + 1)
        check(average, expected.tolist(), count=step)


def test_is_the_uniform_mean_from_the_step_before_the_start() -> None:
    average = sma(5)
    observe(average, range(1, 10))
    check(average, dict.fromkeys(range(4, 10), 1 / 6))


@pytest.mark.parametrize("start", [1, 5])
def test_diwas_form_counts_the_first_twice(start: int) -> None:
    """Its recurrence is the paper's, but until the start the mean's storage is the live model's."""
    average = sma(start, "diwa")
    expected, count = torch.zeros(13, dtype=torch.float64), 0
    for step in range(1, 13):
        observe(average, [step])
        now = live(step)["w"]
        if step <= start:
            expected = now.clone()
        if step >= start:
            count += 1
            expected = (count * expected + now) / (count + 1)
        check(average, expected.tolist(), count=step)
    check(average, {start: 2 / (14 - start), **dict.fromkeys(range(start + 1, 13), 1 / (14 - start))})


def test_erm_plus_pluss_average_is_the_papers_form_with_a_later_start() -> None:
    assert "start=600" in (SMA.__doc__ or "")
    average = sma(600)
    observe(average, range(1, 603), size=602)
    check(average, dict.fromkeys(range(599, 603), 1 / 4))


def test_a_short_run_has_the_live_model() -> None:
    average = SMA(SMA.Hparams())
    assert (average.hparams.start, average.hparams.form) == (100, "paper")
    assert average.weights() is None
    observe(average, range(1, 13))
    check(average, {12: 1.0}, count=12)


@pytest.mark.parametrize("form", ["paper", "diwa"])
@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_resumes_exactly(cut: int, form: str) -> None:
    whole = sma(4, form)
    observe(whole, range(1, cut + 1))
    resumed = reloaded(whole)
    for average in (whole, resumed):
        observe(average, range(cut + 1, 13))
    check_same(whole, resumed)


def test_refuses_a_start_before_which_there_is_nothing() -> None:
    with pytest.raises(UserError, match="at least 2, not 1"):
        sma(1)
    with pytest.raises(UserError, match="at least 1, not 0"):
        sma(0, "diwa")
    with pytest.raises(UserError, match="form is one of paper, diwa"):
        sma(100, "DiWA1")
