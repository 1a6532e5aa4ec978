"""PACS: seven classes as art paintings, cartoons, photographs and sketches."""

from __future__ import annotations

from dgbench.core.cards import GOOGLE_DRIVE, Archive, DatasetCard
from dgbench.datasets._images import ImageDataset


class PACS(ImageDataset):
    """Seven classes as art paintings, cartoons, photographs and sketches.

    Images of 227 x 227; the archive's folder `kfold` is renamed `PACS`. Its own splits are not used.
    """

    card = DatasetCard(
        source="https://drive.google.com/uc?id=1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd (PACS.zip)",
        licence="none stated",
        paper="Li et al., Deeper, Broader and Artier Domain Generalization, ICCV 2017",
        input_shape=(3, 224, 224),
        domains=("art_painting", "cartoon", "photo", "sketch"),
        classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
        counts={"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
        known_bad={"sketch/dog/n02103406_4068-1.png": "Dassl leaves it out, DomainBed does not"},
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
