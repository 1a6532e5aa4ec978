from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.algorithms.selfreg import SelfReg, shuffle_within_classes
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch


def partners(labels: Tensor) -> list[int]:
    """For each example one of its class, by going through a random order of all, class by class."""
    order = torch.randperm(len(labels)).tolist()
    found = [-1] * len(labels)
    for y in set(labels.tolist()):
        members = [i for i in range(len(labels)) if labels[i] == y]
        for member, partner in zip(members, [i for i in order if labels[i] == y], strict=True):
            found[member] = partner
    return found


def reference(toy: SimpleNamespace, algorithm: SelfReg) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    head = copy.deepcopy(algorithm.head)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == 0:
            other.optimizer = toy.hand_made(algorithm, nn.ModuleList([other.network, head]))
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        features = other.network.features(x)
        logits, projected = other.network.classifier(features), head(features)
        share = Beta(torch.tensor(0.5), torch.tensor(0.5)).sample().item()
        first, second = partners(y), partners(y)
        terms: dict[str, list[Tensor]] = {"alone": [], "mixed": []}
        for i in range(len(y)):
            a, b = first[i], second[i]
            blend = share * logits[a] + (1 - share) * logits[b]
            projected_blend = share * projected[a] + (1 - share) * projected[b]
            terms["alone"].append(
                (logits[i] - logits[a]).square().mean() + 0.3 * (features[i] - projected[a]).square().mean()
            )
            terms["mixed"].append(
                (logits[i] - blend).square().mean() + 0.3 * (features[i] - projected_blend).square().mean()
            )
        alone, mixed = (sum(values) / len(y) for values in terms.values())
        nll = F.cross_entropy(logits, y)
        other.optimizer.zero_grad()
        (nll + min(nll.item(), 1.0) * (share * alone + (1 - share) * mixed)).backward()
        other.optimizer.step()

    return step_


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(SelfReg, norm=norm, optimizer=optimizer)
    toy.agrees(algorithm, reference(toy, algorithm))


def test_equals_a_plain_loop_where_the_loss_is_below_one(toy: SimpleNamespace) -> None:
    """There the loss itself, held constant, scales the rest."""
    algorithm = toy.make(SelfReg)
    with torch.no_grad():
        algorithm.network.classifier.bias[2] = 20.0
    whole = toy.batches

    def one_class(step: int, *rest: object) -> list[Batch]:
        return [b._replace(y=torch.full_like(b.y, 2)) for b in whole(step, *rest)]

    other = toy.naive(algorithm)
    plain = reference(toy, algorithm)
    for step in range(2):
        data = one_class(step)
        torch.manual_seed(step)
        assert algorithm.update(data)["nll"].item() < 1
        torch.manual_seed(step)
        plain(other, data, step)
    for p, q in zip(algorithm.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_the_head_learns(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SelfReg)
    before = [p.detach().clone() for p in algorithm.head.parameters()]
    toy.take(algorithm, 0)
    assert not any(torch.equal(p, q) for p, q in zip(algorithm.head.parameters(), before, strict=True))


def test_every_permutation_within_classes_is_as_likely() -> None:
    """Three examples of class 1, two of class 300: 12 permutations."""
    labels = torch.tensor([300, 1, 1, 300, 1])
    torch.manual_seed(0)
    draws = 6000
    found = Counter(tuple(shuffle_within_classes(labels).tolist()) for _ in range(draws))
    assert len(found) == 12
    assert all(labels[list(p)].tolist() == labels.tolist() and set(p) == set(range(5)) for p in found)
    chi_square = sum((count - draws / 12) ** 2 / (draws / 12) for count in found.values())
    assert chi_square < 31.3  # 11 degrees of freedom: one in a thousand


@pytest.mark.parametrize(("width", "hidden"), [(8, 16), (2048, 2048)])
def test_the_head_has_the_authors_sizes(toy: SimpleNamespace, width: int, hidden: int) -> None:
    algorithm = toy.make(SelfReg)
    algorithm.network.num_features = width
    algorithm.build()
    assert [(m.in_features, m.out_features) for m in algorithm.head if isinstance(m, nn.Linear)] == [
        (width, hidden),
        (hidden, hidden),
        (hidden, width),
    ]


def test_predictions_do_without_the_head(toy: SimpleNamespace) -> None:
    assert not any("head" in name for name in toy.make(SelfReg).predictor_tensors())


def test_a_single_example_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="SelfReg needs two examples in a step"):
        toy.make(SelfReg, domains=1, batch_size=1)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SelfReg, norm="live", optimizer=optimizer, dropout=0.3)
