from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.cad import CAD, CondCAD
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch


def bottleneck(z: Tensor, y: list[int], d: list[int], t: float, *, conditional: bool, flipped: bool) -> Tensor:
    """Pair by pair, as the paper's softmax over the other examples."""
    terms = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        alike = [j for j in others if y[j] == y[i]]
        among = alike if conditional else others
        wanted = [j for j in among if (d[j] != d[i]) == flipped]
        if alike and wanted:
            weight = {j: torch.exp(z[i] @ z[j] / t) for j in among}
            terms.append(torch.log(sum(weight[j] for j in wanted) / sum(weight.values())))
    mean = sum(terms) / len(terms) if terms else torch.zeros(())
    return (-mean if flipped else mean) * t / 0.07


def reference(algorithm: CAD) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    h, conditional = algorithm.hparams, isinstance(algorithm, CondCAD)
    project = copy.deepcopy(algorithm.project)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == 0 and h.is_project:
            more = {k: v for k, v in other.optimizer.param_groups[0].items() if k != "params"}
            other.optimizer.add_param_group({**more, "params": list(project.parameters())})
        features = other.network.features(torch.cat([b.x for b in batches]))
        y = torch.cat([b.y for b in batches])
        z = project(features)
        z = z / z.norm(dim=1, keepdim=True) if h.is_normalized else z
        d = [i for i, b in enumerate(batches) for _ in b.y]
        extra = bottleneck(z, y.tolist(), d, h.temperature, conditional=conditional, flipped=h.is_flipped)
        loss = F.cross_entropy(other.network.classifier(features), y) + h.lmbda * extra
        other.optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()

    return step_


@pytest.mark.parametrize("cls", [CAD, CondCAD])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, cls: type[CAD]) -> None:
    algorithm = toy.make(cls, norm=norm, optimizer=optimizer, lmbda=0.7, temperature=0.8)
    toy.agrees(algorithm, reference(algorithm))


@pytest.mark.parametrize("cls", [CAD, CondCAD])
@pytest.mark.parametrize("option", [{"is_normalized": True}, {"is_project": True}, {"is_flipped": False}])
def test_options_equal_a_plain_loop(toy: SimpleNamespace, cls: type[CAD], option: dict[str, bool]) -> None:
    algorithm = toy.make(cls, lmbda=0.7, temperature=0.8, **option)
    toy.agrees(algorithm, reference(algorithm))


def test_equal_features_give_the_share_of_other_domains(toy: SimpleNamespace) -> None:
    """All similarities are equal, so p is uniform: of 15 others, 11, 13 and 8 are of other domains than 5, 3 and 8."""
    algorithm = toy.make(CAD)
    data = [b._replace(x=torch.ones_like(b.x), y=torch.zeros_like(b.y)) for b in toy.batches(0)]
    shares = 5 * math.log(11 / 15) + 3 * math.log(13 / 15) + 8 * math.log(8 / 15)
    assert algorithm.update(data)["penalty"].item() == pytest.approx(-shares / 16 * 0.1 / 0.07, abs=1e-12)


@pytest.mark.parametrize("cls", [CAD, CondCAD])
def test_nobody_to_compare_with_is_no_penalty(toy: SimpleNamespace, cls: type[CAD]) -> None:
    """No class twice in the minibatches; and gradients stay finite."""
    algorithm = toy.make(cls, domains=2, lmbda=10.0)
    data = [
        b._replace(x=b.x[:2], y=torch.tensor([2 * i, 2 * i + 1]), positions=b.positions[:2])
        for i, b in enumerate(toy.batches(0)[:2])
    ]
    assert algorithm.update(data)["penalty"].item() == 0
    assert all(p.isfinite().all() for p in algorithm.parameters())


@pytest.mark.parametrize("cls", [CAD, CondCAD])
def test_far_apart_features_stay_finite(toy: SimpleNamespace, cls: type[CAD]) -> None:
    algorithm = toy.make(cls, temperature=1e-4)
    toy.take(algorithm, 0)
    assert all(p.isfinite().all() for p in algorithm.parameters())


@pytest.mark.parametrize("cls", [CAD, CondCAD])
def test_without_weight_it_is_erm(toy: SimpleNamespace, cls: type[CAD]) -> None:
    cad, erm = toy.make(cls, lmbda=0.0), toy.make(ERM)
    for step in range(3):
        toy.take(cad, step)
        toy.take(erm, step)
    for p, q in zip(cad.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(UserError, match="temperature"):
        CAD.Hparams(temperature=0.0)


@pytest.mark.parametrize("cls", [CAD, CondCAD])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, cls: type[CAD]) -> None:
    toy.resumes(cls, norm="live", optimizer=optimizer, dropout=0.3, is_project=True)
