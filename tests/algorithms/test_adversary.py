from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dgbench.algorithms._adversary import discriminator, gradient_reversal
from dgbench.algorithms.adrmx import ADRMX
from dgbench.algorithms.dann import CDANN, DANN
from dgbench.algorithms.sdat import SDAT
from dgbench.core.errors import UserError


def hparams(width: int = 5, depth: int = 3, dropout: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(mlp_width=width, mlp_depth=depth, mlp_dropout=dropout)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_discriminator_has_as_many_linear_layers_as_asked(depth: int) -> None:
    net = discriminator(4, 2, hparams(depth=depth))
    linear = [m for m in net if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == [(5, 4), *[(5, 5)] * (depth - 2), (2, 5)]
    x = torch.randn(3, 4)
    expected = x
    for layer in linear[:-1]:
        expected = layer(expected).relu()
    assert torch.equal(net(x), linear[-1](expected))


def test_dropout_acts_between_its_layers() -> None:
    net = discriminator(4, 2, hparams(width=50, dropout=0.5))
    hidden = []
    net[2].register_forward_hook(lambda _, __, out: hidden.append(out))
    net(torch.ones(1, 4))
    net.eval()(torch.ones(1, 4))
    assert (hidden[0] == 0).sum() > (hidden[1] == 0).sum()


@pytest.mark.parametrize("cls", [DANN, CDANN, SDAT, ADRMX])
@pytest.mark.parametrize("wrong", [{"depth": 1}, {"width": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_discriminators_are_refused(cls: Any, wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"^mlp_{name} must "):
        cls.Hparams(**{f"mlp_{name}": value})


def test_reversal_is_the_identity_forward_and_its_negative_multiple_backward() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    out = gradient_reversal(x, 0.3)
    assert torch.equal(out, x)
    out.square().sum().backward()
    torch.testing.assert_close(x.grad, -0.6 * x.detach())
