from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.methods.batch import Batch
from dgbench.rules.sam import SAM


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    logits = other.network(torch.cat([b.x for b in batches]))
    labels = torch.cat([b.y for b in batches])
    loss = -logits.log_softmax(1)[torch.arange(len(labels)), labels].sum() / len(labels)
    other.optimizer.zero_grad()
    loss.backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(ERM, norm=norm, optimizer=optimizer), reference)


def test_every_example_weighs_alike(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERM)
    data = toy.batches(0)
    per_example = [F.cross_entropy(algorithm(b.x), b.y, reduction="sum") for b in data]
    expected = sum(per_example) / sum(len(b.y) for b in data)
    torch.testing.assert_close(algorithm.loss(data), expected, rtol=0, atol=1e-14)


def test_is_the_baseline() -> None:
    assert ERM.card.baseline


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, dropout: float) -> None:
    toy.resumes(ERM, norm="live", optimizer=optimizer, dropout=dropout)


# -- every setting ------------------------------------------------------------------------------------------------


def loss_of(network: nn.Module, batches: list[Batch]) -> torch.Tensor:
    return F.cross_entropy(network(torch.cat([b.x for b in batches])), torch.cat([b.y for b in batches]))


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_each_optimizer_is_torchs(toy: SimpleNamespace, kind: str) -> None:
    algorithm = toy.make(ERM, optimizer=kind)
    network = copy.deepcopy(algorithm.network)
    how = {"lr": 1e-2, "weight_decay": 1e-2}
    reference_optimizer = {
        "adam": lambda p: torch.optim.Adam(p, **how),
        "adamw": lambda p: torch.optim.AdamW(p, **how),
        "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, **how),
    }[kind](network.parameters())
    for step in range(3):
        toy.take(algorithm, step)
        reference_optimizer.zero_grad()
        loss_of(network, toy.batches(step)).backward()
        reference_optimizer.step()
        for p, q in zip(algorithm.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_the_schedule_warms_up_and_falls_to_nothing(toy: SimpleNamespace, optimizer: str) -> None:
    """Against torch's own schedulers."""
    how = {"schedule": "cosine", "warmup_steps": 3}
    algorithm = toy.make(ERM, optimizer=optimizer, steps=12, how=how)
    other = toy.naive(algorithm)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        other.optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(other.optimizer, start_factor=1 / 3, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(other.optimizer, T_max=9),
        ],
        milestones=[3],
    )
    rates = []
    for step in range(12):
        toy.take(algorithm, step)
        rates.append(algorithm.optimizer.param_groups[0]["lr"])
        assert rates[-1] == pytest.approx(other.optimizer.param_groups[0]["lr"], abs=1e-15)
        reference(other, toy.batches(step), step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's SequentialLR calls what torch deprecates
            schedule.step()
        for p, q in zip(algorithm.network.parameters(), other.network.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert rates[:4] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])
    assert rates[-1] < 4e-4


def test_long_gradients_are_cut_and_short_ones_left(toy: SimpleNamespace) -> None:
    def after(clip_norm: float) -> list[torch.Tensor]:
        algorithm = toy.make(ERM, optimizer="sgd", weight_decay=0.0, how={"clip_norm": clip_norm})
        before = [p.detach().clone() for p in algorithm.parameters()]
        toy.take(algorithm, 0)
        return [(p - q) / 1e-2 for p, q in zip(algorithm.parameters(), before, strict=True)]

    free = after(0.0)
    norm = torch.cat([g.flatten() for g in free]).norm()
    for mine, yours in zip(after(norm.item() / 4), free, strict=True):
        torch.testing.assert_close(mine, yours / 4, rtol=1e-5, atol=1e-9)
    assert all(torch.equal(mine, yours) for mine, yours in zip(after(10 * norm.item()), free, strict=True))


def test_clipping_and_schedule_reach_methods_that_step_the_optimizer_themselves(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAM, optimizer="sgd", weight_decay=0.0, how={"clip_norm": 1e-3, "warmup_steps": 2})
    before = nn.utils.parameters_to_vector(algorithm.parameters()).detach().clone()
    toy.take(algorithm, 0)
    moved = nn.utils.parameters_to_vector(algorithm.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(1e-3 * 1e-2 / 2, rel=1e-3)


@pytest.mark.parametrize("images", [False, True])
def test_a_frozen_embedding_stays_and_the_rest_learns(toy: SimpleNamespace, images: bool) -> None:
    algorithm = toy.make(ERM, images=images, norm="live", how={"freeze": "embedding"})
    before = {name: p.detach().clone() for name, p in algorithm.network.named_parameters()}
    for step in range(2):
        toy.take(algorithm, step)
    for name, p in algorithm.network.named_parameters():
        assert torch.equal(p, before[name]) is name.startswith("featurizer.0."), name


def test_a_frozen_featurizer_leaves_its_live_batch_norm_alone_too(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERM, norm="live", how={"freeze": "featurizer"})
    before = {name: tensor.clone() for name, tensor in algorithm.network.state_dict().items()}
    for step in range(2):
        algorithm.train()
        toy.take(algorithm, step)
    for name, tensor in algorithm.network.state_dict().items():
        assert torch.equal(tensor, before[name]) is name.startswith("featurizer"), name


def test_settings_survive_a_checkpoint(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(ERM, optimizer=optimizer, steps=6, how={"schedule": "cosine", "warmup_steps": 2, "clip_norm": 0.1})
