"""RxRx1: genetic treatments of cells in fluorescence microscopy, as WILDS splits the experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds_images import WildsImages


class RxRx1(WildsImages):
    """Microscope images of cells under 1,139 genetic treatments, in WILDS' split: training and test experiments differ.

    `val` and `test` are other experiments, `id_test` the same ones as `train`; there is no `id_val`. The domains for
    algorithms are experiments, of which four are drawn for each step. The score is accuracy. Images are 256 x 256
    pixels.

    Files are read, split and scored by the wilds package. As in WILDS, each channel of each image gets mean 0 and
    deviation 1, and training images are turned by multiples of 90 degrees and mirrored.

    Reference:
        Taylor, Earnshaw, Mabey, Victors and Yosinski, "RxRx1: An Image Set for Cellular Morphological Variation Across
        Many Experimental Batches", ICLR 2019 workshop AI for Social Good.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x6b7a05a3056a434498f0bb1252eb8440/contents/blob/ (wilds)",
        licence="CC BY-NC-SA 4.0",
        paper="Taylor et al., RxRx1: An Image Set for Cellular Morphological Variation, ICLR AI for Social Good 2019",
        link="https://aiforsocialgood.github.io/iclr2019/accepted/track1/pdfs/30_aisg_iclr2019.pdf",
        input_shape=(3, 256, 256),
        domains=("official",),
        classes=tuple(map(str, range(1139))),
        counts={"official": 125_510},
        parts={"train": 40_612, "val": 9_854, "test": 34_432, "id_test": 40_612},
        domains_per_step=4,
        metric="acc_avg",
        normalised=True,
        folder="rxrx1_v1.0",
        note="steps show as many examples as WILDS' 90 epochs, at 32 of each domain",
        steps=28_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "rxrx1"
    files = ("metadata.csv",)
    grouped_by = ("experiment",)
    scored = ("acc_avg",)
    side = 256

    @staticmethod
    def image_files(source: Any) -> Sequence[str]:
        """Return the paths of all rows' images, as wilds has them."""
        files: Sequence[str] = source._input_array
        return files

    def prepared(self, images: NDArray[np.uint8], rng: np.random.Generator | None) -> NDArray[np.float32]:
        """Standardize each channel of each image, and with `rng` turn and mirror it: (B, 3, H, W) float32."""
        inputs = images.astype(np.float32)
        mean = inputs.mean((2, 3), keepdims=True)
        spread = inputs.std((2, 3), keepdims=True)
        inputs -= mean
        inputs /= np.where(spread == 0, 1, spread)
        if rng is not None:
            turns, mirrored = rng.integers(4, size=len(inputs)).tolist(), rng.random(len(inputs)) < 0.5
            for place in range(len(inputs)):
                turned = np.rot90(inputs[place], turns[place], (1, 2))
                inputs[place] = (turned[:, :, ::-1] if mirrored[place] else turned).copy()
        return inputs
