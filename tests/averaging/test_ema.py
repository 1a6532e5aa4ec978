from __future__ import annotations

import pytest
import torch

from dgbench.averaging.ema import EMA, SwitchEMA
from dgbench.core.errors import UserError
from dgbench.methods.average import RunningMean, move_towards
from tests.averaging.one_hot import SIZE, begin, check, check_same, observe, reloaded


def ema(decay: float, cls: type[EMA] = EMA) -> EMA:
    average = cls(cls.Hparams(decay=decay))
    begin(average)
    return average


def test_is_the_uniform_mean_until_the_decay_is_reached() -> None:
    average = ema(0.999)
    check(average, {0: 1.0}, count=0)
    for step in range(1, SIZE + 1):
        observe(average, [step])
        check(average, dict.fromkeys(range(step + 1), 1 / (step + 1)), count=step)


def test_then_each_step_keeps_that_much() -> None:
    """With a decay of 3/4 the mean is uniform over theta_0, ..., theta_3: t / (t + 1) is 3/4 at t = 3."""
    average = ema(0.75)
    observe(average, range(1, SIZE + 1))
    early = dict.fromkeys(range(4), 0.25 * 0.75 ** (SIZE - 3))
    check(average, {**early, **{t: 0.25 * 0.75 ** (SIZE - t) for t in range(4, SIZE + 1)}})


def test_without_memory_it_is_the_live_model() -> None:
    average = ema(0.0)
    observe(average, range(1, 6))
    check(average, {5: 1.0})


@pytest.mark.parametrize("cls", [EMA, SwitchEMA])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_resumes_exactly(cut: int, cls: type[EMA]) -> None:
    whole = ema(0.8, cls)
    observe(whole, range(1, cut + 1))
    resumed = reloaded(whole)
    for average in (whole, resumed):
        observe(average, range(cut + 1, SIZE + 1))
    check_same(whole, resumed)


def test_only_the_switching_one_feeds_back() -> None:
    watching, switching = ema(0.8), ema(0.8, SwitchEMA)
    for average in (watching, switching):
        observe(average, range(1, 5))
    assert (EMA.card.feeds_back, SwitchEMA.card.feeds_back) == ((), ("weights",))
    assert watching.feedback() is None
    fed, held = switching.feedback(), switching.weights()
    assert fed is not None
    assert held is not None
    assert all(torch.equal(fed[name], held[name]) for name in held)
    assert switching.lr_factor(3) == 1.0
    check_same(watching, switching)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_refuses_a_decay_that_never_moves_or_runs_away(decay: float) -> None:
    with pytest.raises(UserError, match=r"must lie in \[0, 1\)"):
        EMA.Hparams(decay=decay)


def test_a_tensor_that_grows_begins_anew() -> None:
    """As the weights of the domains in DomainBed's GroupDRO, which are empty before the first step."""
    mean = RunningMean()
    for tensor in (torch.zeros(0), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])):
        mean.add({"q": tensor, "w": torch.ones(1) * len(tensor)})
    torch.testing.assert_close(mean.mean["q"], torch.tensor([1.0, 2.0]) * 2 / 3 + torch.tensor([3.0, 4.0]) / 3)
    torch.testing.assert_close(mean.mean["w"], torch.tensor([4 / 3]))


def test_moving_changes_what_is_kept_alone() -> None:
    kept = {"w": torch.zeros(2), "count": torch.tensor(0)}
    live = {"w": torch.ones(2), "count": torch.tensor(5)}
    move_towards(kept, live, 0.25)
    assert (kept["w"].tolist(), kept["count"].item()) == ([0.25, 0.25], 5)
    live["count"] += 1
    assert kept["count"].item() == 5, "a copy"
    assert live["w"].tolist() == [1.0, 1.0]
