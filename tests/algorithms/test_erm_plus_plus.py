from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm_plus_plus import ERMPlusPlus
from dgbench.core.errors import UserError
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch

LINEAR, START, LINEAR_LR = 1, 4, 3e-2
OPTIONS = {"linear_steps": LINEAR, "sma_start": START, "linear_lr": LINEAR_LR}


class Reference:
    """The live network, and all its weights so far; `other.network` is given their mean."""

    def __init__(self, toy: SimpleNamespace, algorithm: ERMPlusPlus) -> None:
        self.live = copy.deepcopy(algorithm.live).requires_grad_(True)
        self.optimizer = toy.hand_made(algorithm, self.live)
        self.linear = toy.hand_made(algorithm, self.live.classifier)
        self.linear.param_groups[0]["lr"] = LINEAR_LR
        self.tracks_live_norm = algorithm.setting.batch_norm == "live"
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self, other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        loss = F.cross_entropy(self.live(x), y)
        self.live.zero_grad()
        loss.backward()
        (self.linear if step <= LINEAR else self.optimizer).step()
        self.seen.append({name: tensor.clone() for name, tensor in self.live.state_dict().items()})
        taken = self.seen[-1:] if step + 1 < START else self.seen[START - 2 :]
        mean = {name: sum(weights[name] for weights in taken) / len(taken) for name in taken[0]}
        if self.tracks_live_norm:
            mean = {name: tensor for name, tensor in mean.items() if "running" not in name}
            mean["featurizer.1.num_batches_tracked"] = self.seen[-1]["featurizer.1.num_batches_tracked"]
            for part in ("running_mean", "running_var"):
                mean[f"featurizer.1.{part}"] = self.statistics(other, part, step)
        other.network.load_state_dict(mean)
        if self.tracks_live_norm and step + 1 >= START:
            other.network.train()(x)

    def statistics(self, other: SimpleNamespace, part: str, step: int) -> torch.Tensor:
        """The recurrence, as the mean's own statistics move in between."""
        live = self.seen[-1][f"featurizer.1.{part}"]
        n = step + 2 - START
        return live if n <= 0 else (n * getattr(other.network.featurizer[1], part) + live) / (n + 1)


def test_equals_a_plain_loop_through_all_phases(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(ERMPlusPlus, norm=norm, optimizer=optimizer, **OPTIONS)
    toy.agrees(algorithm, Reference(toy, algorithm), steps=7)


def test_the_classifier_learns_alone_for_one_step_more_than_linear_steps(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERMPlusPlus, **OPTIONS)
    before = algorithm.live.featurizer[0].weight.clone()
    for step in range(LINEAR + 1):
        toy.take(algorithm, step)
    assert torch.equal(algorithm.live.featurizer[0].weight, before)
    toy.take(algorithm, LINEAR + 1)
    assert not torch.equal(algorithm.live.featurizer[0].weight, before)


def test_the_mean_predicts_and_the_live_network_trains(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERMPlusPlus, **OPTIONS)
    x = torch.randn(3, 6)
    for step in range(6):
        toy.take(algorithm, step)
    assert torch.equal(algorithm(x), algorithm.live(x))
    algorithm.eval()
    assert torch.equal(algorithm(x), algorithm.network(x))
    assert not torch.equal(algorithm(x), algorithm.live(x))
    swapped = {name: torch.zeros_like(tensor) for name, tensor in algorithm.predictor_tensors().items()}
    assert torch.equal(torch.func.functional_call(algorithm, swapped, (x,)), torch.zeros(3, 4))


def test_weights_given_after_building_are_where_training_starts(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERMPlusPlus, **OPTIONS)
    with torch.no_grad():
        algorithm.network.classifier.weight.fill_(0.5)
    algorithm.linear_optimizer.param_groups[0]["full_lr"] = 0.0
    toy.take(algorithm, 0)
    assert (algorithm.network.classifier.weight == 0.5).all()


def test_space_is_domainbeds() -> None:
    by_name = {spec.name: spec for spec in space_of(ERMPlusPlus.Hparams)}
    assert (by_name["linear_steps"].default, by_name["linear_steps"].draw) == (500, None)
    assert (by_name["linear_lr"].default, str(by_name["linear_lr"].draw)) == (5e-5, "10^U(-5, -3.5)")


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UserError, match="linear_steps must be at least 0") as caught:
        ERMPlusPlus.Hparams(linear_steps=-1, sma_start=0)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("start", [2, 3, 8])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, start: int) -> None:
    options = {"norm": "live", "optimizer": optimizer, "dropout": 0.3}
    toy.resumes(ERMPlusPlus, linear_steps=start - 1, sma_start=start, **options)
