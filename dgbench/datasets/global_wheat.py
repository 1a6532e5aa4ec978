"""GlobalWheat: not supported, and why."""

from __future__ import annotations

from dgbench.core.cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.data.dataset import Dataset


class GlobalWheat(Dataset):
    """Wheat heads in photographs of fields on all continents (WILDS); the wilds package itself trains and scores it."""

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x36e16907b7254571b708b725f8beae52/contents/blob/ (wilds)",
        licence="MIT",
        paper="David et al., Global Wheat Head Detection 2021, arXiv:2105.07660",
        input_shape=(3, 1024, 1024),
        domains=("official",),
        counts={"official": 6_515},
        parts={"train": 2_943, "id_val": 357, "val": 1_424, "test": 1_434, "id_test": 357},
        metric="detection_acc_avg_dom",
        unsupported="its task is to find wheat heads by boxes (detection), and networks here give one answer an image",
        folder="globalwheat_v1.1",
    )

    def open(self) -> None:
        """Refuse, with the reason."""
        raise UserError(f"GlobalWheat is not supported: {self.card.unsupported}")
