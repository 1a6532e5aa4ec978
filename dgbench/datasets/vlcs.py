"""VLCS: five classes of photographs from four older data sets, each with its own way of choosing pictures."""

from __future__ import annotations

from dgbench.core.cards import GOOGLE_DRIVE, Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class VLCS(ImageDataset):
    """Five classes of photographs from four older data sets.

    Images of any size, as DomainBed's archive has them: file names, and so splits, are those of that archive.
    """

    card = DatasetCard(
        source="https://drive.google.com/uc?id=1skwblH1_okBwxWxmRsp9_qi15hyPpxg8 (VLCS.tar.gz)",
        licence="those of its four sources; none stated for the whole",
        paper="Fang et al., Unbiased Metric Learning, ICCV 2013",
        input_shape=(3, 224, 224),
        domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
        classes=("bird", "car", "chair", "dog", "person"),
        counts={"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
        mirrors=("https://drive.google.com/uc?id=1yDuLrJdPSvMbTmpq-7XmwG0HnJengD-T (a user's copy, November 2025)",),
        folder="VLCS",
    )
    archives = (
        Archive("VLCS.tar.gz", f"{GOOGLE_DRIVE}1skwblH1_okBwxWxmRsp9_qi15hyPpxg8", "8870171eba660927d9668f4e515928e4"),
    )
