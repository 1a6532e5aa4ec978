"""GlobalWheat: a card for a data set of WILDS that dgbench doesn't support, with the reason."""

from __future__ import annotations

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.data.dataset import Dataset


class GlobalWheat(Dataset):
    """Photos of wheat fields with boxes around wheat heads, in WILDS' split; not supported, as the task is detection.

    The fields are on all continents. It is listed so that a search for it finds the reason: its task is to find wheat
    heads by boxes, and dgbench's networks give one answer an image. The wilds package itself trains and scores it.

    Reference:
        David et al., "Global Wheat Head Detection 2021", Plant Phenomics 2021.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x36e16907b7254571b708b725f8beae52/contents/blob/ (wilds)",
        licence="MIT",
        paper="David et al., Global Wheat Head Detection 2021, arXiv:2105.07660",
        link="https://arxiv.org/abs/2105.07660",
        input_shape=(3, 1024, 1024),
        domains=("official",),
        counts={"official": 6_515},
        parts={"train": 2_943, "id_val": 357, "val": 1_424, "test": 1_434, "id_test": 357},
        metric="detection_acc_avg_dom",
        unsupported="its task is to find wheat heads by boxes (detection), and networks here give one answer an image",
        folder="globalwheat_v1.1",
    )

    def open(self) -> None:
        """Raise UserError with the reason."""
        raise UserError(f"GlobalWheat is not supported: {self.card.unsupported}")
