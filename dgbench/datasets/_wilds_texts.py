"""What the WILDS data sets of texts have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.datasets._texts import BAG, bag_of_words, check_tokenizer, tokens
from dgbench.datasets._wilds import Indices, WildsDataset


class WildsTexts(WildsDataset):
    """Base of those whose inputs are texts; the card's input shape is (2, most tokens)."""

    def open(self) -> None:
        """Decide by the backbone what an input is; texts have no image size."""
        super().open()
        self.input_shape = self.card.input_shape
        if self.backbone == "MLP":
            self.input_shape, self.input_kind = (BAG,), "vectors"

    def equip(self) -> None:
        """Have the tokenizer here."""
        if self.backbone != "MLP":
            check_tokenizer(self.model)

    @property
    def model(self) -> str:
        """The language model whose tokens the inputs are."""
        return self.card.backbone if self.backbone == "auto" else self.backbone

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """Bags of words (B, n), float32, or tokens and their mask (B, 2, length), int64; never augmented."""
        texts = [str(source.get_input(row)) for row in rows.tolist()]
        if self.backbone == "MLP":
            return bag_of_words(texts)
        return tokens(texts, self.model, self.card.input_shape[1])
