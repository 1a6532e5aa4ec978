"""Under DomainBed's presets each hyperparameter acts exactly where DomainBed's does: a table of networks and values.

DomainBed has `nn.Dropout` behind the features of its ResNet (`resnet_dropout`) and of its ViT (`vit_dropout`), none in
its `MNIST_CNN`; freezes the batch norm of its ResNet alone; and builds every classifier by `nonlinear_classifier`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from numpy.random import RandomState
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.seeding import seed_hash
from dgbench.core.setting import setting
from dgbench.methods.batch import Batch, Task
from dgbench.plan.asking import declare
from tests.conftest import MakePlan
from tests.plan.test_domainbed_draws import NAMES

SHAPES: Mapping[str, tuple[int, int, int]] = {
    "MNIST_CNN": (1, 28, 28),
    "test_resnet": (3, 32, 32),
    "test_vit": (3, 32, 32),
}
"""A network -> the images that it is shown. The latter two are timm's smallest ResNet and ViT."""
CLASSES = 3
ACTS: Mapping[str, Mapping[str, bool]] = {
    "resnet_dropout": {"MNIST_CNN": False, "test_resnet": True, "test_vit": True},
    "batch_norm": {"MNIST_CNN": False, "test_resnet": True, "test_vit": False},
    "nonlinear_classifier": {"MNIST_CNN": True, "test_resnet": True, "test_vit": True},
    "linear_steps": {"MNIST_CNN": True, "test_resnet": True, "test_vit": True},
}
"""What DomainBed does: hyperparameter -> network -> whether it changes a step. DomainBed calls `batch_norm` frozen
`freeze_bn`; of a ViT the value of `resnet_dropout` is that of its `vit_dropout`."""
VALUES: Mapping[str, tuple[Any, Any]] = {
    "resnet_dropout": (0.0, 0.5),
    "batch_norm": ("frozen", "live"),
    "nonlinear_classifier": (False, True),
    "linear_steps": (0, 500),
}
PLACES = [(name, network) for name, row in ACTS.items() for network in row]


def tensors_after_a_step(
    catalogue: Catalogue, method: str, network: str, preset: str = "domainbed-2020", **values: Any
) -> list[Tensor]:
    """Everything that a second step on four images of each of three domains changes."""
    entry, shape = catalogue.get("algorithm", method), SHAPES[network]
    cls: Any = entry.load()
    own = {name: value for name, value in values.items() if entry.takes(name)}
    of_setting = {name: value for name, value in values.items() if name not in own}
    chosen = setting(preset, backbone=network, pretrained=False, steps=9)
    chosen = dataclasses.replace(chosen, **{"batch_norm": "frozen", **of_setting})
    hparams = cls.Hparams(**{**cls.card.rehearsal, "batch_size": 4, **own})
    torch.manual_seed(0)
    made = cls.make_network(shape, CLASSES, hparams, chosen)
    task = Task(shape, CLASSES, ((9,) * CLASSES,) * 3)
    algorithm = cls(made, hparams, task, chosen).train()
    algorithm.step = 1
    batches = []
    for domain in range(3):
        x = algorithm.network.prepare(torch.randint(0, 256, (4, *shape), dtype=torch.uint8))
        batches.append(Batch(x, torch.arange(4) % CLASSES, torch.arange(4), domain))
    torch.manual_seed(1)
    algorithm.update(batches)
    return [tensor.detach().clone() for tensor in algorithm.state_dict().values()]


def differ(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) != len(second) or not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(("name", "network"), PLACES)
def test_a_hyperparameter_acts_where_domainbeds_does(name: str, network: str, catalogue: Catalogue) -> None:
    torch.set_num_threads(1)
    method = "ERMPlusPlus" if name == "linear_steps" else "ERM"
    first, second = (tensors_after_a_step(catalogue, method, network, **{name: value}) for value in VALUES[name])
    assert differ(first, second) == ACTS[name][network]


@pytest.mark.parametrize("preset", ["domainbed-2020", "domainbed-2024"])
@pytest.mark.parametrize("method", NAMES)
def test_no_method_drops_features_of_mnist_cnn(method: str, preset: str, catalogue: Catalogue) -> None:
    torch.set_num_threads(1)
    first, second = (
        tensors_after_a_step(catalogue, method, "MNIST_CNN", preset, resnet_dropout=share) for share in (0.0, 0.5)
    )
    assert not differ(first, second)


@pytest.mark.parametrize("method", NAMES)
def test_every_method_drops_features_of_a_resnet(method: str, catalogue: Catalogue) -> None:
    torch.set_num_threads(1)
    steps = (tensors_after_a_step(catalogue, method, "test_resnet", resnet_dropout=share) for share in (0.0, 0.5))
    first, second = steps
    assert differ(first, second)


def test_of_our_preset_dropout_acts_on_every_network(catalogue: Catalogue) -> None:
    for network in SHAPES:
        first, second = (
            tensors_after_a_step(catalogue, "ERM", network, "dgbench", resnet_dropout=share) for share in (0.0, 0.5)
        )
        assert differ(first, second), network


@pytest.mark.parametrize("preset", ["domainbed-2020", "domainbed-2024", "dgbench"])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ("auto", (1, 28, 28)),
        ("resnet18.tv_in1k", (3, 224, 224)),
        ("vit_small_patch16_224.augreg_in21k_ft_in1k", (3, 224, 224)),
    ],
)
def test_dropout_is_drawn_as_domainbed_draws_it(
    network: str, shape: tuple[int, int, int], preset: str, make_plan: MakePlan
) -> None:
    """From the stream of the hyperparameter that acts: of a ViT `vit_dropout`; drawn for MNIST_CNN too, and unused."""
    how = setting(preset, backbone=network)
    found = make_plan("ERM", how=how, hparams=20, input_shape=shape)
    stream = "vit_dropout" if network.startswith("vit") and preset != "dgbench" else "resnet_dropout"
    for run in found.runs:
        seed = seed_hash(seed_hash(run.hparams_seed, run.trial), stream)
        drawn = float(RandomState(seed).choice([0.0, 0.1, 0.5])) if run.hparams_seed else 0.0
        assert run.method.hparams["resnet_dropout"] == drawn
    assert len({run.method.hparams["resnet_dropout"] for run in found.runs}) == 3


@pytest.mark.parametrize("name", ["lars", "vit_attn_tune", "dinov2", "freeze_bn", "resnet50_augmix", "is_it"])
def test_what_acts_nowhere_is_no_hyperparameter(name: str, catalogue: Catalogue) -> None:
    asked = {"algorithms": ["ERM", "ERMPlusPlus"], "datasets": ["PACS"], "preset": "domainbed-2024"}
    with pytest.raises(UserError, match=f"unknown hyperparameter '{name}'"):
        declare({**asked, "hparams": {name: True}}, catalogue)
