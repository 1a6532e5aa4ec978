"""The question whether a step may pass over an algorithm's loss several times, as step rules do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dgbench.conformance.rehearsal import Subject

_STEPS = (0, 3, 10)
"""Steps that are looked at."""


def passes_again(subject: Subject, domains: int, seed: int) -> str:
    """Check that a step may evaluate the loss several times, as step rules do: alike each time, changing nothing.

    Not asked of algorithms that take steps of their own.
    """
    if not subject.entry.ruled:
        return ""
    rehearsal = subject.rehearse(domains, seed, {"resnet_dropout": 0.0})
    for step in _STEPS:
        rehearsal.until(step)
        algorithm, batches = rehearsal.algorithm, rehearsal.batches(step)
        rehearsal.pause(step)
        algorithm.step = step
        algorithm.begin_step()
        first = {name: value.detach().clone() for name, value in algorithm.objective(batches).items()}
        before = copy.deepcopy(algorithm.training_state())
        with algorithm.passes.repeat(algorithm):
            again = algorithm.objective(batches)
        if unlike := [name for name, value in first.items() if not torch.equal(value, again[name])]:
            return (
                f"a second pass of step {step} has another {', '.join(unlike)}: `loss` changes state without `defer`, "
                "or draws random numbers and the card doesn't say `draws`"
            )
        if changed := list(differences(before, algorithm.training_state())):
            return f"a second pass of step {step} changes {', '.join(changed[:3])}: change state by `defer`"
    return ""


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two training states differ, as dotted paths."""
    if isinstance(one, Tensor):
        if not isinstance(other, Tensor) or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(one, list | tuple):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}.{i}")
    elif one != other:
        yield where
