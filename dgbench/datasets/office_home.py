"""OfficeHome: 65 classes of everyday objects in four kinds of pictures."""

from __future__ import annotations

from dgbench.core.data_cards import GOOGLE_DRIVE, Archive, DatasetCard
from dgbench.datasets._images import ImageDataset

_CLASSES = """
Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch
Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet Kettle
Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes
Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone
ToothBrush Toys Trash_Can Webcam
"""


class OfficeHome(ImageDataset):
    """Pictures of 65 everyday objects: four domains, art, clip art, product pictures and photos (`Real World`).

    15,588 images of any size. `download` renames the archive's folder `OfficeHomeDataset_10072016` to `office_home`.
    There are no published splits: as in DomainBed, each trial draws its own, and from the same files it draws
    DomainBed's.

    Reference:
        Venkateswara, Eusebio, Chakraborty and Panchanathan, "Deep Hashing Network for Unsupervised Domain Adaptation",
        CVPR 2017.
    """

    card = DatasetCard(
        source="https://drive.google.com/uc?id=1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC (OfficeHome.zip)",
        licence="research only, no licence stated",
        paper="Venkateswara et al., Deep Hashing Network for Unsupervised Domain Adaptation, CVPR 2017",
        link="https://arxiv.org/abs/1706.07522",
        input_shape=(3, 224, 224),
        domains=("Art", "Clipart", "Product", "Real World"),
        classes=tuple(_CLASSES.split()),
        shares={"web": "its images come from image searches and from shops' pages"},
        counts={"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
        mirrors=("https://drive.google.com/uc?id=1USXqK4nCvOAR5Ty4iwKcuCOrRJoRuDyU (a user's copy, November 2025)",),
        folder="office_home",
    )
    archives = (
        Archive(
            "OfficeHome.zip", f"{GOOGLE_DRIVE}1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC", "b1c14819770c4448fd5b6d931031c91c"
        ),
    )
