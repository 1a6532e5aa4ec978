from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.rdm import RDM, penalties
from dgbench.core.errors import UserError
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch

ANNEAL, LAMBDA, NU, LR = 2, 3.0, 0.7, 4e-3
OPTIONS = {"rdm_penalty_anneal_iters": ANNEAL, "rdm_lambda": LAMBDA, "variance_weight": NU, "rdm_lr": LR}


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros(())
    for x in a:
        for y in b:
            for power in range(-4, 4):
                total = total + torch.exp(-(10.0**power) * (x - y) ** 2)
    return total / (len(a) * len(b))


def by_loops(losses: list[Tensor]) -> tuple[Tensor, Tensor]:
    worst = max(losses, key=lambda each: each.mean().item())
    pooled = torch.cat(losses)
    mmd = mean_kernel(worst, worst) + mean_kernel(pooled, pooled) - 2 * mean_kernel(worst, pooled)
    return mmd, worst.std() ** 2 + pooled.std() ** 2


def reference(toy: SimpleNamespace, algorithm: RDM) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == ANNEAL:
            other.optimizer = toy.hand_made(algorithm, other.network)
            other.optimizer.param_groups[0]["lr"] = LR
        logits = torch.split(other.network(torch.cat([b.x for b in batches])), [len(b.y) for b in batches])
        losses = [F.cross_entropy(z, b.y, reduction="none") for z, b in zip(logits, batches, strict=True)]
        loss = sum(each.mean() for each in losses) / len(losses)
        if step >= ANNEAL:
            mmd, variance = by_loops(losses)
            loss = loss + LAMBDA * mmd + NU * variance
        other.optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()

    return step_


def test_equals_a_plain_loop_across_the_annealing_step(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(RDM, norm=norm, optimizer=optimizer, **OPTIONS)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


def test_penalties_find_the_worst_domain_wherever_it_is() -> None:
    parts = [torch.rand(4), torch.rand(2) + 3, torch.rand(5)]
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        losses = [parts[i] for i in order]
        for got, expected in zip(penalties(losses), by_loops(losses), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_equal_domains_match_already() -> None:
    same = torch.rand(6)
    matching, variance = penalties([same, same, same])
    assert matching.item() == pytest.approx(0, abs=1e-14)
    assert variance.item() == pytest.approx((same.var() + same.repeat(3).var()).item())


def test_space_is_domainbeds() -> None:
    by_name = {spec.name: spec for spec in space_of(RDM.Hparams)}

    def at(name: str, *traits: str) -> tuple[object, str]:
        value, draw = by_name[name].for_traits(traits)
        return value, str(draw)

    assert at("batch_size") == (88, "int U(70, 100)")
    assert at("batch_size", "many_classes", "DomainNet") == (40, "int U(30, 60)")
    assert at("batch_size", "TerraIncognita") == (40, "int U(30, 60)")
    assert at("batch_size", "small_images") == (64, "int 2^U(3, 9)")
    assert at("batch_size", "few_examples", "small_images") == (32, "int 2^U(3, 5.5)")
    assert at("rdm_lambda") == (5.0, "U(0.1, 10)")
    assert at("rdm_lambda", "PACS") == at("rdm_lambda", "TerraIncognita") == (5.0, "U(1, 10)")
    assert at("rdm_lambda", "DomainNet") == (0.5, "U(0.1, 1)")
    assert at("rdm_penalty_anneal_iters") == (1500, "int U(800, 2700)")
    assert at("rdm_penalty_anneal_iters", "DomainNet") == (2400, "int U(1500, 3000)")
    assert at("variance_weight") == (0.004, "U(0.001, 0.007)")
    assert at("variance_weight", "OfficeHome") == (0.0, "None")
    assert at("rdm_lr") == (1.5e-05, "U(8e-06, 2e-05)")


def test_a_minibatch_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        RDM.Hparams(batch_size=1)


@pytest.mark.parametrize("anneal", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_annealing_step(
    toy: SimpleNamespace, optimizer: str, anneal: int
) -> None:
    toy.resumes(RDM, **{**OPTIONS, "rdm_penalty_anneal_iters": anneal}, optimizer=optimizer, dropout=0.3)
