"""Base of the WILDS data sets of texts: tokens for a language model, or bags of words for an MLP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dgbench.datasets._texts import BAG, PackedTexts, bag_of_words, check_tokenizer, tokens
from dgbench.datasets._wilds import Indices, WildsDataset


class WildsTexts(WildsDataset):
    """Base of the data sets whose inputs are texts; the card's input shape is (2, most tokens)."""

    held: ClassVar[str]
    """Attribute of what wilds reads that is the list of texts."""

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let wilds read the files, and pack the texts, so that runs share them."""
        source = super().read(data_dir, scheme)
        setattr(source, cls.held, PackedTexts(getattr(source, cls.held)))
        return source

    def open(self) -> None:
        """Choose the form of inputs by the backbone; an image size is ignored, as texts have none."""
        super().open()
        self.input_shape = self.card.input_shape
        if self.backbone == "MLP":
            self.input_shape, self.input_kind = (BAG,), "vectors"

    def ensure_vocabulary(self) -> None:
        """Load the tokenizer, downloading it if needed."""
        if self.backbone != "MLP":
            check_tokenizer(self.model)

    @property
    def model(self) -> str:
        """The language model whose tokens the inputs are."""
        return self.card.backbone if self.backbone == "auto" else self.backbone

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """Return bags of words (B, n) float32, or tokens and mask (B, 2, length) int64; texts are never augmented."""
        texts = [str(source.get_input(row)) for row in rows.tolist()]
        if self.backbone == "MLP":
            return bag_of_words(texts)
        return tokens(texts, self.model, self.card.input_shape[1])
