"""Gradient regularization (GR), by finite differences of the gradient along itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.core.composition import RuleCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import backward_at, gradient
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule

FORMS = ("forward", "backward", "double")
"""The choices of `form`."""


class GR(Rule):
    r"""Penalize the squared norm of the loss's gradient.

    $$
    \min_\theta L(\theta) + \frac{\gamma}{2}\, \|\nabla L(\theta)\|_2^2
    $$

    $L$ is the loss, $g$ its gradient and $H$ its Hessian. The gradient of the penalty is $\gamma H g$, and `form` is
    the way to find it:

    - `forward` (F-GR, the paper's best): $\frac{\gamma}{\varepsilon} \big(\nabla L(\theta + \varepsilon g) - g\big)$
    - `backward` (B-GR): $\frac{\gamma}{\varepsilon} \big(g - \nabla L(\theta - \varepsilon g)\big)$
    - `double`: exactly, by a backward pass through the backward pass

    $\varepsilon$ is `epsilon`; the step $\varepsilon g$ is not normalized. All three agree where $L$ is quadratic.

    Reference:
        Karakida, Takase, Hayase and Osawa, "Understanding Gradient Regularization in Deep Learning: Efficient
        Finite-Difference Computation and Implicit Bias", ICML 2023.

    Departures: no code of the authors is known to this project. The points that the paper leaves open are as in SAM:
    the same minibatches in both passes, all parameters, weight decay at the descent alone, and in the second pass live
    batch norm leaves its statistics alone.

    DomainBed: has no GR.
    """

    card = RuleCard(
        paper="Karakida et al., ICML 2023",
        link="https://arxiv.org/abs/2210.02720",
        tags=("flat-minima",),
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
        """Hyperparameters of GR.

        The default of `epsilon` is reported to be best for F-GR; that of `gamma` is this project's.
        """

        gamma: float = hparam(0.01, help="weight of the squared norm of the gradient", within="[0, inf)")
        epsilon: float = hparam(
            0.05,
            help="step of the finite difference, as a multiple of the gradient; unused with form double",
            within="(0, inf)",
        )
        form: str = hparam("forward", help="the way to find the penalty's gradient", options=FORMS)

    hparams: Hparams

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Differentiate the loss and its penalty, by two passes, or by one and its double backward pass."""
        if self.hparams.form == "double":
            return self._by_double_backward(batches)
        step = self.hparams.epsilon if self.hparams.form == "forward" else -self.hparams.epsilon
        first = first or self.first_pass(batches)
        parameters, gradients = first.parameters, first.gradients
        _, displaced = backward_at(self, batches, parameters, list(torch._foreach_mul(gradients, step)))
        # In place: `displaced` is what lies in `.grad`, and becomes the gradient of the objective.
        torch._foreach_sub_(displaced, gradients)
        torch._foreach_mul_(displaced, self.hparams.gamma / step)
        torch._foreach_add_(displaced, gradients)
        return self._logged(first.parts, gradients)

    def surrogate(self, loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the loss with its penalty, the objective of the rule."""
        return loss + self.hparams.gamma / 2 * _squared_norm(gradients)

    def _by_double_backward(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            parts = self.objective(batches)
            _, gradients = gradient(parts["loss"], self.parameters(), create_graph=True)
            self.optimizer.zero_grad(set_to_none=True)
            objective = parts["loss"] + self.hparams.gamma / 2 * _squared_norm(gradients)
            objective.backward()  # type: ignore[no-untyped-call]
        return self._logged(parts, gradients)

    def _logged(self, parts: Mapping[str, Tensor], gradients: list[Tensor]) -> Mapping[str, Tensor]:
        """Return the scalars to log, with the penalty computed from the gradient at the weights."""
        penalty = self.hparams.gamma / 2 * _squared_norm(gradients).detach()
        loss = parts["loss"].detach()
        others = {name: value.detach() for name, value in parts.items()}
        # The names that the algorithm logs stay its own.
        return {"nll": loss, "penalty": penalty, **others, "loss": loss + penalty}


def _squared_norm(tensors: list[Tensor]) -> Tensor:
    """Return the squared norm of all tensors taken as one vector."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()
