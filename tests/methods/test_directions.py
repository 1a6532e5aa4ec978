from __future__ import annotations

import pytest
import torch

from dgbench.methods.directions import filter_normalized, plane_through

GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_each_filter_has_the_length_of_its_weights() -> None:
    weights = {"conv": drawn(4, 3, 2, 2), "bias": drawn(4), "head": drawn(5, 7)}
    scaled = filter_normalized({name: drawn(*value.shape) for name, value in weights.items()}, weights)
    for name in ("conv", "head"):
        torch.testing.assert_close(scaled[name].flatten(1).norm(dim=1), weights[name].flatten(1).norm(dim=1))
    assert not scaled["bias"].any()


def test_a_direction_follows_the_scale_of_each_layer() -> None:
    weights, direction = {"a": drawn(3, 4), "b": drawn(2, 3)}, {"a": drawn(3, 4), "b": drawn(2, 3)}
    scaled = filter_normalized(direction, weights)
    stretched = filter_normalized(
        {"a": direction["a"], "b": 9 * direction["b"]}, {"a": 5 * weights["a"], "b": weights["b"]}
    )
    torch.testing.assert_close(stretched["a"], 5 * scaled["a"])
    torch.testing.assert_close(stretched["b"], scaled["b"])


def test_three_points_lie_where_the_plane_says() -> None:
    points = [drawn(9) for _ in range(3)]
    across, up, coordinates = plane_through(*points)
    assert float(across @ up) == pytest.approx(0, abs=1e-9)
    assert float(across.norm()) == pytest.approx(float(up.norm()))
    for point, (i, j) in zip(points, coordinates, strict=True):
        torch.testing.assert_close(points[0] + i * across + j * up, point)
    with pytest.raises(ValueError, match="one line"):
        plane_through(points[0], points[1], 2 * points[1] - points[0])
