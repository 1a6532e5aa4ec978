"""Algorithms whose steps a rule takes, beside naive loops: their losses as written on paper, stepped by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.coral import CORAL
from dgbench.algorithms.fishr import Fishr
from dgbench.algorithms.groupdro import GroupDRO
from dgbench.algorithms.mixup import Mixup
from dgbench.algorithms.vrex import VREx
from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.rule import Rule, compose
from dgbench.rules.asam import ASAM
from dgbench.rules.disam import DISAM
from dgbench.rules.gsam import GSAM
from dgbench.rules.sam import SAM
from dgbench.rules.tram import TRAM
from tests.algorithms.test_coral import distance
from tests.algorithms.uphill import Loss, displacements, gradient_at, gradient_of, norm_of, same, step, times

RHO, LAMBDA = 0.1, 0.9
ANNEALED: dict[str, Any] = {"vrex_penalty_anneal_iters": 0}


class MeanOfDomains(SAM):
    """SAM of the mean of the domains' losses, in which domains weigh alike whatever their sizes."""

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return self.domain_losses(batches).mean()


def losses(network: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """The loss of each domain, in one pass over all."""
    logits = torch.split(network(torch.cat([b.x for b in batches])), [len(b.y) for b in batches])
    return [F.cross_entropy(z, b.y) for z, b in zip(logits, batches, strict=True)]


def variance(values: Sequence[Tensor]) -> Tensor:
    return sum((value - sum(values) / len(values)) ** 2 for value in values) / len(values)


def coral(batches: Sequence[Batch]) -> Loss:
    def loss(network: nn.Module) -> Tensor:
        features = [network.features(b.x) for b in batches]
        nll = sum(F.cross_entropy(network.classifier(z), b.y) for z, b in zip(features, batches, strict=True))
        pairs = [distance(features[i], features[j]) for i in range(len(batches)) for j in range(i)]
        return nll / len(batches) + 2.0 * sum(pairs) / len(pairs)

    return loss


def vrex(batches: Sequence[Batch]) -> Loss:
    def loss(network: nn.Module) -> Tensor:
        found = losses(network, batches)
        return sum(found) / len(found) + 3.0 * variance(found)

    return loss


def test_coral_by_sam_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
        g = gradient_of(other.network, coral(batches))
        step(other, gradient_at(other.network, coral(batches), times(RHO / (norm_of(g) + 1e-12), g)))

    both = compose(CORAL, SAM, "CORAL+SAM")
    toy.agrees(toy.make(both, norm=norm, optimizer=optimizer, rho=RHO, mmd_gamma=2.0), reference)


def test_vrex_by_disam_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> dict[str, Tensor]:
        def climbed(network: nn.Module) -> Tensor:
            return vrex(batches)(network) - LAMBDA * variance(losses(network, batches))

        spread = variance(losses(copy.deepcopy(other.network), batches)).detach()
        g = gradient_of(other.network, climbed)
        step(other, gradient_at(other.network, vrex(batches), times(RHO / (norm_of(g) + 1e-12), g)))
        return {"variance": spread}

    values: dict[str, Any] = {"rho": RHO, "disam_lambda": LAMBDA, "vrex_lambda": 3.0, "vrex_penalty_anneal_iters": 0}
    # Live batch norm would remember two passes of the naive loop's first loss, and one of ours.
    if norm != "live":
        both = compose(VREx, DISAM, "VREx+DISAM")
        toy.agrees(toy.make(both, norm=norm, optimizer=optimizer, **values), reference)


@pytest.mark.parametrize(
    ("algorithm", "weight"), [(VREx, {"vrex_lambda": 0.0, **ANNEALED}), (CORAL, {"mmd_gamma": 0.0})]
)
def test_without_its_weight_the_algorithm_leaves_the_rule(
    toy: SimpleNamespace, optimizer: str, algorithm: type[Algorithm], weight: dict[str, Any]
) -> None:
    both = toy.make(compose(algorithm, SAM, f"{algorithm.__name__}+SAM"), optimizer=optimizer, rho=RHO, **weight)
    sam = toy.make(MeanOfDomains, optimizer=optimizer, rho=RHO)
    for number in range(3):
        toy.take(both, number)
        toy.take(sam, number)
    same(both, sam)


def test_of_domain_weights_a_step_of_two_passes_makes_one_step(toy: SimpleNamespace) -> None:
    """GroupDRO moves its weights by the losses at the weights, once, and both passes see the moved ones."""
    alone, both = (
        toy.make(GroupDRO, groupdro_eta=0.5),
        toy.make(compose(GroupDRO, SAM, "GroupDRO+SAM"), rho=0.0, groupdro_eta=0.5),
    )
    for number in range(3):
        toy.take(alone, number)
        toy.take(both, number)
        assert torch.equal(alone.log_q, both.log_q)


def test_both_passes_see_one_blend(toy: SimpleNamespace) -> None:
    """Mixup draws shares and partners: with rho 0 the second pass must be the first again, bit for bit."""
    alone, both = toy.make(Mixup), toy.make(compose(Mixup, SAM, "Mixup+SAM"), rho=0.0)
    for number in range(3):
        toy.take(alone, number)
        assert toy.take(both, number)["sharpness"] == 0
    assert all(torch.equal(p, q) for p, q in zip(alone.parameters(), both.parameters(), strict=True))


def test_a_resumed_composition_goes_on_exactly(toy: SimpleNamespace) -> None:
    toy.resumes(compose(Fishr, TRAM, "Fishr+TRAM"), penalty_anneal_iters=2)


@pytest.mark.parametrize(("rule", "values"), [(ASAM, {"rho": 0.3}), (GSAM, {"rho": 0.3, "alpha": 0.0})])
def test_of_norms_alone_other_parameters_stay_where_they_are_uphill(
    toy: SimpleNamespace, rule: type[Rule], values: dict[str, Any]
) -> None:
    """SAM-ON over ASAM and GSAM: only scales and shifts are displaced, while all parameters step down."""
    algorithm = toy.make(rule, norm="frozen", displaced="norms", **values)
    before = {name: p.detach().clone() for name, p in algorithm.named_parameters()}
    [uphill] = displacements(algorithm, toy.batches(0))
    names = [name for name, _ in algorithm.network.named_parameters()]
    moved = {name for name, by in zip(names, uphill, strict=True) if by.any()}
    layers = [name for name, layer in algorithm.network.named_modules() if isinstance(layer, nn.BatchNorm1d)]
    assert moved == {f"{name}.{own}" for name in layers for own in ("weight", "bias")}
    assert all(not torch.equal(before[name], p) for name, p in algorithm.named_parameters())


CATALOGUE = Catalogue()
STEPPED = [name for name, entry in CATALOGUE.of_kind("algorithm").items() if entry.ruled]


@pytest.mark.parametrize("rule", CATALOGUE.of_kind("rule"))
def test_a_rule_takes_three_steps_of_every_algorithm_with_one_loss(rule: str) -> None:
    for name in STEPPED:
        subject = Subject(CATALOGUE.get("algorithm", f"{name}+{rule}"), torch.device("cpu"))
        rehearsal = subject.rehearse(2)
        logged = rehearsal.until(3)
        assert all(value.isfinite() for value in logged.values()), (name, logged)
        assert all(tensor.isfinite().all() for tensor in rehearsal.algorithm.predictor_tensors().values()), name


def test_steps_of_more_than_one_loss_are_refused() -> None:
    for name in ("DANN", "Fish", "MLDG"):
        with pytest.raises(UserError, match=f"{name} takes steps of its own, more than one descent"):
            CATALOGUE.get("algorithm", f"{name}+SAM")


def test_hyperparameters_stand_in_the_order_of_the_search_space() -> None:
    for name in STEPPED:
        entry = CATALOGUE.get("algorithm", f"{name}+SAGM")
        assert [spec.name for spec in entry.space] == [*entry.load().Hparams.__dataclass_fields__]


def test_the_cost_is_the_product_of_the_passes() -> None:
    miro = CATALOGUE.get("algorithm", "MIRO+GAM").card
    assert (miro.forwards, miro.backwards) == (8.0, 4.0)


def test_a_second_rule_and_a_rule_that_no_file_defines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown rule 'SAM"):
        CATALOGUE.get("algorithm", "CORAL+SAM+SAGM")
    file = tmp_path / "odd.py"
    card = 'card = AlgorithmCard(paper="none", rule="SAMM")'
    file.write_text(f"from dgbench import Algorithm, AlgorithmCard\nclass Odd(Algorithm):\n    'x'\n    {card}\n")
    with pytest.raises(UserError, match="card of Odd: unknown rule 'SAMM': did you mean 'SAM'"):
        _ = Catalogue([file]).entries
