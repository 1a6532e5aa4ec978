"""What a merger is: finished runs in, one model out (or several whose logits are averaged)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dgbench.average import NoHparams, Weights
from dgbench.cards import MergerCard


@dataclass(frozen=True)
class Member:
    """A finished run's model, at its best training-domain validation accuracy."""

    run: str
    accuracy: float
    """Its training-domain validation accuracy there: the unweighted mean over the training domains."""
    load: Callable[[], Weights]
    """Reads the weights from disk; nothing is held until it is called."""


class Merger:
    """Base of every merger. Override `merge` (one network) or `members` (an ensemble), as the card says."""

    card: ClassVar[MergerCard]
    Hparams: ClassVar[type] = NoHparams

    def __init__(self, hparams: Any) -> None:
        self.hparams = hparams

    def merge(self, members: Sequence[Member], score: Callable[[Weights], float]) -> Weights:
        """One model's weights from those of the members, given in the order of their hyperparameter seeds.

        `score` is the accuracy of weights on the pooled `out` parts of the training domains.
        """
        raise NotImplementedError

    def ensemble(self, members: Sequence[Member]) -> Sequence[Member]:
        """The members whose logits are averaged, for a card that says "ensemble"."""
        return members
