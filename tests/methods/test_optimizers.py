from __future__ import annotations

import io
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.errors import UserError
from dgbench.core.optimizers import LEFT_OUT, OPTIMIZERS
from dgbench.core.setting import setting
from dgbench.methods.optimizers import make_optimizer, prepare_step

TORCHS = {name.lower() for name in vars(torch.optim) if isinstance(getattr(torch.optim, name), type)}


def model() -> nn.Sequential:
    """A network with a convolution, a norm and matrices: some optimizers treat these apart."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5), nn.Linear(5, 3))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps on data that depend on the step alone, at falling rates."""
    for step in steps:
        torch.manual_seed(step)
        x, y = torch.randn(6, 1, 4, 4), torch.randint(3, (6,))
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        prepare_step(optimizer, 1 - step / 10, clip_norm=5.0)
        optimizer.step()


def test_every_optimizer_of_timm_and_torch_is_listed_or_left_out_with_a_reason() -> None:
    theirs = set(timm.optim.list_optimizers()) | TORCHS - {"optimizer"}
    assert set(OPTIMIZERS) - {"nesterov"} <= theirs
    assert theirs == set(OPTIMIZERS) | set(LEFT_OUT)
    assert not set(OPTIMIZERS) & set(LEFT_OUT)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_resumes_exactly(name: str) -> None:
    how = setting(optimizer=name, amsgrad=name.startswith("adam") and name in ("adam", "adamw"))
    whole, stopped, resumed = model(), model(), model()
    optimizers = [make_optimizer(how, m.parameters(), 1e-2, 1e-2, None) for m in (whole, stopped, resumed)]
    train(whole, optimizers[0], range(4))
    train(stopped, optimizers[1], range(2))
    file = io.BytesIO()
    torch.save({"model": stopped.state_dict(), "optimizer": optimizers[1].state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed.load_state_dict(state["model"])
    optimizers[2].load_state_dict(state["optimizer"])
    train(resumed, optimizers[2], range(2, 4))
    for (place, expected), found, start in zip(
        whole.named_parameters(), resumed.parameters(), model().parameters(), strict=True
    ):
        assert torch.equal(found, expected), place
        assert not torch.equal(found, start), f"{place} does not learn"
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ["adam", "adafactorbvc", "cadamc", "lambcd", "lionc", "sgdc"])
def test_a_rate_of_0_moves_nothing_whatever_the_decay(name: str) -> None:
    for rates in ((0.0, 0.0), (1e-2, 0.0)):
        network = model()
        before, parameters = [p.detach().clone() for p in network.parameters()], list(network.parameters())
        groups: list[dict[str, Any]] = [{"params": parameters[:4]}, {"params": parameters[4:], "lr": rates[1]}]
        train(network, make_optimizer(setting(optimizer=name), groups, rates[0], 1e-1, None), range(2))
        moved = [not torch.equal(p, q) for p, q in zip(parameters, before, strict=True)]
        assert moved == [rates[0] > 0] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2, fused=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-2, fused=True)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=1e-2, momentum=0.9, fused=True)),
        ("nesterov", lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=1e-2, momentum=0.9, nesterov=True, fused=True)),
        ("lion", lambda p: timm.optim.Lion(p, lr=1e-2, weight_decay=1e-2)),
        ("lamb", lambda p: timm.optim.create_optimizer_v2(p, "lamb", lr=1e-2, weight_decay=1e-2)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=1e-2, weight_decay=1e-2, momentum=0.9, alpha=0.9)),
    ],
)
def test_names_stand_for_these_classes(name: str, reference: Any) -> None:
    ours, theirs = model(), model()
    train(ours, make_optimizer(setting(optimizer=name), ours.parameters(), 1e-2, 1e-2, None), range(3))
    optimizer = reference(theirs.parameters())
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]
    train(theirs, optimizer, range(3))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def options(name: str, betas: tuple[float, float] | None = None, **changes: Any) -> dict[str, Any]:
    """The options of an optimizer's one group."""
    parameters = [nn.Parameter(torch.ones(2, 2))]
    (group,) = make_optimizer(setting(optimizer=name, **changes), parameters, 1e-2, 0.0, betas).param_groups
    return group


def test_values_reach_the_optimizers_that_take_them() -> None:
    assert options("adam")["betas"] == (0.9, 0.999)
    assert options("lion")["betas"] == (0.9, 0.99), "the optimizer's own"
    assert options("lion", (0.5, 0.9))["betas"] == (0.5, 0.9)
    assert options("adan", (0.5, 0.9))["betas"] == (0.98, 0.92, 0.99), "three betas mean other things"
    assert "betas" not in options("sgd", (0.5, 0.9))
    assert [options(name, momentum=0.3)["momentum"] for name in ("sgd", "lars", "muon")] == [0.3, 0.3, 0.3]
    assert "momentum" not in options("adam", momentum=0.3)
    assert options("adamw", amsgrad=True)["amsgrad"] is True
    assert [options(name)["fused"] for name in ("adam", "adamw", "sgd", "nesterov")] == [True] * 4


def test_corrected_decay_is_that_of_each_groups_own_rate() -> None:
    """timm measures how far a rate has fallen from the first group's; a group of another rate has its own."""
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.ones(3))], "lr": lr} for lr in (1e-1, 1e-3)]
    optimizer = make_optimizer(setting(optimizer="sgdc"), groups, 1e-1, 0.5, None)

    def shares(factor: float) -> list[float]:
        with torch.no_grad():
            for group in optimizer.param_groups:
                group["params"][0].fill_(1.0).grad = torch.zeros(3)
        prepare_step(optimizer, factor, 0.0)
        optimizer.step()
        moved: list[Tensor] = [1 - group["params"][0].detach() for group in optimizer.param_groups]
        return [float(x[0] / (0.5 * group["full_lr"])) for x, group in zip(moved, optimizer.param_groups, strict=True)]

    assert shares(1.0) == pytest.approx([1, 1], rel=1e-3)
    assert shares(0.5) == pytest.approx([0.25, 0.25], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer": "lino"}, "unknown optimizer 'lino': did you mean 'lion'"),
        ({"optimizer": "AdamW"}, "unknown optimizer 'AdamW': did you mean 'adamw'"),
        ({"optimizer": "LBFGS"}, "optimizer 'LBFGS' evaluates the loss several times a step"),
        ({"optimizer": "bnblion8bit"}, "needs bitsandbytes"),
        ({"optimizer": "lion", "amsgrad": True}, "amsgrad changes adam and adamw, not optimizer 'lion': leave it out"),
    ],
)
def test_unfit_names_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        setting(**changes)
