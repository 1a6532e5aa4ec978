"""Glyphs: ten classes of pictographs, the same ones drawn by several designers, made in seconds from npm packages."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.datasets._glyphs_items import CLASSES, Item, group_numbers, items_of
from dgbench.datasets._packed import Packed, write_packed

_COUNTS = dict(zip(CLASSES, (62, 53, 60, 70, 53, 31, 40, 70, 70, 70), strict=True))
_TOTAL = sum(_COUNTS.values())
_SIZES = (64, 128)
_RECIPE = 1
"""Version of the way of drawing, raised whenever that changes; part of the fingerprint."""

_DESIGNS = {
    "noto": "shaded, by Google: Apache-2.0",
    "twemoji": "flat, by Twitter and other contributors: CC BY 4.0",
    "flu_3d": "rendered in 3-D, by Microsoft: MIT",
    "om_black": "line art, by the OpenMoji project: CC BY-SA 4.0",
    "om_color": "outlined and colored, by the OpenMoji project: CC BY-SA 4.0",
    "flu_hc": "thick black ink, by Microsoft: MIT",
}
"""Domain -> its look, designer and license."""
_FOUR = ("noto", "twemoji", "flu_3d", "om_black")


def _licence(domains: Sequence[str]) -> str:
    terms = "; ".join(f"{domain}: {_DESIGNS[domain]}" for domain in domains)
    return f"{terms}. You fetch the images from their publishers; to pass them on, name the authors and the terms"


_SHARES = {"web": "emoji of these designs are in posts and pages, beside words that name them"}


class Glyphs(Dataset):
    """Pictographs of ten classes: four domains, designers' styles that draw the same 579 things on white.

    `download` draws them in seconds from the npm packages of Noto, Twemoji, Fluent and OpenMoji at pinned versions;
    nothing is drawn by lot. There is no domain of photographs. Images of 64 x 64 pixels, or of 128 with `image_size`;
    those of 64 are the means of 2 x 2 pixels.

    As every domain shows the same things, parts are split by identity, alike in every domain: a held-out style is
    tested on the quarter of the identities (the part `new`) that no style trains on. Variants that are drawn much alike
    count as one (cat, cat face, black cat), which leaves 543 identities; some of them are still near duplicates, mostly
    faces. Line art (`om_black`) is by far the hardest domain. DomainBed and WILDS don't have this data set.

    Reference:
        None: the data set was made for dgbench.
    """

    card = DatasetCard(
        source="npm packages of Noto, Twemoji, Fluent and OpenMoji, at pinned versions; fetched by `download`",
        licence=_licence(_FOUR),
        input_shape=(3, 64, 64),
        domains=_FOUR,
        classes=CLASSES,
        shares=_SHARES,
        counts=dict.fromkeys(_FOUR, _TOTAL),
        folder="Glyphs",
        note="drawn styles on white, no photographs. Line art (om_black) is by far the hardest, colored styles are "
        "alike: with frozen ImageNet features, 8, 6, 7 and 36 points of accuracy are lost against a model that was "
        "shown the tested style. Some identities are near duplicates, mostly faces",
        traits=("few_examples", "small_images"),
        shared_identities=True,
        steps=901,
        checkpoint_freq=100,
    )

    def open(self) -> None:
        """Check the image size, the file's items and their origin; no image is read."""
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
        """Return the items as the style draws them, in the same order in every domain; `seed` is not used."""
        if domain not in self._pixels:
            self._pixels[domain] = self.file.read(f"{domain}_{self.input_shape[1]}")
        labels = [self.classes.index(item.of_class) for item in self.items]
        return ArrayExamples(self._pixels[domain], np.array(labels), np.array(group_numbers(self.items)))

    def counts(self) -> Sequence[int]:
        """Return the number of items, for each domain."""
        return [len(self.items)] * len(self.domains)

    def fingerprint(self) -> str:
        """Hash the origin of the images: the packages' hashes, the items and the way of drawing.

        The pixels are not hashed: another version of the library that draws SVG may round some of them otherwise.
        """
        return made_from(self.domains, self.items)

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Draw the images from the packages' tarballs, those in `sources` or else those that npm downloads."""
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
    """Pictographs of ten classes: six domains, the four styles of `Glyphs` and a second one by two of the designers.

    Beside `Glyphs`' styles there are OpenMoji's line art in color (`om_color`) and thick black ink (`flu_hc`) by the
    designer of the 3-D style. So a held-out style may have a twin among those trained on: OpenMoji's two share their
    outlines. Numbers are not comparable with those on `Glyphs`.

    Reference:
        None: the data set was made for dgbench.
    """

    card = DatasetCard(
        source="npm packages of Noto, Twemoji, Fluent and OpenMoji, at pinned versions; fetched by `download`",
        licence=_licence(tuple(_DESIGNS)),
        input_shape=(3, 64, 64),
        domains=tuple(_DESIGNS),
        classes=CLASSES,
        shares=_SHARES,
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
    """Shrink images (..., 2 H, 2 W) to (..., H, W) by the mean of 2 x 2 pixels, a half rounded up."""
    *lead, height, width = images.shape
    sums: NDArray[np.uint16] = images.reshape(*lead, height // 2, 2, width // 2, 2).sum((-3, -1), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def made_from(domains: Sequence[str], items: Sequence[Item]) -> str:
    """Hash the packages of the styles, the items and the way of drawing."""
    from dgbench.datasets._glyphs_styles import PACKAGES

    lines = [str(_RECIPE), *(f"{domain} {PACKAGES[domain].integrity}" for domain in domains), *map(str, items)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
