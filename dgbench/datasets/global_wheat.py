"""GlobalWheat: not supported, and why."""

from __future__ import annotations

from dgbench.cards import DatasetCard
from dgbench.dataset import Dataset
from dgbench.errors import UserError

_WHY = "its task is to find wheat heads by boxes (detection), and dgbench's networks give one answer an image"


class GlobalWheat(Dataset):
    """Not supported: its task is to find wheat heads by boxes (detection), and networks here give one answer an image.

    Listed since it is part of WILDS; the wilds package itself trains and scores it.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x36e16907b7254571b708b725f8beae52/contents/blob/ (wilds)",
        licence="MIT",
        paper="David et al., Global Wheat Head Detection 2021, arXiv:2105.07660",
        input_shape=(3, 1024, 1024),
        domains=("official",),
        folder="globalwheat_v1.1",
    )

    def open(self) -> None:
        """Refuse, with the reason."""
        raise UserError(f"GlobalWheat is not supported: {_WHY}")
