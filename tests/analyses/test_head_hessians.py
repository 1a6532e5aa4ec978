"""Distances of head Hessians, against Hessians written down by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from dgbench.analyses.head_hessians import HeadHessians
from dgbench.core.protocol import View
from dgbench.core.setting import setting
from dgbench.methods.analysis import Batches, FinishedModel, Views
from dgbench.networks.network import Network, build_network

VIEWS = tuple(View(name, "in") for name in "abc")
HELD_OUT = View("z", "in")


def network() -> Network:
    torch.manual_seed(0)
    return build_network((5,), 3, setting(backbone="Linear")).double().eval()


def data() -> dict[View, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        view: (
            (1 + i) * torch.randn(40, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (40,), generator=generator),
        )
        for i, view in enumerate((*VIEWS, HELD_OUT))
    }


def found(views: tuple[View, ...], batch_size: int, draws: int = 20) -> dict[View | None, dict[str, float]]:
    examples, numbers = data(), dict[View | None, dict[str, float]]()

    def batches(view: View, most: int, size: int) -> Batches:
        return list(zip(*(tensor[:most].split(size) for tensor in examples[view]), strict=True))

    model = FinishedModel("", "ERM", 0, 0, network, dict, dict)
    hparams = HeadHessians.Hparams(batch_size=batch_size, draws=draws, steps=18)
    analysis = HeadHessians(hparams, torch.Generator().manual_seed(0))
    for view, measures in analysis.measure([model], Views(views, (HELD_OUT, *views), batches)):
        numbers.setdefault(view, {}).update(measures)  # type: ignore[arg-type]
    return numbers


def hessian(x: Tensor) -> Tensor:
    """Mean over examples of (diag(p) - p p') times the outer square of the input, which ends in the bias' 1."""
    p = network()(x).softmax(dim=1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    # The vector holds all weights, then all biases.
    weights = torch.einsum("nij,na,nb->iajb", inner, x, x).reshape(15, 15)
    mixed = torch.einsum("nij,na->iaj", inner, x).reshape(15, 3)
    return torch.cat([torch.cat([weights, mixed], 1), torch.cat([mixed.T, inner.sum(0)], 1)]).detach() / len(x)


def test_distances_are_those_of_hessians_written_down() -> None:
    numbers, of = found(VIEWS, 40, draws=400), {view: hessian(x) for view, (x, _) in data().items()}
    pairs: dict[View | None, list[tuple[View, View]]] = {
        None: list(combinations(VIEWS, 2)),
        HELD_OUT: [(HELD_OUT, view) for view in VIEWS],
    }
    for where, those in pairs.items():
        gaps = [of[a] - of[b] for a, b in those]
        largest = [float(torch.linalg.matrix_norm(gap, 2)) for gap in gaps]
        assert numbers[where]["spectral"] == pytest.approx(np.mean(largest), abs=1e-8)
        exact = np.mean([float(gap.norm()) for gap in gaps])
        assert abs(numbers[where]["frobenius"] - exact) < 4 * numbers[where]["frobenius_error"]
        both = [float(of[a].norm() + of[b].norm()) for a, b in those]
        relative = np.mean([float(gap.norm()) / norms for gap, norms in zip(gaps, both, strict=True)])
        assert numbers[where]["relative"] == pytest.approx(relative, rel=0.1)


def test_neither_the_batch_size_nor_the_number_of_domains_changes_a_distance() -> None:
    two = found(VIEWS[:2], 40)
    assert found(VIEWS[:2], 7)[None] == pytest.approx(two[None], rel=1e-9, abs=1e-12)
    # Of the three pairs one is a domain with itself.
    three = found((*VIEWS[:2], VIEWS[0]), 40)
    assert three[None]["frobenius"] == pytest.approx(2 / 3 * two[None]["frobenius"], rel=1e-9)
    assert three[None]["spectral"] == pytest.approx(2 / 3 * two[None]["spectral"], abs=1e-8)


def test_one_domain_twice_has_no_distance() -> None:
    numbers = found((VIEWS[0], VIEWS[0]), 40)
    assert numbers[None]["frobenius"] == 0
    assert numbers[None]["spectral"] == pytest.approx(0, abs=1e-12)
