"""Displacements of members from the weights that they started from: the vectors that task arithmetic adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch

from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Tools


class TaskVectors:
    r"""The displacements $\tau_m = \theta_m - \theta_0$ of members from their common start, read one by one.

    Batch-norm statistics and integer tensors are no part of them: they describe inputs, and no step moved them.
    """

    def __init__(self, members: Sequence[Member], tools: Tools) -> None:
        self.members = members
        self.start = tools.initial()
        self.names = [
            name for name, tensor in self.start.items() if tensor.is_floating_point() and name not in tools.statistics
        ]
        """Names of the tensors that have a displacement, in the order of the model's modules."""

    def __iter__(self) -> Iterator[Weights]:
        """Yield the displacement of each member by the names of its tensors."""
        for member in self.members:
            weights = member.load()
            yield {name: weights[name] - self.start[name] for name in self.names}

    @cached_property
    def mean(self) -> Weights:
        """Return the mean displacement."""
        mean = RunningMean()
        for vector in self:
            mean.add(vector)
        return mean.mean

    @cached_property
    def _others(self) -> Weights:
        """The members' uniform mean of the tensors without a displacement; integer ones are the last member's."""
        names, mean = set(self.names), RunningMean()
        for member in self.members:
            mean.add({name: member.tensor(name) for name in self.start if name not in names})
        return mean.mean

    def moved(self, vector: Mapping[str, torch.Tensor], scale: float | Mapping[str, float] = 1.0) -> Weights:
        """Return the start moved by a displacement, with the members' mean of all other tensors.

        Args:
            vector: Name -> displacement.
            scale: Factor on it, for all tensors or by name.
        """
        factors = scale if isinstance(scale, Mapping) else dict.fromkeys(self.names, scale)
        return {
            **self._others,
            **{name: torch.add(self.start[name], vector[name], alpha=factors[name]) for name in self.names},
        }
