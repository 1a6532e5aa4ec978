"""Py150: the next token of Python code, in other repositories than in training, as WILDS splits them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.data.dataset import NOT_ASKED
from dgbench.datasets import _wilds_patches as patches
from dgbench.datasets._wilds import Indices, WildsDataset

_TOKENS = 50001
"""Size of the vocabulary, and tokens of an input."""
_LENGTH = 255
_PARTS = ("train", "IDval", "OODval", "IDtest", "OODtest")
"""The parts by their names in files."""


class Py150(WildsDataset):
    """Python code whose next tokens are predicted, in WILDS' split: training and test repositories differ.

    An input is 255 tokens of CodeGPT, a label the 255 tokens that follow them; places that are not scored have no
    label. `val` and `test` are from other repositories than `train`, `id_val` and `id_test` from the same. The domains
    for algorithms are repositories, of which four are drawn for each step. The score is the accuracy on tokens that
    name classes and methods.

    Files are read, split and scored by the wilds package.

    Reference:
        Lu et al., "CodeXGLUE: A Machine Learning Benchmark Dataset for Code Understanding and Generation", NeurIPS
        Datasets and Benchmarks 2021.
        Raychev, Bielik and Vechev, "Probabilistic Model for Code with Decision Trees", OOPSLA 2016.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x442a0661a84649e69c0a946cc5f84237/contents/blob/ (wilds)",
        licence="MIT",
        paper="Lu et al., CodeXGLUE, 2021; Raychev et al., Probabilistic Model for Code with Decision Trees, 2016",
        link="https://arxiv.org/abs/2102.04664",
        input_kind="sequences",
        input_shape=(_LENGTH,),
        domains=("official",),
        counts={"official": 150_000},
        parts={"train": 79_866, "id_val": 5_000, "val": 5_160, "test": 39_974, "id_test": 20_000},
        domains_per_step=4,
        metric="acc",
        task="tokens",
        backbone="microsoft/CodeGPT-small-py",
        folder="py150_v1.0",
        traits=("sequences",),
        note="steps show as many examples as WILDS' 3 epochs, at 2 of each domain",
        steps=30_001,
        checkpoint_freq=5_000,
    )
    wilds_name = "py150"
    files = (
        *(f"processed/{part}_input.json" for part in _PARTS),
        *(f"processed/{part}_input_tok_type.json" for part in _PARTS),
        *(f"metadata/repo_file_names/{part}.txt" for part in _PARTS),
        "metadata/repo_file_names/repo_ids.csv",
    )
    grouped_by = ("repo",)
    scored = ("acc", "Acc (Overall)")

    def open(self) -> None:
        """Set the classes, which are the tokens' numbers; an image size is ignored."""
        super().open()
        self.input_shape = self.card.input_shape
        self.classes = tuple(map(str, range(_TOKENS)))

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let wilds read the files, without its import of transformers and without the network."""
        importlib.import_module("wilds")
        patches.mend_py150()
        return super().read(data_dir, scheme)

    def labels(self, source: Any) -> NDArray[np.int64]:
        """Return the following tokens (n, 255), `NOT_ASKED` at places that are not scored."""
        y = source.y_array.numpy()
        return np.where(np.isnan(y), NOT_ASKED, y).astype(np.int64)

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """Return the tokens (B, 255) of CodeGPT; code is never augmented."""
        found: NDArray[np.int64] = source._input_array[rows].numpy()
        return found
