"""Compute the factors by which schedules scale learning rates: pure functions of the step.

Each takes the step since the warm-up ended and the number of steps from there to the end of the run.
"""

from __future__ import annotations

import math

_CYCLE_START, _CYCLE_END, _CYCLE_RISES = 1 / 25, 1 / 250_000, 0.3
"""Of `one_cycle`, PyTorch's defaults: the first and last factor, and the share of the steps in which it rises."""


def cosine(step: int, steps: int) -> float:
    """Return half a cosine wave: 1 at step 0, 0 at `steps`."""
    return (1 + math.cos(math.pi * step / max(1, steps))) / 2


def linear(step: int, steps: int) -> float:
    """Return a straight line: 1 at step 0, 0 at `steps`."""
    return 1 - step / max(1, steps)


def stepped(step: int, steps: int, every: float, gamma: float) -> float:
    """Return stairs: 1 at step 0, multiplied by `gamma` after each further share `every` of the steps."""
    return gamma ** (step // max(1, round(every * steps)))


def one_cycle(step: int, steps: int) -> float:
    """Return a rise from 1/25 to 1 in the first 30% of the steps, then a fall to almost 0, both half cosine waves."""
    top, last = _CYCLE_RISES * steps - 1, steps - 1
    if step <= top:
        return _wave(_CYCLE_START, 1, step / top)
    return _wave(1, _CYCLE_END, (step - top) / (last - top))


def _wave(start: float, end: float, share: float) -> float:
    """Return the value at a share of the way from `start` to `end` along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
