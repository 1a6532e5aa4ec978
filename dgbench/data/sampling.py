"""Which examples make up a minibatch: a pure function of (seed, view, step), so that resuming replays nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.seeding import numpy_stream

_BLOCK = 64
"""Steps drawn at a time: a generator costs more than the numbers of one step. Part of what a seed means."""


class Sampler:
    """`sampler[step]` are the positions (batch_size,) in a view that make up its minibatch of that step.

    Drawn with replacement, as DomainBed's loaders do: each example of the view as often, or with `class_balanced` each
    class that it holds as often. `labels` (n,) are the view's; `copies` (n,) is how many times each example stands
    in it, once if not given. Raises `UserError` if n is less than `batch_size`, unless `allow_few`.
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
        """The positions of `_BLOCK` steps (_BLOCK, batch_size)."""
        rng = numpy_stream(self.seed, "batch", str(self.view), number)
        stratum = rng.integers(len(self._sizes), size=(_BLOCK, self.batch_size))
        drawn: NDArray[np.int64] = self._order[self._starts[stratum] + rng.integers(self._sizes[stratum])]
        return drawn
