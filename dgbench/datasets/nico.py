"""NICO++: sixty classes of photographs in six surroundings."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._tree import Tree, count

_CLASSES = """
airplane, bear, bicycle, bird, bus, butterfly, cactus, car, cat, chair, clock, corn, cow, crab, crocodile, dog, dolphin,
elephant, fishing rod, flower, football, fox, frog, giraffe, goose, gun, hat, helicopter, horse, hot air balloon,
kangaroo, lifeboat, lion, lizard, mailbox, monkey, motorcycle, ostrich, owl, pineapple, pumpkin, rabbit, racket,
sailboat, scooter, seal, sheep, ship, shrimp, spider, squirrel, sunflower, tent, tiger, tortoise, train, truck,
umbrella, wheat, wolf
"""
_TOTAL = 88_866


class NICOPlusPlus(ImageDataset):
    """Photos of sixty classes: six domains, surroundings such as autumn, dim light, grass, rock or water.

    The public training part of track 1 of the NICO challenge: 88,866 images of any size. This total is checked, as the
    number of images of each domain is not published. `download` can't fetch it: get it with a browser and name the
    files by `--from`; the folder `train` of `public_dg_0416` becomes `NICO++`. DomainBed doesn't have it.

    Reference:
        Zhang, He, Xu, Yu, Shen and Cui, "NICO++: Towards Better Benchmarking for Domain Generalization", CVPR 2023.
    """

    card = DatasetCard(
        source="https://www.dropbox.com/sh/u2bq2xo8sbax4pr/AADbhZJAy0AAbap76cg_XkAfa?dl=0 (track_1)",
        licence="research only, no licence stated",
        paper="Zhang et al., NICO++: Towards Better Benchmarking for Domain Generalization, CVPR 2023",
        link="https://arxiv.org/abs/2204.08040",
        input_shape=(3, 224, 224),
        domains=("autumn", "dim", "grass", "outdoor", "rock", "water"),
        classes=tuple(_CLASSES.replace("\n", " ").strip().split(", ")),
        shares={"web": "its images come from image searches"},
        mirrors=("https://nicochallenge.com/dataset", "https://github.com/xxgege/NICO-plus"),
        note=f"{_TOTAL:,} images in all, which is checked; how many a domain is not published",
        folder="NICO++",
    )

    def further_problems(self, tree: Tree) -> Iterator[str]:
        """Yield the number of images, if it is not the published total."""
        total = sum(map(count, tree.values()))
        if total != _TOTAL:
            yield f"there are {total:,} images, expected {_TOTAL:,}"
