from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms.clipood import CLIPood
from dgbench.methods.batch import Batch

MARGIN = 0.4


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    """An example and a class at a time; tau is the length of the classifier's rows."""
    names, losses = other.network.classifier.weight.detach(), []
    labels = torch.cat([b.y for b in batches]).tolist()
    for plain, y in zip(other.network(torch.cat([b.x for b in batches])), labels, strict=True):
        raised = []
        for c, logit in enumerate(plain):
            tau = names[c].norm()
            cosine = names[y] @ names[c] / (names[y].norm() * tau)
            raised.append(logit + tau * MARGIN * (1 - cosine))
        losses.append(torch.stack(raised).logsumexp(0) - raised[y])
    loss = torch.stack(losses).mean()
    other.optimizer.zero_grad()
    loss.backward()
    other.optimizer.step()


@pytest.mark.parametrize("domains", [1, 3])
def test_equals_a_loop_over_examples_and_classes(toy: SimpleNamespace, norm: str, domains: int) -> None:
    algorithm = toy.make(CLIPood, norm=norm, optimizer="sgd", domains=domains, margin=MARGIN)
    with torch.no_grad():  # as CLIP's: rows of one length
        algorithm.network.classifier.weight.copy_(5 * torch.nn.functional.normalize(torch.randn(4, 8), dim=1))
    toy.agrees(algorithm, reference)


def test_the_names_stay_and_predictions_have_no_margin(toy: SimpleNamespace) -> None:
    algorithm = toy.make(CLIPood)
    before = algorithm.network.classifier.weight.clone()
    batches = toy.batches(0)
    algorithm.update(batches)
    assert torch.equal(algorithm.network.classifier.weight, before)
    assert torch.equal(algorithm(batches[0].x), algorithm.network(batches[0].x))
    assert torch.allclose(algorithm.margins().diagonal(), 0.3 * before.norm(dim=1))
