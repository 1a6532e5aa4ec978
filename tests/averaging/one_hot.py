"""Weights after step t are the unit vector e_t, so that an average is the list of its own weights."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

import torch

from dgbench.methods.average import Average

SIZE = 12


def live(step: int, size: int = SIZE) -> dict[str, torch.Tensor]:
    """The live weights after a step counted from 1 (0: the initial ones), with an integer beside them."""
    weights = torch.zeros(size + 1, dtype=torch.float64)
    weights[step] = 1.0
    return {"w": weights, "count": torch.tensor(step)}


def begin(average: Average, steps: int = SIZE) -> None:
    """Show the initial weights, which are gone at once."""
    weights = live(0, steps)
    average.begin(weights, steps)
    weights["w"].fill_(torch.nan)


def observe(average: Average, steps: Iterable[int], size: int = SIZE) -> None:
    """Show the live weights after these steps, which are gone as soon as training goes on."""
    for step in steps:
        weights = live(step, size)
        average.observe(weights)
        weights["w"].fill_(torch.nan)


def check(average: Average, shares: Mapping[int, float] | Sequence[float], count: int | None = None) -> None:
    """The average consists of these shares of the steps' weights; its integer is that of step `count`."""
    found = average.weights()
    assert found is not None
    expected = torch.zeros_like(found["w"])
    for step, share in shares.items() if isinstance(shares, Mapping) else enumerate(shares):
        expected[step] = share
    torch.testing.assert_close(found["w"], expected, rtol=0, atol=1e-14)
    assert count is None or found["count"].item() == count


def reloaded(average: Average) -> Average:
    """Another of its kind that goes on from its checkpoint."""
    file = io.BytesIO()
    torch.save(average.state(), file)
    file.seek(0)
    again = type(average)(average.hparams)
    again.load(torch.load(file, weights_only=True))
    return again


def check_same(one: Average, other: Average) -> None:
    """Both have the same weights, bit for bit."""
    first, second = one.weights(), other.weights()
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
