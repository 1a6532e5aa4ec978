"""PovertyMap: the wealth of African villages in satellite images, as WILDS splits them, in five folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.datasets._wilds import HOST, Indices, WildsDataset, read_errors


class PovertyMap(WildsDataset):
    """Satellite images of villages with a wealth index, in WILDS' five folds: training and test countries differ.

    The card's domains `A` to `E` are the folds; the domains for algorithms are countries, of which four are drawn for
    each step. The task is regression. The score is the lower of the correlations within urban and within rural
    villages, mean over folds. Images have seven channels of Landsat and one of lights at night, already normalized.

    Files are read, split and scored by the wilds package.

    Departures from WILDS: training images are mirrored both ways, but its color jitter and cutout are left out; the
    correlation of predictions that don't vary, or are no numbers, counts as 0.

    Reference:
        Yeh, Perez, Driscoll, Azzari, Tang, Lobell, Ermon and Burke, "Using Publicly Available Satellite Imagery and
        Deep Learning to Understand Economic Well-Being in Africa", Nature Communications, 2020.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0xfc0aa86ad9af4eb08c42dfc40eacf094/contents/blob/ (wilds)",
        licence="images US public domain; surveys by the DHS programme's terms",
        paper="Yeh et al., Using Publicly Available Satellite Imagery and Deep Learning to Understand Economic "
        "Well-Being in Africa, Nature Communications 2020",
        link="https://www.nature.com/articles/s41467-020-16185-w",
        input_shape=(8, 224, 224),
        domains=("A", "B", "C", "D", "E"),
        classes=("wealth index",),
        counts=dict.fromkeys("ABCDE", 19_669),
        parts={"train": 9_797, "id_val": 1_000, "val": 3_909, "test": 3_963, "id_test": 1_000},
        domains_per_step=4,
        metric="r_wg",
        task="regression",
        backbone="resnet18.tv_in1k",
        folder="poverty_v1.1",
        note="steps show as many examples as WILDS' 200 epochs, at 32 of each domain",
        steps=15_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "poverty"
    files = ("dhs_metadata.csv",)
    grouped_by = ("country",)
    scored = ("r_wg", "r_all", "mse_avg")

    def open(self) -> None:
        """Refuse another image size: arrays of eight channels are not resized."""
        if self.input_shape != self.card.input_shape:
            raise UserError("PovertyMap has images of 224 x 224 pixels and no other size")
        super().open()

    @classmethod
    def options(cls, scheme: str) -> dict[str, str]:
        """Return the fold, as wilds takes it."""
        return {"fold": scheme}

    def labels(self, source: Any) -> NDArray[np.float32]:
        """Return the wealth index (n,) float32, about -2 to 3."""
        index: NDArray[np.float32] = source.y_array.numpy()[:, 0]
        return index

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[np.float32]:
        """Return the images (B, 8, H, W) float32, mirrored at random with `rng`."""
        found = np.empty((len(rows), *self.input_shape), np.float32)
        for place, row in enumerate(rows.tolist()):
            try:
                found[place] = source.get_input(row)
            except Exception as error:  # numpy raises OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error
                advice = f"get it anew from {HOST}, or use --skip_bad_images"
                raise UserError(f"PovertyMap: image {row} can't be read ({error}): {advice}") from error
            if rng is not None:
                right, down = (slice(None, None, -1 if mirrored else 1) for mirrored in rng.random(2) < 0.5)
                found[place] = found[place][:, down, right].copy()
        return found

    def input_errors(self, source: Any, rows: Indices) -> Sequence[str]:
        """Read the arrays of those rows, and return why it failed for each."""
        return read_errors(lambda row: self.inputs(source, np.array([row]), None), rows.tolist())

    def scores(self, source: Any, predicted: NDArray[Any], rows: Indices) -> dict[str, float]:
        """Return WILDS' correlations and mean squared error; a correlation that is not defined counts as 0."""
        if not np.isfinite(predicted).all() or np.ptp(predicted) == 0:
            error = float(np.mean((predicted - self.labels(source)[rows]) ** 2))
            return {"r_wg": 0.0, "r_all": 0.0, "mse_avg": error}
        return super().scores(source, predicted[:, None], rows)
