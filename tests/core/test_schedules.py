"""Schedules against PyTorch's, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torchs

from dgbench.core.errors import UserError
from dgbench.core.setting import setting


def of_torch(make: Callable[[Any], torchs.LRScheduler], steps: int) -> list[float]:
    """The factors of a scheduler of PyTorch, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step() if len(found) < steps else None
    return found


@given(st.integers(1, 60), st.integers(0, 7), st.floats(0.01, 1), st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_factors_are_torchs_after_a_linear_warm_up(steps: int, warmup: int, every: float, gamma: float) -> None:
    references: dict[str, Callable[[Any], torchs.LRScheduler]] = {
        "constant": lambda o: torchs.ConstantLR(o, 1.0),
        "cosine": lambda o: torchs.CosineAnnealingLR(o, steps),
        "linear": lambda o: torchs.LinearLR(o, 1.0, 0.0, steps),
        "step": lambda o: torchs.StepLR(o, max(1, round(every * steps)), gamma),
        "one_cycle": lambda o: torchs.OneCycleLR(o, 1.0, total_steps=steps, cycle_momentum=False),
    }
    for schedule, make in references.items():
        before = 0 if schedule == "one_cycle" else warmup
        parts = {"schedule_every": every, "schedule_gamma": gamma} if schedule == "step" else {}
        how = setting(schedule=schedule, steps=steps + before, warmup_steps=before, **parts)
        found = [how.lr_factor(step) for step in range(steps + before)]
        assert found[:before] == [(step + 1) / before for step in range(before)]
        assert found[before:] == pytest.approx(of_torch(make, steps), rel=1e-9, abs=1e-12), schedule
        assert all(0 <= factor <= 1 for factor in found)


def test_stairs_fall_at_shares_of_the_steps_that_follow_warm_up() -> None:
    once = setting(schedule="step", steps=100)
    assert [once.lr_factor(step) for step in (0, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1])
    often = setting(schedule="step", steps=110, warmup_steps=10, schedule_every=0.3, schedule_gamma=0.5)
    assert [often.lr_factor(step) for step in (4, 39, 40, 69, 70, 109)] == pytest.approx(
        [0.5, 1, 0.5, 0.5, 0.25, 0.125]
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schedule_gamma": 0.5}, "schedule_gamma belongs to schedule 'step', not to 'constant': leave it out"),
        ({"schedule": "linear", "schedule_every": 0.5}, "schedule_every belongs to schedule 'step', not to 'linear'"),
        ({"schedule": "one_cycle", "warmup_steps": 3}, "'one_cycle' warms up by itself: leave out warmup_steps"),
    ],
)
def test_fields_that_would_do_nothing_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        setting(**changes)
