from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dgbench.methods.similarity import (
    disagreement,
    gradient_coherence,
    gradient_cosines,
    linear_cka,
    mean_over_pairs,
    q_statistic,
    ratio_error,
)

ONE = np.array([1, 1, 1, 0, 0, 0, 1, 1], dtype=bool)
OTHER = np.array([1, 0, 1, 0, 0, 1, 1, 0], dtype=bool)


def test_errors_of_two_models_are_counted_by_hand() -> None:
    assert ratio_error(ONE, OTHER) == 3 / 2
    assert q_statistic(ONE, OTHER) == (3 * 2 - 2 * 1) / (3 * 2 + 2 * 1)
    assert disagreement(np.array([0, 1, 2]), np.array([0, 2, 2])) == 1 / 3
    assert ratio_error(ONE, ONE) == 0
    assert q_statistic(ONE, ONE) == 1
    assert q_statistic(ONE, ~ONE) == -1
    right = np.ones(4, dtype=bool)
    assert math.isinf(ratio_error(right, np.array([1, 1, 0, 1], dtype=bool)))
    assert math.isnan(ratio_error(right, right))
    assert math.isnan(q_statistic(right, right))


@pytest.mark.parametrize("examples", [5, 60])
def test_cka_sees_neither_rotation_nor_scale_nor_shift(examples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 8, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    other = torch.randn(examples, 4, generator=generator, dtype=torch.float64)
    a, b = x - x.mean(0), other - other.mean(0)
    expected = float((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))
    assert linear_cka(x, other) == pytest.approx(expected)
    assert math.isnan(linear_cka(x, torch.ones(examples, 2)))


def test_gradients_that_agree_cancel_or_know_nothing_of_each_other() -> None:
    alike, apart = torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    products, cosines = gradient_cosines(alike)
    assert products.tolist() == [[25, 50], [50, 100]]
    assert cosines.flatten().tolist() == pytest.approx([1, 1, 1, 1])
    assert gradient_cosines(apart)[1][0, 1] == 0
    assert gradient_coherence(torch.ones(3, 4)) == 1
    assert gradient_coherence(torch.eye(4)) == 0.25
    assert gradient_coherence(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])) == 0
    assert mean_over_pairs([[1, 2, 9], [2, 1, 9], [3, 4, 1]]) == 3
    assert math.isnan(mean_over_pairs([[1.0]]))
