"""Landscapes and lines between models, against closed forms, on networks and examples made on the spot."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.analyses.connectivity import Connectivity
from dgbench.analyses.landscape import Landscape
from dgbench.analyses.landscape3 import Landscape3
from dgbench.analyses.start_connectivity import StartConnectivity
from dgbench.core.connectivity import line_barrier
from dgbench.core.protocol import View
from dgbench.methods.analysis import Analysis, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.methods.between import combined

A, B, HELD_OUT = View("a", "in"), View("b", "in"), View("c", "in")
CLASSES, WIDTH = 3, 5


def examples(view: View, most: int, size: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(ord(view.domain))
    x = torch.randn(40, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (40,), generator=generator)
    return list(zip(x[:most].split(size), y[:most].split(size), strict=True))


def views(*training: View, statistics: Any = None) -> Views:
    more = {"statistics": statistics} if statistics else {}
    return Views(training, (HELD_OUT,), examples, **more)


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, CLASSES).double().eval()


def mlp(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double().eval()


def finished(network: nn.Module, row: str = "ERM", seed: int = 0, start: nn.Module | None = None) -> FinishedModel:
    def weights(of: nn.Module) -> Weights:
        return {name: tensor.detach().clone() for name, tensor in of.state_dict().items()}

    return FinishedModel(
        row, row, seed, 1, lambda: network, lambda: weights(network), lambda: weights(start or network)
    )


def found(
    cls: type[Analysis], models: Sequence[FinishedModel], data: Views, **hparams: Any
) -> dict[View | None, dict[str, Any]]:
    """All findings of a view as one, the parts of series joined."""
    joined: dict[View | None, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(7)
    for view, values in cls(cls.Hparams(**hparams), generator).measure(models, data):
        for name, value in values.items():
            if isinstance(value, Mapping):
                kept = joined.setdefault(view, {}).setdefault(name, {})
                for column, numbers in value.items():
                    kept.setdefault(column, []).extend(list(numbers))
            else:
                joined.setdefault(view, {})[name] = value
    return joined


def scores(network: nn.Module, view: View) -> tuple[float, float]:
    ((x, y),) = examples(view, 40, 40)
    with torch.no_grad():
        logits = network(x)
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())


def moved(network: nn.Module, weights: Weights) -> nn.Module:
    own = copy.deepcopy(network)
    own.load_state_dict(weights)
    return own


def same(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for view in one:
        for name, value in one[view].items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            for column, numbers in pairs:
                others = other[view][name][column] if isinstance(value, dict) else other[view][name]
                if column not in ("line", "layer", "model"):
                    assert numbers == pytest.approx(others, abs=tolerance, rel=tolerance), (view, name, column)


def test_the_landscape_of_a_linear_head_is_the_loss_of_logits_on_a_plane() -> None:
    network = linear(0)
    model, data = finished(network), views(A)
    result = found(Landscape, [model], data, grid=5, points=5, radius=2.0)
    assert set(result) == {A, HELD_OUT}
    # On the line and the plane through a linear head, logits are linear in the coordinates: those of three points give
    # the directions, and with them every other point.
    generator = torch.Generator().manual_seed(7)
    moves = []
    for _ in range(2):
        drawn = torch.randn(WIDTH * CLASSES + CLASSES, generator=generator, dtype=torch.float64)
        rows = drawn[: WIDTH * CLASSES].view(CLASSES, WIDTH)
        weight = dict(network.named_parameters())["weight"].detach()
        moves.append(rows / rows.norm(dim=1, keepdim=True) * weight.norm(dim=1, keepdim=True))
    for view in (A, HELD_OUT):
        ((x, y),) = examples(view, 40, 40)
        with torch.no_grad():
            start, first, second = network(x), x @ moves[0].T, x @ moves[1].T
        for name, coordinates in (("line", ("x",)), ("plane", ("x", "y"))):
            series = result[view][name]
            for i, loss in enumerate(series["loss"]):
                shares = [series[axis][i] for axis in coordinates] + [0.0]
                logits = start + shares[0] * first + shares[1] * second
                assert loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-12)
                assert series["accuracy"][i] == float((logits.argmax(1) == y).double().mean())
        losses = result[view]["plane"]["loss"]
        assert result[view]["rise"] == pytest.approx(np.mean(losses) - scores(network, view)[0], rel=1e-12)


def test_layers_of_another_scale_have_the_same_landscape() -> None:
    one = mlp(1)
    other = copy.deepcopy(one)
    with torch.no_grad():
        other[0].weight.mul_(8)  # type: ignore[operator]
        other[0].bias.mul_(8)  # type: ignore[operator]
        other[2].weight.div_(8)  # type: ignore[operator]
    results = [found(Landscape, [finished(network)], views(A, B), grid=3, points=5) for network in (one, other)]
    same(*results, tolerance=1e-10)


def test_a_hessian_plane_has_the_eigenvectors_as_axes() -> None:
    network = linear(2)
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    ((x, y),) = examples(A, 40, 40)

    def loss(vector: Tensor) -> Tensor:
        matrix = vector[: WIDTH * CLASSES].view(CLASSES, WIDTH)
        return F.cross_entropy(x @ matrix.T + vector[WIDTH * CLASSES :], y)

    vectors = torch.linalg.eigh(torch.autograd.functional.hessian(loss, weights)).eigenvectors
    length = weights[: WIDTH * CLASSES].norm()
    plane = found(Landscape, [finished(network)], views(A), plane="hessian", grid=3, points=3)[A]["plane"]
    values = {(a, b): value for a, b, value in zip(plane["x"], plane["y"], plane["loss"], strict=True)}
    # An eigenvector has no sign, so opposite moves are told apart by nothing but their order.
    for axis, own in (((1.0, 0.0), vectors[:, -1]), ((0.0, 1.0), vectors[:, -2])):
        expected = sorted(float(loss(weights + sign * length * own)) for sign in (1, -1))
        assert sorted((values[axis], values[-axis[0], -axis[1]])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cls", [Landscape, Landscape3, Connectivity, StartConnectivity])
def test_batches_and_other_domains_change_no_value(cls: type[Analysis]) -> None:
    models = [finished(mlp(seed), f"row {seed}", seed, mlp(9)) for seed in range(3)]
    models = models if cls.card.takes != "model" else models[:1]
    small = {"points": 3} if hasattr(cls.Hparams(), "points") else {}
    small |= {"grid": 3} if hasattr(cls.Hparams(), "grid") else {}
    both, alone = (found(cls, models, views(*training), **small) for training in ((A, B), (A,)))
    same({A: both[A], HELD_OUT: both[HELD_OUT]}, alone)
    same(both, found(cls, models, views(A, B), batch_size=7, **small))


def test_the_plane_through_three_models_goes_through_them() -> None:
    networks = [linear(seed) for seed in range(3)]
    names = ["ERM", "ERM+SWAD", "SAM"]
    models = [finished(network, name) for network, name in zip(networks, names, strict=True)]
    result = found(Landscape3, models, views(A), grid=4)[HELD_OUT]
    plane = result["plane"]
    assert plane["model"] == [""] * 16 + names
    flat = [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]
    one, two, three = (torch.tensor(place) for place in zip(plane["x"][16:], plane["y"][16:], strict=True))
    unit = (flat[1] - flat[0]).norm()
    for (a, b), (place, other) in (((0, 1), (one, two)), ((0, 2), (one, three)), ((1, 2), (two, three))):
        assert float((flat[a] - flat[b]).norm() / unit) == pytest.approx(float((place - other).norm()), rel=1e-6)
    for i, network in enumerate(networks):
        assert (plane["loss"][16 + i], plane["accuracy"][16 + i]) == pytest.approx(scores(network, HELD_OUT), rel=1e-12)
    # Every point is placed by the distances to the models.
    across, up = flat[1] - flat[0], flat[2] - flat[0]
    up = up - (up @ across) / (across @ across) * across
    up = up * (across.norm() / up.norm())
    for i in (0, 5, 15):
        vector = flat[0] + plane["x"][i] * across + plane["y"][i] * up
        weights = {"weight": vector[: WIDTH * CLASSES].view(CLASSES, WIDTH), "bias": vector[WIDTH * CLASSES :]}
        assert plane["loss"][i] == pytest.approx(scores(moved(networks[0], weights), HELD_OUT)[0], rel=1e-10)
    best = max(plane["accuracy"][16:])
    assert result["gain"] == pytest.approx(max(plane["accuracy"][:16]) - best)
    mean = combined([model.weights() for model in models], [1 / 3] * 3)
    own = scores(moved(networks[0], mean), HELD_OUT)[1]
    assert result["center_gain"] == pytest.approx(own - np.mean(plane["accuracy"][16:]))
    with pytest.raises(RuntimeError, match="the weights of ERM, ERM, ERM lie on one line"):
        found(Landscape3, [models[0]] * 3, views(A))


def test_lines_and_layers_between_runs_are_those_walked_by_hand() -> None:
    networks = [mlp(seed) for seed in range(3)]
    models = [finished(network, seed=seed) for seed, network in enumerate(networks)]
    result = found(Connectivity, models, views(A), points=4, layer_lines=1, layer_points=2)[HELD_OUT]
    errors = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        ends = [networks[place].state_dict() for place in (i, j)]
        walked = []
        for alpha in np.linspace(0, 1, 4):
            mixed = {name: (1 - alpha) * tensor + alpha * ends[1][name] for name, tensor in ends[0].items()}
            walked.append(scores(moved(networks[0], mixed), HELD_OUT))
        own = [place for place, name in enumerate(result["line"]["line"]) if name == f"draw {i} to draw {j}"]
        assert [result["line"]["loss"][place] for place in own] == pytest.approx([loss for loss, _ in walked])
        assert [result["line"]["accuracy"][place] for place in own] == pytest.approx([right for _, right in walked])
        errors.append(line_barrier(np.linspace(0, 1, 4).tolist(), [1 - right for _, right in walked]))
    assert result["barrier"] == pytest.approx(np.mean(errors))
    layers = result["layers"]
    assert (layers["layer"], layers["depth"]) == (["0", "2"], [1, 2])
    start = scores(networks[0], HELD_OUT)
    for layer, loss, error in zip(layers["layer"], layers["loss"], layers["error"], strict=True):
        rises = [(0.0, 0.0)]
        for way in (0.5, 1.0):
            mixed = dict(networks[0].state_dict())
            for name in (f"{layer}.weight", f"{layer}.bias"):
                mixed[name] = (1 - way) * mixed[name] + way * networks[1].state_dict()[name]
            there = scores(moved(networks[0], mixed), HELD_OUT)
            rises.append((there[0] - start[0], start[1] - there[1]))
        assert (loss, error) == pytest.approx((max(a for a, _ in rises), max(b for _, b in rises)))
    assert result["worst_layer"] == max(layers["error"])
    few = found(Connectivity, models, views(A), points=3, lines=2, layer_lines=0)[A]
    assert len(set(few["line"]["line"])) == 2
    assert "layers" not in few


def test_the_line_from_the_start_ends_at_the_model() -> None:
    network, start = mlp(1), mlp(2)
    line = found(StartConnectivity, [finished(network, start=start)], views(A), points=3)[HELD_OUT]["line"]
    ends = [(line["loss"][i], line["accuracy"][i]) for i in (0, 2)]
    assert ends == [pytest.approx(scores(own, HELD_OUT), rel=1e-12) for own in (start, network)]


def test_statistics_of_live_batch_norm_are_measured_at_every_point() -> None:
    asked = []

    def statistics(weights: Weights, minibatches: int) -> Weights:
        asked.append(minibatches)
        return weights | {"bias": torch.zeros_like(weights["bias"])}

    models = [finished(linear(seed), seed=seed) for seed in range(2)]
    data = views(A, statistics=statistics)
    result = found(Connectivity, models, data, points=3, minibatches=4, layer_lines=0)
    assert asked == [4] * 3, "once for each point, whatever the number of views"
    changed = moved(linear(1), models[1].weights() | {"bias": torch.zeros(CLASSES, dtype=torch.float64)})
    for view in (A, HELD_OUT):
        assert result[view]["line"]["loss"][2] == pytest.approx(scores(changed, view)[0], rel=1e-12)
