"""Leave the calling process as it was: its random generators, torch's switches, and its logging.

torch is imported only inside functions, because a call that has nothing to execute does without.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore after the block all that executing a run sets for the whole process."""
    import torch

    root, cudnn, products = logging.getLogger(), torch.backends.cudnn, torch.backends.cuda.matmul
    handlers, level = [*root.handlers], root.level
    threads, kernels = torch.get_num_threads(), (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
    in_tf32 = products.allow_tf32
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = kernels
        products.allow_tf32 = in_tf32
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
