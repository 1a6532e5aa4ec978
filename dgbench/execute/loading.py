"""Load a run's minibatches onto its device, made ahead by processes, so that the network doesn't wait for images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from math import prod

import torch

from dgbench.data.ahead import AHEAD
from dgbench.data.views import Minibatch, Minibatches
from dgbench.execute.transfer import on_device

SHARED_MEMORY = "/dev/shm"
"""Folder through which processes hand tensors to each other; containers often have little of it."""
_MOST = 8
"""Most processes that are chosen for a run."""
_BYTES = 4
"""Bytes of a number of an input at most."""


def load(
    minibatches: Minibatches, start: int, end: int, *, asked: int | None, device: torch.device, threads: int
) -> Iterator[Minibatch]:
    """Yield the minibatches of steps `start` to `end - 1`, on the device.

    Args:
        minibatches: The run's.
        start: First step.
        end: Step after the last.
        asked: The user's number of processes that make them, see `loader_processes`.
        device: Where the network computes.
        threads: Cores that the run may use.
    """
    workers = loader_processes(asked, numbers_of(minibatches), device, threads)
    return on_device(minibatches.between(start, end, workers, pinned=device.type == "cuda"), device)


def numbers_of(minibatches: Minibatches) -> int:
    """Return how many numbers the inputs of a minibatch have, over all domains of a step."""
    return minibatches.domains_per_step * minibatches.batch_size * prod(minibatches.data.input_shape)


def loader_processes(asked: int | None, numbers: int, device: torch.device, threads: int) -> int:
    """Return the number of processes that decode and augment for a run while its network computes.

    Args:
        asked: The user's number; None: one for each core of the run but one, at least one, if the network computes on a
            GPU, and one for four cores if it needs the cores itself; fewer where what they make ahead would take more
            than half of the shared memory that is free.
        numbers: Those of all inputs that are handed on at once.
        device: Where the network computes.
        threads: Cores that the run may use.
    """
    if asked is not None:
        return asked
    # On few cores a process takes from the network what it saves (`benchmarks/loading.py`).
    wanted = min(_MOST, threads // 4 if device.type == "cpu" else max(1, threads - 1))
    with suppress(OSError):  # systems without that folder share memory in another way
        wanted = min(wanted, shutil.disk_usage(SHARED_MEMORY).free // 2 // ((AHEAD + 1) * numbers * _BYTES))
    return wanted
