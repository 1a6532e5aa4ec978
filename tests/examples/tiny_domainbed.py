"""Image data sets of DomainBed as small as the copies that tests make: their cards with other counts, for --include."""

from __future__ import annotations

import dataclasses

from dgbench.datasets.domain_net import DomainNet
from dgbench.datasets.pacs import PACS


class TinyPACS(PACS):
    """Three or four images of each class in each domain."""

    card = dataclasses.replace(PACS.card, counts={"art_painting": 21, "cartoon": 22, "photo": 24, "sketch": 28})


class TinyDomainNet(DomainNet):
    """An image of each of the 345 classes in each domain, a few more in most."""

    card = dataclasses.replace(
        DomainNet.card,
        counts={"clipart": 345, "infograph": 346, "painting": 347, "quickdraw": 345, "real": 350, "sketch": 346},
        duplicates={"clipart": 2, "infograph": 0, "painting": 3, "quickdraw": 0, "real": 1, "sketch": 1},
    )
