from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.gsam import GSAM
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import (
    ascended,
    displacements,
    erm,
    flat,
    gradient_at,
    gradient_of,
    norm_of,
    plus,
    step,
    times,
    train_alike,
)

RHO, ALPHA = 0.1, 0.7


def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
    g = gradient_of(other.network, erm(batches))
    gp = gradient_at(other.network, erm(batches), times(RHO / (norm_of(g) + 1e-12), g))
    along = torch.dot(flat(g), flat(gp)) / torch.dot(flat(gp), flat(gp))
    step(other, plus(gp, times(-ALPHA, plus(g, times(-along, gp)))))


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(GSAM, norm=norm, optimizer=optimizer, rho=RHO, alpha=ALPHA), reference, logs=ascended)


def test_what_is_taken_away_is_orthogonal_to_the_gradient_uphill(toy: SimpleNamespace) -> None:
    gsam, sam = toy.make(GSAM, rho=RHO, alpha=ALPHA), toy.make(SAM, rho=RHO)
    for algorithm in (gsam, sam):
        toy.take(algorithm, 0)
    there = flat([p.grad for p in sam.parameters()])
    taken = there - flat([p.grad for p in gsam.parameters()])
    assert taken.norm() > 1e-3
    assert torch.dot(taken, there).abs() < 1e-11


def test_without_alpha_it_is_sam(toy: SimpleNamespace, optimizer: str) -> None:
    train_alike(toy, toy.make(GSAM, optimizer=optimizer, alpha=0.0), toy.make(SAM, optimizer=optimizer))


def test_without_radius_it_is_erm(toy: SimpleNamespace, optimizer: str) -> None:
    train_alike(toy, toy.make(GSAM, optimizer=optimizer, rho=0.0), toy.make(ERM, optimizer=optimizer))


@pytest.mark.parametrize(("floor", "expected"), [(1.0, [0.1, 0.1, 0.1]), (0.5, [0.1, 0.075, 0.05])])
def test_radius_follows_the_learning_rate_down_to_its_floor(
    toy: SimpleNamespace, floor: float, expected: list[float]
) -> None:
    algorithm = toy.make(GSAM, rho=0.1, rho_floor=floor)
    algorithm.setting = dataclasses.replace(algorithm.setting, schedule="cosine", steps=100)
    for number, length in zip((0, 50, 100), expected, strict=True):
        algorithm.step = number
        (by,) = displacements(algorithm, toy.batches(number))
        assert norm_of(by).item() == pytest.approx(length, abs=1e-10)


def test_a_floor_that_is_no_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"rho_floor must lie in \[0, 1\]"):
        GSAM.Hparams(rho_floor=1.5)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(GSAM, norm="live", optimizer=optimizer, dropout=0.3)
