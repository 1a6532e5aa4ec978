"""A base for methods that train nothing: their model is the network with its initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class Untrained(Algorithm):
    """A method without optimizer, whose one step changes nothing; its card says that it doesn't learn."""

    def build(self) -> None:
        """Freeze the network."""
        self.network.requires_grad_(False)

    def build_optimizers(self) -> None:
        """Make none."""

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Change nothing."""
        return {}
