"""Steps that show only some of the training domains: what is kept for each domain is found by its number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.algorithms.dann import CDANN, DANN
from dgbench.algorithms.fish import Fish
from dgbench.algorithms.fishr import Fishr
from dgbench.algorithms.groupdro import GroupDRO
from dgbench.algorithms.saf import SAF
from dgbench.algorithms.trm import TRM
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from tests.algorithms import conftest as toy
from tests.algorithms.test_adrmx import Toy as ADRMX
from tests.algorithms.test_mtl import Toy as MTL

KEPT: dict[type[Algorithm], tuple[str, ...]] = {
    GroupDRO: (),  # the others' weights change too, as all sum to 1
    Fishr: ("variances",),
    MTL: ("embeddings",),
    TRM: ("weights", "biases", "alpha"),
    SAF: ("past", "draws"),
}
OPTIONS: dict[type[Algorithm], dict[str, Any]] = {
    Fishr: {"penalty_anneal_iters": 0},
    TRM: {"iters": 0},
    SAF: {"start_epoch": 0, "past_epochs": 1},
}


def some(algorithm: Algorithm, step: int, *numbers: int) -> list[Batch]:
    everything = toy.given(algorithm, step)
    return [everything[number] for number in numbers]


def take(algorithm: Algorithm, step: int, *numbers: int) -> dict[str, Tensor]:
    torch.manual_seed(step)
    algorithm.step = step
    return dict(algorithm.update(some(algorithm, step, *numbers)))


def rows_of(algorithm: Algorithm, name: str, number: int) -> Tensor:
    kept: Tensor = getattr(algorithm, name)
    if name in ("past", "draws"):
        return kept[number * toy.EXAMPLES : (number + 1) * toy.EXAMPLES]
    return kept[number]


@pytest.mark.parametrize("cls", KEPT)
def test_what_is_kept_of_a_domain_changes_only_when_it_is_shown(cls: Any) -> None:
    algorithm = toy.make(cls, **OPTIONS.get(cls, {}))
    take(algorithm, 0, 0, 1, 2)
    before = copy.deepcopy(algorithm)
    take(algorithm, 1, 0, 2)
    for name in KEPT[cls]:
        assert torch.equal(rows_of(algorithm, name, 1), rows_of(before, name, 1)), name
        for shown in (0, 2):
            assert not torch.equal(rows_of(algorithm, name, shown), rows_of(before, name, shown)), name


def test_the_weights_of_groupdro_follow_the_domain_that_was_shown() -> None:
    algorithm = toy.make(GroupDRO, groupdro_eta=1.0)
    take(algorithm, 0, 2)
    weights = algorithm.log_q.exp()
    assert weights[2] > weights[0] == weights[1]
    assert weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("cls", [DANN, CDANN, ADRMX])
def test_discriminators_are_told_the_number_of_the_domain(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = toy.make(cls)
    told: list[Tensor] = []
    original = torch.nn.functional.cross_entropy

    def watched(logits: Tensor, y: Tensor, **more: Any) -> Tensor:
        told.append(y)
        return original(logits, y, **more)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    batches = some(algorithm, 0, 0, 2)
    algorithm.update(batches)
    expected = torch.tensor([0] * len(batches[0].y) + [2] * len(batches[1].y))
    assert any(torch.equal(y, expected) for y in told)


def test_fish_draws_from_the_domains_that_a_step_shows() -> None:
    with pytest.raises(UserError, match="must lie between 1 and the 2 training domains"):
        toy.make(Fish, form="wilds", meta_steps=3, how={"domains_per_step": 2})
    algorithm = toy.make(Fish, form="wilds", meta_steps=2, how={"domains_per_step": 2})
    assert torch.isfinite(take(algorithm, 0, 1, 2)["loss"])
