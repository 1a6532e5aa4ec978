"""Define adapters: predictors that learn at test time from the unlabeled inputs that they predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from dgbench.core.cards import AdapterCard
from dgbench.methods.average import NoHparams
from dgbench.networks.network import Network


class Adapter:
    """Base class of adapters. One instance predicts one view, or several that a stream joins, and learns while it does.

    For each view the engine makes a new instance with a fresh copy of the trained network, so that no view learns from
    another, and passes the view's inputs once each, in an order drawn by the run's seed. The setting's `stream` may
    join test domains, sort inputs by class, and have batches of any size, also of one. An adapter never gets a label.
    A subclass declares `card`, if need be `Hparams`, and writes `predict`.

    Args:
        network: The trained network, in evaluation mode; the adapter may change it.
        hparams: An instance of the class's `Hparams`.
    """

    card: ClassVar[AdapterCard]
    """Facts that planning and `list` read."""
    Hparams: ClassVar[type] = NoHparams
    """The class of the hyperparameters, a frozen dataclass."""
    batch_size: ClassVar[int] = 32
    """Inputs in a batch of `predict`, unless the stream has another number; the last batch may have fewer."""

    def __init__(self, network: Network, hparams: Any) -> None:
        self.network = network
        self.hparams = hparams

    def begin(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Read the training examples before the first `predict`; called only if the card says `needs_source`.

        Args:
            source: Batches of inputs (B, ...), as the network takes them, and labels (B,): all training examples once,
                without augmentation, domain after domain.
        """

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of the next batch, adapting before or after, as the method has it.

        Called with gradients enabled.

        Args:
            x: Inputs (B, ...), as the network takes them.
        """
        raise NotImplementedError
