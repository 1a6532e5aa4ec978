from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.dann import CDANN, DANN
from dgbench.core.errors import UserError
from dgbench.core.seeding import seed_hash
from dgbench.core.space import resolve, space_of
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

VALUES = {
    "dann_lambda": 0.7,
    "lr_g": 1e-2,
    "lr_d": 2e-2,
    "weight_decay_g": 1e-2,
    "weight_decay_d": 3e-2,
    "mlp_width": 5,
}
Reference = Callable[[SimpleNamespace, list[Batch], int], dict[str, torch.Tensor]]


def optimizer_of(
    algorithm: Algorithm, parameters: list[nn.Parameter], lr: float, decay: float
) -> torch.optim.Optimizer:
    if algorithm.setting.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, betas=(algorithm.hparams.beta1, 0.9))


def reference(algorithm: DANN, first_turns: str) -> Reference:
    """`first_turns`: whose turn each step is, d or g. One example at a time, domain by domain."""
    disc = copy.deepcopy(algorithm.discriminator)
    table = copy.deepcopy(algorithm.class_embeddings) if isinstance(algorithm, CDANN) else None
    mine = [*disc.parameters(), *(table.parameters() if table else ())]
    disc_optimizer = optimizer_of(algorithm, mine, VALUES["lr_d"], VALUES["weight_decay_d"])

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
        if step == 0:
            other.optimizer = optimizer_of(
                algorithm, list(other.network.parameters()), VALUES["lr_g"], VALUES["weight_decay_g"]
            )
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        z = other.network.features(x)
        losses, norms, start = [], [], 0
        for domain, b in enumerate(batches):
            for i in range(start, start + len(b.y)):
                shown = z[i] + table(y[i]) if table else z[i]
                losses.append(F.cross_entropy(disc(shown)[None], torch.tensor([domain])))
                (gradient,) = torch.autograd.grad(losses[-1], shown, create_graph=True)
                norms.append((gradient**2).sum())
            start += len(b.y)
        if table:
            total = torch.zeros(())
            for label in range(algorithm.task.num_classes):
                of_class = [loss for loss, k in zip(losses, y.tolist(), strict=True) if k == label]
                total = total + (sum(of_class) / len(of_class) if of_class else 0.0)
            disc_loss = total / algorithm.task.num_classes
        else:
            disc_loss = sum(losses) / len(losses)
        disc_loss = disc_loss + algorithm.hparams.grad_penalty * sum(norms) / len(norms)
        nll = F.cross_entropy(other.network.classifier(z), y)
        other.optimizer.zero_grad()
        disc_optimizer.zero_grad()
        if first_turns[step] == "d":
            disc_loss.backward()
            disc_optimizer.step()
        else:
            (nll - VALUES["dann_lambda"] * disc_loss).backward()
            other.optimizer.step()
        for p, q in zip(algorithm.discriminator.parameters(), disc.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
        return {"loss": nll.detach(), "disc_loss": disc_loss.detach()}

    return step_


@pytest.mark.parametrize("cls", [DANN, CDANN])
@pytest.mark.parametrize("penalty", [0.0, 0.4])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, cls: type[DANN], penalty: float) -> None:
    algorithm = toy.make(cls, norm=norm, optimizer=optimizer, **VALUES, grad_penalty=penalty)
    toy.agrees(algorithm, reference(algorithm, "gdgd"), steps=4)


def test_turns_are_domainbeds(toy: SimpleNamespace) -> None:
    """Its count of updates starts at 1 and the discriminator's turns are those below d_steps, modulo d_steps + 1."""
    algorithm = toy.make(DANN, **VALUES, d_steps_per_g_step=3)
    toy.agrees(algorithm, reference(algorithm, "ddgdddg"), steps=7)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_discriminators_turn_sends_nothing_back_through_the_featurizer(
    toy: SimpleNamespace, penalty: float
) -> None:
    algorithm = toy.make(DANN, **VALUES, grad_penalty=penalty)
    toy.take(algorithm, 1)
    assert all(p.grad is None for p in algorithm.network.parameters())
    toy.take(algorithm, 2)
    assert all(p.grad is not None for p in algorithm.network.parameters())


def test_the_penalty_of_a_linear_discriminator(toy: SimpleNamespace) -> None:
    """The gradient of its loss on an example is W'(p - domain)."""
    algorithm = toy.make(DANN, **VALUES, grad_penalty=1.0)
    algorithm.discriminator = nn.Linear(8, 3)
    batches, w = toy.batches(0), algorithm.discriminator.weight
    z = algorithm.network.features(torch.cat([b.x for b in batches])).detach()
    domain = torch.tensor([0] * 5 + [1] * 3 + [2] * 8)
    error = algorithm.discriminator(z).softmax(1) - F.one_hot(domain, 3)
    expected = F.cross_entropy(algorithm.discriminator(z), domain) + (error @ w).square().sum(1).mean()
    assert toy.take(algorithm, 0)["disc_loss"] == pytest.approx(expected.item(), abs=1e-13)


def test_a_missing_class_is_no_matter(toy: SimpleNamespace) -> None:
    algorithm = toy.make(CDANN, **VALUES)
    data = [b._replace(y=torch.zeros_like(b.y)) for b in toy.batches(0)]
    z = algorithm.network.features(torch.cat([b.x for b in data])) + algorithm.class_embeddings.weight[0]
    expected = F.cross_entropy(algorithm.discriminator(z), torch.tensor([0] * 5 + [1] * 3 + [2] * 8)) / 4
    assert algorithm.update(data)["disc_loss"].item() == pytest.approx(expected.item(), abs=1e-13)


def test_no_discriminator_without_a_turn() -> None:
    with pytest.raises(UserError, match="d_steps_per_g_step"):
        DANN.Hparams(d_steps_per_g_step=0)


def test_lambda_is_drawn_from_domainbeds_stream() -> None:
    for cls in (DANN, CDANN):
        drawn = resolve(space_of(cls.Hparams), hparams_seed=5, trial=1)
        rng = np.random.RandomState(seed_hash(seed_hash(5, 1), "lambda"))
        assert drawn["dann_lambda"] == 10 ** rng.uniform(-2, 2)
        rng = np.random.RandomState(seed_hash(seed_hash(5, 1), "lr_d"))
        assert drawn["lr_d"] == 10 ** rng.uniform(-5, -3.5)


@pytest.mark.parametrize("cls", [DANN, CDANN])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, cls: type[DANN]) -> None:
    toy.resumes(cls, norm="live", optimizer=optimizer, dropout=0.3, **VALUES, grad_penalty=0.1, mlp_dropout=0.2)
