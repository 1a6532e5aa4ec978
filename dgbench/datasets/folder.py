"""Any folder of images, domain/class/image, without writing code."""

from __future__ import annotations

from dgbench.core.cards import DatasetCard
from dgbench.datasets._images import ImageDataset


class folder(ImageDataset):
    """`folder:/path`: each sub-directory of the path is a domain, each of theirs a class, the same in all of them."""

    card = DatasetCard(source="your own files", licence="yours", path=True, input_shape=(3, 224, 224))
