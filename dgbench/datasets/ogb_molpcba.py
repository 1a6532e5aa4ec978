"""OGB-MolPCBA: which of 128 biological assays a molecule is active in, as the Open Graph Benchmark splits it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.cards import DatasetCard
from dgbench.datasets import _wilds_patches as patches
from dgbench.datasets._wilds import Indices, WildsDataset
from dgbench.errors import UserError

_ROWS, _COLUMNS = 1_280, 10
ATOM, BOND = 1, 2
_RAW = ("edge", "node-feat", "edge-feat", "num-node-list", "num-edge-list", "graph-label")


class OGBMolPCBA(WildsDataset):
    """Which of 128 assays a molecule is active in; trained and tested on other scaffolds (WILDS, OGB).

    Reported is the average precision, mean over assays; the domains for algorithms are scaffolds. An input is a table
    of integers: a row (1, nine features) for each atom, then (2, from, to, three features) for each bond and
    direction, then zeros. A label is 1, 0, or NaN where nobody measured.
    """

    card = DatasetCard(
        source="https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/pcba.zip (OGB)",
        licence="MIT",
        paper="Hu et al., Open Graph Benchmark, arXiv:2005.00687; Wu et al., MoleculeNet, Chemical Science 2018",
        input_shape=(_ROWS, _COLUMNS),
        domains=("official",),
        classes=tuple(f"assay {number}" for number in range(128)),
        counts={"official": 437_929},
        parts={"train": 350_343, "val": 43_793, "test": 43_793},
        domains_per_step=4,
        metric="ap",
        task="multilabel",
        unsupported="there is no network for graphs here; it can be loaded and scored from Python",
        folder="ogbg_molpcba",
    )
    wilds_name = "ogb-molpcba"
    files = (
        *(f"raw/{name}.csv.gz" for name in _RAW),
        "raw/scaffold_group.npy",
        *(f"split/scaffold/{part}.csv.gz" for part in ("train", "valid", "test")),
    )
    release = "RELEASE_v1.txt"
    grouped_by = ("scaffold",)
    scored = ("ap",)

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let OGB read the files, which it leaves in another form beside them for the next time."""
        importlib.import_module("wilds")
        importlib.import_module("ogb")
        patches.mend_ogb()
        return importlib.import_module("wilds").get_dataset(cls.wilds_name, root_dir=data_dir)

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse also molecules that are too large for the table."""
        super().check(source, scheme)
        slices = source.ogb_dataset.slices
        largest = int((slices["x"].diff() + slices["edge_index"].diff()).max())
        if largest > _ROWS:
            raise UserError(f"OGBMolPCBA: a molecule has {largest} atoms and bonds, at most {_ROWS} are expected")

    def labels(self, source: Any) -> NDArray[np.float32]:
        """(n, 128)"""
        return np.asarray(source.y_array, np.float32)

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """(B, rows, 10)"""
        found = np.zeros((len(rows), _ROWS, _COLUMNS), np.int64)
        for place, row in enumerate(rows.tolist()):
            graph = source.get_input(row)
            atoms, bonds = graph.x.numpy(), graph.edge_index.numpy().T
            end = len(atoms) + len(bonds)
            found[place, : len(atoms), 0], found[place, : len(atoms), 1:] = ATOM, atoms
            found[place, len(atoms) : end, 0], found[place, len(atoms) : end, 1:3] = BOND, bonds
            found[place, len(atoms) : end, 3:6] = graph.edge_attr.numpy()
        return found
