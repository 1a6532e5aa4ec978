from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dgbench.methods.representation import class_alignment, class_separation, plane_of, probe_accuracy


def clusters(seed: int = 0, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features (60, 8) of four classes of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(4, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.arange(4).repeat_interleave(torch.tensor([30, 15, 10, 5]))
    return centers[labels] + spread * torch.randn(60, 8, generator=generator, dtype=torch.float64), labels


def rotation() -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    return q


def test_separation_is_that_of_a_plain_loop_over_pairs_and_sees_neither_rotation_nor_scale() -> None:
    x, y = clusters()
    distance = 1 - torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    means = [[float(distance[y == k][:, y == m].mean()) for m in range(4)] for k in range(4)]
    within, total = np.mean([means[k][k] for k in range(4)]), np.mean(means)
    assert class_separation(x, y) == pytest.approx(1 - within / total, rel=1e-10)
    assert class_separation(9 * x @ rotation(), y) == pytest.approx(class_separation(x, y), rel=1e-10)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert class_separation(x[order], y[order]) == pytest.approx(class_separation(x, y), rel=1e-10)
    assert class_separation(clusters(spread=1e-6)[0], y) == pytest.approx(1)
    assert math.isnan(class_separation(torch.ones(6, 2), y[:6]))


def test_classes_that_lie_alike_are_aligned_wherever_their_domain_lies() -> None:
    x, y = clusters()
    assert class_alignment((x, y), (5 * x @ rotation() + 2, y)) == pytest.approx(1)
    other = clusters(1, spread=3)
    found = class_alignment((x, y), other)
    assert 0 < found < 0.99
    a, b = (torch.stack([z[y == k].mean(0) for k in range(4)]) for z in (x, other[0]))
    a, b = a - a.mean(0), b - b.mean(0)
    expected = float((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))
    assert found == pytest.approx(expected)
    # A class that one domain lacks is left out, and two classes always lie alike.
    three = y != 3
    assert class_alignment((x[three], y[three]), other) == class_alignment(
        (x[three], y[three]), (other[0][three], y[three])
    )
    assert math.isnan(class_alignment((x[y < 2], y[y < 2]), other))


def test_a_probe_tells_groups_that_differ_and_is_at_chance_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    alike = [rng.normal(size=(200, 5)) for _ in range(4)]
    assert probe_accuracy(alike, 0) == pytest.approx(1 / 4, abs=0.08)
    assert probe_accuracy(alike[:2], 0) == pytest.approx(1 / 2, abs=0.08)
    assert probe_accuracy([group + 9 * i for i, group in enumerate(alike)], 0) == 1
    # Of 2,000 rows of a group as many count as the other has: its size alone tells nothing.
    assert probe_accuracy([rng.normal(size=(2000, 5)), alike[0]], 0) == pytest.approx(1 / 2, abs=0.08)
    assert math.isnan(probe_accuracy(alike[:1], 0))
    assert math.isnan(probe_accuracy([alike[0][:1], alike[1]], 0))


def test_a_plane_keeps_clusters_and_is_decided_by_its_seed() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(20, 6)), rng.normal(size=(20, 6)) + 30])
    plane = plane_of(features, "tsne", 4)
    assert plane.shape == (40, 2)
    centers = plane[:20].mean(0), plane[20:].mean(0)
    nearer = np.linalg.norm(plane - centers[0], axis=1) < np.linalg.norm(plane - centers[1], axis=1)
    assert nearer.tolist() == [True] * 20 + [False] * 20
    assert (plane_of(features, "tsne", 4) == plane).all()


def test_umap_is_asked_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **how: Any) -> None:
            asked.update(how)

        def fit_transform(self, features: Any) -> Any:
            return features[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    assert plane_of(np.ones((9, 4)), "umap", 4).shape == (9, 2)
    assert asked == {"n_neighbors": 8, "random_state": 4, "n_jobs": 1}
