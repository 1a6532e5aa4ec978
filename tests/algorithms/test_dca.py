from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.dca import DCA
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm

COPIES, ROUNDS = 3, 2


def layers_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def naive(
    toy: SimpleNamespace, algorithm: Algorithm, copies: list[nn.Module], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """A step on whole copies of the network, which share all but their linear layers."""
    data = toy.batches(step)
    x, y = torch.cat([b.x for b in data]), torch.cat([b.y for b in data])

    def drawn() -> Tensor:
        proposal = copies[0]
        choice = torch.randint(COPIES, (2,)).tolist()
        mixed = nn.Sequential()
        index = 0
        for module in (*proposal.featurizer, proposal.classifier):  # type: ignore[misc]
            if isinstance(module, nn.Linear):
                mixed.append(layers_of(copies[choice[index]])[index])
                index += 1
            else:
                mixed.append(module)
        return mixed(x)  # type: ignore[no-any-return]

    optimizer.zero_grad()
    with torch.no_grad():
        before = drawn()
    loss = torch.zeros(())
    for _ in range(ROUNDS):
        logits = drawn()
        p = before.softmax(1)
        loss = loss + F.cross_entropy(logits, y) + (p * (p / logits.softmax(1)).log()).sum(1).mean()
        before = logits.detach()
    (loss / ROUNDS).backward()
    optimizer.step()


def test_equals_whole_copies_that_share_all_but_their_layers(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(DCA, norm=norm, optimizer=optimizer, dca_copies=COPIES, dca_rounds=ROUNDS)
    copies = [copy.deepcopy(algorithm.network).requires_grad_(True) for _ in range(COPIES)]
    shared = [m for m in copies[0].modules() if isinstance(m, nn.BatchNorm1d)]
    learning = nn.ModuleList([*shared, *(layer for network in copies for layer in layers_of(network))])
    other = toy.hand_made(algorithm, learning)
    for step in range(4):
        toy.take(algorithm, step)
        torch.manual_seed(step)
        naive(toy, algorithm, copies, other, step)
        for name, mean in algorithm.network.state_dict().items():
            theirs = [network.state_dict()[name] for network in copies]
            layer = algorithm.network.get_submodule(name.rpartition(".")[0])
            expected = torch.stack(theirs).mean(0) if isinstance(layer, nn.Linear) else theirs[0]
            torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_copies_begin_alike_so_nothing_diverges_in_the_first_step(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DCA)
    x = toy.batches(0)[0].x
    assert torch.equal(algorithm._drawn(x), algorithm(x))
    assert toy.take(algorithm, 0)["divergence"] == pytest.approx(0, abs=1e-15)
    assert toy.take(algorithm, 1)["divergence"] > 1e-6


def test_only_drawn_copies_move(toy: SimpleNamespace) -> None:
    """One round: one copy of each layer; the weight and the bias of a layer are drawn together."""
    algorithm = toy.make(DCA, dca_rounds=1, optimizer="sgd")
    before = [[p.detach().clone() for p in layer] for layer in algorithm.copies]
    toy.take(algorithm, 0)
    moved = [
        [not torch.equal(p, q) for p, q in zip(old, new, strict=True)]
        for old, new in zip(before, algorithm.copies, strict=True)
    ]
    weight_1, bias_1, weight_2, bias_2 = zip(*moved, strict=True)
    assert weight_1 == bias_1
    assert weight_2 == bias_2
    assert sum(weight_1) == sum(weight_2) == 1


@pytest.mark.parametrize("rounds", [1, 4])
def test_with_one_copy_it_is_erm(toy: SimpleNamespace, optimizer: str, rounds: int) -> None:
    options: dict[str, Any] = {"norm": "frozen", "optimizer": optimizer}
    ours, erm = toy.make(DCA, **options, dca_copies=1, dca_rounds=rounds), toy.make(ERM, **options)
    for step in range(3):
        toy.take(ours, step)
        toy.take(erm, step)
    for name, tensor in erm.network.state_dict().items():
        torch.testing.assert_close(ours.network.state_dict()[name], tensor, rtol=0, atol=1e-12)


def test_a_linear_models_mean_predicts_the_mean_of_all_draws(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DCA, dca_copies=4)
    algorithm.network.featurizer = nn.Identity()
    algorithm.network.classifier = nn.Linear(6, 4)
    algorithm.build()
    algorithm.build_optimizers()
    for step in range(3):
        toy.take(algorithm, step)
    x = toy.batches(9)[0].x
    every = torch.stack([x @ weight.T + bias for weight, bias in algorithm.copies])
    assert every.std(0).min() > 0
    torch.testing.assert_close(algorithm(x), every.mean(0), rtol=0, atol=1e-12)


def test_draws_are_even_and_independent_from_layer_to_layer(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DCA, dca_copies=2)
    with torch.no_grad():
        for k, layers in enumerate(algorithm.copies):
            for p in layers:
                p.fill_(0.0)
            layers[1].fill_(10.0 * k)
            layers[2].fill_(1.0)
            layers[3].fill_(100.0 * k)
    torch.manual_seed(0)
    drawn = [algorithm._drawn(torch.zeros(1, 6))[0, 0].item() for _ in range(400)]
    kinds = {round(value): drawn.count(value) for value in set(drawn)}
    assert set(kinds) == {0, 8, 100, 108}
    assert all(60 < count < 140 for count in kinds.values())


def test_what_is_frozen_has_no_copies(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DCA, norm="frozen", how={"freeze": "embedding"})
    assert algorithm.layers == [["classifier.weight", "classifier.bias"]]
    before = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(before, algorithm.network.featurizer[0].weight)


def test_convolutions_have_copies_too(toy: SimpleNamespace) -> None:
    algorithm = toy.make(DCA, images=True, norm="live")
    assert [len(names) for names in algorithm.layers] == [2, 2, 2]
    toy.take(algorithm, 0)


@pytest.mark.parametrize("name", ["dca_copies", "dca_rounds"])
def test_impossible_values_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
        DCA.Hparams(**{name: 0})


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(DCA, norm="live", optimizer=optimizer, dropout=0.3)
