"""What an average is: it watches one run and yields a second model.

before the first step            begin(initial weights, steps)
after every optimizer step       observe(weights)
after every evaluation           validate(step, losses and accuracies of the live model on the domains' `out` parts)
at an evaluation, or at the end  weights()

Some feed back, as their card says: they set the learning rate's factor, or the weights that training goes on from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dgbench.core.cards import AverageCard

Weights = dict[str, Tensor]
"""A model's tensors by name, parameters and buffers."""


@dataclass(frozen=True)
class NoHparams:
    """For entries without hyperparameters of their own."""


class Average:
    """Base of every average. Override `observe`, `weights`, `state` and `load`, and what else it needs."""

    card: ClassVar[AverageCard]
    Hparams: ClassVar[type] = NoHparams

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """See the initial weights and how many steps will follow; a run that is resumed does not begin again."""

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Look at the live weights after an optimizer step; copy what is to be kept, change nothing."""
        raise NotImplementedError

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Hear the live model's mean cross-entropy and accuracy on each training domain's `out` part after `step`."""

    def weights(self) -> Weights | None:
        """The averaged model now, or None while there is none."""
        raise NotImplementedError

    def lr_factor(self, step: int) -> float:
        """What every learning rate is multiplied by in a step, for a card that feeds back the "learning_rate"."""
        return 1.0

    def feedback(self) -> Weights | None:
        """After an evaluation, the weights that training goes on from, for a card that feeds back "weights"."""
        return None

    def state(self) -> dict[str, Any]:
        """Everything that it remembers: tensors, numbers, strings, lists and dicts of them."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        raise NotImplementedError


@torch.no_grad()
def move_towards(mean: Weights, weights: Mapping[str, Tensor], share: float) -> None:
    """mean += share * (weights - mean); integer tensors, and those whose shape has changed, become the latest."""
    moving = [n for n, tensor in weights.items() if tensor.is_floating_point() and tensor.shape == mean[n].shape]
    torch._foreach_lerp_([mean[n] for n in moving], [weights[n].detach() for n in moving], share)
    mean.update(copied({name: weights[name] for name in weights.keys() - set(moving)}))


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Copies of the tensors, where they are."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


class RunningMean:
    """The uniform mean of the weights that it was given; integer tensors are those of the last."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Weights = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take one more model into the mean: mean += (weights - mean) / count."""
        self.count += 1
        if self.count == 1:
            self.mean = copied(weights)
        else:
            move_towards(self.mean, weights, 1 / self.count)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"count": self.count, "mean": self.mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.count, self.mean = state["count"], dict(state["mean"])
