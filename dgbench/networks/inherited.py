"""Make things that draw from torch's generator once, for all processes that are forked afterwards.

Building a large network and reading its weights takes as long as hundreds of steps of a classifier on top. Runs that
start alike are forked from one process (`launchers.forkserver`): what that process keeps, each of them inherits, and
the memory of weights that don't train is shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class _Kept(NamedTuple):
    """A thing that was made ahead."""

    thing: Any
    after: Tensor
    """The state of torch's generator once it was made."""


_kept: dict[Hashable, _Kept] = {}
"""(description, hash of the generator's state before) -> what was made. Only in a forked process is anything taken."""


def make_inherited(facts: Hashable, make: Callable[[], T]) -> T:
    """Return the result of `make`, and leave torch's generator as `make` leaves it.

    An inherited result is taken if it was made for the same facts from the same state of the generator. It is
    taken once: who takes it may change it.

    Args:
        facts: All that decides the result, beside torch's global generator on the CPU.
        make: Makes it; it draws from no other generator.
    """
    key = _key(facts)
    if key not in _kept:
        return make()
    thing, after = _kept.pop(key)
    torch.set_rng_state(after)
    return thing  # type: ignore[no-any-return]


def keep_for_children(facts: Hashable, make: Callable[[], object]) -> None:
    """Make a thing now, and keep it for `make_inherited` in the processes that this one will fork.

    Args:
        facts: As of `make_inherited`.
        make: Makes it.
    """
    key = _key(facts)
    if key not in _kept:
        _kept[key] = _Kept(make(), torch.get_rng_state())


def _key(facts: Hashable) -> Hashable:
    """Return facts with a hash of the generator's state."""
    return facts, hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
