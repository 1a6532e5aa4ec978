from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms._gradients import agreement
from dgbench.algorithms.andmask import ANDMask
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch


def reference(tau: float) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        parameters = list(other.network.parameters())
        found = [torch.autograd.grad(F.cross_entropy(other.network(b.x), b.y), parameters) for b in batches]
        for p, *gradients in zip(parameters, *found, strict=True):
            p.grad = torch.zeros_like(p)
            kept = 0
            for index in range(p.numel()):
                values = [g.flatten()[index].item() for g in gradients]
                ups = sum(v > 0 for v in values) - sum(v < 0 for v in values)
                if abs(ups) / len(values) >= tau:
                    p.grad.view(-1)[index] = sum(values) / len(values)
                    kept += 1
            p.grad /= max(kept / p.numel(), 1e-10)
        other.optimizer.step()

    return step_


@pytest.mark.parametrize(("domains", "tau"), [(3, 1.0), (3, 0.3), (2, 1.0)])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, domains: int, tau: float) -> None:
    options = {"norm": norm, "optimizer": optimizer, "domains": domains}
    toy.agrees(
        toy.make(ANDMask, tau=tau, **options), reference(tau), logs=lambda losses: {"loss": sum(losses) / domains}
    )


def test_signs_are_counted() -> None:
    gradients = torch.tensor([[-3.0, 1.0, 0.0], [-1e-30, -2.0, 0.0], [-1.0, 5.0, 0.0]], dtype=torch.float32)
    assert agreement(gradients).tolist() == [3, 1, 0]


def test_keeps_what_agrees(toy: SimpleNamespace) -> None:
    """Two domains, the second with opposite gradients by construction: nothing is kept, and nothing moves."""
    algorithm = toy.make(ANDMask, domains=2, optimizer="sgd", weight_decay=0.0)
    data = toy.batches(0)[0]
    whole, calls = algorithm.joint_loss, []

    def opposite(batches: list[Batch]) -> torch.Tensor:
        calls.append(1)
        return whole(batches) * (1 if len(calls) % 2 else -1)

    algorithm.joint_loss = opposite
    before = [p.detach().clone() for p in algorithm.parameters()]
    logged = algorithm.update([data, data])
    assert logged["kept"].item() == 0
    assert all(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_at_threshold_zero_it_is_erm(toy: SimpleNamespace) -> None:
    masked, erm = toy.make(ANDMask, tau=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        assert masked.update(data)["kept"].item() == 1
        erm.update(data)
    for p, q in zip(masked.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_a_frozen_featurizer_stays(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ANDMask)
    algorithm.network.freeze("featurizer")
    algorithm.build_optimizers()
    before = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(algorithm.network.featurizer[0].weight, before)


@pytest.mark.parametrize("tau", [-0.1, 1.1])
def test_threshold_is_a_share_of_the_domains(tau: float) -> None:
    with pytest.raises(UserError, match=r"tau must lie in \[0, 1\]"):
        ANDMask.Hparams(tau=tau)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(ANDMask, norm="live", optimizer=optimizer, dropout=0.3)
