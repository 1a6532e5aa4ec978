"""The series of Diversity: accuracy over the number of members, against means taken by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dgbench.analyses.diversity import Diversity, _draws
from dgbench.core.protocol import View
from dgbench.methods.analysis import FinishedModel, Views

VIEW = View("a", "in")
BATCH = (torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3)


def model(layers: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(layers - 1) for layer in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(6, 3))


def curve(layers: int, members: int) -> dict[tuple[int, str], float]:
    networks = [partial(model, layers, seed) for seed in range(members)]
    models = [
        FinishedModel(f"{i}", "ERM", i, 9, one, lambda one=one: one().state_dict(), lambda one=one: one().state_dict())
        for i, one in enumerate(networks)
    ]
    data = Views((VIEW,), (VIEW,), lambda *_: [BATCH])
    analysis = Diversity(Diversity.Hparams(), torch.Generator().manual_seed(0))
    found = dict[tuple[int, str], float]()
    for _, numbers in analysis.measure(models, data):
        if columns := numbers.get("members"):
            found |= zip(zip(columns["members"], columns["mean"], strict=True), columns["accuracy"], strict=True)
    return found


def accuracy(network: nn.Module) -> float:
    return float((network(BATCH[0]).argmax(1) == BATCH[1]).double().mean())


def test_all_members_are_those_of_a_mean_taken_by_hand() -> None:
    found, networks = curve(2, 3), [model(2, seed) for seed in range(3)]
    assert {*found} == {(members, mean) for members in (1, 2, 3) for mean in ("outputs", "weights")}
    single = np.mean([accuracy(network) for network in networks])
    assert found[1, "outputs"] == found[1, "weights"] == pytest.approx(single)
    logits = torch.stack([network(BATCH[0]) for network in networks]).mean(0)
    assert found[3, "outputs"] == pytest.approx(float((logits.argmax(1) == BATCH[1]).double().mean()))
    mean = model(2, 0)
    states = [network.state_dict() for network in networks]
    mean.load_state_dict({name: sum(state[name] for state in states) / 3 for name in states[0]})
    assert found[3, "weights"] == pytest.approx(accuracy(mean))
    assert found[3, "weights"] != found[3, "outputs"]


def test_linear_networks_have_one_curve() -> None:
    found = curve(1, 4)
    assert all(found[members, "outputs"] == found[members, "weights"] for members in (1, 2, 4))


def test_draws_of_members_are_distinct_and_of_all_there_is_one() -> None:
    draws = _draws(9, torch.Generator().manual_seed(0))
    assert {members: len(those) for members, those in draws.items()} == {1: 9, 2: 3, 4: 3, 8: 3, 9: 1}
    assert all(len({*chosen}) == members for members, those in draws.items() for chosen in those)
    assert all(len({*those}) == len(those) for those in draws.values())
    assert _draws(2, torch.Generator()) == {1: [(0,), (1,)], 2: [(0, 1)]}
    assert [*_draws(3, torch.Generator())[2]] == [(0, 1), (0, 2), (1, 2)]
