"""Define averages: each watches the weights of one training run, and gives a second model.

    before the first step            begin(initial weights, steps)
    after every step                 observe(weights)
    after every evaluation           validate(step, losses and accuracies of the live model)
    at an evaluation, or at the end  weights()

Weights are the algorithm's `predictor_tensors`. An average may also feed back into the training that it watches, if its
card says so: by a factor on the learning rate (`lr_factor`), or by weights that training continues from (`feedback`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dgbench.core.cards import AverageCard

Weights = dict[str, Tensor]
"""Tensors of a model by name, parameters and buffers."""


@dataclass(frozen=True)
class NoHparams:
    """The hyperparameters of an entry that has none."""


class Average:
    """Base class of averages. One instance watches one run.

    A subclass declares `card`, if need be `Hparams`, and overrides `observe`, `weights`, `state` and `load`, and of the
    other hooks those that it needs. Everything that it remembers must pass through `state`, or a resumed run gives
    another model.

    Args:
        hparams: An instance of the class's `Hparams`.
    """

    card: ClassVar[AverageCard]
    """Facts that planning and `list` read."""
    Hparams: ClassVar[type] = NoHparams
    """The class of the hyperparameters, a frozen dataclass."""

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Receive the initial weights and the number of steps, once; not called again where a run resumes.

        Args:
            weights: The live tensors: copy what is to be kept, change nothing.
            steps: Length of the run in steps.
        """

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the live weights after a step of training; copy those to be kept, change nothing."""
        raise NotImplementedError

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Receive the validation scores of the live model after an evaluation; called before `weights`.

        Args:
            step: Index of the step just taken, from 0.
            losses: Training domain -> mean loss on its `out` part, in nats for classes.
            accuracies: Training domain -> accuracy there in [0, 1], or the score that selects on this data set.
        """

    def weights(self) -> Weights | None:
        """Return the averaged model as of now, with every name that `observe` was given; None while there is none."""
        raise NotImplementedError

    def lr_factor(self, step: int) -> float:
        """Return the factor on every learning rate in a step; read only if the card feeds back `learning_rate`."""
        return 1.0

    def feedback(self) -> Weights | None:
        """Return the weights that training continues from, or None to leave them; called after each evaluation.

        Read only if the card feeds back `weights`.
        """
        return None

    def state(self) -> dict[str, Any]:
        """Return everything that the average remembers: tensors, numbers, strings, and lists and dicts of them."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        raise NotImplementedError


@torch.no_grad()
def move_towards(mean: Weights, weights: Mapping[str, Tensor], share: float) -> None:
    """Move `mean` in place by a share of its distance to `weights`: mean += share * (weights - mean).

    Integer tensors (batch counts), and tensors whose shape has changed, are replaced by copies of the latest.

    Args:
        mean: Changed in place.
        weights: With the same names.
        share: In [0, 1].
    """
    moving = [n for n, tensor in weights.items() if tensor.is_floating_point() and tensor.shape == mean[n].shape]
    if moving:  # torch refuses empty lists
        torch._foreach_lerp_([mean[n] for n in moving], [weights[n].detach() for n in moving], share)
    mean.update(copied({name: weights[name] for name in weights.keys() - set(moving)}))


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Return copies of the tensors, each on its device and without a graph."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


class RunningMean:
    """The uniform mean of all models that were added; integer tensors are those of the last."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Weights = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take one more model into the mean."""
        self.count += 1
        if self.count == 1:
            self.mean = copied(weights)
        else:
            move_towards(self.mean, weights, 1 / self.count)

    def state(self) -> dict[str, Any]:
        """Return the content for a checkpoint."""
        return {"count": self.count, "mean": self.mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.count, self.mean = state["count"], dict(state["mean"])
