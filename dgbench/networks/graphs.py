"""Represent molecules as tables of integers, which data sets return, and define the graph network that reads them.

A molecule is an int16 table with `COLUMNS` columns: a row (ATOM, nine features) for each atom, then a row (BOND, atom,
atom, three features) for each bond, padded with zeros, then rows of zeros. Features are numbers of categories, as in
the Open Graph Benchmark. All tables of a data set have the same number of rows, so that minibatches can be joined like
any others; the network packs the atoms of a minibatch on the device, and computes nothing for padding.

PyTorch Geometric and ogb have such networks. Tests compare with theirs, but they are not used: every process that makes
a `MessagePassing` leaves a file in the temporary folder, and `import ogb` connects to the network to look for a newer
version.
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
"""First column of a row: atom or bond; 0 is padding."""
ATOM_FEATURES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Categories of each feature of an atom: element, chirality, degree, charge, hydrogens, radical electrons,
hybridization; aromatic, in a ring."""
BOND_FEATURES = (5, 6, 2)
"""Categories of each feature of a bond: kind, stereochemistry; conjugated."""
COLUMNS = 1 + len(ATOM_FEATURES)
"""Columns of a table."""
_FIRST, _SECOND, _FEATURES = 1, 2, slice(3, 3 + len(BOND_FEATURES))
"""Columns of a bond: its two atoms, and its features."""


def tables(
    atoms: NDArray[np.int64],
    atom_counts: NDArray[np.int64],
    bonds: NDArray[np.int64],
    bond_counts: NDArray[np.int64],
    rows: int,
) -> NDArray[np.int16]:
    """Return the tables of B molecules, (B, rows, COLUMNS) int16.

    Args:
        atoms: (n, 9), features of the atoms of all molecules, one molecule after another.
        atom_counts: (B,), atoms of each molecule.
        bonds: (m, 5), each bond once: its two atoms, counted from 0 in each molecule, and its features.
        bond_counts: (B,), bonds of each molecule.
        rows: Rows of a table: at least the atoms plus the bonds of any molecule.
    """
    found = np.zeros((len(atom_counts), rows, COLUMNS), np.int16)
    for what, values, counts, before in (
        (ATOM, atoms, atom_counts, 0 * atom_counts),
        (BOND, bonds, bond_counts, atom_counts),
    ):
        molecule = np.repeat(np.arange(len(counts)), counts)
        # Row in its own table: place among the values, less the values of earlier molecules, after the atoms for bonds.
        row = np.arange(len(values)) + np.repeat(before - np.cumsum(counts) + counts, counts)
        found[molecule, row, 0] = what
        found[molecule, row, 1 : 1 + values.shape[1]] = values
    return found


class Graphs(NamedTuple):
    """A minibatch of B molecules as one graph of n atoms, whose m bonds go both ways; `graphs` makes it."""

    atoms: Tensor
    """(n, 9), features of the atoms."""
    molecule: Tensor
    """(n,), molecule of each atom."""
    sizes: Tensor
    """(B,), atoms of each molecule."""
    bonds: Tensor
    """(m, 3), features of the bonds, alike in both directions."""
    source: Tensor
    """(2m,), the atom that a bond comes from: all bonds in one direction, then all in the other."""
    target: Tensor
    """(2m,), the atom that a bond goes to."""


def graphs(x: Tensor) -> Graphs:
    """Join tables (B, rows, COLUMNS) to one graph, whose size is read from the device, so that the caller waits."""
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
    """Build the graph network, and return its number of features too; raise `UserError` for tables of other columns."""
    if input_shape[1] != COLUMNS:
        raise UserError(f"backbone 'GIN' reads tables of {COLUMNS} columns, and these have {input_shape[1]}")
    network = GIN()
    return network, network.width


class GIN(nn.Module):
    """Graph isomorphism network with a virtual node, as OGB and WILDS train it on molecules: tables to (B, 300).

    h_0 is the sum of an atom's embeddings, and v_0 is learned. In each of five layers l, with h'_l = h_l + v_l,

        h_(l+1) = relu(MLP((1 + eps) h'_l + sum over bonds of relu(h'_l of the neighbor + the bond's embeddings)))
        v_(l+1) = MLP(v_l + sum over atoms of h'_l)

    without relu in the last. Features are the mean of h_5 over atoms. Each MLP has a hidden layer twice as wide, and
    batch norm after both of its linear layers; dropout follows each layer.

    References:
        Xu et al., "How Powerful are Graph Neural Networks?", ICLR 2019; Hu et al., "Strategies for Pre-training Graph
        Neural Networks", ICLR 2020 (bonds); Hu et al., "Open Graph Benchmark", NeurIPS 2020 (the virtual node).

    Args:
        width: Features of an atom, and of a molecule.
        depth: Number of layers.
        dropout: Probability.
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
        """Its stages, in the form that timm's networks list theirs."""

    @property
    def embedder(self) -> nn.Module:
        """Return the layer that gives each atom its vector."""
        return self.atoms

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width) for tables (B, rows, COLUMNS)."""
        of = graphs(x)
        h, v = self.atoms(of.atoms), self.virtual.expand(len(x), -1)
        for layer, update in zip(self.layers, self.updates, strict=False):
            h = h + v.index_select(0, of.molecule)
            v = update(v + _sums(h, of.molecule, len(x)))
            h = self.dropout(layer(h, of).relu())
        h = self.dropout(self.layers[-1](h + v.index_select(0, of.molecule), of))
        return _sums(h, of.molecule, len(x)) / of.sizes.clamp(min=1)[:, None]


class Layer(nn.Module):
    """One round of messages from neighbors, through an MLP: (n, width) to (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bonds = Embeddings(BOND_FEATURES, width)
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = _mlp(width)

    def forward(self, h: Tensor, of: Graphs) -> Tensor:
        """Return the new (n, width) of atoms h (n, width) in the graph `of`."""
        heard = (h.index_select(0, of.source) + self.bonds(of.bonds).repeat(2, 1)).relu()
        return self.mlp((1 + self.eps) * h + _sums(heard, of.target, len(h)))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """The sum of one learned vector for each feature: (n, features), int64, to (n, width)."""

    def __init__(self, categories: Sequence[int], width: int) -> None:
        super().__init__()
        self.of = nn.ModuleList(nn.Embedding(count, width) for count in categories)
        # As OGB's encoders are initialized.
        for table in self.of:
            nn.init.xavier_uniform_(table.weight)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, width) for (n, features)."""
        found: Tensor = reduce(torch.add, (table(one) for table, one in zip(self.of, features.unbind(1), strict=True)))
        return found


def _mlp(width: int) -> nn.Sequential:
    """Build a linear layer to twice the width and one back, each with batch norm, ReLU between."""
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width),
        nn.BatchNorm1d(width),
    )


def _sums(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return (count, C): the sums of the rows of `values` (n, C) by their number in `groups` (n,), int64."""
    # `index_add` and `index_select` are each other's derivatives, so methods may differentiate twice.
    return values.new_zeros(count, values.shape[1]).index_add(0, groups, values)
