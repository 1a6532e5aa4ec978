from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.vrex import VREx
from dgbench.core.space import resolve, space_of
from dgbench.methods.batch import Batch

ANNEAL = 2


def reference(
    toy: SimpleNamespace, algorithm: VREx
) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, torch.Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
        if step == ANNEAL:
            other.optimizer = toy.hand_made(algorithm, other.network)
        logits = other.network(torch.cat([b.x for b in batches]))
        losses, start = [], 0
        for b in batches:
            losses.append(F.cross_entropy(logits[start : start + len(b.y)], b.y))
            start += len(b.y)
        mean = sum(losses) / len(losses)
        variance = sum((loss - mean) ** 2 for loss in losses) / len(losses)
        other.optimizer.zero_grad()
        (mean + (7.0 if step >= ANNEAL else 1.0) * variance).backward()
        other.optimizer.step()
        return {"nll": mean.detach(), "penalty": variance.detach()}

    return step_


def test_equals_a_plain_loop_across_the_annealing_step(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(VREx, norm=norm, optimizer=optimizer, vrex_lambda=7.0, vrex_penalty_anneal_iters=ANNEAL)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


def test_penalty_is_the_population_variance(toy: SimpleNamespace) -> None:
    algorithm = toy.make(VREx)
    losses = algorithm.domain_losses(toy.batches(0)).detach()
    logged = toy.take(algorithm, 0)
    assert logged["penalty"] == pytest.approx(losses.var(unbiased=False).item(), abs=1e-14)
    assert logged["loss"] == pytest.approx(losses.mean().item() + logged["penalty"], abs=1e-14)


def test_space_is_domainbeds() -> None:
    space = space_of(VREx.Hparams)
    by_name = {spec.name: spec for spec in space}
    assert (by_name["vrex_lambda"].default, str(by_name["vrex_lambda"].draw)) == (10.0, "10^U(-1, 5)")
    anneal = by_name["vrex_penalty_anneal_iters"]
    assert (anneal.default, str(anneal.draw)) == (500, "int 10^U(0, 4)")
    assert isinstance(resolve(space, hparams_seed=3)["vrex_penalty_anneal_iters"], int)


@pytest.mark.parametrize("anneal", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_annealing_step(
    toy: SimpleNamespace, optimizer: str, anneal: int
) -> None:
    toy.resumes(VREx, optimizer=optimizer, vrex_penalty_anneal_iters=anneal, dropout=0.3)
