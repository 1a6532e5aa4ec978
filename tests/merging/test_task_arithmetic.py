from __future__ import annotations

import pytest

from dgbench.merging.diwa import DiWA
from dgbench.merging.task_arithmetic import TaskArithmetic
from dgbench.methods.average import Weights
from tests.merging.toys import drawn_model, near, of, one, tools

START = drawn_model(0)
MODELS = [drawn_model(seed) for seed in (1, 2, 3)]


def candidates(**hparams: float) -> dict[float, Weights]:
    merger = TaskArithmetic(TaskArithmetic.Hparams(**hparams))  # type: ignore[arg-type]
    given = tools(initial=START, statistics=frozenset({"norm.running_mean"}))
    found = list(merger.candidates(of(*MODELS), given))
    assert len(found) == merger.choices
    assert all([member.run for member in merged.members] == ["run0", "run1", "run2"] for merged in found)
    return {merged.by["alpha"]: merged.weights for merged in found}


def test_each_candidate_is_the_start_plus_scaled_task_vectors() -> None:
    found = candidates()
    assert list(found) == pytest.approx([i / 10 for i in range(21) if i != 10] + [1.0], abs=1e-15)
    for alpha, weights in found.items():
        assert list(weights) != []
        for name in ("a.weight", "a.bias", "b.weight"):
            expected = START[name].clone()
            for model in MODELS:
                expected += alpha / 3 * (model[name] - START[name])
            near(weights[name], expected)


def test_statistics_are_the_mean_and_counts_the_last_at_every_alpha() -> None:
    for weights in candidates(points=3).values():
        near(weights["norm.running_mean"], sum(model["norm.running_mean"] for model in MODELS) / 3)  # type: ignore[arg-type]
        assert weights["count"].item() == 3


def test_the_recommended_alpha_is_diwa() -> None:
    weights = list(candidates().values())[-1]
    mean = one(DiWA(DiWA.Hparams()), of(*MODELS), tools()).weights
    assert weights.keys() == mean.keys()
    for name, tensor in mean.items():
        near(weights[name], tensor)
