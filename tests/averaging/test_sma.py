from __future__ import annotations

import io

import pytest
import torch

from dgbench.averaging.sma import SMA
from dgbench.errors import UserError


def live(step: int, size: int = 12) -> dict[str, torch.Tensor]:
    """The one-hot weights of a step counted from 1."""
    weights = torch.zeros(size, dtype=torch.float64)
    weights[step - 1] = 1.0
    return {"w": weights, "count": torch.tensor(step)}


def observe(sma: SMA, steps: range) -> SMA:
    for step in steps:
        weights = live(step)
        sma.observe(weights)
        weights["w"].fill_(torch.nan)
    return sma


@pytest.mark.parametrize("start", [2, 4])
def test_every_step_is_the_published_recurrence(start: int) -> None:
    sma = SMA(SMA.Hparams(start=start))
    expected, count = torch.zeros(12, dtype=torch.float64), 0
    for step in range(1, 13):
        observe(sma, range(step, step + 1))
        now = live(step)["w"]
        if step < start:
            expected = now.clone()
        else:
            count += 1
            expected = (count * expected + now) / (count + 1)
        got = sma.weights()
        assert got is not None
        torch.testing.assert_close(got["w"], expected, rtol=0, atol=1e-15)
        assert got["count"].item() == step


def test_is_the_uniform_mean_from_the_step_before_the_start() -> None:
    got = observe(SMA(SMA.Hparams(start=5)), range(1, 10)).weights()
    assert got is not None
    expected = torch.tensor([0, 0, 0, *[1 / 6] * 6, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(got["w"], expected, rtol=0, atol=1e-15)


def test_a_short_run_has_the_live_model() -> None:
    sma = SMA(SMA.Hparams())
    assert sma.hparams.start == 100
    assert sma.weights() is None
    got = observe(sma, range(1, 13)).weights()
    assert got is not None
    assert torch.equal(got["w"], live(12)["w"])


@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_resumes_exactly(cut: int) -> None:
    whole = observe(SMA(SMA.Hparams(start=4)), range(1, cut + 1))
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    resumed = SMA(SMA.Hparams(start=4))
    resumed.load(torch.load(file, weights_only=True))
    first, second = (observe(sma, range(cut + 1, 13)).weights() for sma in (whole, resumed))
    assert first is not None
    assert second is not None
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_refuses_a_start_before_which_there_is_nothing() -> None:
    with pytest.raises(UserError, match="at least 2, not 1"):
        SMA.Hparams(start=1)
