from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.saf import MESA, SAF
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

LAMBDA, T, EXAMPLES = 0.7, 3.0, 20
OPTIONS = {
    SAF: {"saf_lambda": LAMBDA, "temperature": T, "start_epoch": 0, "past_epochs": 2},
    MESA: {"mesa_lambda": LAMBDA, "temperature": T, "start_epoch": 0, "mesa_decay": 0.8},
}
STEPS = 12


def kl(past: Tensor, now: Tensor) -> Tensor:
    p, q = (past / T).softmax(0), (now / T).softmax(0)
    return T**2 * (p * (p / q).log()).sum()


def in_time(batch: Batch, step: int) -> bool:
    return step * len(batch.y) // EXAMPLES > 0


def saf_reference() -> Callable[[SimpleNamespace, list[Batch], int], None]:
    history: dict[tuple[int, int], list[Tensor]] = defaultdict(list)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        logits = list(other.network(torch.cat([b.x for b in batches])))
        y = torch.cat([b.y for b in batches])
        keys = [(d, b.positions[i].item()) for d, b in enumerate(batches) for i in range(len(b.y))]
        allowed = [in_time(b, step) for b in batches for _ in b.y]
        penalty = torch.zeros(())
        for key, z, fine in zip(keys, logits, allowed, strict=True):
            if fine and len(history[key]) >= 2:
                penalty = penalty + kl(history[key][-2], z)
        for key, z in dict(zip(keys, logits, strict=True)).items():
            history[key].append(z.detach())
        other.optimizer.zero_grad()
        (F.cross_entropy(torch.stack(logits), y) + LAMBDA * penalty / len(y)).backward()
        other.optimizer.step()

    return step_


def mesa_reference() -> Callable[[SimpleNamespace, list[Batch], int], None]:
    kept: list[torch.nn.Module] = []

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if not kept:
            kept.append(copy.deepcopy(other.network).eval())
        [average] = kept
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        logits = other.network(x)
        with torch.no_grad():
            past = average(x)
        allowed = [in_time(b, step) for b in batches for _ in b.y]
        penalty = sum(kl(p, z) for p, z, fine in zip(past, logits, allowed, strict=True) if fine)
        other.optimizer.zero_grad()
        (F.cross_entropy(logits, y) + LAMBDA * penalty / len(y)).backward()
        other.optimizer.step()
        with torch.no_grad():
            for mine, new in zip(average.state_dict().values(), other.network.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.copy_(0.8 * mine + 0.2 * new)

    return step_


REFERENCES = {SAF: saf_reference, MESA: mesa_reference}


@pytest.mark.parametrize("cls", [SAF, MESA])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, cls: type[Algorithm]) -> None:
    algorithm = toy.make(cls, norm=norm, optimizer=optimizer, dropout=0.3, **OPTIONS[cls])
    toy.agrees(algorithm, REFERENCES[cls](), steps=STEPS)
    if cls is SAF:
        assert (algorithm.draws[:-1] >= 3).any(), "nothing was ever held to the past"


def test_an_example_is_held_to_its_own_logits_of_two_draws_ago(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAF, lr=0.0, weight_decay=0.0, **(OPTIONS[SAF] | {"start_epoch": -1}))
    x, y = torch.randn(2, 6), torch.tensor([0, 1])
    seen, position = [], torch.tensor([4, 7])
    for scale in (1.0, 2.0, 3.0, 4.0):
        seen.append(algorithm.network(scale * x).detach())
        batch = Batch(scale * x, y, position, 0)
        others = [batch._replace(positions=position + 2, domain=1), batch._replace(domain=2)]
        logged = algorithm.update([batch, *others])
        expected = 0.0
        if len(seen) > 2:
            expected = sum(kl(past, now).item() for past, now in zip(seen[-3], seen[-1], strict=True)) / 2
        assert logged["penalty"].item() == pytest.approx(expected, abs=1e-12)
    assert algorithm.draws[4] == algorithm.draws[EXAMPLES + 6] == algorithm.draws[2 * EXAMPLES + 7] == 4
    assert algorithm.draws[:-1].sum() == 6 * 4


def test_of_an_example_drawn_twice_at_once_the_last_is_kept(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAF, domains=1, **OPTIONS[SAF])
    x = torch.randn(3, 6)
    logits = algorithm.network(x).detach()
    algorithm.update([Batch(x, torch.tensor([0, 1, 2]), torch.tensor([5, 9, 5]), 0)])
    assert torch.equal(algorithm.past[5, 0], logits[2])
    assert torch.equal(algorithm.past[-1, 0], logits[0]), "one place written twice, in whatever order the device likes"
    assert torch.equal(algorithm.past[9, 0], logits[1])
    assert algorithm.draws[[5, 9]].tolist() == [1, 1]


def test_the_average_is_in_evaluation_mode_and_starts_at_the_network(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MESA, norm="live", dropout=0.5, **(OPTIONS[MESA] | {"mesa_decay": 1.0}))
    before = {name: tensor.clone() for name, tensor in algorithm.average.state_dict().items()}
    for step in range(2):
        toy.take(algorithm, step)
    assert not any(p.requires_grad for p in algorithm.average.parameters())
    for name, tensor in algorithm.average.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("cls", "weight"), [(SAF, "saf_lambda"), (MESA, "mesa_lambda")])
def test_without_weight_it_is_erm(toy: SimpleNamespace, cls: type[Algorithm], weight: str) -> None:
    ours, erm = toy.make(cls, **(OPTIONS[cls] | {weight: 0.0})), toy.make(ERM)
    for step in range(STEPS):
        toy.take(ours, step)
        toy.take(erm, step)
    for p, q in zip(ours.network.parameters(), erm.network.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("cls", [SAF, MESA])
def test_nothing_is_held_before_its_time(toy: SimpleNamespace, cls: type[Algorithm]) -> None:
    algorithm = toy.make(cls, **(OPTIONS[cls] | {"start_epoch": 1}))
    penalties = [toy.take(algorithm, step)["penalty"] for step in range(STEPS)]
    assert penalties[:5] == [0.0] * 5  # the largest minibatch has 8 of 20 examples: its second epoch ends at step 5
    assert penalties[-1] > 0


@pytest.mark.parametrize(
    ("cls", "wrong", "told"),
    [
        (SAF, {"past_epochs": 0}, "past_epochs must be"),
        (SAF, {"temperature": 0.0}, "temperature must be"),
        (MESA, {"mesa_decay": 1.5}, "mesa_decay must lie"),
    ],
)
def test_what_cannot_be_is_refused(cls: type[Algorithm], wrong: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        cls.Hparams(**wrong)


@pytest.mark.parametrize("cls", [SAF, MESA])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, cls: type[Algorithm]) -> None:
    toy.resumes(cls, STEPS, norm="live", optimizer=optimizer, dropout=0.3, **OPTIONS[cls])
