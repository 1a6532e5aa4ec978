from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.fish import Fish
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

Reference = Callable[[SimpleNamespace, list[Batch], int], None]


def reference(eps: float, drawn: int = 0) -> Reference:
    """A deep copy takes the inner steps with its own optimizer, whose state goes back to the next copy's."""

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        chosen = torch.randperm(len(batches))[:drawn].tolist() if drawn else range(len(batches))
        inner = copy.deepcopy(other.network)
        optimizer = type(other.optimizer)(inner.parameters())
        optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        for i in chosen:
            optimizer.zero_grad()
            F.cross_entropy(inner(batches[i].x), batches[i].y).backward()
            optimizer.step()
        other.optimizer.load_state_dict(optimizer.state_dict())
        begin, end = other.network.state_dict(), inner.state_dict()
        other.network.load_state_dict({name: begin[name] + eps * (end[name] - begin[name]) for name in begin})

    return step_


def mean(losses: list[float]) -> dict[str, float]:
    return {"loss": sum(losses) / len(losses)}


@pytest.mark.parametrize("meta_lr", [0.05, 0.5, 1.0])
def test_domainbed_form_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, meta_lr: float) -> None:
    toy.agrees(toy.make(Fish, norm=norm, optimizer=optimizer, meta_lr=meta_lr), reference(meta_lr), logs=mean)


@pytest.mark.parametrize("meta_steps", [1, 2, 3])
def test_wilds_form_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, meta_steps: int) -> None:
    options = {"form": "wilds", "meta_lr": 0.5, "meta_steps": meta_steps}
    toy.agrees(
        toy.make(Fish, norm=norm, optimizer=optimizer, **options), reference(0.5 / meta_steps, meta_steps), logs=mean
    )


def test_integer_buffers_are_interpolated_then_cut_off(toy: SimpleNamespace) -> None:
    for meta_lr, expected in ((0.05, 0), (0.5, 1), (1.0, 3)):
        algorithm = toy.make(Fish, norm="live", meta_lr=meta_lr)
        toy.take(algorithm, 0)
        assert algorithm.network.featurizer[1].num_batches_tracked.item() == expected


def test_all_the_way_is_sequential_sgd(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Fish, optimizer="sgd", meta_lr=1.0, weight_decay=0.0)
    network = copy.deepcopy(algorithm.network)
    sgd = torch.optim.SGD(network.parameters(), lr=algorithm.hparams.lr, momentum=0.9)
    for step in range(3):
        toy.take(algorithm, step)
        for batch in toy.batches(step):
            sgd.zero_grad()
            F.cross_entropy(network(batch.x), batch.y).backward()
            sgd.step()
    for p, q in zip(algorithm.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


def test_second_order_term_raises_inner_products(toy: SimpleNamespace) -> None:
    """With SGD of a small rate, two domains: theta - theta~ = lr (g1 + g2) - lr^2 H2 g1 + O(lr^3)."""
    lr = 1e-4
    algorithm = toy.make(Fish, optimizer="sgd", meta_lr=1.0, lr=lr, weight_decay=0.0, domains=2)
    algorithm.optimizer = torch.optim.SGD(algorithm.network.parameters(), lr=lr)
    first, second = toy.batches(0)[:2]
    parameters = list(algorithm.network.parameters())
    g1, g2 = (
        torch.autograd.grad(F.cross_entropy(algorithm(b.x), b.y), parameters, create_graph=True)
        for b in (first, second)
    )
    h2g1 = torch.autograd.grad(sum((a.detach() * b).sum() for a, b in zip(g1, g2, strict=True)), parameters)
    before = [p.detach().clone() for p in parameters]
    algorithm.update([first, second])
    for old, new, a, b, h in zip(before, parameters, g1, g2, h2g1, strict=True):
        torch.testing.assert_close((a + b).detach() - (old - new).detach() / lr, lr * h, rtol=0, atol=1e-7)
        assert h.abs().max() * lr > 1e-6


def test_no_network_and_no_optimizer_are_made(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Fish)
    network, optimizer = algorithm.network, algorithm.optimizer
    toy.take(algorithm, 0)
    assert algorithm.network is network
    assert algorithm.optimizer is optimizer
    assert set(algorithm.state_dict()) == {f"network.{name}" for name in network.state_dict()}


def test_refuses_what_it_cannot_do(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="form is one of domainbed, wilds, not 'wild'"):
        Fish.Hparams(form="wild")
    with pytest.raises(UserError, match="meta_steps is 4; it must lie between 1 and the 3 training domains"):
        toy.make(Fish, form="wilds", meta_steps=4)
    toy.make(Fish, form="domainbed", meta_steps=4)


@pytest.mark.parametrize("form", ["domainbed", "wilds"])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, form: str) -> None:
    for pretrain_steps in (0, 2):
        options = {"form": form, "meta_steps": 2, "pretrain_steps": pretrain_steps}
        toy.resumes(Fish, norm="live", optimizer=optimizer, dropout=0.3, **options)


def test_pretraining_is_erms_and_the_meta_steps_begin_with_a_new_optimizer(
    toy: SimpleNamespace, optimizer: str
) -> None:
    found, erm = toy.make(Fish, optimizer=optimizer, meta_lr=0.5, pretrain_steps=3), toy.make(ERM, optimizer=optimizer)
    for step in range(3):
        toy.take(found, step)
        toy.take(erm, step)
    alone = toy.make(Fish, optimizer=optimizer, meta_lr=0.5)
    alone.network.load_state_dict(erm.network.state_dict())
    for step in (3, 4):
        toy.take(found, step)
        toy.take(alone, step)
    for p, q in zip(found.parameters(), alone.parameters(), strict=True):
        assert torch.equal(p, q)
