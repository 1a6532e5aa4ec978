"""PACS: seven classes in four styles of depiction."""

from __future__ import annotations

from dgbench.core.data_cards import GOOGLE_DRIVE, Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class PACS(ImageDataset):
    """Art paintings, cartoons, photos and sketches of seven classes: four domains that differ in style.

    9,991 images of 227 x 227 pixels. `download` renames the archive's folder `kfold` to `PACS`. The splits that are
    published with the images are not used: as in DomainBed, each trial draws its own, and from the same files it draws
    DomainBed's. Copies that lost the file names, such as the one on Hugging Face, have another order and so other
    splits. Dassl leaves out one file, `sketch/dog/n02103406_4068-1.png`; DomainBed doesn't, and neither does dgbench.

    Reference:
        Li, Yang, Song and Hospedales, "Deeper, Broader and Artier Domain Generalization", ICCV 2017.
    """

    card = DatasetCard(
        source="https://drive.google.com/uc?id=1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd (PACS.zip)",
        licence="none stated",
        paper="Li et al., Deeper, Broader and Artier Domain Generalization, ICCV 2017",
        link="https://arxiv.org/abs/1710.03077",
        input_shape=(3, 224, 224),
        domains=("art_painting", "cartoon", "photo", "sketch"),
        classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
        counts={"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
        known_bad={"sketch/dog/n02103406_4068-1.png": "Dassl leaves it out, DomainBed does not"},
        shares={
            "ImageNet-1k": "files of photo and sketch are named after ImageNet's synsets, such as n02676566 (acoustic "
            "guitar, one of the 1,000 classes): photos and drawings of Sketchy, whose photos are ImageNet's",
            "web": "its images come from image searches and from published data sets",
        },
        mirrors=(
            "https://drive.google.com/uc?id=1m4X4fROCCXMO0lRLrr6Zz9Vb3974NWhE (Dassl's copy)",
            "https://huggingface.co/datasets/flwrlabs/pacs (the images without their file names, so other splits)",
            "https://drive.google.com/uc?id=1WWi9tuUNFmUiw7Eirq_JT_hxYZv3J-Vv (a user's copy, November 2025)",
        ),
        folder="PACS",
    )
    archives = (
        Archive("PACS.zip", f"{GOOGLE_DRIVE}1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd", "fd5db817f7cdafeef3bfd525aaf9b42e"),
    )
