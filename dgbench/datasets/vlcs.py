"""VLCS: five classes of photographs from four older data sets."""

from __future__ import annotations

from dgbench.core.data_cards import GOOGLE_DRIVE, Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class VLCS(ImageDataset):
    """Photos of five classes: four domains, older data sets that differ in how their pictures were chosen.

    10,729 images of any size, from Caltech101, LabelMe, SUN09 and VOC2007. Classes are far from balanced: LabelMe has
    42 dogs and 1,237 persons. The files are those of DomainBed's archive, whose file names are random ids: a copy
    rebuilt from the four sources has other names, another order and so other splits.

    Reference:
        Fang, Xu and Rockmore, "Unbiased Metric Learning: On the Utilization of Multiple Datasets and Web Images for
        Softening Bias", ICCV 2013.
    """

    card = DatasetCard(
        source="https://drive.google.com/uc?id=1skwblH1_okBwxWxmRsp9_qi15hyPpxg8 (VLCS.tar.gz)",
        licence="those of its four sources; none stated for the whole",
        paper="Fang et al., Unbiased Metric Learning, ICCV 2013",
        link="https://openaccess.thecvf.com/content_iccv_2013/papers/Fang_Unbiased_Metric_Learning_2013_ICCV_paper.pdf",
        input_shape=(3, 224, 224),
        domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
        classes=("bird", "car", "chair", "dog", "person"),
        shares={
            "LVD-142M": "it has images like those of Caltech 101 and PASCAL VOC 2007, which are two of the domains",
            "web": "Caltech101, SUN09 and VOC2007 were collected from image searches and from Flickr",
        },
        counts={"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
        mirrors=("https://drive.google.com/uc?id=1yDuLrJdPSvMbTmpq-7XmwG0HnJengD-T (a user's copy, November 2025)",),
        folder="VLCS",
    )
    archives = (
        Archive("VLCS.tar.gz", f"{GOOGLE_DRIVE}1skwblH1_okBwxWxmRsp9_qi15hyPpxg8", "8870171eba660927d9668f4e515928e4"),
    )
