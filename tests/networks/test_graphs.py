"""Molecules as tables, and the network that reads them, held to a loop over atoms and to its authors' layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._stages import replace_stage_outputs
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.datasets import _wilds_patches as patches
from dgbench.networks.graphs import ATOM, ATOM_FEATURES, BOND, BOND_FEATURES, COLUMNS, GIN, graphs, tables
from dgbench.networks.network import Network, build_network

SIZES, ROWS = (5, 1, 9, 12), 40


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def drawn(count: int, categories: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.stack([rng.integers(0, most, count) for most in categories], axis=1)


def molecules(sizes: tuple[int, ...] = SIZES, rows: int = ROWS, seed: int = 0) -> Tensor:
    """Trees with a ring or two, of any features; a molecule of one atom has no bonds."""
    rng = np.random.default_rng(seed)
    bonds = []
    for size in sizes:
        tree = [(int(rng.integers(0, atom)), atom) for atom in range(1, size)]
        bonds.append(np.array([*tree, *([(0, size - 1), (size // 2, 1)] if size > 5 else [])]).reshape(-1, 2))
    counts = np.array([len(of_one) for of_one in bonds])
    ends = np.concatenate(bonds)
    told = np.hstack([ends, drawn(len(ends), BOND_FEATURES, rng)])
    atoms = drawn(sum(sizes), ATOM_FEATURES, rng)
    return torch.from_numpy(tables(atoms, np.array(sizes), told, counts, rows))


def trained(width: int = 12, **more: Any) -> GIN:
    """A network in float64 whose every parameter and statistic is something."""
    network = GIN(width, **more).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def normed(x: Tensor, norm: Any) -> Tensor:
    found: Tensor = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return found


def perceptron(x: Tensor, layers: Any) -> Tensor:
    hidden = normed(layers[0].weight @ x + layers[0].bias, layers[1]).clamp(min=0)
    return normed(layers[3].weight @ hidden + layers[3].bias, layers[4])


def by_hand(network: Any, table: Tensor) -> Tensor:
    """The features of one molecule, atom by atom."""
    rows = table.tolist()
    atoms, bonds = [row[1:] for row in rows if row[0] == ATOM], [row[1:6] for row in rows if row[0] == BOND]
    h = [sum(network.atoms.of[k].weight[value] for k, value in enumerate(features)) for features in atoms]
    v = network.virtual
    for number, layer in enumerate(network.layers):
        h = [one + v for one in h]
        heard = [(1 + layer.eps) * one for one in h]
        for first, second, *features in bonds:
            told = sum(layer.bonds.of[k].weight[value] for k, value in enumerate(features))
            heard[first] = heard[first] + (h[second] + told).clamp(min=0)
            heard[second] = heard[second] + (h[first] + told).clamp(min=0)
        if number < len(network.updates):
            v = perceptron(v + sum(h), network.updates[number][0]).clamp(min=0)
        h = [perceptron(one, layer.mlp) for one in heard]
        if number < len(network.updates):
            h = [one.clamp(min=0) for one in h]
    mean: Tensor = sum(h) / len(h)  # type: ignore[assignment]
    return mean


def test_tables_are_read_as_one_graph_whose_bonds_go_both_ways() -> None:
    x = molecules()
    of = graphs(x)
    assert of.sizes.tolist() == list(SIZES)
    assert of.molecule.tolist() == [number for number, size in enumerate(SIZES) for _ in range(size)]
    assert torch.equal(of.atoms, torch.cat([table[:size, 1:] for table, size in zip(x, SIZES, strict=True)]).long())
    first, found = 0, []
    for table, size in zip(x, SIZES, strict=True):
        bonds = table[table[:, 0] == BOND].long()
        assert torch.equal(table[size : size + len(bonds)].long(), bonds), "after the atoms"
        found.append(torch.cat([bonds[:, 1:3] + first, bonds[:, 3:6]], dim=1))
        first += size
    expected = torch.cat(found)
    there, back = of.source.chunk(2), of.target.chunk(2)
    assert torch.equal(torch.stack([there[0], back[0]], dim=1), expected[:, :2])
    assert torch.equal(torch.stack([back[1], there[1]], dim=1), expected[:, :2])
    assert torch.equal(of.bonds, expected[:, 2:])


def test_features_are_those_of_a_loop_over_atoms() -> None:
    network, x = trained(), molecules()
    expected = torch.stack([by_hand(network, table) for table in x])
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x), expected)


def test_molecules_know_nothing_of_each_other_nor_of_padding() -> None:
    network, x = trained(), molecules()
    together = network(x)
    torch.testing.assert_close(torch.cat([network(table[None]) for table in x]), together)
    torch.testing.assert_close(network(x.flip(0)).flip(0), together)
    torch.testing.assert_close(network(x[:, :30]), together)
    torch.testing.assert_close(network(F.pad(x, (0, 0, 0, 50))), together)


def test_the_order_of_atoms_and_bonds_does_not_matter() -> None:
    network, x = trained(), molecules((9,))
    other, order = torch.zeros_like(x), torch.randperm(9)
    bonds = x[0, 9:][x[0, 9:, 0] == BOND].clone()
    place = order.argsort().to(torch.int16)
    bonds[:, 1:3] = place[bonds[:, [2, 1]].long()]
    other[0, :9], other[0, 9 : 9 + len(bonds)] = x[0, order], bonds[torch.randperm(len(bonds))]
    torch.testing.assert_close(network(other), network(x))
    other[0, 10, 1:3] = other[0, 9, 1:3]
    assert not torch.allclose(network(other), network(x)), "a bond between other atoms does"


def with_their_layers(network: Any, x: Tensor) -> Tensor:
    """What the network computes, by PyTorch Geometric's layers and ogb's encoders with the same weights."""
    from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
    from torch_geometric.nn import GINEConv, global_add_pool, global_mean_pool

    def encoder(cls: Any, of: Any) -> Any:
        made = cls(network.width).double()
        made.load_state_dict({key: of.of.state_dict()[".".join(key.split(".")[1:])] for key in made.state_dict()})
        return made

    of = graphs(x)
    edges, both = torch.stack([of.source, of.target]), of.bonds.repeat(2, 1)
    h, v = encoder(AtomEncoder, network.atoms)(of.atoms), network.virtual.expand(len(x), -1)
    for number, layer in enumerate(network.layers):
        h = h + v[of.molecule]
        convolution = GINEConv(layer.mlp, train_eps=True).double()
        with torch.no_grad():
            convolution.eps.copy_(layer.eps)
        following = convolution(h, edges, encoder(BondEncoder, layer.bonds)(both))
        if number < len(network.updates):
            v, following = network.updates[number](global_add_pool(h, of.molecule) + v), following.relu()
        h = following
    pooled: Tensor = global_mean_pool(h, of.molecule)
    return pooled


@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_network_of_ogb_and_wilds(training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with patches.reading():
        pytest.importorskip("ogb.graphproppred.mol_encoder", reason="extra `wilds` is not installed")
        layers = pytest.importorskip("torch_geometric.nn.conv.gin_conv", reason="extra `wilds` is not installed")
    monkeypatch.setattr(layers, "reset", lambda module: None)  # they initialise anew what they are given
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where each of them leaves a file
    network, x = trained(dropout=0.0).train(training), molecules()
    torch.testing.assert_close(network(x), with_their_layers(network, x))


def test_features_are_numbered_as_ogb_numbers_them() -> None:
    with patches.reading():
        theirs = pytest.importorskip("ogb.utils.features", reason="extra `wilds` is not installed")
    assert tuple(theirs.get_atom_feature_dims()) == ATOM_FEATURES
    assert tuple(theirs.get_bond_feature_dims()) == BOND_FEATURES


def network(**changes: Any) -> Network:
    return build_network((ROWS, COLUMNS), 7, setting(backbone="GIN", **changes))


def test_its_size_is_that_of_ogb() -> None:
    made = network()
    assert made.num_features == 300
    assert made(made.prepare(molecules())).shape == (4, 7)
    hidden, norms = 300 * 600 + 600 + 600 * 300 + 300, 2 * 600 + 2 * 300
    embeddings = 300 * (sum(ATOM_FEATURES) + 1 + 5 * sum(BOND_FEATURES))
    assert sum(p.numel() for p in made.featurizer.parameters()) == embeddings + 9 * (hidden + norms) + 5


def test_everything_learns_and_stages_are_layers() -> None:
    made, seen = network().train(), list[tuple[int, ...]]()
    with replace_stage_outputs(made, lambda i, x: seen.append((i, *x.shape))):
        made(molecules()).square().sum().backward()
    assert seen == [(i, sum(SIZES), 300) for i in range(5)]
    silent = [name for name, parameter in made.named_parameters() if parameter.grad is None]
    assert not silent


def test_what_reads_the_input_can_be_frozen() -> None:
    made = network()
    made.freeze("embedding")
    frozen = {name.rpartition(".of.")[0] for name, p in made.named_parameters() if not p.requires_grad}
    assert frozen == {"featurizer.atoms", *(f"featurizer.layers.{i}.bonds" for i in range(5))}
    made.freeze("featurizer")
    made.train()
    x = molecules()
    assert torch.equal(made.features(x), made.features(x)), "without dropout"
    assert [name for name, p in made.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("mode", ["frozen", "live"])
def test_batch_norm_is_live_or_frozen(mode: str) -> None:
    made = network(batch_norm=mode).train()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm1d)]
    made(molecules())
    assert len(norms) == 2 * (5 + 4)
    assert {int(norm.num_batches_tracked or 0) for norm in norms} == {int(mode == "live")}


def test_bf16_is_close_to_fp32() -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        made = network(precision=precision).eval()
        features = made.features(molecules())
        features.square().sum().backward()
        found[precision] = features.detach()
    exact, rough = found["fp32"], found["bf16"]
    assert rough.dtype == torch.float32
    error = ((rough - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.03, "and something was really computed in bf16"


def test_a_gradient_can_be_differentiated() -> None:
    made, x = trained(4, depth=2), molecules((3, 4), 12)
    parameters = [p for p in made.parameters() if p.requires_grad]

    def squared_gradient() -> Tensor:
        gradients = torch.autograd.grad(made(x).tanh().sum(), parameters, create_graph=True)
        return torch.stack([g.square().sum() for g in gradients]).sum()

    along = [torch.randn_like(p) for p in parameters]
    slopes = torch.autograd.grad(squared_gradient(), parameters)
    expected = sum(float((s * d).sum()) for s, d in zip(slopes, along, strict=True))
    values, step = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p.add_(d, alpha=sign * step)
        values.append(squared_gradient().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_an_empty_table_does_no_harm() -> None:
    made, nothing = trained(), torch.zeros(1, ROWS, COLUMNS, dtype=torch.int16)
    assert not made(nothing).any()
    x = molecules()
    torch.testing.assert_close(made(torch.cat([x, nothing]))[:-1], made(x))


def test_tables_of_something_else_are_refused() -> None:
    with pytest.raises(UserError, match="backbone 'GIN' reads tables of 10 columns, and these have 300"):
        build_network((2, 300), 3, setting(backbone="GIN"))
