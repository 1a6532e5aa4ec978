from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.dsu import DSU
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

P, FACTOR = 0.6, 1.3


def changed(x: Tensor) -> Tensor:
    n, c = x.shape[:2]
    mean, std = x.flatten(2).mean(2), (x.flatten(2).var(2) + 1e-6).sqrt()
    spreads = [((each - each.mean(0)).square().sum(0) / (n - 1) + 1e-6).sqrt() for each in (mean, std)]
    noise = [FACTOR * torch.randn(n, c, 1, 1).view(n, c) for _ in range(2)]
    new_mean, new_std = mean + noise[0] * spreads[0], std + noise[1] * spreads[1]
    normal = (x.flatten(2) - mean[..., None]) / std[..., None]
    return (normal * new_std[..., None] + new_mean[..., None]).view(x.shape)


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    network, x = other.network, torch.cat([b.x for b in batches])
    for layer in network.featurizer:
        x = layer(x)
        if layer in network.stages and float(torch.rand(1)) < P:
            x = changed(x)
    other.optimizer.zero_grad()
    F.cross_entropy(network.classifier(x), torch.cat([b.y for b in batches])).backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    options = {"dsu_p": P, "dsu_factor": FACTOR}
    toy.agrees(toy.make(DSU, images=True, norm=norm, optimizer=optimizer, **options), reference, steps=4)


def test_without_probability_it_is_erm(toy: SimpleNamespace) -> None:
    dsu, erm = toy.make(DSU, images=True, dsu_p=0.0), toy.make(ERM, images=True)
    for step in range(3):
        toy.take(dsu, step)
        toy.take(erm, step)
    assert all(torch.equal(p, q) for p, q in zip(dsu.parameters(), erm.parameters(), strict=True))


def test_without_noise_it_is_erm_to_rounding(toy: SimpleNamespace) -> None:
    dsu, erm = toy.make(DSU, images=True, dsu_p=1.0, dsu_factor=0.0), toy.make(ERM, images=True)
    for step in range(3):
        toy.take(dsu, step)
        toy.take(erm, step)
    for p, q in zip(dsu.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-11)


def test_prediction_is_never_changed(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DSU, images=True, dsu_p=1.0).eval()
    x = torch.randn(4, 2, 6, 6)
    assert torch.equal(algorithm(x), algorithm.network(x))


def test_maps_of_one_position_are_left_out(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from dgbench.networks.network import Network

    layers = [torch.nn.Conv2d(2, 2, 3), torch.nn.Conv2d(2, 2, 4)]
    monkeypatch.setattr(Network, "stages", property(lambda self: layers))
    monkeypatch.setattr(Network, "features", lambda self, x: torch.nn.Sequential(*layers)(x))
    assert toy.make(DSU, images=True).changed == {0}


def test_impossible_values_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"dsu_p must lie in \[0, 1\]") as caught:
        DSU.Hparams(dsu_p=-0.1, dsu_factor=-1.0)
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="feature maps"):
        toy.make(DSU)
    with pytest.raises(UserError, match="two examples"):
        toy.make(DSU, images=True, domains=1, batch_size=1)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(DSU, images=True, norm="live", optimizer=optimizer, dropout=0.3)
