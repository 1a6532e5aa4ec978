from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.sagnet import SagNet, randomize_content, randomize_style
from dgbench.methods.batch import Batch

WEIGHT = 0.7


def style_of(z: Tensor) -> tuple[Tensor, Tensor]:
    mean = sum(z) / len(z)
    return mean, sum((v - mean) ** 2 for v in z) / (len(z) - 1)


def content_of(z: Tensor) -> Tensor:
    mean, variance = style_of(z)
    return (z - mean) / (variance + 1e-5).sqrt()


def with_style(content: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return content * (variance + 1e-5).sqrt() + mean


def naive_restyled(z: Tensor) -> Tensor:
    share, other = torch.rand(len(z)), torch.randperm(len(z))
    rows = []
    for i, j in enumerate(other.tolist()):
        (m, v), (m2, v2) = style_of(z[i]), style_of(z[j])
        a = share[i]
        rows.append(with_style(content_of(z[i]), a * m + (1 - a) * m2, a * v + (1 - a) * v2)[None])
    return torch.cat(rows)


def naive_refilled(z: Tensor) -> Tensor:
    other = torch.randperm(len(z)).tolist()
    return torch.cat([with_style(content_of(z[j]).detach(), *style_of(z[i]))[None] for i, j in enumerate(other)])


def reference(toy: SimpleNamespace, algorithm: SagNet) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    """Three networks, three optimizers, as in the paper's algorithm."""
    style = copy.deepcopy(algorithm.style)
    optimizers: list[torch.optim.Optimizer] = []

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        if step == 0:
            optimizers[:] = [toy.hand_made(algorithm, m) for m in (network.featurizer, network.classifier, style)]
        of_f, of_c, of_s = optimizers
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])

        def step_of(loss: Tensor, *moving: torch.optim.Optimizer) -> None:
            for module in (network, style):
                module.zero_grad()
            loss.backward()
            for optimizer in moving:
                optimizer.step()

        step_of(F.cross_entropy(network.classifier(naive_restyled(network.featurizer(x))), y), of_f, of_c)
        features = network.featurizer(x)
        step_of(F.cross_entropy(style(naive_refilled(features.detach())), y), of_s)
        p = style(naive_refilled(features)).softmax(1)
        step_of(-WEIGHT * p.log().mean(), of_f)
        for mine, theirs in zip(algorithm.style.parameters(), style.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    return step_


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(SagNet, norm=norm, optimizer=optimizer, sag_w_adv=WEIGHT)
    toy.agrees(algorithm, reference(toy, algorithm))


def test_a_nonlinear_style_network_equals_a_plain_loop(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SagNet, nonlinear=True, sag_w_adv=WEIGHT)
    assert isinstance(algorithm.style, nn.Sequential)
    toy.agrees(algorithm, reference(toy, algorithm))


def test_restyling_keeps_content_and_refilling_keeps_style() -> None:
    z = torch.randn(6, 40) * torch.rand(6, 1) + torch.randn(6, 1)
    r = randomize_style(z)
    torch.testing.assert_close(F.normalize(r - r.mean(1, True)), F.normalize(z - z.mean(1, True)))
    assert not torch.allclose(r.mean(1), z.mean(1))
    torch.testing.assert_close(randomize_content(z).mean(1), z.mean(1))
    torch.testing.assert_close(randomize_content(z).var(1), z.var(1), rtol=1e-2, atol=1e-3)


def test_random_content_is_held_constant() -> None:
    """The gradient of a row that lends its content goes through its own style alone, which has two dimensions."""
    z = torch.randn(5, 40, requires_grad=True)
    (randomize_content(z) * torch.randn(5, 40)).sum().backward()
    own = torch.stack([torch.ones(5, 40), z.detach()], dim=2)
    fit = torch.linalg.lstsq(own, z.grad[:, :, None]).solution
    torch.testing.assert_close((own @ fit)[:, :, 0], z.grad)


def test_two_passes_through_the_featurizer(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SagNet)
    seen = []
    algorithm.network.featurizer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    toy.take(algorithm, 0)
    assert seen == [16, 16]


def test_a_frozen_featurizer_is_left_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SagNet)
    algorithm.network.freeze("featurizer")
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    toy.take(algorithm, 0)
    moved = [not torch.equal(p, q) for p, q in zip(before, algorithm.network.parameters(), strict=True)]
    assert moved == [False, False, True, True]


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SagNet, norm="live", optimizer=optimizer, dropout=0.3)
