from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.adrmx import ADRMX, remixed_pairs, sup_con
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.methods.batch import Batch
from dgbench.networks.network import Network

VALUES = {"cnt_lambda": 0.3, "dclf_lambda": 0.6, "rmxd_lambda": 0.8, "disc_lambda": 0.7}
VALUES |= {"mlp_width": 5, "mlp_depth": 3}


class Toy(ADRMX):
    """Makes domain networks as small as the toy's."""

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        return Network(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), 8, num_classes, setting, hparams.resnet_dropout)


def naive_sup_con(z: Tensor, y: list[int]) -> Tensor:
    z = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(y)):
        weight = {j: 0.5 * torch.exp(z[i] @ z[j] / 0.07) for j in range(len(y)) if j != i}
        total = sum(weight.values()) + 1e-5
        alike = [j for j in weight if y[j] == y[i]]
        if alike:
            terms.append(sum(torch.log(weight[j] / total + 1e-5) for j in alike) / len(alike))
    return -sum(terms, torch.zeros(())) / (len(terms) + 1)


def reference(algorithm: ADRMX) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    names = ("domain_network", "invariant_classifier", "discriminator")
    g, second, disc = (copy.deepcopy(getattr(algorithm, name)) for name in names)
    optimizers: list[torch.optim.Optimizer] = []

    def made(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if algorithm.setting.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=algorithm.hparams.lr, momentum=0.9)
        return torch.optim.Adam(parameters, lr=algorithm.hparams.lr, betas=(0.5, 0.9))

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        network = other.network
        if step == 0:
            optimizers[:] = [
                made([p for m in (network, g, second) for p in m.parameters()]),
                made([*disc.parameters()]),
            ]
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        domains = torch.tensor([i for i, b in enumerate(batches) for _ in b.y])
        label, domain = network.features(x), g.features(x)
        invariant = label - domain
        disc_loss = F.cross_entropy(disc(invariant), domains)
        nll = F.cross_entropy(network.classifier(label), y)
        for module in (network, g, second, disc):
            module.zero_grad()
        if step % 3 != 1:
            disc_loss.backward()
            optimizers[1].step()
        else:
            first, partner, found = remixed_pairs(y, domains, 4)
            remix = torch.zeros(())
            for label_, (i, j) in enumerate(zip(first.tolist(), partner.tolist(), strict=True)):
                if found[label_]:
                    mixed = network.classifier(invariant[i] + domain[j])
                    remix = remix + F.cross_entropy(mixed[None], torch.tensor([label_]))
            total = nll + F.cross_entropy(second(invariant), y)
            total = total + 0.6 * F.cross_entropy(g.classifier(domain), domains) + 0.8 * remix / 4
            total = total + 0.3 * (naive_sup_con(label, y.tolist()) + naive_sup_con(invariant, y.tolist()))
            (total - 0.7 * disc_loss).backward()
            optimizers[0].step()
        for mine, theirs in zip(algorithm.domain_network.parameters(), g.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        for mine, theirs in zip(algorithm.discriminator.parameters(), disc.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        return {"loss": nll.detach(), "disc_loss": disc_loss.detach()}

    return step_


@pytest.mark.parametrize(
    ("norm", "optimizer"), [("none", "adam"), ("none", "sgd"), ("frozen", "adam"), ("frozen", "sgd"), ("live", "sgd")]
)
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    """Turns are d, g, d; two rounds of them.

    Not Adam with live batch norm: the bias before it has no gradient but rounding, which Adam without decay magnifies.
    """
    algorithm = toy.make(Toy, norm=norm, optimizer=optimizer, **VALUES)
    toy.agrees(algorithm, reference(algorithm), steps=6)


def test_remixed_pairs_are_of_one_class_and_two_domains_each_as_likely() -> None:
    y, domains = torch.tensor([0, 0, 1, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(2000):
        first, second, found = remixed_pairs(y, domains, 4)
        assert found.tolist() == [True, True, False, False], "class 2 is in one domain alone, class 3 in none"
        seen[first[0].item(), second[0].item()] += 1
    assert set(seen) == {(0, 3), (1, 3), (3, 0), (3, 1)}
    assert min(seen.values()) > 420


def test_sup_con_of_orthogonal_classes() -> None:
    """Two classes of two examples, equal within and orthogonal across: each share is e^(1/T) / (e^(1/T) + 2)."""
    z = torch.tensor([[2.0, 0], [3.0, 0], [0, 1.0], [0, 5.0]])
    near = torch.tensor(1 / 0.07).exp() / 2
    expected = -4 / 5 * (near / (near + 1 + 1e-5) + 1e-5).log()
    torch.testing.assert_close(sup_con(z, torch.tensor([0, 0, 1, 1])), expected, rtol=0, atol=1e-14)


def test_no_class_twice_is_no_contrast() -> None:
    assert sup_con(torch.randn(3, 2), torch.arange(3)).item() == 0


def test_what_predicts_is_the_label_network_with_a_nonlinear_classifier(toy: SimpleNamespace) -> None:
    network = ADRMX.make_network((3, 16, 16), 4, ADRMX.Hparams(), setting(backbone="SmallCNN"))
    assert isinstance(network.classifier, nn.Sequential)
    algorithm = toy.make(Toy, **VALUES)
    assert set(algorithm.predictor_tensors()) == {f"network.{name}" for name in algorithm.network.state_dict()}
    assert algorithm.domain_network.classifier[-1].out_features == 3
    assert not algorithm.domain_network.normalizes


def test_weight_decay_is_not_used(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Toy, **VALUES, weight_decay=1e-2)
    optimizers = (algorithm.optimizer, algorithm.disc_optimizer)
    assert [group["weight_decay"] for o in optimizers for group in o.param_groups] == [0, 0]


def test_no_discriminator_without_a_turn() -> None:
    with pytest.raises(UserError, match="d_steps_per_g_step"):
        ADRMX.Hparams(d_steps_per_g_step=0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(Toy, norm="live", optimizer=optimizer, dropout=0.3, mlp_dropout=0.2, **VALUES)
