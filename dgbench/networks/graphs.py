"""Molecules as graphs: tables of integers, which data sets give, and the graph network that reads them.

A molecule is a table of int16 with `COLUMNS` columns: a row (ATOM, nine features) for each atom, then a row (BOND,
atom, atom, three features) for each bond, filled up by zeros, then rows of zeros. Features are numbers of categories,
as the Open Graph Benchmark has them. All tables of a data set have as many rows, so that minibatches can be joined like
any others; the network packs the atoms of a minibatch on the device, and computes on no zeros.

PyTorch Geometric and ogb have such networks. They are what the tests compare with, not what is used: each process that
makes a `MessagePassing` leaves a file in the temporary folder, and `import ogb` asks the network for a newer version.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dgbench.core.errors import UserError

ATOM, BOND = 1, 2
ATOM_FEATURES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""How many of element, chirality, degree, charge, hydrogens, radical electrons, hybridisation; aromatic, in a ring."""
BOND_FEATURES = (5, 6, 2)
"""How many of kind, stereochemistry; conjugated."""
COLUMNS = 1 + len(ATOM_FEATURES)
_FIRST, _SECOND, _FEATURES = 1, 2, slice(3, 3 + len(BOND_FEATURES))
"""Columns of a bond."""


def tables(
    atoms: NDArray[np.int64],
    atom_counts: NDArray[np.int64],
    bonds: NDArray[np.int64],
    bond_counts: NDArray[np.int64],
    rows: int,
) -> NDArray[np.int16]:
    """(B, rows, COLUMNS): B molecules' tables, none of which has more atoms and bonds than rows.

    `atoms` (n, 9) of all molecules one after another, `atom_counts` (B,) of each; `bonds` (m, 5), each told once: its
    two atoms, counted from 0 in each molecule, then its features; `bond_counts` (B,).
    """
    found = np.zeros((len(atom_counts), rows, COLUMNS), np.int16)
    for what, values, counts, before in (
        (ATOM, atoms, atom_counts, 0 * atom_counts),
        (BOND, bonds, bond_counts, atom_counts),
    ):
        molecule = np.repeat(np.arange(len(counts)), counts)
        row = np.arange(len(values)) + np.repeat(before - np.cumsum(counts) + counts, counts)
        found[molecule, row, 0] = what
        found[molecule, row, 1 : 1 + values.shape[1]] = values
    return found


class Graphs(NamedTuple):
    """A minibatch of B molecules as one graph of n atoms; each of the m bonds goes both ways."""

    atoms: Tensor
    """(n, 9), their features."""
    molecule: Tensor
    """(n,), which molecule an atom is of."""
    sizes: Tensor
    """(B,), how many atoms a molecule has."""
    bonds: Tensor
    """(m, 3), their features; both ways are alike."""
    source: Tensor
    """(2m,), the atom that a bond comes from: all of them one way, then all the other."""
    target: Tensor
    """(2m,), the atom that it goes to."""


def graphs(x: Tensor) -> Graphs:
    """One graph of tables (B, rows, COLUMNS); how large it is, the device has to tell, which makes the caller wait."""
    kinds, rows = x[..., 0], x.flatten(0, 1)
    is_atom = kinds == ATOM
    atoms, bonds = is_atom.flatten().nonzero().squeeze(1), (kinds == BOND).flatten().nonzero().squeeze(1)
    sizes = is_atom.sum(1)
    first = sizes.cumsum(0) - sizes
    found = rows[bonds].long()
    ends = found[:, [_FIRST, _SECOND]] + first[bonds // x.shape[1], None]
    return Graphs(
        atoms=rows[atoms, 1:].long(),
        molecule=atoms // x.shape[1],
        sizes=sizes,
        bonds=found[:, _FEATURES],
        source=torch.cat([ends[:, 0], ends[:, 1]]),
        target=torch.cat([ends[:, 1], ends[:, 0]]),
    )


def gin(input_shape: Sequence[int]) -> tuple[nn.Module, int]:
    """The graph network for tables of that shape, and its number of features; raises `UserError` for other columns."""
    if input_shape[1] != COLUMNS:
        raise UserError(f"backbone 'GIN' reads tables of {COLUMNS} columns, and these have {input_shape[1]}")
    network = GIN()
    return network, network.width


class GIN(nn.Module):
    """Graph isomorphism network with a virtual node, as OGB and WILDS train it on molecules; (B, 300) of tables.

    h_0 = the sum of an atom's embeddings, v_0 learnt; then, in each of five layers l, with h'_l = h_l + v_l,
    h_(l+1) = relu(MLP((1 + eps) h'_l + sum over bonds of relu(h'_l of the neighbour + the bond's embeddings))), without
    relu in the last, and v_(l+1) = MLP(v_l + sum over atoms of h'_l). Features are the mean of h_5 over atoms. Each MLP
    has a hidden layer twice as wide, and batch norm after both of its linear layers; dropout follows each layer.

    Xu et al., "How Powerful are Graph Neural Networks?", ICLR 2019; Hu et al., "Strategies for Pre-training Graph
    Neural Networks", ICLR 2020 (bonds); Hu et al., "Open Graph Benchmark", NeurIPS 2020 (the virtual node).
    """

    def __init__(self, width: int = 300, depth: int = 5, dropout: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.atoms = Embeddings(ATOM_FEATURES, width)
        self.virtual = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.updates = nn.ModuleList(
            nn.Sequential(_mlp(width), nn.ReLU(), nn.Dropout(dropout)) for _ in range(depth - 1)
        )
        self.dropout = nn.Dropout(dropout)
        self.feature_info = [{"module": f"layers.{i}"} for i in range(depth)]
        """Its stages, as timm's networks tell theirs."""

    @property
    def embedder(self) -> nn.Module:
        """The layer that gives each atom its vector."""
        return self.atoms

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        of = graphs(x)
        h, v = self.atoms(of.atoms), self.virtual.expand(len(x), -1)
        for layer, update in zip(self.layers, self.updates, strict=False):
            h = h + v.index_select(0, of.molecule)
            v = update(v + _sums(h, of.molecule, len(x)))
            h = self.dropout(layer(h, of).relu())
        h = self.dropout(self.layers[-1](h + v.index_select(0, of.molecule), of))
        return _sums(h, of.molecule, len(x)) / of.sizes.clamp(min=1)[:, None]


class Layer(nn.Module):
    """What atoms hear from their neighbours, through an MLP: (n, width) to (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bonds = Embeddings(BOND_FEATURES, width)
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = _mlp(width)

    def forward(self, h: Tensor, of: Graphs) -> Tensor:
        """See the class."""
        heard = (h.index_select(0, of.source) + self.bonds(of.bonds).repeat(2, 1)).relu()
        return self.mlp((1 + self.eps) * h + _sums(heard, of.target, len(h)))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """The sum of a vector for each feature: (n, features), int64, to (n, width)."""

    def __init__(self, categories: Sequence[int], width: int) -> None:
        super().__init__()
        self.of = nn.ModuleList(nn.Embedding(count, width) for count in categories)
        for table in self.of:
            nn.init.xavier_uniform_(table.weight)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = reduce(torch.add, (table(one) for table, one in zip(self.of, features.unbind(1), strict=True)))
        return found


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width),
        nn.BatchNorm1d(width),
    )


def _sums(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """(count, C): the sum of the rows of `values` (n, C) whose number in `groups` (n,) is 0, 1, ...

    `index_add` and `index_select` are each other's derivatives, so methods may differentiate twice.
    """
    return values.new_zeros(count, values.shape[1]).index_add(0, groups, values)
