from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.gr import FORMS, GR
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import displacements, erm, flat, gradient_at, gradient_of, norm_of, plus, step, times
from tests.algorithms.uphill import train_alike as train_alike_

GAMMA, EPSILON = 0.3, 0.2


def reference(form: str) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
        loss = erm(batches)
        if form == "double":
            parameters = list(other.network.parameters())
            value = loss(other.network)
            g = torch.autograd.grad(value, parameters, create_graph=True)
            product = torch.autograd.grad(g, parameters, grad_outputs=[v.detach() for v in g])
            step(other, plus([v.detach() for v in g], times(GAMMA, list(product))))
            return
        g0 = gradient_of(other.network, loss)
        if form == "forward":
            g1 = gradient_at(other.network, loss, times(EPSILON, g0))
            difference = plus(g1, times(-1, g0))
        else:
            g1 = gradient_at(other.network, loss, times(-EPSILON, g0))
            difference = plus(g0, times(-1, g1))
        step(other, plus(g0, times(GAMMA / EPSILON, difference)))

    return step_


@pytest.mark.parametrize("form", FORMS)
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, form: str) -> None:
    algorithm = toy.make(GR, norm=norm, optimizer=optimizer, gamma=GAMMA, epsilon=EPSILON, form=form)
    toy.agrees(algorithm, reference(form), logs=lambda losses: {"nll": losses[0]})


class Quadratic(GR):
    """L = theta' A theta / 2."""

    def build(self) -> None:
        size = sum(p.numel() for p in self.network.parameters())
        root = torch.randn(size, size, generator=torch.Generator().manual_seed(1)) / size**0.5
        self.matrix = root @ root.T + torch.eye(size)

    def joint_loss(self, batches: list[Batch]) -> torch.Tensor:
        theta = nn.utils.parameters_to_vector(self.network.parameters())
        return theta @ self.matrix @ theta / 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epsilon", [0.01, 2.0])
def test_all_forms_are_exact_on_a_quadratic(toy: SimpleNamespace, form: str, epsilon: float) -> None:
    """The gradient is A theta + gamma A A theta."""
    algorithm = toy.make(Quadratic, gamma=GAMMA, epsilon=epsilon, form=form)
    theta = nn.utils.parameters_to_vector(algorithm.network.parameters()).detach().clone()
    logged = toy.take(algorithm, 0)
    g = algorithm.matrix @ theta
    torch.testing.assert_close(
        flat([p.grad for p in algorithm.parameters()]), g + GAMMA * algorithm.matrix @ g, rtol=0, atol=1e-11
    )
    assert logged["penalty"] == pytest.approx(GAMMA / 2 * (g @ g).item(), rel=1e-12)
    assert logged["loss"] == pytest.approx(logged["nll"] + logged["penalty"], rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_without_gamma_it_is_erm(toy: SimpleNamespace, optimizer: str, form: str) -> None:
    train_alike_(toy, toy.make(GR, optimizer=optimizer, gamma=0.0, form=form), toy.make(ERM, optimizer=optimizer))


def test_with_gamma_equal_to_a_step_of_sams_length_it_is_sam(toy: SimpleNamespace) -> None:
    """gamma = epsilon leaves grad L(theta + epsilon g), and epsilon = rho / ||g|| is SAM's step."""
    plain = toy.make(ERM)
    rho, length = 0.1, norm_of(gradient_of(plain.network, erm(toy.batches(0)))).item()
    gr, sam = toy.make(GR, gamma=rho / length, epsilon=rho / length), toy.make(SAM, rho=rho)
    for algorithm in (gr, sam):
        toy.take(algorithm, 0)
    for p, q in zip(gr.parameters(), sam.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "sign"), [("forward", 1), ("backward", -1)])
def test_the_step_is_in_gradients_not_of_fixed_length(toy: SimpleNamespace, form: str, sign: int) -> None:
    algorithm = toy.make(GR, epsilon=EPSILON, form=form)
    g = gradient_of(toy.make(GR).network, erm(toy.batches(0)))
    (by,) = displacements(algorithm, toy.batches(0))
    torch.testing.assert_close(flat(by), sign * EPSILON * flat(g), rtol=0, atol=1e-12)


class Attention(nn.Module):
    """Its fastest kernel has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(1, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.inputs(x[..., None])[:, None]
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2))


def test_double_backward_goes_through_attention(toy: SimpleNamespace) -> None:
    algorithm = toy.make(GR, form="double")
    algorithm.network.featurizer = Attention()
    algorithm.build_optimizers()
    assert toy.take(algorithm, 0)["penalty"] > 0


@pytest.mark.parametrize(("values", "words"), [({"epsilon": 0.0}, "above 0"), ({"form": "forwards"}, "is one of")])
def test_impossible_values_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        GR.Hparams(**values)


@pytest.mark.parametrize("form", FORMS)
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, form: str) -> None:
    toy.resumes(GR, norm="live", optimizer=optimizer, dropout=0.3, form=form)
