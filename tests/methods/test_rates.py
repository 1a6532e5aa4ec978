"""Learning rates by parameter, in the optimizers of methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgbench.algorithms.dann import DANN
from dgbench.algorithms.dca import DCA
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.erm_plus_plus import ERMPlusPlus
from dgbench.algorithms.miro import MIRO
from dgbench.algorithms.qtdog import QTDoG
from dgbench.core.setting import setting
from dgbench.core.space import choice, resolve, space_of
from dgbench.methods.algorithm import Algorithm, Batch, Hparams, Task
from dgbench.networks.layers import layers_above

LR, DECAY, HEAD, SHAPE = 1e-2, 0.5, 0.3, (3, 64, 64)


def made(
    cls: type[Algorithm],
    backbone: str = "test_resnet",
    layer_decay: float = DECAY,
    lr_head: float = HEAD,
    **hparams: Any,
) -> Algorithm:
    """A method on a small network of timm."""
    how = setting(
        backbone=backbone, pretrained=False, optimizer="sgd", layer_decay=layer_decay, schedule="linear"
    ).for_dataset(10, 5)
    values = cls.Hparams(lr=LR, lr_head=lr_head, **hparams)
    torch.manual_seed(0)
    network = cls.make_network(SHAPE, 3, values, how)
    return cls(network, values, Task(SHAPE, 3, ((9, 9, 9), (9, 9, 9))), how)


def rates(optimizer: Optimizer) -> dict[Tensor, float]:
    """The full rate of each parameter that an optimizer steps."""
    return {p: group["full_lr"] for group in optimizer.param_groups for p in group["params"]}


def wanted(featurizer: nn.Module, lr: float = LR, backbone: str = "test_resnet") -> dict[Tensor, float]:
    """The rates of a featurizer's layers."""
    return {p: lr * DECAY**above for p, above in layers_above(backbone, featurizer)}


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_the_first_step_is_as_long_as_each_layers_rate(backbone: str) -> None:
    erm = made(ERM, backbone)
    expected = wanted(erm.network.featurizer, backbone=backbone) | dict.fromkeys(
        erm.network.classifier.parameters(), HEAD
    )
    assert rates(erm.optimizer) == pytest.approx(expected)
    assert len(set(expected.values())) > 4
    before = [p.detach().clone() for p in erm.parameters()]
    torch.manual_seed(1)
    erm.step = 3
    erm.update([Batch(torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 0]), torch.arange(4), d) for d in (0, 1)])
    for start, parameter in zip(before, erm.parameters(), strict=True):
        assert parameter.grad is not None
        step = 0.7 * expected[parameter] * parameter.grad  # by the schedule, at step 3 of 10
        torch.testing.assert_close(parameter.detach(), start - step)


def test_each_of_the_two_holds_alone_and_neither_leaves_one_group() -> None:
    only_head, only_layers, neither = (
        made(ERM, layer_decay=1.0),
        made(ERM, lr_head=0.0),
        made(ERM, "test_vit", 1.0, 0.0),
    )
    assert set(rates(only_head.optimizer).values()) == {LR, HEAD}
    assert set(map(only_layers.parameter_rates(LR).get, only_layers.network.classifier.parameters())) == {None}
    assert min(rates(only_layers.optimizer).values()) < LR / 8
    assert len(neither.optimizer.param_groups) == 1


def test_parameters_of_a_methods_own_keep_its_rate() -> None:
    miro = made(MIRO, lr_mult=10.0)
    found = rates(miro.optimizer)
    assert {found[p] for p in miro.spreads} == {10 * LR}
    assert {p: found[p] for p in miro.network.featurizer.parameters()} == pytest.approx(wanted(miro.network.featurizer))
    dann = made(DANN, lr_g=2 * LR, lr_d=7 * LR)
    found = rates(dann.optimizer) | rates(dann.disc_optimizer)
    assert {found[p] for p in dann.discriminator.parameters()} == {7 * LR}
    assert {found[p] for p in dann.network.classifier.parameters()} == {HEAD}
    expected = wanted(dann.network.featurizer, 2 * LR)
    assert {p: found[p] for p in dann.network.featurizer.parameters()} == pytest.approx(expected)
    qtdog = made(QTDoG)
    scales = [quantizer.scale for _, quantizer in qtdog.quantized]
    found = rates(qtdog.optimizer)
    assert {found[p] for p in scales} == {LR}
    assert {p: found[p] for p in wanted(qtdog.network.featurizer)} == pytest.approx(wanted(qtdog.network.featurizer))


def test_copies_that_learn_in_place_of_the_network_have_its_rates() -> None:
    plus = made(ERMPlusPlus, linear_lr=0.7)
    assert set(rates(plus.linear_optimizer).values()) == {0.7}, "named by the method, for the classifier alone"
    found = rates(plus.optimizer)
    assert {p: found[p] for p in plus.live.featurizer.parameters()} == pytest.approx(wanted(plus.live.featurizer))
    dca = made(DCA, dca_copies=2)
    found, own = rates(dca.optimizer), wanted(dca.network.featurizer)
    own |= dict.fromkeys(dca.network.classifier.parameters(), HEAD)
    for copies in dca.copies:
        assert [found[copy] for copy in copies] == pytest.approx([own[mean] for mean in dca.means])


def test_a_run_has_the_classifiers_rate_only_where_it_is_named() -> None:
    space = space_of(Hparams)
    assert "lr_head" not in resolve(space) | resolve(space, hparams_seed=3)
    assert resolve(space, fixed={"lr_head": 1})["lr_head"] == 1.0
    drawn = [resolve(space, hparams_seed=seed, draws={"lr_head": choice(0.1, 0.2)})["lr_head"] for seed in range(9)]
    assert drawn[0] == 0.0
    assert set(drawn[1:]) == {0.1, 0.2}
    assert resolve(space, hparams_seed=1, draws={"lr_head": choice(0.1)})["lr"] == resolve(space, hparams_seed=1)["lr"]
