from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.useful import USEFUL, learned_late
from dgbench.core.errors import UserError


def blobs() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of two classes, each of which has some examples that are classified well and some that are not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    late = torch.arange(40) % 5 == 0
    margin = torch.where(late, -1.0, 4.0) + 0.2 * torch.randn(40, generator=generator)
    logits = torch.zeros(40, 2)
    logits[torch.arange(40), labels] = margin
    return logits, labels, late


def test_separate_clusters_are_found() -> None:
    logits, labels, late = blobs()
    assert torch.equal(learned_late(logits, labels), late)
    assert torch.equal(learned_late(logits.float(), labels), late)


def test_permuted_examples_give_permuted_picks() -> None:
    logits, labels, late = blobs()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(learned_late(logits[order], labels[order]), late[order])


def test_classes_that_cannot_be_split_are_left_as_they_are() -> None:
    logits, labels, late = blobs()
    logits = torch.cat([logits, torch.ones(4, 2)])
    labels = torch.cat([labels, torch.tensor([2, 3, 3, 3])])  # One example; three whose logits are equal.
    logits = torch.cat([logits, torch.zeros(44, 2)], dim=1)
    assert torch.equal(learned_late(logits, labels), torch.cat([late, torch.zeros(4, dtype=torch.bool)]))


def test_classes_are_pooled_over_domains_or_not(toy: SimpleNamespace) -> None:
    logits, labels, late = blobs()
    parts = [late, ~late]  # One domain has all that is learned late.
    pair = [logits[part] for part in parts], [labels[part] for part in parts]
    pooled = toy.make(USEFUL, domains=2).survey(*pair)
    assert [copies.unique().tolist() for copies in pooled] == [[2], [1]]
    assert all(copies.dtype == torch.int64 for copies in pooled)
    apart = toy.make(USEFUL, domains=2, useful_groups="class_and_domain", useful_copies=3).survey(*pair)
    assert [copies.unique().tolist() for copies in apart] == [[1, 3], [1, 3]]


def test_one_copy_is_erm_from_the_same_start(toy: SimpleNamespace, optimizer: str) -> None:
    """The survey changes the weights back and drops the moments; what follows is ERM's first steps."""
    useful = toy.make(USEFUL, optimizer=optimizer, norm="live", useful_copies=1)
    erm = toy.make(ERM, optimizer=optimizer, norm="live")
    start = {name: tensor.clone() for name, tensor in useful.network.state_dict().items()}
    for step in range(3):
        toy.take(useful, step)
    assert not torch.equal(useful.network.classifier.weight, start["classifier.weight"])
    logits, labels, _ = blobs()
    copies = useful.survey([logits] * 3, [labels] * 3)
    assert all((each == 1).all() for each in copies)
    assert all(torch.equal(start[name], tensor) for name, tensor in useful.network.state_dict().items())
    for step in range(3):
        toy.take(erm, step)
        toy.take(useful, step)
    for name, tensor in erm.network.state_dict().items():
        assert torch.equal(tensor, useful.network.state_dict()[name]), name


def test_weights_given_after_building_are_the_initial_ones(toy: SimpleNamespace) -> None:
    algorithm = toy.make(USEFUL)
    with torch.no_grad():
        algorithm.network.classifier.weight.fill_(0.5)
    toy.take(algorithm, 0)
    logits, labels, _ = blobs()
    algorithm.survey([logits], [labels])
    assert (algorithm.network.classifier.weight == 0.5).all()


@pytest.mark.parametrize(("steps", "share", "at"), [(100, 0.1, 10), (20, 0.25, 5), (3, 0.1, 1)])
def test_the_survey_comes_after_a_share_of_the_steps(toy: SimpleNamespace, steps: int, share: float, at: int) -> None:
    assert toy.make(USEFUL, steps=steps, useful_share=share).survey_at == at


def test_initial_weights_survive_a_checkpoint(toy: SimpleNamespace) -> None:
    algorithm = toy.make(USEFUL)
    for step in range(2):
        toy.take(algorithm, step)
    file = io.BytesIO()
    torch.save(algorithm.training_state(), file)
    file.seek(0)
    resumed = toy.make(USEFUL)
    with torch.no_grad():
        resumed.initial.classifier.weight.zero_()
    resumed.load_training_state(torch.load(file, weights_only=True))
    logits, labels, _ = blobs()
    for each in (algorithm, resumed):
        each.survey([logits], [labels])
    assert torch.equal(algorithm.network.classifier.weight, resumed.network.classifier.weight)
    assert resumed.network.classifier.weight.any()
    assert not any("initial" in name for name in algorithm.predictor_tensors())


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"useful_share must lie in \(0, 1\)") as caught:
        USEFUL.Hparams(useful_share=1.0, useful_copies=0, useful_groups="domain")
    assert len(caught.value.problems) == 3


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(USEFUL, norm="live", optimizer=optimizer, dropout=0.3)
