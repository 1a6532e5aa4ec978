from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.fishr import Fishr
from dgbench.core.errors import UserError
from dgbench.core.space import resolve, space_of
from dgbench.methods.batch import Batch

OPTIONS = {"fishr_lambda": 50.0, "penalty_anneal_iters": 2, "ema": 0.9}


def variance(network: torch.nn.Module, z: Tensor, y: Tensor) -> Tensor:
    head = list(network.classifier.parameters())
    rows = []
    for i in range(len(y)):
        loss = F.cross_entropy(network.classifier(z[i : i + 1]), y[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, head, create_graph=True)]))
    centred = torch.stack(rows) - torch.stack(rows).mean(0, keepdim=True)
    return (centred**2).mean(0)


def reference(
    toy: SimpleNamespace, algorithm: Fishr
) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    averages: dict[int, Tensor] = {}

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        if step == OPTIONS["penalty_anneal_iters"]:
            other.optimizer = toy.hand_made(algorithm, other.network)
        z = other.network.dropout(other.network.features(torch.cat([b.x for b in batches])))
        corrected = []
        for i, (part, b) in enumerate(zip(torch.split(z, [len(b.y) for b in batches]), batches, strict=True)):
            average = 0.9 * averages.get(i, torch.zeros(())) + 0.1 * variance(other.network, part, b.y)
            averages[i] = average.detach()
            corrected.append(average / 0.1)
        other.remembered["variances"] = torch.stack([averages[i] for i in range(len(batches))])
        mean = sum(corrected) / len(corrected)
        penalty = sum(((v - mean) ** 2).mean() for v in corrected) / len(corrected)
        loss = F.cross_entropy(other.network.classifier(z), torch.cat([b.y for b in batches]))
        other.optimizer.zero_grad()
        (loss + (50.0 if step >= OPTIONS["penalty_anneal_iters"] else 0.0) * penalty).backward()
        other.optimizer.step()
        return {"nll": loss.detach(), "penalty": penalty.detach()}

    return step_


@pytest.mark.parametrize("nonlinear", [False, True])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, nonlinear: bool) -> None:
    algorithm = toy.make(Fishr, norm=norm, optimizer=optimizer, nonlinear=nonlinear, dropout=0.3, **OPTIONS)
    toy.agrees(algorithm, reference(toy, algorithm), steps=4)


def test_domains_alike_have_no_penalty(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Fishr, **OPTIONS)
    batch = toy.batches(0)[0]
    assert algorithm.update([batch, batch, batch])["penalty"].item() == pytest.approx(0, abs=1e-28)


def test_the_first_step_is_corrected_for_the_zero_that_the_average_starts_at(toy: SimpleNamespace) -> None:
    sharp, smooth = (toy.make(Fishr, fishr_lambda=1.0, penalty_anneal_iters=0, ema=ema) for ema in (0.0, 0.97))
    assert toy.take(sharp, 0)["penalty"] == pytest.approx(toy.take(smooth, 0)["penalty"], rel=1e-9)


def test_the_average_must_let_something_in() -> None:
    with pytest.raises(UserError, match=r"ema must lie in \[0, 1\), not 1.0"):
        Fishr.Hparams(ema=1.0)


def test_space_is_domainbeds() -> None:
    space = {spec.name: spec for spec in space_of(Fishr.Hparams)}
    assert {name: (space[name].default, str(space[name].draw)) for name in OPTIONS} == {
        "fishr_lambda": (1000.0, "10^U(1, 4)"),
        "penalty_anneal_iters": (1500, "int U(0, 5000)"),
        "ema": (0.95, "U(0.9, 0.99)"),
    }
    assert space["fishr_lambda"].stream == "lambda"
    assert isinstance(resolve(space_of(Fishr.Hparams), hparams_seed=3)["penalty_anneal_iters"], int)


@pytest.mark.parametrize("anneal", [1, 3, 5])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, anneal: int) -> None:
    toy.resumes(Fishr, optimizer=optimizer, dropout=0.3, norm="live", **{**OPTIONS, "penalty_anneal_iters": anneal})
