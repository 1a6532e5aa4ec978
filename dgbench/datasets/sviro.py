"""SVIRO: who or what sits on the rear seats of ten cars, rendered."""

from __future__ import annotations

from dgbench.core.cards import Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class SVIRO(ImageDataset):
    """Who or what sits on the rear seats of ten cars, rendered in grey.

    One image a seat, of any size; the archive's folder `SVIRO_DOMAINBED` is renamed `sviro`. Classes: 0 nothing,
    1 an infant in its seat, 2 a child in its seat, 3 an adult, 4 an object, 5 an empty infant seat, 6 an empty child
    seat.
    """

    card = DatasetCard(
        source="https://sviro.kl.dfki.de/?wpdmdl=1731",
        licence="CC BY-NC-SA 4.0",
        paper="Dias Da Cruz et al., SVIRO: Synthetic Vehicle Interior Rear Seat Occupancy Dataset, WACV 2020",
        input_shape=(3, 224, 224),
        domains=("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"),
        classes=("0", "1", "2", "3", "4", "5", "6"),
        mirrors=("https://sviro.kl.dfki.de",),
        note="56,000 images in all, as DomainBed's users count them; how many a car is not published, so not checked",
        folder="sviro",
    )
    archives = (Archive("SVIRO_DOMAINBED.zip", "https://sviro.kl.dfki.de/?wpdmdl=1731"),)
