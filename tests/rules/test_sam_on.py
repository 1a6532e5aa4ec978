from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from timm.layers import RmsNorm, SimpleNorm
from torch import nn

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.sam import SAM
from dgbench.rules.sam_on import SAMON
from tests.algorithms.uphill import ascended, displacements, erm, gradient_at, gradient_of, step, train_alike

RHO = 0.4


def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
    g = gradient_of(other.network, erm(batches))
    named = [name for name, _ in other.network.named_parameters()]
    chosen = [name.startswith("featurizer.1.") for name in named]
    length = sum((v**2).sum() for v, yes in zip(g, chosen, strict=True) if yes) ** 0.5
    by = [RHO * v / (length + 1e-16) if yes else 0 * v for v, yes in zip(g, chosen, strict=True)]
    step(other, gradient_at(other.network, erm(batches), by))


@pytest.mark.parametrize("norm", ["frozen", "live"])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(SAMON, norm=norm, optimizer=optimizer, rho=RHO), reference, logs=ascended)


class Scale(nn.Module):
    """A module that is called norm and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


LAYERS = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": lambda n: nn.RMSNorm(n, eps=1e-6),
    "group": lambda n: nn.GroupNorm(2, n),
    "timm's rms": RmsNorm,
    "timm's simple": SimpleNorm,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_known_by_type_whatever_their_name(toy: SimpleNamespace, kind: str) -> None:
    algorithm = toy.make(SAMON, rho=RHO)
    algorithm.network.featurizer = nn.Sequential()
    algorithm.network.featurizer.add_module("norm_of_inputs", nn.Linear(6, 8))
    algorithm.network.featurizer.add_module("shortcut", LAYERS[kind](8))
    algorithm.network.featurizer.add_module("bn", Scale())
    algorithm.build_optimizers()
    (by,) = displacements(algorithm, toy.batches(0))
    names = [name for name, _ in algorithm.network.named_parameters()]
    moved = {name for name, d in zip(names, by, strict=True) if d.abs().max() > 0}
    assert moved == {name for name in names if "shortcut" in name}


def test_is_sam_where_there_is_nothing_but_normalisation(toy: SimpleNamespace) -> None:
    found = []
    for cls in (SAMON, SAM):
        algorithm = toy.make(cls, norm="live", rho=RHO)
        for module in (algorithm.network.featurizer[0], algorithm.network.classifier):
            module.requires_grad_(False)
        found.append(algorithm)
    train_alike(toy, *found)


def test_where_no_normalisation_learns_it_is_refused(toy: SimpleNamespace) -> None:
    """Before anything is trained, by what the card needs; a network of a user's own at its first step."""
    frozen = toy.make(SAMON, norm="live")
    frozen.network.featurizer[1].requires_grad_(False)
    for algorithm in (frozen, toy.make(SAMON)):
        with pytest.raises(UserError, match="normalization layers that learn, and this network has none"):
            algorithm.update(toy.batches(0))


def test_without_radius_it_is_erm(toy: SimpleNamespace) -> None:
    train_alike(toy, toy.make(SAMON, norm="live", rho=0.0), toy.make(ERM, norm="live"), tolerance=0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SAMON, norm="live", optimizer=optimizer, dropout=0.3)
