"""Glyphs: ten classes of pictographs, the same ones drawn by several designers; anyone can fetch it in seconds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.datasets._glyphs_items import CLASSES, Item, group_numbers, items_of
from dgbench.datasets._packed import Packed, write_packed

_COUNTS = dict(zip(CLASSES, (62, 53, 60, 70, 53, 31, 40, 70, 70, 70), strict=True))
_TOTAL = sum(_COUNTS.values())
_SIZES = (64, 128)
_RECIPE = 1
"""Raised whenever drawing changes."""

_DESIGNS = {
    "noto": "shaded, by Google: Apache-2.0",
    "twemoji": "flat, by Twitter and other contributors: CC BY 4.0",
    "flu_3d": "rendered in 3-D, by Microsoft: MIT",
    "om_black": "line art, by the OpenMoji project: CC BY-SA 4.0",
    "om_color": "outlined and coloured, by the OpenMoji project: CC BY-SA 4.0",
    "flu_hc": "thick black ink, by Microsoft: MIT",
}
_FOUR = ("noto", "twemoji", "flu_3d", "om_black")


def _licence(domains: Sequence[str]) -> str:
    terms = "; ".join(f"{domain}: {_DESIGNS[domain]}" for domain in domains)
    return (
        f"{terms}. You fetch the images from their publishers; who passes them on must name the authors and the terms"
    )


class Glyphs(Dataset):
    """The same 579 pictographs in four designers' styles, drawn on white; there is no domain of photographs.

    Parts are split by identity, alike in every domain: of what is shown, with variants drawn much alike as one (cat,
    cat face, black cat), there are 543. Images of 64 x 64 pixels, or 128 with `image_size`; those of 64 are the means
    of 2 x 2 pixels.
    """

    card = DatasetCard(
        source="npm packages of Noto, Twemoji, Fluent and OpenMoji, at pinned versions; fetched by `download`",
        licence=_licence(_FOUR),
        input_shape=(3, 64, 64),
        domains=_FOUR,
        classes=CLASSES,
        counts=dict.fromkeys(_FOUR, _TOTAL),
        folder="Glyphs",
        note="drawn styles on white, no photographs. Line art (om_black) is by far the hardest, coloured styles are "
        "alike: with frozen ImageNet features, 8, 6, 7 and 36 points of accuracy are lost against a model that was "
        "shown the tested style. Some identities are near duplicates, mostly faces",
        traits=("few_examples", "small_images"),
        shared_identities=True,
        steps=901,
        checkpoint_freq=100,
    )

    def open(self) -> None:
        """Check the file's items and where they came from; no image is read."""
        name = type(self).__name__
        if self.input_shape[1] not in _SIZES:
            raise UserError(f"{name} has images of 64 or 128 pixels and no other size, not {self.input_shape[1]}")
        self.file = Packed(name, self.data_dir, self.card.folder)
        self.items = tuple(Item(*line.split("\t")) for line in self.file.read("items").tolist())
        self.file.check(made_from(self.domains, self.items))
        self._pixels: dict[str, NDArray[np.uint8]] = {}

    def preload(self) -> None:
        """Read the images."""
        for domain in self.domains:
            self.examples(domain, 0)

    def examples(self, domain: str, seed: int) -> Examples:
        """The items as the style draws them, in the same order in every domain; nothing is drawn by lot."""
        if domain not in self._pixels:
            self._pixels[domain] = self.file.read(f"{domain}_{self.input_shape[1]}")
        labels = [self.classes.index(item.of_class) for item in self.items]
        return ArrayExamples(self._pixels[domain], np.array(labels), np.array(group_numbers(self.items)))

    def counts(self) -> Sequence[int]:
        """The number of items, in each domain."""
        return [len(self.items)] * len(self.domains)

    def fingerprint(self) -> str:
        """A hash of what the images are drawn from: the packages' hashes, the items and the way of drawing.

        Not of the pixels: another version of what draws SVG may round some of them otherwise.
        """
        return made_from(self.domains, self.items)

    @classmethod
    def fetch(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Draw the images from the packages' tarballs: those in `sources`, or else those that npm fetches."""
        from dgbench.datasets._glyphs_styles import OPENMOJI, PACKAGES, check_installed, drawer, openmoji_list
        from dgbench.datasets._npm import tarballs

        check_installed()
        styles = {domain: PACKAGES[domain] for domain in cls.card.domains}
        found = tarballs(tuple(dict.fromkeys(styles.values())), data_dir / "downloads", sources, progress)
        items = items_of(openmoji_list(found[OPENMOJI]))
        counts = Counter(item.of_class for item in items)
        assert counts == _COUNTS, counts
        arrays: dict[str, NDArray[Any]] = {"items": np.array(["\t".join(item) for item in items])}
        for number, (domain, package) in enumerate(styles.items()):
            draw = drawer(domain, found[package])
            images = np.empty((len(items), 3, 128, 128), np.uint8)
            for i, item in enumerate(items):
                images[i] = draw(item).transpose(2, 0, 1)
                progress("images", number * len(items) + i + 1, len(styles) * len(items))
            arrays[f"{domain}_128"], arrays[f"{domain}_64"] = images, halved(images)
        write_packed(data_dir, cls.card.folder, made_from(cls.card.domains, items), arrays)


class Glyphs6(Glyphs):
    """Glyphs in six styles: also OpenMoji's line art in colour, and thick black ink by the designer of the 3-D ones."""

    card = DatasetCard(
        source="npm packages of Noto, Twemoji, Fluent and OpenMoji, at pinned versions; fetched by `download`",
        licence=_licence(tuple(_DESIGNS)),
        input_shape=(3, 64, 64),
        domains=tuple(_DESIGNS),
        classes=CLASSES,
        counts=dict.fromkeys(_DESIGNS, _TOTAL),
        folder="Glyphs6",
        note="two of the designers are there twice, so that a held-out style has a twin among those trained on: "
        "OpenMoji's two share their outlines. Not comparable with Glyphs",
        traits=("few_examples", "small_images"),
        shared_identities=True,
        steps=901,
        checkpoint_freq=100,
    )


def halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 2 H, 2 W) -> (..., H, W): the mean of 2 x 2 pixels, a half rounded up."""
    *lead, height, width = images.shape
    sums: NDArray[np.uint16] = images.reshape(*lead, height // 2, 2, width // 2, 2).sum((-3, -1), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def made_from(domains: Sequence[str], items: Sequence[Item]) -> str:
    """A hash of the styles' packages, the items and the way of drawing."""
    from dgbench.datasets._glyphs_styles import PACKAGES

    lines = [str(_RECIPE), *(f"{domain} {PACKAGES[domain].integrity}" for domain in domains), *map(str, items)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
