from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.merging.git_re_basin import GitReBasin, assign, match, permuted
from dgbench.methods.average import Weights
from dgbench.networks.backbones import lacking
from dgbench.networks.builtin import mlp, small_cnn
from dgbench.networks.permutations import Symmetry, find_symmetries
from tests.merging.toys import near, of, one, tools


def small(seed: int, *, grouped: bool = False) -> tuple[nn.Module, Weights, tuple[Symmetry, ...]]:
    """A small network in double precision, its weights and symmetries."""
    torch.manual_seed(seed)
    body, width = small_cnn(2, 8) if grouped else mlp(6, width=20, depth=2)
    network = nn.Sequential(body, nn.ReLU(), nn.Linear(width, 3)).double()
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    x = torch.zeros(2, 2, 8, 8, dtype=torch.float64) if grouped else torch.zeros(2, 6, dtype=torch.float64)
    return network, weights, find_symmetries(lambda w, x: functional_call(network, w, (x,)), weights, x)


def shuffled(symmetries: tuple[Symmetry, ...], weights: Weights) -> Weights:
    orders = []
    for symmetry in symmetries:
        width = symmetry.size // symmetry.blocks
        blocks = torch.randperm(symmetry.blocks).tolist()
        orders.append(torch.cat([block * width + torch.randperm(width) for block in blocks]))
    return permuted(symmetries, orders, weights)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_permuted_copies_of_a_network_are_recovered(grouped: bool, count: int) -> None:
    network, weights, symmetries = small(0, grouped=grouped)
    copies = [weights, *(shuffled(symmetries, weights) for _ in range(count - 1))]
    found = one(GitReBasin(GitReBasin.Hparams()), of(*copies), tools(symmetries=symmetries)).weights
    x = torch.randn(5, *((2, 8, 8) if grouped else (6,)), dtype=torch.float64)
    near(functional_call(network, found, (x,)), functional_call(network, weights, (x,)), 1e-9)
    if count == 2:  # of more, units may stand in yet another order
        assert any(all(torch.allclose(found[name], copy[name]) for name in weights) for copy in copies)
    naive = {name: torch.stack([copy[name] for copy in copies]).mean(0) for name in weights}
    assert not torch.allclose(functional_call(network, naive, (x,)), functional_call(network, weights, (x,)), atol=0.01)


def test_an_assignment_is_the_best_of_all_permutations() -> None:
    gains = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).numpy()

    def gain(order: tuple[int, ...]) -> float:
        return float(sum(gains[i, j] for i, j in enumerate(order)))

    def keeps(order: tuple[int, ...], blocks: int) -> bool:
        width = 6 // blocks
        return all(len({j // width for j in order[i : i + width]}) == 1 for i in range(0, 6, width))

    for blocks in (1, 2, 3, 6):
        allowed = [order for order in permutations(range(6)) if keeps(order, blocks)]
        assert tuple(assign(gains, blocks).tolist()) == max(allowed, key=gain)


def test_one_hidden_layer_is_matched_to_the_best_of_all_orders() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    target, model = ({name: torch.randn_like(network.state_dict()[name]) for name in names} for _ in range(2))
    symmetries = find_symmetries(
        lambda w, x: functional_call(network, w, (x,)), target, torch.zeros(2, 3, dtype=torch.float64)
    )

    def product(order: tuple[int, ...]) -> float:
        places = list(order)
        found = [model["0.weight"][places], model["0.bias"][places], model["2.weight"][:, places], model["2.bias"]]
        return float(sum((target[name] * tensor).sum() for name, tensor in zip(names, found, strict=True)))

    (order,) = match(symmetries, target, model)
    assert tuple(order.tolist()) == max(permutations(range(4)), key=product)


def test_matching_lowers_the_barrier_between_two_networks_that_began_differently() -> None:
    x = torch.randn(300, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    trained, symmetries, network = [], (), nn.Module()
    for seed in (1, 2):
        network, _, symmetries = small(seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        trained.append({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})

    def loss(weights: Weights) -> float:
        logits: Tensor = functional_call(network, weights, (x,))
        return nn.functional.cross_entropy(logits, y).item()

    torch.manual_seed(0)
    merged = one(GitReBasin(GitReBasin.Hparams()), of(*trained), tools(symmetries=symmetries)).weights
    naive = {name: (trained[0][name] + trained[1][name]) / 2 for name in trained[0]}
    ends = (loss(trained[0]) + loss(trained[1])) / 2
    assert loss(naive) - ends > 0.1
    assert loss(merged) - ends < 0.7 * (loss(naive) - ends)


def test_statistics_follow_their_units_but_do_not_count() -> None:
    _, weights, symmetries = small(0)
    (first, *others) = symmetries
    # As if the first layer had running statistics, which say the opposite of the weights.
    axis = first.axes[0]._replace(tensor="running", dim=0, repeats=1)
    carried = Symmetry(first.size, 1, (*first.axes, axis))
    order = torch.arange(first.size).flip(0)
    one_model = {**weights, "running": 1000 * torch.arange(first.size, dtype=torch.float64)}
    orders = [order, *(torch.arange(symmetry.size) for symmetry in others)]
    other = permuted([carried, *others], orders, one_model)
    given = tools(symmetries=[carried, *others], statistics=frozenset({"running"}))
    other["running"] = one_model["running"].clone()
    found = one(GitReBasin(GitReBasin.Hparams()), of(one_model, other), given).weights["running"]
    near(found, (one_model["running"] + one_model["running"].flip(0)) / 2)


@pytest.mark.parametrize(
    ("backbone", "lacks"), [("MLP", False), ("SmallCNN", False), ("resnet18", False), ("vit_tiny_patch16_224", True)]
)
def test_networks_with_attention_are_refused_before_anything_is_trained(backbone: str, lacks: bool) -> None:
    assert GitReBasin.card.needs == ("units",)
    assert not GitReBasin.card.shared_init
    assert ("units" in lacking(backbone, (3, 224, 224))) is lacks


@pytest.mark.parametrize("grouped", [False, True])
def test_a_model_that_is_matched_to_another_predicts_as_before(grouped: bool) -> None:
    """Groups of group norm stay together, though the best order of channels would tear them apart."""
    _, target, symmetries = small(1, grouped=grouped)
    network, model, _ = small(2, grouped=grouped)
    orders = match(symmetries, target, model)
    assert all(not torch.equal(order, torch.arange(len(order))) for order in orders)
    x = torch.randn(3, *((2, 8, 8) if grouped else (6,)), dtype=torch.float64)
    before, after = (
        functional_call(network, weights, (x,)) for weights in (model, permuted(symmetries, orders, model))
    )
    near(after, before, 1e-9)
