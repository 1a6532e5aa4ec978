from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.algorithms.knn import KNN, Queue
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import RunningMean
from dgbench.methods.batch import Batch

SIZE, K, STEPS, CLASSES = 24, 7, 11, 4


def knn(toy: SimpleNamespace, **options: Any) -> Algorithm:
    algorithm: Algorithm = toy.make(KNN, steps=STEPS, **{"queue_size": SIZE, "k": K, **options})
    return algorithm


def queue(algorithm: Algorithm) -> Queue:
    assert isinstance(algorithm.network.classifier, Queue)
    return algorithm.network.classifier


class Naive:
    """The published step, with a list of (feature of length 1, label) in the order in which they came."""

    def __init__(self, toy: SimpleNamespace, algorithm: Algorithm) -> None:
        self.network = copy.deepcopy(algorithm.network)
        self.optimizer = toy.hand_made(algorithm, self.network)
        self.memory = [(row, 0) for row in queue(algorithm).memory.clone()]

    def scores(self, z: Tensor, temperature: float) -> Tensor:
        cosines = torch.stack([(z / z.norm() * row).sum() for row, _ in self.memory])
        near = cosines.argsort(descending=True)[:K].tolist()
        weights = torch.stack([cosines[i] for i in near]).div(temperature).softmax(0)
        columns = [
            sum((w for w, i in zip(weights, near, strict=True) if self.memory[i][1] == c), torch.zeros(()))
            for c in range(CLASSES)
        ]
        return (torch.stack(columns) + 1e-5).clamp(max=1)

    def step(self, batches: list[Batch], temperature: float) -> None:
        z = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        y = torch.cat([b.y for b in batches])
        loss = -torch.stack([self.scores(row, temperature)[c].log() for row, c in zip(z, y, strict=True)]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.memory += [(row / row.norm(), int(c)) for row, c in zip(z.detach(), y, strict=True)]
        self.memory = self.memory[-SIZE:]


def test_equals_plain_loops(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = knn(toy, norm=norm, optimizer=optimizer, dropout=0.3, temperature=0.2)
    naive = Naive(toy, algorithm)
    for step in range(5):
        toy.take(algorithm, step)
        torch.manual_seed(step)
        naive.step(toy.batches(step), 1.0 - 0.8 * step / (STEPS - 1))
        for (name, p), other in zip(algorithm.network.named_parameters(), naive.network.parameters(), strict=True):
            assert (p - other).abs().max().item() <= 1e-12, f"{name} after step {step}"
        mine = {
            (int(c), *row.tolist()) for row, c in zip(queue(algorithm).memory, queue(algorithm).labels, strict=True)
        }
        for row, c in naive.memory:
            nearest = min(math.dist((c, *row.tolist()), other) for other in mine)
            assert nearest < 1e-12
        assert len(mine) == SIZE


def test_the_temperature_falls_linearly_from_1_over_the_run(toy: SimpleNamespace) -> None:
    algorithm, found = knn(toy), []
    for algorithm.step in (0, 5, STEPS - 1):
        found.append(algorithm._temperature())  # type: ignore[attr-defined]
    assert found == [pytest.approx(t, abs=1e-12) for t in (1.0, 0.55, 0.1)]


def test_prediction_is_by_the_queue_at_the_last_temperature(toy: SimpleNamespace) -> None:
    algorithm = knn(toy)
    for step in range(3):
        toy.take(algorithm, step)
    naive = Naive(toy, algorithm)
    naive.memory = [(row, int(c)) for row, c in zip(queue(algorithm).memory, queue(algorithm).labels, strict=True)]
    x = torch.randn(6, 6)
    algorithm.eval()
    expected = torch.stack([naive.scores(z, 0.1) for z in algorithm.network.features(x)]).log()
    torch.testing.assert_close(algorithm(x), expected, rtol=0, atol=1e-12)


def test_the_queue_forgets_the_oldest(toy: SimpleNamespace) -> None:
    found = Queue(5, 2, CLASSES, k=1, temperature=0.1)
    assert found.labels.tolist() == [0] * 5
    torch.testing.assert_close(found.memory.norm(dim=1), torch.ones(5))
    for labels in ([1, 1], [2, 2], [3, 3]):
        found.add(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor(labels))
    assert found.labels.tolist() == [3, 1, 2, 2, 3]
    assert found.memory.tolist() == [[0.0, 1.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0], [0.6, 0.8]]
    assert found.oldest.item() == 1


def test_of_more_examples_than_the_queue_holds_each_domain_gives_its_share() -> None:
    found = Queue(6, 2, CLASSES, k=1, temperature=0.1)
    found.add(torch.rand(40, 2), torch.arange(4).repeat_interleave(10))
    assert found.labels.tolist() == [0, 0, 1, 2, 2, 3]


def test_the_first_examples_pull_at_the_others_of_their_class(toy: SimpleNamespace) -> None:
    algorithm = knn(toy, k=SIZE, lr=0.01)
    batches = toy.batches(0)
    losses = []
    for algorithm.step in range(STEPS - 1):
        losses.append(algorithm.update(batches)["loss"].item())
    assert losses[-1] < losses[1] / 2


def test_of_averaged_models_the_queue_is_the_last_ones(toy: SimpleNamespace) -> None:
    algorithm, mean = knn(toy), RunningMean()
    for step in range(4):
        toy.take(algorithm, step)
        mean.add(algorithm.predictor_tensors())
    live = algorithm.predictor_tensors()
    for name in ("bits", "labels", "oldest"):
        assert torch.equal(mean.mean[f"network.classifier.{name}"], live[f"network.classifier.{name}"])
    assert not torch.equal(mean.mean["network.featurizer.0.weight"], live["network.featurizer.0.weight"])


def test_the_network_has_no_other_classifier(toy: SimpleNamespace) -> None:
    for nonlinear in (False, True):
        names = [name for name, _ in knn(toy, nonlinear=nonlinear).named_parameters()]
        assert names == ["network.featurizer.0.weight", "network.featurizer.0.bias"]


def test_resumes(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(KNN, optimizer=optimizer, queue_size=SIZE, k=K, dropout=0.3)


def test_refuses_what_means_nothing() -> None:
    with pytest.raises(UserError) as error:
        KNN.Hparams(queue_size=0, k=0, temperature=-1.0)
    for words in ("queue_size must be at least 1, not 0", "k must be at least 1, not 0", "temperature must be above 0"):
        assert words in str(error.value)
    with pytest.raises(UserError, match="k must not be above queue_size, 100, but it is 150"):
        KNN.Hparams(queue_size=100)
