from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch
from dgbench.rules.sagm import SAGM
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import (
    ascended,
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

RHO, ALPHA = 0.1, 0.3


def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
    g = gradient_of(other.network, erm(batches))
    by = plus(times(RHO / (norm_of(g) + 1e-12), g), times(-ALPHA, g))
    gp = gradient_at(other.network, erm(batches), by)
    step(other, plus(times(0.5, g), times(0.5, gp)))


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(SAGM, norm=norm, optimizer=optimizer, rho=RHO, alpha=ALPHA), reference, logs=ascended)


def test_without_alpha_its_gradient_is_the_mean_of_erms_and_sams(toy: SimpleNamespace) -> None:
    found = []
    for cls, values in ((SAGM, {"alpha": 0.0, "rho": RHO}), (SAM, {"rho": RHO}), (ERM, {})):
        algorithm = toy.make(cls, **values)
        toy.take(algorithm, 0)
        found.append(flat([p.grad for p in algorithm.parameters()]))
    torch.testing.assert_close(found[0], (found[1] + found[2]) / 2, rtol=0, atol=1e-14)


def test_without_radius_and_alpha_it_is_erm(toy: SimpleNamespace, optimizer: str) -> None:
    train_alike(toy, toy.make(SAGM, optimizer=optimizer, rho=0.0, alpha=0.0), toy.make(ERM, optimizer=optimizer))


def test_space() -> None:
    by_name = {spec.name: spec for spec in space_of(SAGM.Hparams)}
    assert (by_name["rho"].default, str(by_name["rho"].draw)) == (0.05, "{0.01, 0.02, 0.05, 0.1}")
    assert (by_name["alpha"].default, str(by_name["alpha"].draw)) == (0.001, "{0.0005, 0.001}")


def test_negative_values_are_refused() -> None:
    with pytest.raises(UserError, match="alpha must be at least 0, not -0"):
        SAGM.Hparams(alpha=-0.1)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SAGM, norm="live", optimizer=optimizer, dropout=0.3)
