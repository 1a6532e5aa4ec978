"""Choose how many processes of a run make minibatches ahead, so that the network doesn't wait for images."""

from __future__ import annotations

import shutil
from contextlib import suppress
from math import prod

import torch

from dgbench.data.views import AHEAD, Minibatches

SHARED_MEMORY = "/dev/shm"
"""Folder through which processes hand tensors to each other; containers often have little of it."""
_MOST = 8
"""Most processes that are chosen for a run."""
_BYTES = 4
"""Bytes of a number of an input at most."""


def loader_processes(asked: int | None, minibatches: Minibatches, device: torch.device, threads: int) -> int:
    """Return the number of processes that decode and augment for a run while its network computes.

    Args:
        asked: The user's number; None: one for each core of the run but one if the network computes on a GPU, and one
            for each four if it needs the cores itself, at least one; none on a single core, or where what they make
            ahead would take more than half of the shared memory that is free.
        minibatches: The run's.
        device: Where the network computes.
        threads: Cores that the run may use.
    """
    if asked is not None:
        return asked
    on_cpu = device.type == "cpu"
    if on_cpu and threads == 1:
        return 0
    wanted = min(_MOST, max(1, threads // 4 if on_cpu else threads - 1))
    minibatch = minibatches.domains_per_step * minibatches.batch_size * prod(minibatches.data.input_shape) * _BYTES
    with suppress(OSError):  # systems without that folder share memory in another way
        wanted = min(wanted, shutil.disk_usage(SHARED_MEMORY).free // 2 // ((AHEAD + 1) * minibatch))
    return wanted
