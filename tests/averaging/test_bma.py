from __future__ import annotations

import pytest
import torch
from torch.distributions import Beta

from dgbench.averaging.bma import BMA
from dgbench.core.errors import UserError
from tests.averaging.one_hot import SIZE, begin, check, check_same, observe, reloaded


def bma(beta: float = 0.5, steps: int = SIZE) -> BMA:
    average = BMA(BMA.Hparams(beta=beta))
    begin(average, steps)
    return average


def densities(beta: float, steps: int = SIZE) -> torch.Tensor:
    x = (torch.arange(steps + 1, dtype=torch.float64) + 0.5) / (steps + 1)
    one = torch.tensor(beta, dtype=torch.float64)
    return torch.as_tensor(Beta(one, one).log_prob(x)).exp()


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_weighs_by_the_density_from_the_initial_weights_on(beta: float) -> None:
    average, weights = bma(beta), densities(beta)
    check(average, {0: 1.0})
    for step in range(1, SIZE + 1):
        observe(average, [step])
        check(average, (weights[: step + 1] / weights[: step + 1].sum()).tolist(), count=step)


def test_the_default_weighs_both_ends_most_and_alike() -> None:
    average = bma()
    observe(average, range(1, SIZE + 1))
    found = average.weights()
    assert found is not None
    shares = found["w"]
    torch.testing.assert_close(shares, shares.flip(0), rtol=0, atol=1e-15)
    assert shares.argmin() == SIZE // 2
    assert shares[0] > 2 * shares[SIZE // 2]


def test_of_one_it_is_the_uniform_mean() -> None:
    average = bma(1.0)
    observe(average, range(1, SIZE + 1))
    check(average, [1 / (SIZE + 1)] * (SIZE + 1))


@pytest.mark.parametrize("beta", [60.0, 400.0])
def test_weights_too_small_for_a_float_count_by_their_ratio(beta: float) -> None:
    average, steps = bma(beta, 2000), 2000
    observe(average, range(1, steps + 1), size=steps)
    weights = densities(beta, steps)
    assert weights[0] < 1e-150
    check(average, (weights / weights.sum()).tolist())


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_resumes_exactly(cut: int) -> None:
    whole = bma()
    observe(whole, range(1, cut + 1))
    resumed = reloaded(whole)
    for average in (whole, resumed):
        observe(average, range(cut + 1, SIZE + 1))
    check_same(whole, resumed)


def test_refuses_what_is_no_density() -> None:
    with pytest.raises(UserError, match="must be above 0, not 0"):
        BMA.Hparams(beta=0)
