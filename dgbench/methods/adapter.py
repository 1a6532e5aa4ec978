"""What an adapter is: a predictor that learns from the unlabelled inputs that it is shown, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from dgbench.core.cards import AdapterCard
from dgbench.methods.average import NoHparams
from dgbench.networks.network import Network


class Adapter:
    """Base of every adapter. A new one is made for each view, so no view learns from another.

    The engine shows it a view's inputs in a seeded order, in batches of `batch_size`, each input once; it never sees a
    label. `network` is its own to change.
    """

    card: ClassVar[AdapterCard]
    Hparams: ClassVar[type] = NoHparams
    batch_size: ClassVar[int] = 32

    def __init__(self, network: Network, hparams: Any) -> None:
        self.network = network
        self.hparams = hparams

    def begin(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        """See all training examples (x, y) in batches, for a card that says "needs_source"."""

    def predict(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of a batch, after or before learning from it, as the method says."""
        raise NotImplementedError
