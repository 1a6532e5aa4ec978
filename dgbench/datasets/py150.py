"""Py150: the next token of Python code, in other repositories than in training, as WILDS splits it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import DatasetCard
from dgbench.data.dataset import NOT_ASKED
from dgbench.datasets import _wilds_patches as patches
from dgbench.datasets._wilds import Indices, WildsDataset

_TOKENS = 50001
_LENGTH = 255
_PARTS = ("train", "IDval", "OODval", "IDtest", "OODtest")


class Py150(WildsDataset):
    """Each next token of Python code; trained and tested on other repositories (WILDS).

    Reported is the accuracy on the tokens that name classes and methods; the domains for algorithms are repositories.
    An input is 255 tokens of CodeGPT, a label the 255 tokens that follow, where something is asked.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x442a0661a84649e69c0a946cc5f84237/contents/blob/ (wilds)",
        licence="MIT",
        paper="Lu et al., CodeXGLUE, 2021; Raychev et al., Probabilistic Model for Code with Decision Trees, 2016",
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
        """The classes are the tokens' numbers."""
        super().open()
        self.input_shape = self.card.input_shape
        self.classes = tuple(map(str, range(_TOKENS)))

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let wilds read the files without asking the network for a vocabulary."""
        importlib.import_module("wilds")
        patches.mend_py150()
        return super().read(data_dir, scheme)

    def labels(self, source: Any) -> NDArray[np.int64]:
        """(n, 255)"""
        y = source.y_array.numpy()
        return np.where(np.isnan(y), NOT_ASKED, y).astype(np.int64)

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """(B, 255)"""
        found: NDArray[np.int64] = source._input_array[rows].numpy()
        return found
