"""iWildCam: animals in pictures of camera traps, as WILDS splits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds_images import WildsImages


class iWildCam(WildsImages):
    """Camera-trap photos of 182 classes, animals or none, in WILDS' split: training and test cameras differ.

    The classes are those of `categories.csv`. `val` and `test` are from other cameras than `train`, `id_val` and
    `id_test` from the same. The domains for algorithms are cameras, of which four are drawn for each step. The score is
    the macro-F1 over the classes that a part has.

    Files are read, split and scored by the wilds package. As in WILDS, images are squashed to 448 pixels and not
    augmented; it trains a ResNet-50.

    Reference:
        Beery, Cole and Gjoka, "The iWildCam 2020 Competition Dataset", 2020.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x6313da2b204647e79a14b468131fcd64/contents/blob/ (wilds)",
        licence="CDLA-Permissive-1.0",
        paper="Beery et al., The iWildCam 2020 Competition Dataset, arXiv:2004.10340",
        link="https://arxiv.org/abs/2004.10340",
        input_shape=(3, 448, 448),
        domains=("official",),
        classes=tuple(map(str, range(182))),
        counts={"official": 203_029},
        parts={"train": 129_809, "id_val": 7_314, "val": 14_961, "test": 42_791, "id_test": 8_154},
        domains_per_step=4,
        metric="F1-macro_all",
        folder="iwildcam_v2.0",
        note="steps show as many examples as WILDS' 12 epochs, at 32 of each domain",
        steps=12_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "iwildcam"
    files = ("metadata.csv", "categories.csv")
    grouped_by = ("location",)
    scored = ("F1-macro_all", "recall-macro_all", "acc_avg")

    @staticmethod
    def image_files(source: Any) -> Sequence[str]:
        """Return the paths of all rows' images, which lie in `train` whatever their part."""
        return [f"train/{name}" for name in source._input_array]
