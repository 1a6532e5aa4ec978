from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.gaqat import GAQAT, _Disorder
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.sagm import SAGM

START, RHO, ALPHA, EVERY, THRESHOLD = 1, 0.05, 0.002, 3, 0.4
OPTIONS = {
    "q_steps": START,
    "bits": 3,
    "rho": RHO,
    "alpha": ALPHA,
    "gaqat_interval": EVERY,
    "gaqat_threshold": THRESHOLD,
}


class Reference:
    """Signs are kept in lists; the quantisation itself is what QT-DoG's tests are about."""

    def __init__(self, toy: SimpleNamespace, algorithm: GAQAT) -> None:
        self.signs: list[list[Tensor]] = [[] for _ in algorithm.quantized]
        self.frozen = [False] * len(self.signs)
        self.history: list[list[bool]] = []
        self.make = lambda network, scales: self.optimizer_of(toy, algorithm, network, scales)

    @staticmethod
    def optimizer_of(
        toy: SimpleNamespace, algorithm: GAQAT, network: nn.Module, scales: list[Tensor]
    ) -> torch.optim.Optimizer:
        optimizer = toy.hand_made(algorithm, network)
        group = optimizer.param_groups[0]
        group["params"] = [p for p in group["params"] if all(p is not s for s in scales)]
        optimizer.add_param_group({"params": scales, "weight_decay": 0.0})
        return optimizer

    def __call__(self, other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        quantizers = [m.parametrizations.weight[0] for m in convolutions]
        scales = [quantizer.scale for quantizer in quantizers]
        if step in (0, START):
            for convolution, quantizer in zip(convolutions, quantizers, strict=True) if step == START else ():
                quantizer.start(convolution.weight)
            other.optimizer = self.make(network, scales)
        other.optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        task = [p.grad.clone() for p in network.parameters()]
        norm = sum((g**2).sum() for g in task).sqrt()
        uphill = copy.deepcopy(network)
        with torch.no_grad():
            for p, g in zip(uphill.parameters(), task, strict=True):
                p.add_((RHO / (norm + 1e-12) - ALPHA) * g)
        uphill.zero_grad()
        F.cross_entropy(uphill(x), y).backward()
        for p, g, there in zip(network.parameters(), task, uphill.parameters(), strict=True):
            which = [k for k, s in enumerate(scales) if s is p]
            if step >= START and which:
                (k,) = which
                self.signs[k].append(g.sign())
                g = torch.zeros_like(g) if self.frozen[k] else g
            p.grad = (g + there.grad) / 2
        other.optimizer.step()
        if step >= START and (step - START + 1) % EVERY == 0:
            self.decide()
        self.history.append(list(self.frozen))

    def decide(self) -> None:
        for k, signs in enumerate(self.signs):
            recent = signs[-EVERY - 1 :]
            flips = [(a * b < 0).double().mean() for a, b in pairwise(recent)]
            self.frozen[k] = bool(sum(flips) / EVERY < THRESHOLD)


def test_equals_a_plain_loop_while_layers_freeze_and_thaw(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(GAQAT, images=True, norm=norm, optimizer=optimizer, **OPTIONS)
    reference = Reference(toy, algorithm)
    toy.agrees(algorithm, reference, steps=12)
    assert any(any(frozen) for frozen in reference.history)
    assert [bool(disorder.frozen) for _, disorder in algorithm.memory] == reference.frozen


def test_before_the_quantisation_it_is_sagm(toy: SimpleNamespace) -> None:
    ours = toy.make(GAQAT, images=True, **{**OPTIONS, "q_steps": 9})
    sagm = toy.make(SAGM, images=True, rho=RHO, alpha=ALPHA)
    for step in range(3):
        toy.take(ours, step)
        toy.take(sagm, step)
    torch.testing.assert_close(ours.network.featurizer[0].weight, sagm.network.featurizer[0].weight, rtol=0, atol=1e-13)


def test_disorder_is_the_share_of_changes_of_sign() -> None:
    disorder = _Disorder(torch.ones(2))
    steady, restless = [1.0] * 9, [1.0, -1.0] * 4 + [1.0]
    for pair in zip(steady, restless, strict=True):
        given = disorder(torch.tensor(pair))
        assert torch.equal(given, torch.tensor(pair))
    assert disorder.changes.tolist() == [0, 8]
    disorder.decide(9, 4.1 / 9)  # Its disorder is 4 / 9.
    assert torch.equal(disorder(torch.tensor([1.0, 1.0])), torch.zeros(2))
    assert disorder.changes.tolist() == [0, 0]
    disorder(torch.tensor([-1.0, -1.0]))
    disorder.decide(2, 0.5)
    assert torch.equal(disorder(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))


def test_impossible_values_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="gaqat_interval must be at least 1") as caught:
        GAQAT.Hparams(gaqat_interval=0, rho=-1.0, bits=1)
    assert len(caught.value.problems) == 3
    with pytest.raises(UserError, match="GAQAT quantizes convolutions"):
        toy.make(GAQAT)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_quantisation(toy: SimpleNamespace, optimizer: str, start: int) -> None:
    options = {**OPTIONS, "q_steps": start, "gaqat_interval": 2}
    toy.resumes(GAQAT, images=True, norm="live", optimizer=optimizer, dropout=0.3, **options)
