"""What a merger is: finished runs in, one model out (or several whose logits are averaged)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.methods.average import NoHparams, Weights


@dataclass(frozen=True)
class Member:
    """A finished run's model, at its best training-domain validation accuracy."""

    run: str
    accuracy: float
    """Its training-domain validation accuracy there, the unweighted mean over the training domains; -inf if that is no
    number."""
    load: Callable[[], Weights]
    """Reads the weights from disk; nothing is held until it is called."""
    tensor: Callable[[str], Tensor]
    """Reads one of them."""


@dataclass(frozen=True)
class Tools:
    """What a merger may ask for beside its members."""

    score: Callable[[Weights], float]
    """Accuracy of weights on the pooled `out` parts of the training domains; -inf if that is no number."""
    initial: Callable[[], Weights]
    """The weights that the members started from; the same for all of them where the card says `shared_init`."""
    fisher: Callable[[Weights, int], Weights]
    """By parameter, the mean square of the gradient of log p(y | x), y drawn from the model's own predictions, over
    that many examples of the training domains."""
    examples: int
    """Training examples of all domains together."""


@dataclass(frozen=True)
class Merged:
    """A model that came out; its record says of what and how."""

    weights: Weights
    members: Sequence[Member]
    """Those that are in it."""
    by: Mapping[str, float] = field(default_factory=dict)
    """What tells it from the other candidates."""


class Merger:
    """Base of every merger. Override `merge`; `candidates` where not all members are in the model, or to leave a choice
    of several (and `choices`); or `ensemble`, if the card says so."""

    card: ClassVar[MergerCard]
    Hparams: ClassVar[type] = NoHparams

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """One model's weights from those of the members, given in the order of their hyperparameter seeds."""
        raise NotImplementedError

    @property
    def choices(self) -> int:
        """How many candidates there are, whatever the members."""
        return 1

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Models among which a selector chooses as among the steps of a run; the last is the one to take unasked."""
        yield Merged(self.merge(members, tools), members)

    def ensemble(self, members: Sequence[Member]) -> Sequence[Member]:
        """The members whose logits are averaged, for a card that says "ensemble"."""
        return members
