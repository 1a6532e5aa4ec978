"""SVIRO: rendered rear seats of ten cars."""

from __future__ import annotations

from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class SVIRO(ImageDataset):
    """Rendered gray images of rear car seats, empty or taken, in seven classes: ten domains, one for each car model.

    56,000 images in all, as DomainBed's users count them, one for each seat and of any size. How many there are of each
    car is not published, so no number is checked. `download` renames the archive's folder `SVIRO_DOMAINBED` to `sviro`;
    DomainBed expects the same folder.

    Classes: 0 nothing, 1 an infant in its seat, 2 a child in its seat, 3 an adult, 4 an object, 5 an empty infant seat,
    6 an empty child seat.

    Reference:
        Dias Da Cruz, Wasenmüller, Beise, Stifter and Stricker, "SVIRO: Synthetic Vehicle Interior Rear Seat Occupancy
        Dataset and Benchmark", WACV 2020.
    """

    card = DatasetCard(
        source="https://sviro.kl.dfki.de/?wpdmdl=1731",
        licence="CC BY-NC-SA 4.0",
        paper="Dias Da Cruz et al., SVIRO: Synthetic Vehicle Interior Rear Seat Occupancy Dataset, WACV 2020",
        link="https://arxiv.org/abs/2001.03483",
        input_shape=(3, 224, 224),
        domains=("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"),
        classes=("0", "1", "2", "3", "4", "5", "6"),
        mirrors=("https://sviro.kl.dfki.de",),
        note="56,000 images in all, as DomainBed's users count them; how many a car is not published, so not checked",
        folder="sviro",
    )
    archives = (Archive("SVIRO_DOMAINBED.zip", "https://sviro.kl.dfki.de/?wpdmdl=1731"),)
