"""Read the inputs that a run predicts by processes, ahead of its network, which would wait for images otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.data.ahead import Ahead
from dgbench.data.views import ViewData
from dgbench.execute.loading import loader_processes

_Batch: TypeAlias = tuple[tuple[View, ...], NDArray[np.int64], NDArray[np.int64]]
"""Views, and of each input the index of its view among them and its position in it."""


class _Inputs:
    """The inputs of a run's views by batch."""

    def __init__(self, data: ViewData) -> None:
        self.data = data

    def __getitem__(self, batch: _Batch, /) -> Tensor:
        views, of, positions = batch
        if len(views) == 1:
            return self.data.inputs(views[0], positions)
        parts = [(of == i, self.data.inputs(views[i], positions[of == i])) for i in np.unique(of)]
        found = parts[0][1].new_empty((len(of), *parts[0][1].shape[1:]))
        for mask, inputs in parts:
            found[torch.from_numpy(mask)] = inputs
        return found


class _Coming:
    """An iterable of the batches that are read next, each of which it gives once."""

    def __init__(self) -> None:
        self.batches: Iterator[_Batch] = iter(())

    def __iter__(self) -> Iterator[_Batch]:
        return self.batches


class InputReader:
    """Reads batches of inputs in the order in which a network takes them.

    Its processes start with the first images that come in several batches, and stay for all that the run predicts:
    to start them for each view would take longer than they save. A context manager, at whose end they end.

    Args:
        data: The run's views.
        asked: The user's number of processes, as for `loader_processes`.
        device: Where the network computes.
    """

    def __init__(self, data: ViewData, asked: int | None, device: torch.device) -> None:
        self._data, self._asked, self._device = data, asked, device
        self._inputs = _Inputs(data)
        self._coming = _Coming()
        self._loader: Ahead[_Batch, Tensor] | None = None
        self._busy = False

    def __enter__(self) -> InputReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._loader is not None:
            self._loader.close()
        self._loader = None

    def read(self, view: View, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Yield the inputs of a view, (b, *input_shape) on the CPU, at the positions of each batch (b,)."""
        keys = (((view,), np.zeros_like(positions), positions) for positions in batches)
        return self._read(keys, len(batches), max(map(len, batches), default=0))

    def read_block(
        self, views: tuple[View, ...], of: NDArray[np.int64], positions: NDArray[np.int64], size: int
    ) -> Iterator[Tensor]:
        """Yield the inputs of several views in one order, (size, *input_shape) on the CPU; the last may be fewer.

        Args:
            views: The views.
            of: (n,) index of each input's view among them.
            positions: (n,) position of each input in its view.
            size: Inputs in a batch.
        """
        starts = range(0, len(positions), size)
        # Cut as they are read: a stream may have a million batches.
        keys = ((views, of[start : start + size], positions[start : start + size]) for start in starts)
        return self._read(keys, len(starts), min(size, len(positions)))

    def _read(self, batches: Iterator[_Batch], number: int, largest: int) -> Iterator[Tensor]:
        """Yield the inputs of `number` batches, of which the largest has so many."""
        loader = self._opened(largest) if number > 1 and not self._busy else None
        if loader is None:
            yield from (self._inputs[batch] for batch in batches)
            return
        self._busy, self._coming.batches = True, batches
        left = number
        try:
            # Not one call more than there are batches: whoever reads next has the same processes.
            for inputs in islice(loader, number):
                left -= 1
                # Free with the last batch: a caller need not ask whether another one follows.
                self._busy = left > 0
                yield inputs
        finally:
            if left:
                self._busy = False

    def _opened(self, size: int) -> Ahead[_Batch, Tensor] | None:
        """Return the loader, made for batches of a size; None where this process reads as fast."""
        if self._loader is None and not self._data.in_arrays:
            numbers, threads = size * prod(self._data.input_shape), torch.get_num_threads()
            if workers := loader_processes(self._asked, numbers, self._device, threads):
                pinned = self._device.type == "cuda"
                self._loader = Ahead(self._inputs, self._coming, workers, pinned=pinned, stays=True)
        return self._loader
