from __future__ import annotations

import pytest

from dgbench.merging.lines import LiNeS, depths_of
from tests.merging.toys import drawn_model, near, of, tools

START = drawn_model(0)
MODELS = [drawn_model(seed) for seed in (1, 2)]


def test_layers_move_by_a_line_over_their_depth() -> None:
    merger = LiNeS(LiNeS.Hparams(points=5, recommended=0.25))
    given = tools(initial=START, statistics=frozenset({"norm.running_mean"}))
    found = {merged.by["alpha"]: merged.weights for merged in merger.candidates(of(*MODELS), given)}
    assert list(found) == [0, 0.5, 0.75, 1, 0.25]
    assert merger.choices == 5
    for alpha, weights in found.items():
        # Modules a, norm and b: the first, the second and the third layer of three.
        for name, layer in (("a.weight", 1), ("a.bias", 1), ("norm.weight", 2), ("b.weight", 3)):
            share = alpha + (1 - alpha) * (layer - 1) / 2
            mean = (MODELS[0][name] + MODELS[1][name]) / 2
            near(weights[name], START[name] + share * (mean - START[name]))
        near(weights["norm.running_mean"], (MODELS[0]["norm.running_mean"] + MODELS[1]["norm.running_mean"]) / 2)


def test_depths_are_those_of_modules_in_their_order() -> None:
    names = ("stem.weight", "block.0.a.weight", "block.0.a.bias", "block.0.b.weight", "head.weight", "head.bias")
    assert depths_of(names) == pytest.approx(dict(zip(names, (0, 1 / 3, 1 / 3, 2 / 3, 1, 1), strict=True)))
    assert depths_of(["w", "b"]) == {"w": 1.0, "b": 1.0}
