"""Read the inputs that a run evaluates by processes, ahead of its network, which would wait for images otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

_Batch: TypeAlias = tuple[View, NDArray[np.int64]]
"""A view, and positions in it."""


class _Inputs:
    """The inputs of a run's views by batch."""

    def __init__(self, data: ViewData) -> None:
        self.data = data

    def __getitem__(self, batch: _Batch, /) -> Tensor:
        return self.data.inputs(*batch)


class InputReader:
    """Reads batches of inputs in the order in which they are evaluated.

    Its processes start with the first view of images that has several batches, and stay for all evaluations of the run:
    to start them for each view would take longer than they save. A context manager, at whose end they end.

    Args:
        data: The run's views.
        asked: The user's number of processes, as for `loader_processes`.
        device: Where the network computes.
    """

    def __init__(self, data: ViewData, asked: int | None, device: torch.device) -> None:
        self._data, self._asked, self._device = data, asked, device
        self._batches: list[_Batch] = []
        """Those that the loader reads next."""
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
        loader = self._opened(batches) if len(batches) > 1 and not self._busy else None
        if loader is None:
            yield from (self._data.inputs(view, positions) for positions in batches)
            return
        self._busy, self._batches[:] = True, [(view, positions) for positions in batches]
        try:
            yield from loader
        finally:
            self._busy = False

    def _opened(self, batches: Sequence[NDArray[np.int64]]) -> Ahead[_Batch, Tensor] | None:
        """Return the loader, made for the first batches; None where this process reads as fast."""
        if self._loader is None and not self._data.in_arrays:
            numbers, threads = len(batches[0]) * prod(self._data.input_shape), torch.get_num_threads()
            if workers := loader_processes(self._asked, numbers, self._device, threads):
                pinned = self._device.type == "cuda"
                self._loader = Ahead(_Inputs(self._data), self._batches, workers, pinned=pinned, stays=True)
        return self._loader
