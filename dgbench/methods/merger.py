"""Define mergers: each makes one predictor of several finished runs, by their weights or by their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.methods.average import NoHparams, Weights
from dgbench.networks.permutations import Symmetry


@dataclass(frozen=True)
class Member:
    """The model of one finished run: of its evaluated steps, that with the best training-domain validation accuracy."""

    run: str
    """Id of the run."""
    accuracy: float
    """Training-domain validation accuracy of the model, the unweighted mean over the domains; -inf if it is NaN."""
    load: Callable[[], Weights]
    """Read the weights from disk onto the device; nothing is kept in memory between calls."""
    tensor: Callable[[str], Tensor]
    """Read one tensor by its name."""


@dataclass(frozen=True)
class Tools:
    """Computations that the engine offers a merger beside its members."""

    score: Callable[[Weights], float]
    """Return the accuracy of weights on the pooled `out` parts of the training domains, or the score that selects on
    this data set; -inf if it is NaN."""
    initial: Callable[[], Weights]
    """Return the weights that the first member started from: those of all members where the card says `shared_init`."""
    fisher: Callable[[Weights, int], Weights]
    """Return the diagonal of the Fisher information by parameter: the mean square of the gradient of log p(y | x) over
    about that many training examples, each with y drawn from the model's own prediction."""
    examples: int
    """Number of training examples of all domains together."""
    statistics: frozenset[str]
    """Names of the running statistics of batch norm, which describe inputs and are no weights."""
    symmetries: Callable[[], Sequence[Symmetry]]
    """Return the permutations of units that leave the network's outputs as they are; raise `UserError` if the network
    computes something whose symmetries are not known. Ask for them where the card says that `units` are needed."""


@dataclass(frozen=True)
class Merged:
    """A candidate that a merger yields; its record names `members` and `by`."""

    weights: Weights
    """The merged model, by the names of its members' tensors."""
    members: Sequence[Member]
    """The runs that went into it."""
    by: Mapping[str, float] = field(default_factory=dict)
    """Values that distinguish it from the other candidates, such as a coefficient; empty if it is the only one."""


class Merger:
    """Base class of mergers. One instance makes one predictor of the runs of one fold.

    A subclass declares `card`, if need be `Hparams`, and overrides one of three: `merge`, for one model of all members;
    `candidates`, where some members are left out or several models are to choose from (then `choices` too); or
    `ensemble`, if the card says `ensemble`.

    Args:
        hparams: An instance of the class's `Hparams`.
    """

    card: ClassVar[MergerCard]
    """Facts that planning and `list` read."""
    Hparams: ClassVar[type] = NoHparams
    """The class of the hyperparameters, a frozen dataclass."""

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the weights of one model made from those of the members.

        Args:
            members: In the order of their hyperparameter seeds.
            tools: What the engine computes on request.
        """
        raise NotImplementedError

    @property
    def choices(self) -> int:
        """Return how many models `candidates` yields, which must not depend on the members."""
        return 1

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield the models among which a selector chooses, as among the steps of a run.

        The last is the merger's own choice, recorded as the last step. The default yields one, `merge` of all members.

        Args:
            members: In the order of their hyperparameter seeds.
            tools: What the engine computes on request.
        """
        yield Merged(self.merge(members, tools), members)

    def ensemble(self, members: Sequence[Member]) -> Sequence[Member]:
        """Return the members whose logits are averaged; called only if the card says `ensemble`."""
        return members
