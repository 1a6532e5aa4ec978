"""Derive every random number from a hash of its purpose, never from a stream whose position depends on earlier draws.

That makes resuming exact: a run continued at step 1,000 seeds the step by its number and needs no replay of the 999
before it. It also keeps purposes apart: drawing one more number for augmentation moves no other number.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_hash(*args: object) -> int:
    """Return DomainBed's seed for `args`: the md5 of their tuple's text, modulo 2^31.

    >>> seed_hash(0, 0)
    894182419
    """
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


@lru_cache(maxsize=100_000)
def hparams_stream(hparams_seed: int, trial: int) -> int:
    """Return the seed of all hyperparameter draws of one hyperparameter seed in one trial, by DomainBed's rule."""
    return seed_hash(hparams_seed, trial)


def numpy_stream(*args: object) -> np.random.Generator:
    """Return a new numpy generator for the purpose that `args` name."""
    digest = hashlib.sha256(str(args).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def torch_seed(*args: object) -> int:
    """Return a 63-bit seed for torch's generators, for the purpose that `args` name."""
    return int.from_bytes(hashlib.sha256(str(args).encode()).digest()[:8], "little") >> 1


def seed_everything(device: torch.device, *purpose: object) -> None:
    """Seed the global generators of Python, numpy and torch, on the CPU and on `device`, for one purpose."""
    import torch  # planning draws hyperparameters from this module, and does without torch

    seed = torch_seed(*purpose)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Called at every training step. `torch.manual_seed` would seed every backend there is and takes a hundred times
    # longer; the CPU's generator and that of the one device in use are all that a step draws from.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class Draws(NamedTuple):
    """The states of the global generators of Python, numpy and torch at one moment, by which draws can be repeated."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    device: torch.device
    on_device: torch.Tensor | None
    """The state of the device's own generator; None for the CPU."""


def saved_draws(device: torch.device) -> Draws:
    """Return the states of the global generators, on the CPU and on `device`."""
    import torch  # as above

    own = None if device.type in ("cpu", "meta") else torch.get_device_module(device).get_rng_state()
    return Draws(random.getstate(), np.random.get_state(), torch.get_rng_state(), device, own)


def restore_draws(draws: Draws) -> None:
    """Set the global generators to saved states."""
    import torch  # as above

    random.setstate(draws.python)
    np.random.set_state(draws.numpy)
    torch.set_rng_state(draws.cpu)
    if draws.on_device is not None:
        torch.get_device_module(draws.device).set_rng_state(draws.on_device)
