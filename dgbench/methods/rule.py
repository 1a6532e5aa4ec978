"""Define step rules: ways to take one step, given an algorithm's loss.

An algorithm says which loss; a rule says how to step. `CORAL+SAM` descends CORAL's loss as SAM descends; `SAM` alone
descends ERM's. An author extends `Rule`, declares a `card`, and writes `displacement`, the move of the weights to where
the gradient is taken, or all of `backward`.

`compose` makes the class that takes an algorithm's steps by a rule: it has the hyperparameters of both, the algorithm's
`loss` and hooks, and the rule's `backward`. To the engine it is an algorithm like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard, composed_card
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import backward_at, gradient
from dgbench.methods.batch import Batch


class First(NamedTuple):
    """The loss at the weights themselves, from which a rule's step begins."""

    parts: Mapping[str, Tensor]
    """What `Algorithm.objective` returned."""
    parameters: list[Tensor]
    """The parameters that the loss reaches."""
    gradients: list[Tensor]
    """Its gradient by each of them."""

    @property
    def loss(self) -> Tensor:
        """The loss, a scalar without a graph."""
        return self.parts["loss"].detach()


class Rule(Algorithm):
    """Base class of step rules. One instance is the model of one run, whose steps the rule takes.

    A rule alone is a whole method, that of ERM's loss; `compose` puts it on another algorithm. `displacement` and
    `combine` are enough for rules that step by the gradient of one displaced point (SAM, ASAM, GSAM, SAGM); others
    override `backward`. A rule that needs modules or buffers makes them in `build`, after `super().build()`.
    """

    card: ClassVar[RuleCard]
    stepped: ClassVar[type[Algorithm] | None] = None
    """The algorithm whose steps it takes; None: ERM's."""

    def loss(self, batches: Sequence[Batch]) -> Tensor | Mapping[str, Tensor]:
        """Return the algorithm's loss; without one, the mean loss over the concatenated minibatches."""
        return super().loss(batches) if self.stepped else self.joint_loss(batches)

    def climbing(self) -> Iterable[Tensor]:
        """Return the parameters that the rule displaces; all of them take the step down."""
        return self.parameters()

    def first_pass(self, batches: Sequence[Batch]) -> First:
        """Evaluate the loss at the weights, and its gradient by the parameters to displace."""
        parts = self.objective(batches)
        return First(parts, *gradient(parts["loss"], self.climbing()))

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the move of each parameter to the point at which the second gradient is taken.

        Args:
            parameters: Those that the loss reaches.
            gradients: Its gradient by each, at the weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must write displacement() or backward()")

    def combine(self, gradients: list[Tensor], displaced: list[Tensor]) -> None:
        """Make the descent of the two gradients: change `displaced`, which the optimizer steps by, in place.

        Args:
            gradients: Gradients at the weights.
            displaced: Gradients at the displaced weights; the default leaves them.
        """

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Compute the gradient that the optimizer steps by, into `.grad`, and return the scalars to log.

        Args:
            batches: One minibatch of each training domain.
            first: The first pass, where the algorithm has made it already; None: the rule makes it.
        """
        if first is None:
            first = self.first_pass(batches)
            parameters, gradients = first.parameters, first.gradients
        else:  # the algorithm's pass may reach more than the rule displaces
            parameters, gradients = self._among_climbing(first.parameters, first.gradients)
        uphill, displaced = backward_at(self, batches, parameters, self.displacement(parameters, gradients))
        self.combine(gradients, displaced)
        return self.logged(first, uphill)

    def logged(self, first: First, uphill: Tensor) -> dict[str, Tensor]:
        """Return the scalars to log: the parts of the loss, and `sharpness`, how much higher the loss is uphill.

        Args:
            first: The first pass.
            uphill: The loss at the displaced weights, without a graph.
        """
        parts = {name: value.detach() for name, value in first.parts.items()}
        return {**parts, "sharpness": uphill - first.loss}

    def surrogate(self, loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the loss at the displaced weights to first order, differentiable by whatever the gradients depend on.

        Algorithms that perturb inputs against the rule's own objective (UDIM) take its derivative.

        Args:
            loss: The loss at the weights.
            parameters: Those that it reaches.
            gradients: Its gradient by each, with a graph.
        """
        parameters, gradients = self._among_climbing(parameters, gradients)
        by = self.displacement(parameters, [g.detach() for g in gradients])
        return loss + torch.stack([part.sum() for part in torch._foreach_mul(by, gradients)]).sum()

    def _among_climbing(self, parameters: list[Tensor], gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return those of the parameters that the rule displaces, and their gradients."""
        climbing = {id(parameter) for parameter in self.climbing()}
        pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if id(p) in climbing]
        return [p for p, _ in pairs], [g for _, g in pairs]


@cache
def compose(algorithm: type[Algorithm], rule: type[Rule], name: str) -> type[Algorithm]:
    """Return the class that takes an algorithm's steps by a rule.

    Args:
        algorithm: A class with a `loss` of its own.
        rule: The rule.
        name: Name of the row, such as `CORAL+SAM`.
    """
    # The fields of the rule come first, then those of the algorithm: the order of the composition's search space.
    both = (algorithm.Hparams, rule.Hparams)
    bases = tuple(one for one, other in zip(both, reversed(both), strict=True) if not issubclass(other, one))
    hparams: Any = dataclass(frozen=True)(type("Hparams", bases, {"__doc__": f"Hyperparameters of {name}."}))
    members: dict[str, Any] = {
        "__doc__": f"Take the steps of {algorithm.__name__} by {rule.__name__}.",
        "__module__": algorithm.__module__,
        "card": composed_card(algorithm.card, rule.card, algorithm.__name__, rule.__name__),
        "Hparams": hparams,
        "stepped": algorithm,
    }
    return type(name, (rule, algorithm), members)
