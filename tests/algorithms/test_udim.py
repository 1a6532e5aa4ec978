from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.layers import EvoNorm2dB0
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dgbench.algorithms import udim
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.methods.batch import Batch, Task
from dgbench.methods.rule import compose
from dgbench.networks.network import Network
from dgbench.rules.gam import GAM
from dgbench.rules.sagm import SAGM
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import Loss, erm, gradient_at, gradient_of, norm_of, plus, times
from tests.algorithms.uphill import step as take_step
from tests.rules.test_gam import PAPER, combined

UDIM = compose(udim.UDIM, SAM, "UDIM")
UDIMTransductive = compose(udim.UDIMTransductive, SAM, "UDIMTransductive")
RHO, LAMBDA, LENGTH = 0.1, 0.6, 0.8
OPTIONS: dict[str, Any] = {"rho": RHO, "udim_lambda": LAMBDA, "syn_lr": LENGTH, "warm_up_ratio": 1000}
NO_WARM_UP, WARM_UP = 100, 3


def head_gradients(network: nn.Module, z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Each example's, by each parameter of the classifier: (B, numel)."""
    head = dict(network.classifier.named_parameters())
    rows: dict[str, list[Tensor]] = {name: [] for name in head}
    for i in range(len(y)):
        loss = F.cross_entropy(network.classifier(z[i : i + 1]), y[i : i + 1])
        for name, g in zip(head, torch.autograd.grad(loss, list(head.values()), create_graph=True), strict=True):
            rows[name].append(g.flatten())
    return {name: torch.stack(found) for name, found in rows.items()}


def ilc(network: nn.Module, z: Tensor, moved: Tensor, y: Tensor) -> Tensor:
    one, other = head_gradients(network, z, y), head_gradients(network, moved, y)
    q, q_moved = torch.cat(list(one.values()), 1), torch.cat(list(other.values()), 1)
    v = ((q - q.mean(0)) ** 2).mean(0)
    v_moved = ((q_moved - q.mean(0)) ** 2).mean(0)
    middle = (v + v_moved) / 2
    total = (((v - middle) ** 2).mean() + ((v_moved - middle) ** 2).mean()) / 2
    for g in other.values():
        total = total + (g**2).sum(1).mean() / g.shape[1]
    return total


Raised = Callable[[Sequence[Tensor]], Tensor]
"""How much higher the loss is at a rule's first displaced point, to first order, by the gradient at the weights."""


def moved_inputs(network: nn.Module, x: Tensor, y: Tensor, how: str, raised: Raised | None = None) -> Tensor:
    """Leaves, an objective, a step uphill."""
    if how == "style":
        mean = x.mean((2, 3), keepdim=True).requires_grad_()
        deviation = (x.var((2, 3), keepdim=True) + 1e-5).sqrt().detach().requires_grad_()
        content = (x - mean.detach()) / deviation.detach()
        leaves = [mean, deviation]
        again = content * deviation + mean
    else:
        again = x.clone().requires_grad_()
        leaves = [again]
    loss = F.cross_entropy(network(again), y)
    g = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    objective = loss + (RHO * sum((part**2).sum() for part in g).sqrt() if raised is None else raised(g))
    slopes = torch.autograd.grad(objective, leaves)
    if how == "style":
        return content * (deviation + LENGTH * slopes[1]).detach() + (mean + LENGTH * slopes[0]).detach()
    [slope] = slopes
    if how == "pixel":
        return x + LENGTH * slope / (slope**2).sum(0).sqrt()
    return torch.stack([a + LENGTH * d / d.norm().clamp(min=1e-12) for a, d in zip(x, slope, strict=True)])


def reference(how: str, together: bool = False) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        network = other.network
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        moved = moved_inputs(copy.deepcopy(network), x, y, how)
        z = network.features(x)
        loss = F.cross_entropy(network.classifier(z), y)
        parameters = list(network.parameters())
        g = torch.autograd.grad(loss, parameters, retain_graph=True)
        z_moved = remembering_nothing(network, moved)
        sizes = [len(b.y) for b in batches]
        pairs = list(zip(torch.split(z, sizes), torch.split(z_moved, sizes), strict=True))
        if together:  # as the release: a pass a domain, over its inputs and what was made from them
            split = zip(torch.split(x, sizes), torch.split(moved, sizes), strict=True)
            pairs = [network.features(torch.cat(pair)).chunk(2) for pair in split]
        parts = [(a, b, c) for (a, b), c in zip(pairs, torch.split(y, sizes), strict=True)]
        inconsistency = sum(ilc(network, a, b, c) for a, b, c in parts)
        extra = torch.autograd.grad(inconsistency, parameters)
        norm = sum((part**2).sum() for part in g).sqrt()
        uphill = copy.deepcopy(network)
        with torch.no_grad():
            for p, part in zip(uphill.parameters(), g, strict=True):
                p.add_(RHO * part / norm)
        top = F.cross_entropy(uphill(x), y)
        descent = torch.autograd.grad(top, list(uphill.parameters()))
        for p, a, b in zip(parameters, descent, extra, strict=True):
            p.grad = a + LAMBDA * b
        other.optimizer.step()
        return {"loss": loss.detach(), "sharpness": (top - loss).detach(), "inconsistency": inconsistency.detach()}

    return step_


def stepped_by(
    raised: Raised, descent: Callable[[nn.Module, Loss], list[Tensor]]
) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    """UDIM's second stage over another rule than SAM, whose descent is `descent(network, loss)`."""

    def step_(other: SimpleNamespace, batches: list[Batch], number: int) -> dict[str, Tensor]:
        network, x, y = other.network, torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        moved = moved_inputs(copy.deepcopy(network), x, y, "example", raised)
        sizes = [len(b.y) for b in batches]
        split = (torch.split(t, sizes) for t in (network.features(x), network.features(moved), y))
        inconsistency = sum(ilc(network, a, b, c) for a, b, c in zip(*split, strict=True))
        extra = torch.autograd.grad(inconsistency, list(network.parameters()))
        take_step(other, plus(descent(network, erm(batches)), times(LAMBDA, list(extra))))
        return {"inconsistency": inconsistency.detach()}

    return step_


def inner(by: Sequence[Tensor], g: Sequence[Tensor]) -> Tensor:
    return sum((a.detach() * b).sum() for a, b in zip(by, g, strict=True))


def test_over_sagm_it_equals_a_plain_loop(toy: SimpleNamespace, optimizer: str) -> None:
    alpha = 0.3

    def by(g: Sequence[Tensor]) -> list[Tensor]:
        return times(RHO / norm_of(list(g)) - alpha, list(g))

    def descent(network: nn.Module, loss: Loss) -> list[Tensor]:
        g = gradient_of(network, loss)
        return plus(times(0.5, g), times(0.5, gradient_at(network, loss, by(g))))

    algorithm = toy.make(compose(udim.UDIM, SAGM, "UDIM+SAGM"), optimizer=optimizer, alpha=alpha, **OPTIONS)
    toy.agrees(algorithm, stepped_by(lambda g: inner(by([part.detach() for part in g]), g), descent))


def test_over_gam_it_equals_a_plain_loop(toy: SimpleNamespace, optimizer: str) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "rho"}
    both = compose(udim.UDIM, GAM, "UDIM+GAM")
    algorithm = toy.make(both, optimizer=optimizer, grad_rho=0.1, grad_norm_rho=0.2, gamma=0.6, **PAPER, **options)
    toy.agrees(algorithm, stepped_by(lambda g: 0.1 * norm_of(list(g)), partial(combined, PAPER)))


def remembering_nothing(network: nn.Module, x: Tensor) -> Tensor:
    copies = {name: buffer.clone() for name, buffer in network.featurizer.named_buffers()}
    return functional_call(network.featurizer, copies, (x,))


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_second_stage_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, nonlinear: bool) -> None:
    algorithm = toy.make(UDIM, norm=norm, optimizer=optimizer, nonlinear=nonlinear, **OPTIONS)
    toy.agrees(algorithm, reference("example"))


@pytest.mark.parametrize(
    ("how", "options"), [("pixel", {"step_length": "pixel"}), ("style", {"perturbation": "style"})]
)
def test_the_other_perturbations_equal_a_plain_loop(
    toy: SimpleNamespace, optimizer: str, how: str, options: dict[str, Any]
) -> None:
    algorithm = toy.make(UDIM, optimizer=optimizer, images=how == "style", **OPTIONS, **options)
    toy.agrees(algorithm, reference(how))


def test_the_first_stage_is_sam(toy: SimpleNamespace) -> None:
    udim, sam = toy.make(UDIM, **(OPTIONS | {"warm_up_ratio": 25})), toy.make(SAM, rho=RHO)
    assert udim.warm_up == 4
    for step in range(4):
        assert toy.take(udim, step)["inconsistency"] == 0
        toy.take(sam, step)
    assert all(torch.equal(p, q) for p, q in zip(udim.parameters(), sam.parameters(), strict=True))
    assert toy.take(udim, 4)["inconsistency"] > 0


def test_without_weight_it_is_sam(toy: SimpleNamespace) -> None:
    udim, sam = toy.make(UDIM, **(OPTIONS | {"udim_lambda": 0.0})), toy.make(SAM, rho=RHO)
    for step in range(3):
        toy.take(udim, step)
        toy.take(sam, step)
    for p, q in zip(udim.parameters(), sam.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_unmoved_inputs_leave_the_size_of_the_gradients(toy: SimpleNamespace) -> None:
    algorithm = toy.make(UDIM, **(OPTIONS | {"syn_lr": 0.0}))
    batches = toy.batches(0)
    expected = torch.zeros(())
    for batch in batches:
        rows = head_gradients(algorithm.network, algorithm.network.features(batch.x), batch.y)
        expected = expected + sum(g.square().mean() for g in rows.values())
    assert toy.take(algorithm, 0)["inconsistency"] == pytest.approx(expected.item(), abs=1e-13)


def test_an_examples_perturbation_is_its_own_by_default(toy: SimpleNamespace) -> None:
    """The release's depends on the rest of the minibatch."""
    x, y = torch.randn(6, 6), torch.randint(4, (6,))
    for how, alone in (("example", True), ("pixel", False)):
        algorithm = toy.make(UDIM, **OPTIONS, step_length=how)

        def moved(count: int, algorithm: UDIM = algorithm) -> Tensor:
            leaf = x.clone().requires_grad_()
            losses = F.cross_entropy(algorithm.network(leaf), y, reduction="none")
            return algorithm.perturbed(leaf, losses[:count].sum())[:3]

        assert torch.allclose(moved(3), moved(6), rtol=0, atol=1e-12) == alone
        if alone:
            torch.testing.assert_close((moved(3) - x[:3]).norm(dim=1), torch.full((3,), LENGTH))


def test_the_second_stage_starts_from_the_best_of_the_first(toy: SimpleNamespace, optimizer: str) -> None:
    """Weights and optimizer's state are those after step 1, the most accurate; the second stage looks no more."""
    whole = toy.make(UDIM, optimizer=optimizer, **(OPTIONS | {"warm_up_ratio": 30}))
    short = toy.make(UDIM, optimizer=optimizer, **(OPTIONS | {"warm_up_ratio": 30}))
    for step, accuracy in enumerate((0.2, 0.8, 0.5)):
        toy.take(whole, step)
        whole.validated(accuracy)
        if step < 2:
            toy.take(short, step)
    assert whole.best["accuracy"] == 0.8
    for step in (3, 4):
        toy.take(whole, step)
        whole.validated(0.9)
        toy.take(short, step)
    assert not whole.best
    for p, q in zip(whole.parameters(), short.parameters(), strict=True):
        assert torch.equal(p, q)


def test_of_equally_accurate_states_the_first_is_kept(toy: SimpleNamespace) -> None:
    algorithm = toy.make(UDIM, **(OPTIONS | {"warm_up_ratio": 30}))
    for step, accuracy in enumerate((0.5, 0.8, 0.8)):
        toy.take(algorithm, step)
        algorithm.validated(accuracy)
        if step == 1:
            first = {name: tensor.clone() for name, tensor in algorithm.network.state_dict().items()}
    assert not differences(algorithm.best["network"], first)


def differences(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differences(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) != len(other) or any(map(differences, one, other))
    return not torch.equal(one, other) if isinstance(one, Tensor) else one != other


@pytest.mark.parametrize("saved_after", [1, 2, 3, 4])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, saved_after: int) -> None:
    """In the first stage, at its end and in the second."""
    options = {"norm": "live", "dropout": 0.3, "optimizer": optimizer, **OPTIONS, "warm_up_ratio": 33}
    whole = toy.make(UDIM, **options)
    file = io.BytesIO()
    for step in range(6):
        toy.take(whole, step)
        whole.validated((0.3, 0.9, 0.4, 0.95, 0.2, 0.1)[step])
        if step + 1 == saved_after:
            torch.save(whole.training_state(), file)
    file.seek(0)
    resumed = toy.make(UDIM, **options)
    resumed.load_training_state(torch.load(file, weights_only=True))
    for step in range(saved_after, 6):
        toy.take(resumed, step)
        resumed.validated((0.3, 0.9, 0.4, 0.95, 0.2, 0.1)[step])
    assert not differences(whole.training_state(), resumed.training_state())


def test_attention_has_the_second_derivatives_that_it_takes(toy: SimpleNamespace) -> None:
    torch.set_default_dtype(torch.float32)  # fused kernels are for this
    options = setting(backbone="vit_tiny_patch16_224", pretrained=False)
    featurizer = timm.create_model(options.backbone, num_classes=0, img_size=32, depth=1)
    network = Network(featurizer, featurizer.num_features, 4, options)
    task = Task((3, 32, 32), 4, ((5, 5, 5, 5),))
    algorithm = UDIM(network, UDIM.Hparams(**OPTIONS | {"warm_up_ratio": 10**6}), task, options).train()
    assert toy.take(algorithm, 0)["inconsistency"] > 0


def test_what_cannot_be_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="'style' needs images"):
        toy.make(UDIM, perturbation="style")
    for wrong in ({"perturbation": "styl"}, {"step_length": "image"}, {"warm_up_ratio": 0}):
        with pytest.raises(UserError):
            UDIM.Hparams(**wrong)


def test_the_releases_batch_norm_predicts_by_the_batch(toy: SimpleNamespace) -> None:
    """In training as with live batch norm; at prediction by the statistics of what is there."""
    other = toy.make(UDIMTransductive, norm="frozen", warm_up_ratio=100)
    toy.take(other, 0)
    toy.take(other, 1)
    other.eval()
    x = toy.batches(5)[2].x
    with torch.no_grad():
        hidden = other.network.featurizer[0](x)
        norm = other.network.featurizer[1]
        by_hand = (hidden - hidden.mean(0)) / (
            hidden.var(0, unbiased=False) + norm.eps
        ).sqrt() * norm.weight + norm.bias
        expected = other.network.classifier(by_hand.tanh())
        torch.testing.assert_close(other(x), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(other(x)[:4], other(x[:4]))
    assert not [name for name in other.predictor_tensors() if "running" in name]


def test_the_releases_batch_norm_may_be_timms_own(toy: SimpleNamespace) -> None:
    def make(cls: type[UDIM]) -> UDIM:
        options = setting(batch_norm="frozen", backbone="SmallCNN")
        featurizer = nn.Sequential(EvoNorm2dB0(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        task = Task((2, 6, 6), 4, ((5, 5, 5, 5),))
        return cls(Network(featurizer, 2, 4, options), UDIM.Hparams(**OPTIONS), task, options).eval()

    torch.manual_seed(0)
    plain, other = make(UDIM), make(UDIMTransductive)
    other.load_state_dict(plain.state_dict())
    x = torch.randn(8, 2, 6, 6)
    with torch.no_grad():
        assert other.has_batch_norm
        assert torch.equal(plain(x)[:4], plain(x[:4]))
        assert not torch.allclose(other(x)[:4], other(x[:4]))
        found = other(x)
        plain.network.featurizer[0].train()
        assert torch.equal(found, plain(x))


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_releases_second_stage_equals_a_plain_loop(toy: SimpleNamespace, optimizer: str, nonlinear: bool) -> None:
    algorithm = toy.make(UDIMTransductive, norm="live", optimizer=optimizer, nonlinear=nonlinear, **OPTIONS)
    toy.agrees(algorithm, reference("example", together=True))


def test_without_batch_norm_the_releases_is_udim(toy: SimpleNamespace) -> None:
    one, two = toy.make(UDIM, warm_up_ratio=100), toy.make(UDIMTransductive, warm_up_ratio=100)
    for step in range(3):
        toy.take(one, step)
        toy.take(two, step)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
