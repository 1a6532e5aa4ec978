from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.mixstyle import MixStyle, foreign
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

P, ALPHA = 0.6, 0.4
SIZES = (5, 3, 8)


def by_hand(x: Tensor, share: Tensor, partner: list[int]) -> Tensor:
    out = []
    for n in range(len(x)):
        rows = []
        for c in range(x.shape[1]):
            mean = [float(x[k, c].mean().detach()) for k in (n, partner[n])]
            std = [float((x[k, c].var() + 1e-6).sqrt().detach()) for k in (n, partner[n])]
            s = float(share[n])
            normal = (x[n, c] - mean[0]) / std[0]
            rows.append(normal * (s * std[0] + (1 - s) * std[1]) + s * mean[0] + (1 - s) * mean[1])
        out.append(torch.stack(rows))
    return torch.stack(out)


def stage_end(network: torch.nn.Module, stage: int) -> int:
    return list(network.featurizer).index(network.stages[stage]) + 1


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    """The toy has two stages; the first is mixed, the last never."""
    network = other.network
    cut = stage_end(network, 0)
    x = network.featurizer[:cut](torch.cat([b.x for b in batches]))
    if float(torch.rand(1)) < P:
        share = torch.distributions.Beta(ALPHA, ALPHA).sample((len(x),))
        x = by_hand(x, share, torch.randperm(len(x)).tolist())
    logits = network.classifier(network.featurizer[cut:](x))
    other.optimizer.zero_grad()
    F.cross_entropy(logits, torch.cat([b.y for b in batches])).backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    options = {"mixstyle_p": P, "mixstyle_alpha": ALPHA}
    toy.agrees(toy.make(MixStyle, images=True, norm=norm, optimizer=optimizer, **options), reference, steps=4)


def test_without_probability_it_is_erm(toy: SimpleNamespace) -> None:
    mixed, erm = toy.make(MixStyle, images=True, mixstyle_p=0.0), toy.make(ERM, images=True)
    for step in range(3):
        toy.take(mixed, step)
        toy.take(erm, step)
    assert all(torch.equal(p, q) for p, q in zip(mixed.parameters(), erm.parameters(), strict=True))


def test_equal_examples_are_left_as_they_are(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MixStyle, images=True, mixstyle_p=1.0)
    x = torch.randn(1, 4, 4, 4).expand(6, -1, -1, -1)
    torch.testing.assert_close(algorithm._mixed(x, (3, 3)), x, rtol=0, atol=1e-12)


def test_a_share_of_one_leaves_maps_and_of_zero_takes_the_partners_style(
    toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = toy.make(MixStyle, images=True)
    x = torch.randn(6, 4, 4, 4) * torch.rand(6, 4, 1, 1)
    for share, expected in ((1.0, x.mean((2, 3))), (0.0, x.roll(1, 0).mean((2, 3)))):
        monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self, s=share: torch.full((6, 1, 1, 1), s))
        monkeypatch.setattr(torch, "randperm", lambda n, device: torch.arange(n).roll(1))
        torch.testing.assert_close(algorithm._mixed(x, (3, 3)).mean((2, 3)), expected, rtol=0, atol=1e-12)


def test_prediction_is_never_mixed(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MixStyle, images=True, mixstyle_p=1.0).eval()
    x = torch.randn(4, 2, 6, 6)
    assert torch.equal(algorithm(x), algorithm.network(x))
    assert torch.equal(algorithm(x), algorithm(x))


def test_a_foreign_partner_is_of_another_domain_each_as_often() -> None:
    domain = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    torch.manual_seed(0)
    counts = torch.zeros(16, 16)
    for _ in range(3000):
        partner = foreign(SIZES, torch.device("cpu"))
        counts[torch.arange(16), partner] += 1
    assert (counts[domain[:, None] == domain] == 0).all()
    for i in range(16):
        others = counts[i][domain != domain[i]] / 3000
        assert (others - 1 / len(others)).abs().max() < 0.03


def test_crossdomain_mixes_other_domains_styles(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MixStyle, images=True, mixstyle_p=1.0, mixstyle_partner="crossdomain")
    before = algorithm.network.classifier.weight.clone()
    toy.take(algorithm, 0)
    assert not torch.equal(algorithm.network.classifier.weight, before)
    x = torch.cat([torch.zeros(3, 4, 2, 2), torch.ones(2, 4, 2, 2)]) + 1e-9 * torch.randn(5, 4, 2, 2)
    torch.manual_seed(3)
    share = torch.distributions.Beta(torch.full((5,), 0.1), torch.full((5,), 0.1)).sample()
    torch.manual_seed(3)
    mixed = algorithm._mixed(x, (3, 2)).mean((1, 2, 3))
    torch.testing.assert_close(mixed, torch.cat([1 - share[:3], share[3:]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("stages", "wanted", "mixed"),
    [(5, 3, {1, 2, 3}), (5, 2, {1, 2}), (4, 3, {1, 2}), (3, 3, {1}), (2, 3, {0})],
)
def test_stages_after_the_stem_but_never_the_last(
    toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, stages: int, wanted: int, mixed: set[int]
) -> None:
    from dgbench.networks.network import Network

    layers = [torch.nn.Conv2d(2, 2, 3, padding=1) for _ in range(stages)]
    monkeypatch.setattr(Network, "stages", property(lambda self: layers))
    monkeypatch.setattr(Network, "features", lambda self, x: torch.nn.Sequential(*layers)(x))
    assert toy.make(MixStyle, images=True, mixstyle_stages=wanted).mixed == mixed


def test_impossible_values_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"mixstyle_p must lie in \[0, 1\]") as caught:
        MixStyle.Hparams(mixstyle_p=1.5, mixstyle_alpha=0.0, mixstyle_stages=0, mixstyle_partner="nobody")
    assert len(caught.value.problems) == 4
    with pytest.raises(UserError, match="feature maps"):
        toy.make(MixStyle)
    with pytest.raises(UserError, match="two training domains"):
        toy.make(MixStyle, images=True, domains=1, mixstyle_partner="crossdomain")


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(MixStyle, images=True, norm="live", optimizer=optimizer, dropout=0.3)
