"""Let a step pass over its loss several times, as step rules do, while all else happens once.

A later pass of a step sees the random draws and the state that the first pass saw, and leaves nothing behind: neither
batch norm's statistics nor what the algorithm remembers from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dgbench.core.seeding import Draws, restore_draws, saved_draws
from dgbench.networks.norms import frozen_batch_norm_statistics


class Passes:
    """The passes of an algorithm's current step over its loss.

    Args:
        draws: Whether the loss draws random numbers of its own, which later passes of the step then repeat.
    """

    def __init__(self, draws: bool) -> None:
        self._draws = draws
        self._saved: Draws | None = None
        self._deferred: list[Callable[[], object]] = []
        self._repeating = False

    def begin(self, device: torch.device) -> None:
        """Begin a step, on the device that it draws on."""
        self._deferred.clear()
        self._saved = saved_draws(device) if self._draws else None

    def defer(self, write: Callable[[], object]) -> None:
        """Keep a change of state for the end of the step; drop it in later passes."""
        if not self._repeating:
            self._deferred.append(write)

    @contextmanager
    def repeat(self, module: nn.Module) -> Iterator[None]:
        """Make the passes within the block later ones.

        Args:
            module: The algorithm; its batch norm normalizes by the batch, and remembers nothing of it.
        """
        if self._saved is not None:
            restore_draws(self._saved)
        self._repeating = True
        try:
            with frozen_batch_norm_statistics(module):
                yield
        finally:
            self._repeating = False

    def finish(self) -> None:
        """Make the changes of state that the step's first pass deferred, in their order."""
        with torch.no_grad():
            for write in self._deferred:
                write()
        self._deferred.clear()
