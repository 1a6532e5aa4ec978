"""Where every random number comes from: a hash of what it is for, never a stream that has to be replayed."""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_hash(*args: object) -> int:
    """DomainBed's seed of anything hashable by its text: md5 of the argument tuple, modulo 2^31.

    >>> seed_hash(0, 0)
    894182419
    """
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


@lru_cache(maxsize=100_000)
def hparams_stream(hparams_seed: int, trial: int) -> int:
    """The seed from which the draws of one hyperparameter seed in one trial come (DomainBed's rule)."""
    return seed_hash(hparams_seed, trial)


def numpy_stream(*args: object) -> np.random.Generator:
    """A generator of its own for the purpose that `args` name."""
    digest = hashlib.sha256(str(args).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def torch_seed(*args: object) -> int:
    """A 63-bit seed for torch's generators, for the purpose that `args` name."""
    return int.from_bytes(hashlib.sha256(str(args).encode()).digest()[:8], "little") >> 1


def seed_everything(device: torch.device, *purpose: object) -> None:
    """Seed the global generators of Python, numpy and torch (the CPU's and the device's) for one purpose."""
    import torch  # planning draws hyperparameters from this module, and does without torch

    seed = torch_seed(*purpose)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a hundred times longer
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
