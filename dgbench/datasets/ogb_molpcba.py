"""OGB-MolPCBA: molecules and the biological assays that they are active in, as the Open Graph Benchmark splits them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.datasets import _wilds_patches as patches
from dgbench.datasets._wilds import Indices, WildsDataset

_ROWS, _COLUMNS = 896, 10
"""Rows of a molecule's table, one an atom or bond, and columns: see `networks.graphs`."""
_RAW = ("edge", "node-feat", "edge-feat", "num-node-list", "num-edge-list", "graph-label")
"""Files of OGB that hold the molecules, without their ending."""


class OGBMolPCBA(WildsDataset):
    """Molecules, active or not in 128 biological assays, in OGB's split: training and test scaffolds differ.

    An input is a table of a molecule's atoms and bonds. A label is 1, 0, or NaN where an assay was not measured. The
    domains for algorithms are scaffolds, of which four are drawn for each step. Parts are split by scaffold too, so
    `val` is out-of-distribution and there is no `id_val`. The score is the average precision, mean over assays.

    Files are read by the ogb and wilds packages and scored by wilds. The default network and its learning rate are
    those of WILDS' ERM: a GIN with a virtual node, trained from scratch by 1e-3.

    Reference:
        Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta and Leskovec, "Open Graph Benchmark: Datasets for Machine Learning on
        Graphs", NeurIPS 2020.
        Wu et al., "MoleculeNet: A Benchmark for Molecular Machine Learning", Chemical Science, 2018.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/pcba.zip (OGB)",
        licence="MIT",
        paper="Hu et al., Open Graph Benchmark, arXiv:2005.00687; Wu et al., MoleculeNet, Chemical Science 2018",
        link="https://arxiv.org/abs/2005.00687",
        input_kind="graphs",
        input_shape=(_ROWS, _COLUMNS),
        domains=("official",),
        classes=tuple(f"assay {number}" for number in range(128)),
        counts={"official": 437_929},
        parts={"train": 350_343, "val": 43_793, "test": 43_793},
        domains_per_step=4,
        metric="ap",
        task="multilabel",
        folder="ogbg_molpcba",
        traits=("from_scratch",),
        note="steps show as many examples as WILDS' 100 epochs, at 32 of each domain",
        steps=270_001,
        checkpoint_freq=10_000,
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

    def open(self) -> None:
        """Refuse an image size: molecules have none."""
        if self.input_shape != self.card.input_shape:
            raise UserError("OGBMolPCBA has molecules, not images: leave out image_size")
        super().open()

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let OGB read the files; it leaves a faster form of them in the folder for the next time."""
        importlib.import_module("wilds")
        importlib.import_module("ogb")
        patches.mend_ogb()
        return importlib.import_module("wilds").get_dataset(cls.wilds_name, root_dir=data_dir)

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse also molecules too large for a table, and bonds that are not listed once in each direction."""
        super().check(source, scheme)
        problems, most, (slices, content) = Problems(), cls.card.input_shape[0], _content(source)
        ends = content.edge_index
        largest = int((slices["x"].diff() + slices["edge_index"].diff() // 2).max())
        if largest > most:
            problems.add(f"{cls.__name__}: a molecule has {largest} atoms and bonds, at most {most} are expected")
        if ends.shape[1] % 2 or not ends[:, ::2].equal(ends[:, 1::2].flip(0)):
            problems.add(f"{cls.__name__}: bonds are expected in pairs, each direction after the other")
        problems.raise_if_any()

    def labels(self, source: Any) -> NDArray[np.float32]:
        """Return (n, 128) float32: 1, 0, or NaN where an assay was not measured."""
        return np.asarray(source.y_array, np.float32)

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.int16]:
        """Return the molecules' tables, (B, rows, 10) int16."""
        from dgbench.networks.graphs import tables  # which needs torch

        slices, content = _content(source)
        # Each bond is listed twice in a row, once in each direction (`check`); the table has it once.
        atoms, atom_counts = _picked(slices["x"].numpy(), rows)
        bonds, bond_counts = _picked(slices["edge_index"].numpy() // 2, rows)
        once = np.hstack([content.edge_index.numpy().T[2 * bonds], content.edge_attr.numpy()[2 * bonds]])
        return tables(content.x.numpy()[atoms], atom_counts, once, bond_counts, self.input_shape[0])

    def scores(self, source: Any, predicted: NDArray[Any], rows: Indices) -> dict[str, float]:
        """Return WILDS' average precision; logits that are no numbers, of a network that has diverged, count as 0."""
        return super().scores(source, np.nan_to_num(predicted), rows)


def _content(source: Any) -> tuple[Any, Any]:
    """Return where each molecule begins, and the atoms and bonds of all molecules one after the other."""
    return source.ogb_dataset.slices, source.ogb_dataset._data


def _picked(starts: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """Return the positions of all items of some rows, row after row, and how many each row has."""
    counts = starts[rows + 1] - starts[rows]
    # Without a loop: counting up from 0, shifted for each row so that the count is at its start when the row begins.
    return np.arange(counts.sum()) + np.repeat(starts[rows] - np.cumsum(counts) + counts, counts), counts
