"""Gradient regularisation, by finite differences of the gradient along itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.core.cards import AlgorithmCard, Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.methods.ascent import backward_at, gradient

FORMS = ("forward", "backward", "double")


class GR(Algorithm):
    """min over theta of L(theta) + gamma / 2 * ||grad L(theta)||^2.

    Karakida, Takase, Hayase and Osawa, "Understanding Gradient Regularization in Deep Learning: Efficient
    Finite-Difference Computation and Implicit Bias", ICML 2023. L is ERM's loss, g its gradient. The gradient of the
    penalty is gamma H g, which `form` finds: `forward` (F-GR, the paper's best) as (gamma / epsilon) times
    grad L(theta + epsilon g) - g; `backward` (B-GR) as (gamma / epsilon) times g - grad L(theta - epsilon g); `double`
    exactly, by a backward pass through the backward pass. The step epsilon g is not normalised. All three agree where
    L is quadratic.

    Departures: no code of the authors is known to us. What the paper leaves open is as in SAM: the same minibatches in
    both passes, all parameters, weight decay at the descent alone, and in the second pass live batch norm leaves its
    statistics alone. DomainBed has no GR.
    """

    card = AlgorithmCard(
        paper="Karakida et al., ICML 2023",
        forwards=2.0,
        backwards=2.0,
        penalties=("gamma",),
        needs=(
            Need(
                "eager",
                when={"form": "double"},
                why="takes gradients of gradients, which PyTorch has no compiled form of",
            ),
        ),
        experimental="the default of gamma, from the middle of the range that papers use",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The default of `epsilon` is what is reported to be best for F-GR; that of `gamma` is ours."""

        gamma: float = hparam(0.01, help="weight of the squared norm of the gradient", within="[0, inf)")
        epsilon: float = hparam(
            0.05, help="step of the finite difference, in gradients; not in the form double", within="(0, inf)"
        )
        form: str = hparam("forward", help="how the penalty's gradient is found", options=FORMS)

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step: two forward and two backward passes, or one and its double."""
        if self.hparams.form == "double":
            return self._by_double_backward(batches)
        step = self.hparams.epsilon if self.hparams.form == "forward" else -self.hparams.epsilon
        loss = self.joint_loss(batches)
        parameters, here = gradient(loss, self.parameters())
        _, there = backward_at(self, batches, parameters, list(torch._foreach_mul(here, step)))
        torch._foreach_sub_(there, here)
        torch._foreach_mul_(there, self.hparams.gamma / step)
        torch._foreach_add_(there, here)
        self.optimizer.step()
        return self._logged(loss, here)

    def _by_double_backward(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        # The faster kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            loss = self.joint_loss(batches)
            _, here = gradient(loss, self.parameters(), create_graph=True)
            self.descend(loss + self.hparams.gamma / 2 * _squared_norm(here))
        return self._logged(loss, here)

    def _logged(self, loss: Tensor, here: list[Tensor]) -> Mapping[str, Tensor]:
        penalty = self.hparams.gamma / 2 * _squared_norm(here).detach()
        return {"loss": loss.detach() + penalty, "nll": loss.detach(), "penalty": penalty}


def _squared_norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()
