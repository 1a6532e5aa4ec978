from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.mldg import MLDG
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

BETA = 0.6


def mean_loss(network: nn.Module, batches: list[Batch]) -> torch.Tensor:
    logits = network(torch.cat([b.x for b in batches])).split([len(b.y) for b in batches])
    return sum(F.cross_entropy(z, b.y) for z, b in zip(logits, batches, strict=True)) / len(batches)


def reference(
    toy: SimpleNamespace, algorithm: MLDG, held_out: int
) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    """A clone takes the inner step with an optimizer of its own; batch norm's buffers are then the clone's."""

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        order = torch.randperm(len(batches)).tolist()
        clone = copy.deepcopy(other.network)
        inner = toy.hand_made(algorithm, clone)
        mean_loss(clone, [batches[i] for i in order[held_out:]]).backward()
        near = [p.grad.clone() for p in clone.parameters()]
        inner.step()
        clone.zero_grad()
        mean_loss(clone, [batches[i] for i in order[:held_out]]).backward()
        for p, g, q in zip(other.network.parameters(), near, clone.parameters(), strict=True):
            p.grad = g + BETA * q.grad
        for mine, its in zip(other.network.buffers(), clone.buffers(), strict=True):
            mine.copy_(its)
        other.optimizer.step()

    return step_


@pytest.mark.parametrize(("domains", "n_meta_test", "held_out"), [(3, 1, 1), (3, 2, 2), (2, 2, 1), (2, 1, 1)])
def test_equals_a_plain_loop(
    toy: SimpleNamespace, norm: str, optimizer: str, domains: int, n_meta_test: int, held_out: int
) -> None:
    options = {"norm": norm, "optimizer": optimizer, "domains": domains}
    algorithm = toy.make(MLDG, mldg_beta=BETA, n_meta_test=n_meta_test, **options)

    def logs(losses: list[float]) -> dict[str, float]:
        train, test = losses
        return {"loss": train + BETA * test, "meta_train": train, "meta_test": test}

    toy.agrees(algorithm, reference(toy, algorithm, held_out), logs=logs)


def test_learns_from_two_domains_at_its_defaults(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MLDG, domains=2)
    before = [p.detach().clone() for p in algorithm.parameters()]
    toy.take(algorithm, 0)
    assert not any(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_every_domain_passes_once(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MLDG)
    seen: list[int] = []
    algorithm.network.featurizer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    toy.take(algorithm, 0)
    assert len(seen) == 2
    assert sum(seen) == sum(len(b.y) for b in toy.batches(0))


def test_weights_come_back_bit_for_bit_also_when_the_second_pass_fails(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MLDG, weight_decay=0.0)
    before = [p.detach().clone() for p in algorithm.parameters()]
    whole, calls = algorithm.domain_losses, []

    def fails_later(data: list[Batch]) -> torch.Tensor:
        calls.append(len(data))
        if len(calls) == 2:
            assert not any(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))
            raise RuntimeError("out of memory")
        return whole(data)

    algorithm.domain_losses = fails_later
    with pytest.raises(RuntimeError, match="out of memory"):
        toy.take(algorithm, 0)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_inner_step_raises_the_inner_product_of_gradients(toy: SimpleNamespace) -> None:
    """To first order G(theta') = G - lr <grad F, grad G> with gradient descent."""
    algorithm = toy.make(MLDG, optimizer="sgd", weight_decay=0.0, lr=1e-6, n_meta_test=1)
    torch.manual_seed(0)
    order = torch.randperm(3).tolist()
    data = toy.batches(0)
    train, test = [data[i] for i in order[1:]], [data[order[0]]]
    losses = [mean_loss(algorithm.network, part) for part in (train, test)]
    near, far = (torch.autograd.grad(loss, list(algorithm.parameters())) for loss in losses)
    product = sum((a * b).sum() for a, b in zip(near, far, strict=True)).item()
    logged = toy.take(algorithm, 0)
    assert (losses[1].item() - logged["meta_test"]) / 1e-6 == pytest.approx(product, rel=1e-4)


def test_clipping_the_inner_step_leaves_the_meta_train_gradient_whole(toy: SimpleNamespace) -> None:
    """At a tiny rate the step is along grad F + beta grad G, both at theta, whatever its length is clipped to."""
    algorithm = toy.make(MLDG, optimizer="sgd", weight_decay=0.0, lr=1e-6, n_meta_test=1, mldg_beta=BETA)
    algorithm.setting = dataclasses.replace(algorithm.setting, clip_norm=1e-2)
    algorithm.build_optimizers()
    torch.manual_seed(0)
    order, data = torch.randperm(3).tolist(), toy.batches(0)
    loss = mean_loss(algorithm.network, [data[i] for i in order[1:]])
    loss = loss + BETA * mean_loss(algorithm.network, [data[order[0]]])
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(algorithm.parameters()))])
    toy.take(algorithm, 0)
    taken = torch.cat([p.grad.flatten() for p in algorithm.parameters()])
    torch.testing.assert_close(taken, 1e-2 * expected / expected.norm(), rtol=0, atol=1e-7)


def test_a_frozen_featurizer_stays(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MLDG)
    algorithm.network.freeze("featurizer")
    algorithm.build_optimizers()
    before = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(algorithm.network.featurizer[0].weight, before)


def test_one_domain_at_least_is_for_meta_test() -> None:
    with pytest.raises(UserError, match="n_meta_test must be at least 1, not 0"):
        MLDG.Hparams(n_meta_test=0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(MLDG, norm="live", optimizer=optimizer, dropout=0.3)
