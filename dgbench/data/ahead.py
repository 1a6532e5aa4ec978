"""Make items ahead of the process that uses them, by processes of PyTorch's loader."""

from __future__ import annotations

import signal
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dgbench.core.errors import UserError

K_contra = TypeVar("K_contra", contravariant=True)
K = TypeVar("K")
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

AHEAD = 4
"""Items that each process makes ahead."""


class Items(Protocol[K_contra, T_co]):
    """Whatever makes an item of a key, such as a step or a batch of positions."""

    def __getitem__(self, key: K_contra, /) -> T_co:
        """Return the item; raise `UserError` for input that can't be used."""


class Ahead(Generic[K, T]):
    """The items of some keys, in order.

    Args:
        items: What makes them, alike in any process.
        keys: Iterated over at each iteration, so that they may be others then.
        workers: Number of processes, at least 1.
        pinned: Whether tensors lie in pinned memory, from which a GPU copies by itself.
        stays: Whether the processes stay for further iterations, until `close`.
    """

    def __init__(
        self, items: Items[K, T], keys: Iterable[K], workers: int, *, pinned: bool = False, stays: bool = False
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            _Guarded(items),
            batch_size=None,  # an item is a whole batch already
            sampler=keys,  # any iterable of keys will do
            num_workers=workers,
            pin_memory=pinned,
            prefetch_factor=AHEAD,
            worker_init_fn=_ignore_stops,
            persistent_workers=stays,
            # Else each iteration would take a number from the global generator, and change what is drawn after it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[T]:
        for item in self._loader:
            if isinstance(item, UserError):
                try:
                    raise item
                finally:
                    # Its traceback refers to this frame. In a cycle of references the loader would be finalized after
                    # its queues, and wait in vain for its processes.
                    del item
            yield item

    def close(self) -> None:
        """End the processes; there are no items any more."""
        del self._loader


class _Guarded(TorchDataset[Any]):
    """Items, or in their place the error that says why there is none: PyTorch would wrap it in a traceback."""

    def __init__(self, items: Items[Any, Any]) -> None:
        self.items = items

    def __getitem__(self, key: Hashable) -> Any:
        try:
            return self.items[key]
        except UserError as error:
            return error


def _ignore_stops(worker: int) -> None:
    """Ignore the signals that stop a run: its own process answers them, and fails if its loader has gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
