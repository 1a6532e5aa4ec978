"""Draw the examples of a minibatch, as a pure function of (seed, view, step), so that resuming replays nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.seeding import numpy_stream

_BLOCK = 64
"""Steps drawn at a time, as making a generator costs more than the numbers of one step. It decides which numbers a step
gets, so a change of it changes every run."""


class Sampler:
    """The draws from one view: `sampler[step]` are the positions (batch_size,), int64, of a step's minibatch.

    They are drawn with replacement, as by DomainBed's loaders: each example of the view equally often, or with
    `class_balanced` each class that the view has.

    Args:
        labels: (n,), the view's.
        batch_size: Positions in a minibatch.
        seed: The run's.
        view: Part of the key of the draws.
        class_balanced: Draw a class first, then an example of it.
        copies: (n,), how often each example is in the view; None: once.
        allow_few: Accept a view with fewer examples than `batch_size`.

    Raises:
        UserError: The view has fewer examples than `batch_size`, and `allow_few` is False.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        batch_size: int,
        seed: int,
        view: View,
        *,
        class_balanced: bool = False,
        copies: NDArray[np.int64] | None = None,
        allow_few: bool = False,
    ) -> None:
        if len(labels) < batch_size and not allow_few:
            raise UserError(f"{view} has {len(labels)} examples, fewer than the {batch_size} of a minibatch")
        self.batch_size = batch_size
        self.seed = seed
        self.view = view
        positions = np.arange(len(labels)) if copies is None else np.repeat(np.arange(len(labels)), copies)
        strata = labels[positions] if class_balanced else np.zeros(len(positions), np.int64)
        # Stable, so that the positions of a class stay ascending: their order is a part of what a seed means.
        self._order: NDArray[np.int64] = positions[np.argsort(strata, kind="stable")]
        self._sizes = np.unique(strata, return_counts=True)[1]
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._block_number = -1
        self._block = np.empty((0, batch_size), np.int64)

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        number, row = divmod(step, _BLOCK)
        if number != self._block_number:
            self._block_number, self._block = number, self._draw(number)
        minibatch: NDArray[np.int64] = self._block[row]
        return minibatch

    def _draw(self, number: int) -> NDArray[np.int64]:
        """Return the positions of a block of steps (_BLOCK, batch_size)."""
        # The calls of `rng`, their order and their shapes define the minibatches of every recorded run: leave them as
        # they are.
        rng = numpy_stream(self.seed, "batch", str(self.view), number)
        stratum = rng.integers(len(self._sizes), size=(_BLOCK, self.batch_size))
        drawn: NDArray[np.int64] = self._order[self._starts[stratum] + rng.integers(self._sizes[stratum])]
        return drawn
